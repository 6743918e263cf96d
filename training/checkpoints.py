"""What a run's checkpoint holds, how it is gathered from all processes, and where it came from."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from mytalk.errors import BadInput
from mytalk.models.checkpoint import load_checkpoint
from training.data import Clip

LAST = "last.pt"
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def git_commit() -> str:
    """Commit of the code that trains, with ``+`` where files were changed since; ``unknown`` outside git."""
    folder = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "HEAD")
        return (commit + ("+" if git("status", "--porcelain") else "")) if commit else "unknown"
    except OSError:  # no git on this machine
        return "unknown"


def data_id(clips: Sequence[Clip]) -> str:
    """Name of the data a run sees: a hash of its clips' names and sizes."""
    digest = hashlib.sha256()
    for clip in sorted(clips, key=lambda c: c.name):
        digest.update(f"{clip.name} {(clip.folder / f'{clip.name}.npz').stat().st_size}\n".encode())
    return digest.hexdigest()[:16]


def network_state(model: nn.Module, optimiser: Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """Whole weights and optimiser state on the CPU of rank 0 (empty elsewhere); every process must call."""
    weights = get_model_state_dict(model, options=WHOLE)
    # Asked for its state, an optimiser that has not stepped yet (a late discriminator's) would step once.
    return weights, get_optimizer_state_dict(model, optimiser, options=WHOLE) if optimiser.state else {}


def restore_network(
    model: nn.Module, optimiser: Optimizer, weights: dict[str, Any], state: dict[str, Any]
) -> None:
    """Put back what ``network_state`` gave, sharded as the network is now."""
    set_model_state_dict(model, weights, options=WHOLE)
    set_optimizer_state_dict(model, optimiser, state, options=WHOLE)


def read_checkpoint(path: Path, kind: str, config: str | None = None) -> dict[str, Any]:
    """A checkpoint of trainer ``kind`` whose model has this configuration (JSON); else ``BadInput``."""
    saved = load_checkpoint(path)
    found = saved.get("kind")
    if found != kind:
        raise BadInput(f"{path} is a checkpoint of {found or 'an older version'}, not of training.{kind}")
    if config is not None and saved["config"] != config:
        raise BadInput(f"{path} holds a model of another size or design: give another --out")
    return saved


def read_weights(path: Path) -> dict[str, Tensor]:
    """Weights by name of a safetensors file, or the averages of a run's checkpoint; else ``BadInput``."""
    if path.suffix != ".safetensors":
        saved = load_checkpoint(path)
        if "average" not in saved:
            raise BadInput(f"{path} is no checkpoint of a run: it has no averaged weights")
        averaged: dict[str, Tensor] = saved["average"]
        return averaged
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{path}: cannot be read ({error})") from error


def start_from(path: Path, model: nn.Module) -> bool:
    """Begin with a bundle's or a run's weights, where names and shapes fit; ``BadInput`` if none do.

    Returns whether all of the model's did.
    """
    given = read_weights(path)
    own = model.state_dict()
    fitting = {n: v.float() for n, v in given.items() if n in own and own[n].shape == v.shape}
    if not fitting:
        raise BadInput(f"{path}: none of its weights fit this size")
    model.load_state_dict(fitting, strict=False)
    return len(fitting) == len(own)
