"""What a trainer gives to the runner: networks with an optimiser each, batches, losses, pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
from torch import Tensor, nn

from training.journal import Journal
from training.settings import Runner

B = TypeVar("B")
Modules = dict[str, Callable[..., Any]]  # the networks' objectives by name, ready to be called


@dataclass(frozen=True, eq=False, slots=True)
class Network:
    """One network and how it is optimised (AdamW).

    objective: what is called (its ``forward`` alone, since DDP and FSDP hang on that).
    trained: the part of it whose weights are optimised and saved.
    blocks: kinds of submodule to shard one by one (FSDP) and to recompute (activation checkpointing).
    learning_rate: a constant of its own; None follows the run's schedule.
    """

    name: str
    objective: nn.Module
    trained: nn.Module
    blocks: tuple[type[nn.Module], ...] = ()
    betas: tuple[float, float] = (0.9, 0.98)
    learning_rate: float | None = None
    weight_decay: float | None = None
    averaged: bool = True


@dataclass(frozen=True, eq=False, slots=True)
class Losses:
    """Losses of one batch by network name (a network that is left out rests), and figures to show."""

    totals: dict[str, Tensor]
    figures: dict[str, Tensor]


@dataclass(frozen=True, eq=False, slots=True)
class Described:
    """What a checkpoint says of itself beside weights. config: the model's; parts: whatever export needs."""

    config: Any
    run: Any
    data: str
    parts: dict[str, Any] = field(default_factory=dict)


class Task(Protocol[B]):
    """One trainer. ``draw`` runs in threads and must take all its randomness from its argument."""

    kind: str
    runner: Runner
    networks: tuple[Network, ...]

    def draw(self, random: np.random.Generator) -> B:
        """One batch, as a named tuple of CPU tensors."""
        ...

    def frames(self, batch: B) -> int:
        """Video frames in a batch, for the throughput."""
        ...

    def losses(self, modules: Modules, batch: B, step: int) -> Losses:
        """Losses of one batch; randomness from torch's generator, which the runner seeds for every batch."""
        ...

    def described(self) -> Described:
        """What the checkpoint carries."""
        ...

    def show(self, modules: Modules, batch: B, journal: Journal, step: int) -> None:
        """Pictures of the run's state; called on every process, without gradients, in evaluation mode."""
        ...
