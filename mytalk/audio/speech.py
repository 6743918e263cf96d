"""16 kHz PCM → log-mel spectrogram, one frame per 10 ms; streamed = offline, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from mytalk.clock import ANALYSIS_RATE, ANALYSIS_SAMPLES_PER_FRAME, exact_div
from mytalk.types import F32

HOP = 160  # 10 ms
WINDOW = 400  # 25 ms; frame i ends with sample 160 (i + 1), so it hears nothing that comes later
FFT = 512
MELS = 80
MEL_FRAMES_PER_FRAME = exact_div(ANALYSIS_SAMPLES_PER_FRAME, HOP)  # 4
FLOOR = 1e-5  # amplitude floor of the magnitude spectrum, about -100 dBFS
SILENCE = float(np.log(FLOOR))  # log-mel of digital silence


def band_edges_hz() -> npt.NDArray[np.float64]:
    """Band b rises from edge b to edge b + 1 and falls to edge b + 2: float64 [82], 60 Hz to 7.6 kHz."""

    def to_mel(hz: float) -> float:
        return 2595.0 * float(np.log10(1.0 + hz / 700.0))

    edges_mel = np.linspace(to_mel(60.0), to_mel(7600.0), MELS + 2)
    edges_hz: npt.NDArray[np.float64] = 700.0 * (10.0 ** (edges_mel / 2595.0) - 1.0)
    return edges_hz


@cache
def _mel_filters() -> F32:
    """Triangular mel filters, float32 [257, 80], each summing to 1."""
    edges_hz = band_edges_hz()
    bins_hz = np.arange(FFT // 2 + 1) * (ANALYSIS_RATE / FFT)
    low, mid, high = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
    rising = (bins_hz[:, None] - low) / (mid - low)
    falling = (high - bins_hz[:, None]) / (high - mid)
    filters = np.maximum(0.0, np.minimum(rising, falling))
    return np.ascontiguousarray(filters / np.maximum(filters.sum(axis=0), 1e-9), dtype=np.float32)


@cache
def _bands() -> tuple[npt.NDArray[np.intp], F32, npt.NDArray[np.intp]]:
    """The filters without zeros: FFT bins [n], their weights [n], where each band begins in them [80]."""
    filters = _mel_filters()
    band, bins = np.nonzero(filters.T)
    return bins, filters[bins, band], np.searchsorted(band, np.arange(MELS))


@cache
def _window() -> F32:
    return np.hanning(WINDOW).astype(np.float32)


@dataclass(frozen=True, slots=True)
class LogMelState:
    """Samples that later frames still need: float32 [240 .. 399]; 240 zeros before the first sample."""

    tail: F32

    @classmethod
    def initial(cls) -> LogMelState:
        """State before the first sample of an utterance."""
        return cls(np.zeros(WINDOW - HOP, np.float32))


def log_mel(state: LogMelState, samples: F32) -> tuple[LogMelState, F32]:
    """Log-mel frames that the new samples complete.

    samples: float32 [S], 16 kHz, -1..1, any S ≥ 0. Returns the next state and float32 [n, 80], natural
    log of the mel-weighted magnitude, floored at ``SILENCE``. Any split must give identical bits, so every
    operation is one of a row or an element: a matrix product's rounding depends on its row count (and its
    threads wait for each other, which costs milliseconds on a busy machine).
    """
    buffer = np.concatenate([state.tail, samples.astype(np.float32, copy=False)])
    count = max(0, (len(buffer) - (WINDOW - HOP)) // HOP)
    if not count:
        return LogMelState(buffer), np.empty((0, MELS), np.float32)
    bins, weights, starts = _bands()
    pieces = np.lib.stride_tricks.sliding_window_view(buffer, WINDOW)[: count * HOP : HOP] * _window()
    magnitude = np.abs(np.fft.rfft(pieces, FFT)).astype(np.float32)
    energy = np.add.reduceat(magnitude[:, bins] * weights, starts, axis=1)
    return LogMelState(buffer[count * HOP :]), np.log(np.maximum(energy, FLOOR))
