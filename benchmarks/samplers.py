"""Ways from noise to motion in a few steps, as plain functions: what ``benchmarks/sampling.py`` compares."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from torch import Tensor

Denoise = Callable[[Tensor, float], Tensor]  # noised, level 0..1 → x0
Sampler = Callable[[Denoise, Tensor, int], Tensor]


def amplitudes(level: float) -> tuple[float, float]:
    """Signal and noise (alpha, sigma) at a level, as ``mytalk.models.motion.noise_schedule``."""
    return math.cos(level * math.pi / 2), math.sin(level * math.pi / 2)


def step(x: Tensor, clean: Tensor, now: float, then: float) -> Tensor:
    """x at level ``then`` from x at ``now``, were ``clean`` right all the way: exact for a constant x0."""
    (alpha, sigma), (next_alpha, next_sigma) = amplitudes(now), amplitudes(then)
    return next_sigma / sigma * x + (next_alpha - next_sigma * alpha / sigma) * clean


def grid(start: float, steps: int) -> list[float]:
    """Levels from ``start`` down to 0, evenly."""
    return [start * (1 - i / steps) for i in range(steps + 1)]


def ddim(denoise: Denoise, noise: Tensor, steps: int) -> Tensor:
    """First order: what is shipped."""
    return resumed(denoise, noise, steps, 1.0)


def resumed(denoise: Denoise, noised: Tensor, steps: int, start: float) -> Tensor:
    """``ddim`` from a state noised to ``start`` only: a warm start."""
    x = clean = noised
    for now, then in pairwise(grid(start, steps)):
        clean = denoise(x, now)
        x = step(x, clean, now, then)
    return clean


def dpm_solver_2m(denoise: Denoise, noise: Tensor, steps: int) -> Tensor:
    """DPM-Solver++(2M): x0 extrapolated over the log of the signal-to-noise ratio.

    As that is infinite at both ends, the two steps behind pure noise and the last one are of first order:
    with one or two steps in all it is ``ddim``.
    """

    def log_ratio(level: float) -> float:
        alpha, sigma = amplitudes(level)
        return math.log(alpha / sigma)

    levels, x, before = grid(1.0, steps), noise, noise
    for i, (now, then) in enumerate(pairwise(levels)):
        clean = denoise(x, now)
        direction = clean
        if 2 <= i < steps - 1:
            last, here, ahead = (log_ratio(level) for level in levels[i - 1 : i + 2])
            direction = clean + (ahead - here) / (2 * (here - last)) * (clean - before)
        x, before = step(x, direction, now, then), clean
    return x


def extrapolated(denoise: Denoise, noise: Tensor, steps: int) -> Tensor:
    """Second order over the level itself, which is finite, so that even the second step of two counts."""
    x, before = noise, None
    for now, then in pairwise(grid(1.0, steps)):
        clean = denoise(x, now)
        direction = clean if before is None else 1.5 * clean - 0.5 * before
        x, before = step(x, direction, now, then), clean
    return x


SAMPLERS: dict[str, Sampler] = {"ddim": ddim, "dpm_solver_2m": dpm_solver_2m, "extrapolated": extrapolated}
