"""The loop that all trainers share, on Lightning Fabric: precision, DDP and FSDP, averages, exact resume."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision, Precision
from lightning_fabric.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    apply_activation_checkpointing,
    checkpoint_wrapper,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from mytalk.errors import BadInput, MyTalkError
from mytalk.models.checkpoint import save_checkpoint
from training.average import Average, whole
from training.checkpoints import LAST, git_commit, network_state, read_checkpoint, restore_network
from training.feed import Feed
from training.journal import Journal
from training.settings import Runner, learning_rate
from training.task import Modules, Network, Task

B = TypeVar("B")


def computes_in_bf16(device: str) -> bool:
    """Whether bf16 is worth using: a GPU that has it, a CPU with AVX512-BF16 or AMX."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities()
    return device == "cpu" and any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "sve_bf16"))


class Autocast(MixedPrecision):
    """Fabric's mixed precision, but inputs stay as they are: landmarks must not be rounded to bf16."""

    def convert_input(self, data: Any) -> Any:
        """Leave a module's arguments alone."""
        return data


def precision_of(runner: Runner, device: str) -> Precision:
    """The run's precision on this device, ``auto`` resolved."""
    name = runner.precision
    if name == "auto":
        name = "bf16-mixed" if computes_in_bf16(device) else "32-true"
    if name == "16-mixed":
        if device != "cuda" or runner.strategy == "fsdp":
            raise BadInput("precision 16-mixed needs a GPU, and not fsdp: take bf16-mixed")
        return Autocast("16-mixed", device)
    return Autocast("bf16-mixed", device) if name == "bf16-mixed" else Precision()


def shard(module: nn.Module, mesh: DeviceMesh, blocks: tuple[type[nn.Module], ...]) -> nn.Module:
    """FSDP2 over all processes: every block by itself, then the rest; frozen weights stay whole."""
    frozen = {p for p in module.parameters() if not p.requires_grad}
    for part in module.modules():
        if isinstance(part, blocks) and not frozen.issuperset(part.parameters()):
            fully_shard(part, mesh=mesh["data_parallel"])
    fully_shard(module, mesh=mesh["data_parallel"], ignored_params=frozen)
    return module


