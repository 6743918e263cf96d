"""Live sound made a little faster, slower or shorter, inaudibly (pure)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mytalk.audio.conceal import pitch_lag
from mytalk.clock import PLAYOUT_RATE
from mytalk.types import F32, I16

F64 = npt.NDArray[np.float64]

HALF = 16  # samples that the filter looks back and ahead
PHASES = 256  # between two samples; further between them, linearly
JOINT_S = 0.005  # cross-fade over a cut
ALIGN = 240  # samples over which a finished stretch comes back to whole samples, at least
LIKE = 0.6  # two periods that are so alike may be joined


def _filters() -> F32:
    """Windowed sinc for every phase, float32 [PHASES + 1, 2 · HALF]."""
    phase = np.arange(PHASES + 1)[:, None] / PHASES
    distance = np.arange(1 - HALF, HALF + 1)[None, :] - phase
    window = np.i0(8.0 * np.sqrt(np.clip(1.0 - (distance / HALF) ** 2, 0.0, 1.0))) / np.i0(8.0)
    taps = np.sinc(distance) * window
    filters: F32 = (taps / taps.sum(axis=1, keepdims=True)).astype(np.float32)
    return filters


FILTERS = _filters()


class Stretcher:
    """Streaming int16 → int16 at a speed near 1, which may change with every call.

    At speed 1 samples pass bit for bit; until it is left for the first time, also without any delay.
    Afterwards at most ``HALF`` samples (0.3 ms) wait for those that the filter has to hear first.
    """

    def __init__(self) -> None:
        self._held: F32 = np.zeros(HALF - 1, np.float32)
        self._at = HALF - 1  # index in ``_held`` of the next output's whole sample …
        self._phase = 0.0  # … and how far after it, 0..1

    def push(self, samples: I16, speed: float) -> I16:
        """Take int16 [n]; returns int16 [about n / speed]. speed: input samples an output sample takes."""
        line = np.concatenate([self._held, samples.astype(np.float32)])
        if speed == 1.0 and self._phase == 0.0:
            passed: I16 = line[self._at :].astype(np.int16)
            self._keep(line, len(line))
            return passed
        room = len(line) - HALF - self._at - self._phase  # the last output must lie before it
        count = max(0, int(np.ceil(room / speed)))
        if count == 0:
            self._held = line
            return np.zeros(0, np.int16)
        ends_whole = speed == 1.0 and count >= ALIGN
        if ends_whole:
            count -= 1
            speed = 1.0 + (round(self._phase) - self._phase) / count
        places = self._at + self._phase + speed * np.arange(count + 1)
        self._phase = 0.0 if ends_whole else float(places[-1] % 1.0)
        after = round(float(places[-1])) if ends_whole else int(places[-1])
        out: I16 = np.clip(np.rint(_interpolated(line, places[:-1])), -32768, 32767).astype(np.int16)
        self._keep(line, after)
        return out

    def flush(self) -> I16:
        """What waits: int16 [at most HALF]. The next sample begins a new stream."""
        rest: I16 = self._held[self._at :].astype(np.int16)
        self.__init__()  # type: ignore[misc]
        return rest

    def _keep(self, line: F32, after: int) -> None:
        first = max(0, after - (HALF - 1))
        self._held, self._at = line[first:].copy(), after - first


def _interpolated(line: F32, places: F64) -> F32:
    whole = places.astype(np.int64)
    fine = (places - whole) * PHASES
    phase = np.minimum(fine.astype(np.int64), PHASES - 1)
    part = (fine - phase).astype(np.float32)[:, None]
    taps = FILTERS[phase] * (1 - part) + FILTERS[phase + 1] * part
    heard = np.lib.stride_tricks.sliding_window_view(line, 2 * HALF)[whole - (HALF - 1)]
    out: F32 = np.einsum("nt,nt->n", heard, taps)
    return out


def shorten(samples: I16, *, anyway: bool, rate_hz: int = PLAYOUT_RATE) -> I16:
    """Take one pitch period out of int16 [n]; n should be 20 ms or more.

    Unchanged where no two periods are alike, unless ``anyway``, and where it is too short for two.
    """
    joint = round(JOINT_S * rate_hz)
    found = pitch_lag(samples.astype(np.float32), rate_hz)
    if found is None or len(samples) < found[0] + joint or (found[1] < LIKE and not anyway):
        return samples
    lag, end = found[0], len(samples)
    fade = np.linspace(0.0, 1.0, joint, dtype=np.float32)
    joined = samples[end - lag - joint : end - lag] * (1 - fade) + samples[end - joint :] * fade
    return np.concatenate([samples[: end - lag - joint], np.rint(joined).astype(np.int16)])
