"""The command line that every trainer has, and how its errors end: one line, no traceback."""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mytalk.errors import MyTalkError
from training.runner import make_fabric, train
from training.settings import Runner
from training.task import Task


def run_parser(description: str | None, kind: type) -> argparse.ArgumentParser:
    """The arguments that every trainer has; ``kind`` is its run's settings dataclass."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that training.prepare wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run (checkpoints, events)")
    parser.add_argument("--config", type=Path, help=f"TOML file with {kind.__name__} settings")
    parser.add_argument("--size", help="model size by name, over the file's (tiny, base, paper)")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="stop after so long; a later call goes on"
    )
    parser.add_argument("--steps", type=int, help="optimiser steps of the run, over the file's")
    parser.add_argument("--seed", type=int, help="of all that is random, over the file's")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of a process (default 2)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default auto")
    return parser


def add_weights_argument(parser: argparse.ArgumentParser) -> None:
    """``--weights``, of the trainers that can begin with somebody's."""
    parser.add_argument(
        "--weights", type=Path, help="begin a new run with these weights (.safetensors, or a run's last.pt)"
    )


def with_arguments(runner: Runner, args: argparse.Namespace) -> Runner:
    """A run's settings with the command line's ``--steps`` and ``--seed`` in the place of the file's."""
    given = {name: value for name in ("steps", "seed") if (value := getattr(args, name)) is not None}
    return replace(runner, **given)


def tell(line: str) -> None:
    """A line for the person who started the run, from the first process alone."""
    if os.environ.get("RANK", "0") == "0":
        print(line, file=sys.stderr)


def quiet() -> None:
    """Keep the libraries' own chatter out of a run's output."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning_fabric")
    # FSDP warns of in-place changes to what a block returns: ours are never changed.
    warnings.filterwarnings("ignore", message=".*returned a view tensor.*")


def launch(
    parser: argparse.ArgumentParser, argv: list[str] | None, build: Callable[[argparse.Namespace], Task[Any]]
) -> int:
    """Parse, build the task, train; returns the exit status."""
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    quiet()
    name = "training"
    try:
        task = build(args)
        name = f"training.{task.kind}"
        args.out.mkdir(parents=True, exist_ok=True)
        fabric = make_fabric(task.runner, task.networks, args.device)
        fabric.launch()
        train(task, fabric, args.out, args.minutes)
    except torch.OutOfMemoryError as error:
        print(
            f"{name}: out of GPU memory: take a smaller batch, or runner.recompute = true ({error})",
            file=sys.stderr,
        )
        return 1
    except (MyTalkError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    return 0
