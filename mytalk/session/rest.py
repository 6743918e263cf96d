"""When a face may rest while its microphone is open: shut lips need no inference until somebody speaks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mytalk.audio.steady import SteadyLevel
from mytalk.clock import ANALYSIS_SAMPLES_PER_FRAME
from mytalk.config import SessionConfig
from mytalk.types import F32, I16

ABOVE_STEADY = 1.6  # peaks of a steady noise differ by less (4 dB); a voice stands out by more


def closing_weights(frames: int) -> list[float]:
    """Factors that bring an open mouth smoothly to rest in ``frames`` frames; 0 would come next."""
    return [float(0.5 * (1.0 + np.cos(np.pi * k / (frames + 1)))) for k in range(1, frames + 1)]


class Hush:
    """How long it has been quiet, by the 16 kHz samples that were heard so far; silence is before them.

    Quiet is what stays below ``quiet_peak``, or hardly rises above a noise that has gone on for two seconds.
    """

    def __init__(self, config: SessionConfig) -> None:
        self._quiet, self._most = round(config.quiet_peak * 32768), round(config.steady_peak * 32768)
        self._steady = SteadyLevel()
        self._heard = 0
        self._loud = -config.rest_after_frames * ANALYSIS_SAMPLES_PER_FRAME  # end of the last loud sample

    def hear(self, samples: I16) -> None:
        """Take the next samples, int16 [n]."""
        limit = max(self._quiet, min(self._most, round(ABOVE_STEADY * self._steady.peak)))
        loud = np.flatnonzero(np.abs(samples.astype(np.int32)) > limit)
        if len(loud):
            self._loud = self._heard + int(loud[-1]) + 1
        self._heard += len(samples)
        self._steady.hear(samples)

    def skip_to(self, sample: int) -> None:
        """Samples up to this index will not be heard; they count as loud (overload only)."""
        self._heard = self._loud = sample

    @property
    def frames(self) -> float:
        """Frames of 40 ms since the last loud sample."""
        return (self._heard - self._loud) / ANALYSIS_SAMPLES_PER_FRAME


class Rest:
    """The resting of one utterance's face, hop by hop.

    It begins when it has been quiet for ``rest_after_frames`` and no point is further from the rest face than
    ``rest_opening``: what is left of the opening is taken back in ``close_frames``, then the idle face is
    shown. It ends with the first hop that hears something.
    """

    def __init__(self, config: SessionConfig) -> None:
        self._config = config
        self._fade: Iterator[F32] | None = None  # None: the face does not rest

    def configure(self, config: SessionConfig) -> None:
        """Other hop and lookahead from the next hop on."""
        self._config = config

    @property
    def active(self) -> bool:
        """Whether the last hop rested."""
        return self._fade is not None

    def stop(self) -> None:
        """The face is needed; idempotent."""
        self._fade = None

    def hop(self, quiet_frames: float, shown: F32 | None) -> list[F32 | None] | None:
        """What a hop's frames show, None = the idle face; None instead of a list: it must be computed.

        quiet_frames: since the last loud sample that the hop hears, lookahead included. shown: displacement
        of the frame before, float32 [Kc, 3]; None: the idle face was.
        """
        config = self._config
        heard = config.hop_frames + config.lookahead_frames
        needed = heard if self.active else max(heard, config.rest_after_frames)
        closed = shown is None or float(np.abs(shown).max()) <= config.rest_opening
        if not config.rest_after_frames or quiet_frames < needed or not (self.active or closed):
            self.stop()
            return None
        if self._fade is None:
            left: list[F32] = []
            if shown is not None and shown.any():
                left = [np.float32(weight) * shown for weight in closing_weights(config.close_frames)]
            self._fade = iter(left)
        return [next(self._fade, None) for _ in range(config.hop_frames)]
