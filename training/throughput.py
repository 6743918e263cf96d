"""How fast each trainer steps, and in how much memory, on made-up clips: ``python -m training.throughput``.

One real run each (batches, losses, gradients, optimiser, averages), without checkpoints. On a GPU of 141 GB,
the paper's sizes: ``python -m training.throughput --size paper --precision bf16-mixed --recompute``. Under
torchrun it measures all processes together.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mytalk.errors import BadInput, MyTalkError
from mytalk.models.sizes import load_size
from training import appearance, identity, motion
from training.checkpoints import git_commit
from training.data import is_validation, list_clips
from training.feed import Feed
from training.launch import quiet
from training.made_up import write_data
from training.motion_data import load_for_training
from training.runner import Training, make_fabric, precision_of
from training.settings import PRECISIONS, Runner, load_settings
from training.task import Task

TRAINERS = {
    "identity": identity.IdentityRun,
    "motion": motion.MotionRun,
    "appearance": appearance.AppearanceRun,
}
CONFIGS = Path(__file__).parent / "configs"


def make_task(trainer: str, args: argparse.Namespace, folder: Path) -> Task[Any]:
    """The trainer's task at a size, with the settings of its own config file, on made-up clips."""
    size = load_size(args.size)
    config = CONFIGS / f"{trainer}_{size.name}.toml"  # of a file: of the size that it starts from
    run = load_settings(TRAINERS[trainer], config, {"size": args.size})
    runner: Runner = replace(
        run.runner,
        recompute=args.recompute or run.runner.recompute,
        accumulate=args.accumulate or run.runner.accumulate,
        workers=run.runner.workers if torch.cuda.is_available() else 1,
        picture_steps=0,
    )
    if args.precision:
        runner = replace(runner, precision=args.precision)
    if args.strategy:
        runner = replace(runner, strategy=args.strategy)
    run = replace(run, runner=runner)
    frames = 2 * run.data.frames if isinstance(run, motion.MotionRun) else 40
    data = write_data(folder / trainer, size, frames)
    torch.manual_seed(runner.seed)
    if isinstance(run, identity.IdentityRun):
        run = replace(run, batch=args.batch or run.batch)
        return identity.IdentityTask(run, load_for_training(data, size), size)
    if isinstance(run, motion.MotionRun):
        run = replace(run, data=replace(run.data, batch=args.batch or run.data.batch))
        extractor = identity.make_extractor(size.identity).eval()
        return motion.MotionTask(run, load_for_training(data, size), size, (extractor, size.identity))
    start = 0 if args.adversarial else run.loss.adversarial_start
    drawn = replace(run.data, clips=args.batch or run.data.clips, targets=args.targets or run.data.targets)
    run = replace(
        run,
        data=drawn,
        loss=replace(run.loss, adversarial_start=start),
    )
    clips = list_clips(data)
    kept = [clip for clip in clips if not is_validation(clip, clips)]
    return appearance.AppearanceTask(run, kept, size)


def measure(trainer: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Frames/s, seconds per step and memory of one trainer, after ``warm`` steps."""
    task = make_task(trainer, args, folder)
    fabric = make_fabric(task.runner, task.networks, args.device)
    fabric.launch()
    training = Training(task, fabric, folder / "run")
    on_gpu = fabric.device.type == "cuda"
    with Feed(task.draw, 1, fabric.global_rank, 0, task.runner.workers) as feed:
        for _ in range(args.warm):
            training.train_step(feed)
        if on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        frames, started, busy = training.frames, time.perf_counter(), time.process_time()
        for _ in range(args.steps):
            training.train_step(feed)
        if on_gpu:
            torch.cuda.synchronize()
        passed, busy = time.perf_counter() - started, time.process_time() - busy
    weights = sum(p.numel() for n in task.networks for p in n.trained.parameters())
    return {
        "trainer": trainer,
        "size": args.size,
        "parameters": weights,
        "frames_per_step": (training.frames - frames) // args.steps,
        "frames_per_s": float(f"{(training.frames - frames) / passed:.4g}"),
        "step_s": round(passed / args.steps, 4),
        "step_cpu_s": round(busy / args.steps, 4),
        "precision": str(getattr(precision_of(task.runner, fabric.device.type), "precision", "32-true")),
        "recompute": task.runner.recompute,
        "accumulate": task.runner.accumulate,
        "steps_measured": args.steps,
        "steps_before": args.warm,
        "strategy": task.runner.strategy,
        "processes": fabric.world_size,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine(),
        "peak_gpu_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2) if on_gpu else None,
        "peak_process_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "commit": git_commit(),
    }


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trainer", choices=(*TRAINERS, "all"), default="all")
    parser.add_argument("--size", default="tiny", help="tiny, base, paper or a TOML file (default tiny)")
    parser.add_argument("--steps", type=int, default=5, help="steps to measure (default 5)")
    parser.add_argument("--warm", type=int, default=2, help="steps before them (default 2)")
    parser.add_argument(
        "--batch", type=int, help="sequences, clips or faces of a batch; default: the config's"
    )
    parser.add_argument("--targets", type=int, help="pictures of each clip; default: the config's")
    parser.add_argument("--accumulate", type=int, help="batches of a step; default: the config's")
    parser.add_argument("--precision", choices=PRECISIONS, help="default: the config's")
    parser.add_argument("--strategy", choices=("auto", "ddp", "fsdp"), help="default: the config's")
    parser.add_argument("--recompute", action="store_true", help="activation checkpointing")
    parser.add_argument("--adversarial", action="store_true", help="with the discriminator, however late")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args(argv)
    if args.steps < 1 or args.warm < 0:
        parser.error("--steps must be at least 1, --warm at least 0")
    torch.set_num_threads(args.threads)
    quiet()
    results = []
    try:
        for trainer in TRAINERS if args.trainer == "all" else (args.trainer,):
            with tempfile.TemporaryDirectory() as folder:
                results.append(measure(trainer, args, Path(folder)))
            print(json.dumps(results[-1]), flush=True)
        if args.json is not None:
            args.json.write_text(json.dumps(results, indent=1) + "\n")
    except torch.OutOfMemoryError as error:
        print(
            f"training.throughput: out of GPU memory, take --batch 1 or --recompute ({error})",
            file=sys.stderr,
        )
        return 1
    except (MyTalkError, BadInput, OSError) as error:
        print(f"training.throughput: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
