"""The settings of a training run: frozen dataclasses read from one TOML file; unknown keys are errors."""

from __future__ import annotations

import math
import tomllib
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from mytalk.errors import BadInput

C = TypeVar("C")
SCHEDULES = ("constant", "inverse_sqrt", "cosine")
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")
STRATEGIES = ("auto", "ddp", "fsdp")


@dataclass(frozen=True, slots=True)
class Runner:
    """What every trainer has (TOML table ``[runner]``).

    seed: with the step and the process's rank it decides all that is random.
    schedule: of the learning rate after a linear warm-up: ``constant``, ``inverse_sqrt`` (paper 4.1.3), or
    ``cosine`` down to ``final_learning_rate`` over ``steps``, or over ``decay_minutes`` of training where
    that is not 0 (then the run cannot be repeated bit for bit).
    precision: ``auto`` is bf16-mixed where the device computes in bf16, else 32-true.
    strategy: ``auto`` is one process, or DDP under torchrun; ``fsdp`` shards weights and optimiser.
    accumulate: batches per optimiser step. recompute: activation checkpointing.
    average_decay: of the exponential moving average of the weights, which is what ships.
    workers: threads that make batches ahead.
    checkpoint_minutes, checkpoint_steps: write a checkpoint that often; 0 steps = by time alone.
    report_steps, picture_steps: write scalars, pictures that often; 0 = never.
    """

    steps: int = 1000
    seed: int = 1
    learning_rate: float = 1e-3
    schedule: str = "constant"
    warmup_steps: int = 100
    final_learning_rate: float = 0.0
    decay_minutes: float = 0.0
    weight_decay: float = 1e-2
    precision: str = "auto"
    strategy: str = "auto"
    accumulate: int = 1
    recompute: bool = False
    clip_norm: float = 1.0
    average_decay: float = 0.999
    workers: int = 1
    checkpoint_minutes: float = 3.0
    checkpoint_steps: int = 0
    report_steps: int = 50
    picture_steps: int = 500

    def __post_init__(self) -> None:
        """Refuse names that do not exist and counts that make no run."""
        for name, known in (("schedule", SCHEDULES), ("precision", PRECISIONS), ("strategy", STRATEGIES)):
            check_choice(f"runner.{name}", getattr(self, name), known)
        for name in ("steps", "accumulate", "workers"):
            if getattr(self, name) < 1:
                raise BadInput(f"runner.{name} must be at least 1, not {getattr(self, name)}")


def check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raise ``BadInput`` unless ``value`` is one of ``known``."""
    if value not in known:
        raise BadInput(f"{name} = {value!r}; known: {', '.join(known)}")


def learning_rate(runner: Runner, step: int, minutes: float) -> float:
    """Learning rate of optimiser step ``step`` (0-based) after ``minutes`` of training."""
    warm = max(1, runner.warmup_steps)
    rise = min(1.0, (step + 1) / warm)
    if runner.schedule == "inverse_sqrt":
        return runner.learning_rate * min(rise, math.sqrt(warm / (step + 1)))
    if runner.schedule == "constant":
        return runner.learning_rate * rise
    progress = minutes / runner.decay_minutes if runner.decay_minutes > 0 else step / runner.steps
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return (runner.final_learning_rate + (runner.learning_rate - runner.final_learning_rate) * cosine) * rise


def _typed(name: str, value: Any, kind: Any) -> Any:
    """``value`` as a field of type ``kind``: tables become dataclasses, whole numbers do for floats."""
    if is_dataclass(kind):
        if isinstance(value, kind):  # type: ignore[arg-type]  # kind's own default for a table not given
            return value
        if not isinstance(value, dict):
            raise BadInput(f"[{name}] must be a table")
        return _build(kind, value, f"{name}.")  # type: ignore[arg-type]
    if get_origin(kind) is dict:
        if not isinstance(value, dict):
            raise BadInput(f"[{name}] must be a table")
        return {key: _typed(f"{name}.{key}", number, get_args(kind)[1]) for key, number in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise BadInput(f"{name} = {value!r} is not of type {kind.__name__}")
    return value


def _build(kind: type[C], values: dict[str, Any], prefix: str = "") -> C:
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(names)):
        listed = ", ".join(prefix + key for key in unknown)
        raise BadInput(f"unknown settings: {listed}; known: {', '.join(names)}")
    # A table that the file leaves out, or gives in part, keeps this kind's own defaults for the rest.
    given = {}
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name not in values:
            continue
        value = values[field.name]
        if (
            is_dataclass(hints[field.name])
            and field.default_factory is not MISSING
            and isinstance(value, dict)
        ):
            own = field.default_factory()
            value = {f.name: getattr(own, f.name) for f in fields(own)} | value
        given[field.name] = _typed(prefix + field.name, value, hints[field.name])
    return kind(**given)


def load_settings(kind: type[C], path: Path | None, overrides: dict[str, Any] | None = None) -> C:
    """Settings of dataclass ``kind`` from a TOML file (None: defaults) and overrides, where not None.

    Raises ``BadInput`` for a file that cannot be read, unknown keys and values of a wrong type.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise BadInput(f"{path}: {error}") from error
    values |= {key: value for key, value in (overrides or {}).items() if value is not None}
    try:
        return _build(kind, values)
    except BadInput as error:
        raise BadInput(f"{path}: {error}" if path else str(error)) from error
