"""Flash and click: what is sent to the test card, and how it is found in decoded pictures and sound (pure).

The server's ``testcard`` actor paints a white square over the top left quarter of every picture whose speech
has a loud click. Clicks come at uneven distances, so that a delay of more than one distance is not mistaken
for a short one, and so that they fall on every phase of the 40 ms picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
I16 = npt.NDArray[np.int16]

RATE = 48_000  # Hz, everything here
PICTURE_S = 0.040
CLICK_S = 0.005
CLICK_HZ = 1_000.0
CLICK_LEVEL = 0.98  # of full scale; the test card flashes above 0.7
HEARD_LEVEL = 0.5  # a decoded click; two passes of Opus leave more than this, speech-like noise far less
DEAD_S = 0.3  # after a click nothing counts as another one
WHITE_LUMA = 210  # a flash, on video-range luma (white = 235)
WHITE_SPREAD = 16.0  # standard deviation of luma inside a flash, at most


def click_times(seconds: float, first_s: float = 1.0) -> list[float]:
    """When the clicks of a train start, seconds from its first sample; distances 0.83 .. 1.25 s."""
    times, at, step = [], first_s, 0
    while at + 0.1 < seconds:
        times.append(at)
        step += 1
        # golden-ratio steps spread the distances evenly for any length of the train
        at += 0.83 + 0.42 * ((step * 0.6180339887) % 1.0)
    return times


def click_train(seconds: float, times_s: Sequence[float], seed: int = 1) -> I16:
    """Speech-like quiet noise with a loud 5 ms tone at each time: int16 [n], 48 kHz mono."""
    count = round(seconds * RATE)
    at = np.arange(count) / RATE
    noise = np.random.default_rng(seed).standard_normal(count)
    noise = np.convolve(noise, np.ones(24) / 24, mode="same")  # softer above 1 kHz, as a voice is
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * 4.0 * at)
    signal = 0.16 * noise * syllables
    length = round(CLICK_S * RATE)
    tone = CLICK_LEVEL * np.cos(2 * np.pi * CLICK_HZ * np.arange(length) / RATE)
    for time_s in times_s:
        start = round(time_s * RATE)
        stop = min(count, start + length)
        signal[start:stop] = tone[: max(0, stop - start)]
    return np.asarray(np.clip(signal, -1.0, 1.0) * 32767, dtype=np.int16)


def flashing_tone(seconds: float) -> I16:
    """A click that does not end, so that every picture flashes: int16 [n], 48 kHz mono."""
    at = np.arange(round(seconds * RATE)) / RATE
    return np.asarray(CLICK_LEVEL * 32767 * np.cos(2 * np.pi * CLICK_HZ * at), dtype=np.int16)


def is_flash(luma: U8) -> bool:
    """Whether the top left quarter of a picture is plain white; luma: uint8 [H, W], video range."""
    height, width = luma.shape
    # stay away from the square's border, which the encoder softens
    patch = luma[height // 12 : height * 5 // 12 : 4, width // 12 : width * 5 // 12 : 4]
    return bool(patch.size) and float(patch.mean()) >= WHITE_LUMA and float(patch.std()) <= WHITE_SPREAD


@dataclass
class FlashDetector:
    """Finds the first picture of every flash."""

    white: bool = True  # the last picture; a background that is white from the start is not a flash

    def feed(self, luma: U8) -> bool:
        """Take the next picture, uint8 [H, W]; true when a flash starts with it."""
        before, self.white = self.white, is_flash(luma)
        return self.white and not before


@dataclass
class ClickDetector:
    """Finds click starts in consecutive decoded sound."""

    _position: int = 0
    _dead_until: int = field(default=0)

    def feed(self, samples: I16) -> list[int]:
        """Take the next int16 [n] samples, 48 kHz mono; returns offsets into them where clicks start."""
        loud = np.flatnonzero(np.abs(samples.astype(np.int32)) >= HEARD_LEVEL * 32767)
        found = []
        for offset in loud.tolist():
            if self._position + offset >= self._dead_until:
                found.append(offset)
                self._dead_until = self._position + offset + round(DEAD_S * RATE)
        self._position += len(samples)
        return found


@dataclass(frozen=True, slots=True)
class Pairing:
    """pairs: (cause, effect) indices; delay_s: the delay that explains most of them, None without any."""

    pairs: tuple[tuple[int, int], ...]
    delay_s: float | None


def pair_events(
    causes_s: Sequence[float], effects_s: Sequence[float], min_s: float, max_s: float, spread_s: float = 0.3
) -> Pairing:
    """Match causes with the effects that follow them after a nearly constant delay within [min_s, max_s].

    The delay shared by most pairs (to 100 ms) is found first, so that a missed event, or a delay longer than
    the distance of two events, is not mistaken for a short one. Effects within ``spread_s`` of it match.
    """
    deltas = [e - c for c in causes_s for e in effects_s if min_s <= e - c <= max_s]
    if not deltas:
        return Pairing((), None)
    values = np.sort(np.array(deltas))
    votes = np.searchsorted(values, values + 0.1, "right") - np.arange(len(values))
    best = int(np.argmax(votes))  # the smallest delay wins a tie
    delay = float(np.median(values[best : best + int(votes[best])]))
    pairs, taken = [], set[int]()
    for i, cause in enumerate(causes_s):
        near = [
            (abs(e - cause - delay), j)
            for j, e in enumerate(effects_s)
            if j not in taken and abs(e - cause - delay) <= spread_s
        ]
        if near:
            j = min(near)[1]
            taken.add(j)
            pairs.append((i, j))
    return Pairing(tuple(pairs), delay)


def percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """p50, p95 and p99 by linear interpolation, rounded to 0.1; None without values."""
    if not values:
        return None
    p50, p95, p99 = (round(float(v), 1) for v in np.percentile(np.array(values, dtype=float), [50, 95, 99]))
    return {"p50": p50, "p95": p95, "p99": p99}