def make_fabric(runner: Runner, networks: tuple[Network, ...], device: str = "auto") -> Fabric:
    """Fabric for this process: alone, or one of those that torchrun started."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    world = int(os.environ.get("WORLD_SIZE", "1"))
    accelerator = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    strategy: Any = "ddp" if world > 1 else "auto"
    if runner.strategy == "fsdp":
        if world == 1:
            raise BadInput("fsdp shards over several processes: start with torchrun")
        blocks = tuple({kind for network in networks for kind in network.blocks})
        strategy = ModelParallelStrategy(
            partial(shard, blocks=blocks), data_parallel_size=world, tensor_parallel_size=1
        )
    return Fabric(
        accelerator=accelerator,
        devices=local,
        num_nodes=world // local,
        strategy=strategy,
        plugins=[precision_of(runner, accelerator)],
    )


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """A first SIGINT or SIGTERM asks to stop after the step; a second one ends the process at once."""
    asked: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _: Any) -> None:
        asked.append(number)
        signal.signal(number, before[number] or signal.SIG_DFL)

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def mean_of_some(values: list[float]) -> float:
    """Mean of the figures that are there; a batch may have nothing to measure one on (NaN)."""
    there = [value for value in values if not math.isnan(value)]
    return sum(there) / len(there) if there else math.nan


def recompute(network: Network) -> None:
    """Have the blocks recompute their activations in the backward pass (activation checkpointing)."""
    apply_activation_checkpointing(
        network.objective,
        checkpoint_wrapper_fn=checkpoint_wrapper,
        check_fn=lambda part: isinstance(part, network.blocks),
    )


class Training(Generic[B]):
    """Networks, optimisers, averages and position of one run; goes on from ``out/last.pt`` if it is there."""

    def __init__(self, task: Task[B], fabric: Fabric, out: Path) -> None:
        self.task, self.fabric, self.out, self.runner = task, fabric, out, task.runner
        self.step, self.minutes, self.frames = 0, 0.0, 0
        self.modules: Modules = {}
        self.wrapped: list[Any] = []
        self.optimisers: dict[str, Any] = {}
        for network in task.networks:
            self._set_up(network)
        self.averages = {
            n.name: Average(n.trained, self.runner.average_decay) for n in task.networks if n.averaged
        }
        self.described = task.described()
        if (out / LAST).exists():
            self._resume(out / LAST)

    def _set_up(self, network: Network) -> None:
        if self.runner.recompute:
            recompute(network)
        module = self.fabric.setup_module(network.objective)
        decay = self.runner.weight_decay if network.weight_decay is None else network.weight_decay
        optimiser = torch.optim.AdamW(
            network.trained.parameters(),
            lr=network.learning_rate or self.runner.learning_rate,
            betas=network.betas,
            weight_decay=decay,
            # Fused steps know neither sharded weights on a CPU nor a scaler that clips.
            fused=self.runner.strategy != "fsdp" and self.runner.precision != "16-mixed",
        )
        self.optimisers[network.name] = self.fabric.setup_optimizers(optimiser)
        self.modules[network.name] = module
        self.wrapped.append(module)

    def _resume(self, path: Path) -> None:
        saved = read_checkpoint(path, self.task.kind, json.dumps(asdict(self.described.config)))
        try:
            for network in self.task.networks:
                state = saved[f"{network.name}_optimiser"]
                optimiser = self.optimisers[network.name].optimizer
                if state:
                    restore_network(network.trained, optimiser, saved[network.name], state)
                else:
                    network.trained.load_state_dict(saved[network.name])
                if network.averaged:
                    self.averages[network.name].load_state_dict(saved[f"{network.name}_average"])
        except (KeyError, RuntimeError) as error:
            raise BadInput(f"{path} is not of this run: {str(error).splitlines()[0]}") from error
        self.fabric.strategy.precision.load_state_dict(saved["scaler"])
        self.step, self.minutes, self.frames = saved["step"], saved["minutes"], saved["frames"]

    def save(self) -> None:
        """Write ``last.pt`` (rank 0); every process must call."""
        parts: dict[str, Any] = {}
        for network in self.task.networks:
            optimiser = self.optimisers[network.name].optimizer
            weights, state = network_state(network.trained, optimiser)
            parts |= {network.name: weights, f"{network.name}_optimiser": state}
            if network.averaged:
                parts[f"{network.name}_average"] = self.averages[network.name].state_dict()
        parts["average"] = parts[f"{self.task.networks[0].name}_average"]  # what export reads
        about = self.described
        parts |= {
            "kind": self.task.kind,
            "run": json.dumps(asdict(about.run)),
            "data": about.data,
            "commit": git_commit(),
            "minutes": self.minutes,
            "frames": self.frames,
            "world": self.fabric.world_size,
            "scaler": self.fabric.strategy.precision.state_dict(),
            **about.parts,
        }
        if self.fabric.is_global_zero:
            save_checkpoint(self.out / LAST, self.step, about.config, parts)
        self.fabric.barrier()

    def _seed(self, micro: int) -> None:
        """Random numbers of one batch's losses (noise, dropout), from (seed, rank, number) alone."""
        number = self.step * self.runner.accumulate + micro
        source = np.random.SeedSequence((self.runner.seed, self.fabric.global_rank, number, 1))
        torch.manual_seed(int(source.generate_state(1, np.uint64)[0] >> np.uint64(1)))

    def train_step(self, feed: Feed[B]) -> tuple[dict[str, Tensor], B]:
        """One optimiser step of every network; raises ``MyTalkError`` before it if a loss is not finite.

        Returns figures and the last batch.
        """
        runner, fabric = self.runner, self.fabric
        figures: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=fabric.device))
        active: set[str] = set()
        for micro in range(runner.accumulate):
            batch = fabric.to_device(feed.take())
            self._seed(micro)
            with ExitStack() as unsynced:
                if fabric.world_size > 1:
                    for module in self.wrapped:
                        waiting = micro + 1 < runner.accumulate
                        unsynced.enter_context(fabric.no_backward_sync(module, enabled=waiting))
                losses = self.task.losses(self.modules, batch, self.step)
                for name, total in losses.totals.items():
                    fabric.backward(total / runner.accumulate)
                    active.add(name)
            for name, value in (losses.figures | {f"loss/{n}": t for n, t in losses.totals.items()}).items():
                figures[name] = figures[name] + value.detach().float() / runner.accumulate
            self.frames += self.task.frames(batch) * fabric.world_size
        self._apply(active, figures)
        return figures, batch

    def _apply(self, active: set[str], figures: dict[str, Tensor]) -> None:
        """Clip, step and average, if every process's losses and gradients are finite."""
        fabric, rate = self.fabric, learning_rate(self.runner, self.step, self.minutes)
        bad = torch.stack([~torch.isfinite(figures[f"loss/{name}"]) for name in active]).any()
        for index, network in enumerate(self.task.networks):
            if network.name in active and self.runner.clip_norm > 0:
                norm = fabric.clip_gradients(
                    self.wrapped[index],
                    self.optimisers[network.name],
                    max_norm=self.runner.clip_norm,
                    error_if_nonfinite=False,
                )
                if self.runner.precision != "16-mixed":  # there infinite gradients only skip the step
                    bad = bad | ~torch.isfinite(whole(torch.as_tensor(norm))).to(bad.device)
        if fabric.all_reduce(bad.float(), reduce_op="sum") > 0:
            kept = "the last checkpoint is intact" if (self.out / LAST).exists() else "no checkpoint yet"
            raise MyTalkError(f"loss or gradient is not finite at step {self.step}; {kept}")
        for network in self.task.networks:
            if network.name not in active:
                continue
            optimiser = self.optimisers[network.name]
            for group in optimiser.param_groups:
                group["lr"] = rate if network.learning_rate is None else network.learning_rate
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        for average in self.averages.values():
            average.update(self.step)

    def show(self, batch: B, journal: Journal) -> None:
        """Pictures of the present state."""
        for module in self.wrapped:
            module.eval()
        with torch.no_grad():
            self.task.show(self.modules, batch, journal, self.step)
        for module in self.wrapped:
            module.train()


