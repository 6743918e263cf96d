"""When a dubbed video shows which picture of its source: at the source's own time stamps, back and forth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mytalk.video.media import SEEK_MARGIN_S, VideoInfo, read_frames
from mytalk.video.picture import Picture

USUAL_RATES = tuple(
    Fraction(rate)
    for rate in ("24000/1001", "24", "25", "30000/1001", "30", "48", "50", "60000/1001", "60", "120")
)
REGULAR = 0.3  # of a frame: time stamps that are off by less belong to a fixed rate
ROUNDED = 0.05  # of a frame: off by no more than rounding
SHORTEST_S = 1e-3  # between two pictures; time stamps that run backwards are mended to it
SAME_S = 1e-4  # time stamps that are equal but for rounding
BACKWARD_BYTES = 128 * 1024 * 1024  # pictures held at most while a video is played backwards


def source_frame(position: int, frames: int) -> int:
    """Frame of a video of so many frames at a play position, forwards and backwards for ever."""
    if frames == 1:
        return 0
    phase = position % (2 * frames - 2)
    return min(phase, 2 * frames - 2 - phase)


@dataclass(frozen=True, slots=True)
class Timeline:
    """Time stamps of a video's pictures. times_s: float64 [F], rising. fps: their rate, or about it.

    regular: whether they come at exactly that rate.
    """

    times_s: npt.NDArray[np.float64]
    fps: Fraction
    regular: bool

    def play(self, seconds: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
        """When pictures are shown, float64 [n], and which ones, int [n], to fill so many seconds from 0
        on.
        """
        steps = self._steps()
        frames = len(steps) + 1 if len(self.times_s) > 1 else 1
        pieces, elapsed, position = [], 0.0, 0
        cycle = np.concatenate([steps, steps[::-1]])
        order = np.concatenate([np.arange(frames), np.arange(frames - 2, 0, -1)])
        shown = np.resize(order, len(cycle))
        which = []
        while elapsed < seconds or position == 0:
            if self.regular:  # from whole numbers, so that no rounding adds up
                times = (position + np.arange(len(cycle))) * float(1 / self.fps)
                elapsed = (position + len(cycle)) * float(1 / self.fps)
            else:
                times = elapsed + np.concatenate([[0.0], np.cumsum(cycle[:-1])])
                elapsed += float(cycle.sum())
            position += len(cycle)
            pieces.append(times)
            which.append(shown)
        times, index = np.concatenate(pieces), np.concatenate(which)
        count = max(1, int(np.searchsorted(times, seconds - 1e-9)))
        return times[:count], index[:count]

    def _steps(self) -> npt.NDArray[np.float64]:
        """Seconds between neighbouring pictures, float64 [max(1, F − 1)]."""
        if len(self.times_s) == 1:
            return np.array([float(1 / self.fps)])
        return np.maximum(np.diff(self.times_s), SHORTEST_S)


def timeline(times_s: npt.NDArray[np.float64], nominal: Fraction) -> Timeline:
    """Recognise a fixed rate in time stamps float64 [F], or keep them. nominal: the rate the file tells."""
    since = times_s - times_s[0]

    def off(rate: Fraction) -> float:
        return float(np.abs(since * float(rate) - np.arange(len(since))).max())

    # The nominal rate may be a mean over gaps, or rounded: then a usual rate fits better.
    best = nominal if off(nominal) < ROUNDED else min((nominal, *USUAL_RATES), key=off)
    return Timeline(times_s, best, True) if off(best) < REGULAR else Timeline(times_s, nominal, False)


def pictures_from(
    path: Path, info: VideoInfo, times_s: npt.NDArray[np.float64], first: int
) -> Iterator[Picture]:
    """Pictures first, first+1, … of a video, recognised by their time stamps."""
    start_s = max(0.0, float(times_s[first]) - SEEK_MARGIN_S)
    wanted = first
    for picture in read_frames(path, start_s=start_s, info=info):
        if wanted < len(times_s) and picture.time_s > times_s[wanted] - SAME_S:
            yield picture
            wanted += 1


def pictures_back_and_forth(
    path: Path, info: VideoInfo, times_s: npt.NDArray[np.float64], count: int
) -> Iterator[Picture]:
    """``count`` pictures of a video, back and forth over those with these times; few in memory at a time."""
    position, frames = 0, len(times_s)
    while position < count:
        start = source_frame(position, frames)
        if source_frame(position + 1, frames) >= start:
            length = min(count - position, max(1, frames - 1 - start))
            yield from islice(pictures_from(path, info, times_s, start), length)
            position += length
        else:
            first = next(pictures_from(path, info, times_s, start))
            size = max(1, min(start, count - position, BACKWARD_BYTES // first.nbytes))
            held = list(islice(pictures_from(path, info, times_s, start - size + 1), size))
            yield from held[::-1]
            position += size
