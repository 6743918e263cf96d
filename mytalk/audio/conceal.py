"""Sound in place of what was lost: the last pitch period goes on and fades, with smooth joints (pure)."""

from __future__ import annotations

import numpy as np

from mytalk.clock import PLAYOUT_RATE
from mytalk.types import F32, I16

STEP = 4  # pitch is looked for at a quarter of the rate
SHORTEST_S, LONGEST_S = 1 / 400, 1 / 60  # periods of a voice
MATCH_S = 0.01  # so much is compared
PAST = round((LONGEST_S + MATCH_S + 0.005) * PLAYOUT_RATE)  # what is remembered
JOINT = PLAYOUT_RATE // 200  # 5 ms of cross-fade
HOLD = PLAYOUT_RATE // 100  # a made-up voice keeps its level for 10 ms
FADE = PLAYOUT_RATE // 20  # and is silent 50 ms later


def pitch_lag(sound: F32, rate_hz: int = PLAYOUT_RATE) -> tuple[int, float] | None:
    """The lag (samples) at which the end of a sound is most like itself, and how much (−1..1).

    None when the sound is too short for any.
    """
    coarse = sound[len(sound) % STEP :].reshape(-1, STEP).mean(axis=1)
    first = round(SHORTEST_S * rate_hz / STEP)
    size = min(round(MATCH_S * rate_hz / STEP), len(coarse) // 2)
    last = min(round(LONGEST_S * rate_hz / STEP), len(coarse) - size)
    if size < first or last < first:
        return None
    end = coarse[len(coarse) - size :]
    windows = np.lib.stride_tricks.sliding_window_view(coarse, size)
    shifted = windows[len(coarse) - size - last : len(coarse) - size - first + 1]
    power = np.sqrt((shifted**2).sum(axis=1) * (end**2).sum()) + 1e-3
    likeness = shifted @ end / power
    best = int(likeness.argmax())
    return (last - best) * STEP, float(likeness[best])


class Concealer:
    """Follows a line of 48 kHz int16 sound and makes up what is missing from it."""

    def __init__(self) -> None:
        self._past: F32 = np.zeros(PAST, np.float32)
        self._cycle: F32 | None = None  # what is repeated while a hole lasts
        self._made = 0  # samples made up in this hole

    def push(self, samples: I16) -> I16:
        """Take sound that did come; its beginning is joined to what was made up before it."""
        out = samples
        if self._cycle is not None:
            joint = min(JOINT, len(samples))
            fade = np.linspace(0.0, 1.0, joint, dtype=np.float32)
            made = self._make(joint)
            out = samples.copy()
            out[:joint] = np.rint(made * (1 - fade) + samples[:joint] * fade).astype(np.int16)
            self._cycle = None
        self._remember(out.astype(np.float32))
        return out

    def conceal(self, count: int) -> I16:
        """Make up int16 [count]."""
        if self._cycle is None:
            found = pitch_lag(self._past)
            assert found is not None  # enough is remembered
            lag = found[0]
            self._cycle, self._made = self._seamless(lag), 0
            # where the voice is no perfect repetition there would be a step, and a click
            step = self._past[-1] - self._past[-lag - 1]
            made = self._make(count)
            joint = min(JOINT, count)
            made[:joint] += step * np.linspace(1.0, 0.0, joint, dtype=np.float32)
        else:
            made = self._make(count)
        self._remember(made)
        return np.clip(np.rint(made), -32768, 32767).astype(np.int16)

    def _seamless(self, lag: int) -> F32:
        """The last ``lag`` samples, changed at their end so that they can follow themselves."""
        cycle = self._past[-lag:].copy()
        joint = min(JOINT, lag)
        fade = np.linspace(0.0, 1.0, joint, dtype=np.float32)
        before = self._past[-lag - joint : len(self._past) - lag]
        cycle[-joint:] = cycle[-joint:] * (1 - fade) + before * fade
        return cycle

    def _make(self, count: int) -> F32:
        assert self._cycle is not None
        at = np.arange(self._made, self._made + count)
        level = np.clip(1.0 - (at - HOLD) / FADE, 0.0, 1.0).astype(np.float32)
        self._made += count
        made: F32 = self._cycle[at % len(self._cycle)] * level
        return made

    def _remember(self, sound: F32) -> None:
        if len(sound) >= len(self._past):
            self._past = sound[-len(self._past) :].copy()
        else:
            self._past = np.concatenate([self._past[len(sound) :], sound])