class Clock:
    """When to save and when to stop: the first process's time, told to all, so that they agree."""

    def __init__(self, training: Training[Any], minutes: float) -> None:
        self.training, self.limit = training, minutes
        self.started = self.last = self.saved = time.monotonic()

    def tick(self, stop: bool) -> tuple[bool, bool]:
        """After a step: whether to save, whether to stop."""
        training, runner, now = self.training, self.training.runner, time.monotonic()
        passed = (now - self.last) / 60
        self.last = now
        save = now - self.saved > runner.checkpoint_minutes * 60
        told = torch.tensor([passed, float(save), float(stop or now - self.started > self.limit * 60)])
        passed, save_told, stop_told = training.fabric.broadcast(told).tolist()
        training.minutes += passed
        every = runner.checkpoint_steps
        save = save_told > 0 or (every > 0 and training.step % every == 0)
        stop = stop_told > 0 or training.step >= runner.steps
        if save or stop:
            self.saved = now
        return save, stop

    def share(self) -> float:
        """How much of this call is done, 0..1, by steps or by minutes."""
        by_minutes = (self.last - self.started) / 60 / self.limit if math.isfinite(self.limit) else 0.0
        return min(1.0, max(by_minutes, self.training.step / self.training.runner.steps))


def train(task: Task[B], fabric: Fabric, out: Path, minutes: float = math.inf) -> Training[B]:
    """Train until the run's steps or ``minutes`` of this call are over; ends with a checkpoint."""
    runner = task.runner
    training = Training(task, fabric, out)
    first = training.step * runner.accumulate
    recent: dict[str, list[float]] = defaultdict(list)
    with (
        Journal(out, f"training.{task.kind}", fabric.is_global_zero, training.step) as journal,
        Feed(task.draw, runner.seed, fabric.global_rank, first, runner.workers) as feed,
        asked_to_stop() as stop_asked,
    ):
        if training.step >= runner.steps:
            journal.say(f"{out} has its {runner.steps} steps already")
            return training
        clock, frames, since = Clock(training, minutes), training.frames, time.monotonic()
        stop = False
        while not stop:
            figures, batch = training.train_step(feed)
            save, stop = clock.tick(stop_asked())
            for name, value in figures.items():
                recent[name].append(float(value))
            journal.advance(clock.share())
            if training.step % runner.report_steps == 0 or stop:
                means = {name: mean_of_some(values) for name, values in recent.items()}
                rate = (training.frames - frames) / max(1e-9, time.monotonic() - since)
                frames, since = training.frames, time.monotonic()
                recent.clear()
                lr = learning_rate(runner, training.step - 1, training.minutes)
                journal.report(
                    training.step, training.minutes, means | {"frames_per_s": rate, "learning_rate": lr}
                )
            if runner.picture_steps and (training.step % runner.picture_steps == 0 or stop):
                training.show(batch, journal)
            if save or stop:
                training.save()
    return training
