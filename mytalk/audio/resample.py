"""Any mono PCM rate → another one, as a stream; the same samples come out however the input was split."""

from __future__ import annotations

import av
import numpy as np

from mytalk.errors import BadInput
from mytalk.types import I16

MIN_RATE_HZ = 8_000
MAX_RATE_HZ = 96_000


def check_rate(rate_hz: int) -> None:
    """Raise ``BadInput`` unless the rate is one that speech may come in (8 to 96 kHz)."""
    if isinstance(rate_hz, bool) or not isinstance(rate_hz, int):
        raise BadInput(f"the sample rate must be a whole number of Hz, not {rate_hz!r}", "bad_rate")
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise BadInput(f"the sample rate {rate_hz} Hz is not in {MIN_RATE_HZ}..{MAX_RATE_HZ}", "bad_rate")


class PcmResampler:
    """Streaming mono int16 → mono int16; sample 0 of the output lies on sample 0 of the input.

    The integer path of the resampler is used, so the result is exact on every machine. It lags about
    1 ms; ``flush`` gives the rest, and ends the stream. Equal rates pass through bit for bit.
    """

    def __init__(self, rate_hz: int, target_hz: int) -> None:
        """Rates in Hz, 8,000 to 96,000."""
        check_rate(rate_hz)
        check_rate(target_hz)
        self._rate_hz = rate_hz
        self._target_hz = target_hz
        self._taken = 0
        self._given = 0
        self._flushed = False
        self._resampler: av.AudioResampler | None = None
        if rate_hz != target_hz:
            self._resampler = av.AudioResampler(format="s16", layout="mono", rate=target_hz)

    def push(self, samples: I16) -> I16:
        """Resample int16 [n] (any n ≥ 0); returns int16 [m], what is complete by now."""
        if self._flushed:
            raise BadInput("the resampler has been flushed", "stream_ended")
        self._taken += len(samples)
        if self._resampler is None or len(samples) == 0:
            out = samples.copy()
        else:
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(samples, np.int16)[None, :], format="s16", layout="mono"
            )
            frame.sample_rate = self._rate_hz
            out = _joined(self._resampler.resample(frame))
        self._given += len(out)
        return out

    def flush(self) -> I16:
        """End the stream; returns the rest, so that in all ceil(taken · target / rate) samples came out."""
        if self._flushed:
            return np.zeros(0, np.int16)
        self._flushed = True
        rest = np.zeros(0, np.int16)
        if self._resampler is not None and self._taken:
            rest = _joined(self._resampler.resample(None))
        wanted = -(-self._taken * self._target_hz // self._rate_hz) - self._given
        return np.concatenate([rest, np.zeros(max(0, wanted - len(rest)), np.int16)])[:wanted]


def _joined(frames: list[av.AudioFrame]) -> I16:
    pieces = [frame.to_ndarray()[0] for frame in frames]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.int16)
