"""One utterance's speech: what still has to be played (48 kHz) and what still has to be analysed (16 kHz)."""

from __future__ import annotations

import numpy as np

from mytalk.audio.resample import PcmResampler
from mytalk.audio.speech import HOP, MEL_FRAMES_PER_FRAME, MELS, SILENCE, LogMelState, log_mel
from mytalk.clock import (
    ANALYSIS_RATE,
    ANALYSIS_SAMPLES_PER_FRAME,
    PLAYOUT_RATE,
    PLAYOUT_SAMPLES_PER_FRAME,
    frame_to_playout_sample,
)
from mytalk.engines.engine import EngineSpec
from mytalk.motion import analysis_samples_needed, left_mel_frames, mel_context
from mytalk.session.rest import Hush
from mytalk.types import F32, I16


class SampleQueue:
    """int16 samples by absolute index: grows at the end, is forgotten from the start."""

    def __init__(self) -> None:
        self._store: I16 = np.zeros(4096, np.int16)
        self._used = 0
        self.start = 0

    @property
    def end(self) -> int:
        """Index after the last sample."""
        return self.start + self._used

    def append(self, samples: I16) -> None:
        """Add int16 [n] at the end."""
        needed = self._used + len(samples)
        if needed > len(self._store):
            grown = np.zeros(max(needed, 2 * len(self._store)), np.int16)
            grown[: self._used] = self._store[: self._used]
            self._store = grown
        self._store[self._used : needed] = samples
        self._used = needed

    def read(self, first: int, count: int) -> I16:
        """A copy of int16 [count] from index ``first`` (not yet forgotten); zeros after the end."""
        out = np.zeros(count, np.int16)
        piece = self._store[first - self.start : min(first - self.start + count, self._used)]
        out[: len(piece)] = piece
        return out

    def forget_before(self, index: int) -> None:
        """Drop samples before an index; the store shrinks again once most of it is unused."""
        gone = min(max(0, index - self.start), self._used)
        # Moving the rest costs its length, so it is done only when at least as much has been freed.
        if gone and gone >= self._used - gone:
            rest = self._store[gone : self._used].copy()
            self._store = np.zeros(max(4096, 2 * len(rest)), np.int16)
            self._store[: len(rest)] = rest
            self._used = len(rest)
            self.start += gone


class UtteranceSpeech:
    """PCM of one utterance, from its own rate to playout samples and log-mel frames.

    Analysis is lazy: a long push costs only resampling; log-mel frames are made when a hop asks for them,
    and only those that later hops still hear are kept.
    """

    def __init__(self, rate_hz: int, spec: EngineSpec, hush: Hush) -> None:
        """hush: told every analysis sample, once, when a hop first hears it."""
        self.rate_hz = rate_hz
        self.ended = False
        self._spec = spec
        self._hush = hush
        self._to_playout = PcmResampler(rate_hz, PLAYOUT_RATE)
        self._to_analysis = PcmResampler(rate_hz, ANALYSIS_RATE)
        self._playout = SampleQueue()
        self._analysis = SampleQueue()
        self._mel_state = LogMelState.initial()
        self._mel: F32 = np.zeros((0, MELS), np.float32)
        self._mel_offset = 0

    @property
    def samples(self) -> int:
        """48 kHz samples that have come in so far."""
        return self._playout.end

    @property
    def speech_frames(self) -> int:
        """Frames that hold speech, the last one perhaps in part."""
        return -(-self.samples // PLAYOUT_SAMPLES_PER_FRAME)

    def push(self, samples: I16) -> None:
        """Add int16 [n] at the utterance's rate."""
        self._playout.append(self._to_playout.push(samples))
        self._analysis.append(self._to_analysis.push(samples))

    def end(self) -> None:
        """No more speech comes: silence follows. Idempotent."""
        if not self.ended:
            self.ended = True
            self._playout.append(self._to_playout.flush())
            self._analysis.append(self._to_analysis.flush())

    def can_plan(self, first_frame: int, hop: int, lookahead: int) -> bool:
        """Whether all speech that a hop's motion and pictures depend on is here."""
        if self.ended:
            return True
        needed = analysis_samples_needed(first_frame + hop + lookahead, self._spec)
        return self._analysis.end >= needed and self.samples >= frame_to_playout_sample(first_frame + hop)

    def context(self, first_frame: int, tokens: int) -> F32:
        """Log-mel context float32 [M, 80] of a hop; forgets what only earlier hops hear."""
        needed = analysis_samples_needed(first_frame + tokens, self._spec) // HOP
        count = needed - (self._mel_offset + len(self._mel))
        if count > 0:
            first = (self._mel_offset + len(self._mel)) * HOP
            pcm = self._analysis.read(first, count * HOP)
            self._hush.hear(pcm)
            samples = pcm.astype(np.float32) / np.float32(32768.0)
            self._mel_state, fresh = log_mel(self._mel_state, samples)
            self._mel = np.concatenate([self._mel, fresh])
            self._analysis.forget_before(first + count * HOP)
        unheard = first_frame * MEL_FRAMES_PER_FRAME - left_mel_frames(self._spec) - self._mel_offset
        if unheard > 0:
            self._mel = self._mel[unheard:].copy()
            self._mel_offset += unheard
        # The rows end with this hop's: padding tokens must not hear speech that may or may not be here yet.
        return mel_context(self._mel, self._mel_offset, first_frame, self._spec)

    def skip_analysis(self, first_frame: int) -> None:
        """Start hearing at a later frame, as if silence had been before it (overload only)."""
        first = first_frame * ANALYSIS_SAMPLES_PER_FRAME
        self._analysis.forget_before(first)
        self._hush.skip_to(first)
        self._mel_state = LogMelState.initial()
        self._mel = np.zeros((0, MELS), np.float32)
        self._mel_offset = first_frame * MEL_FRAMES_PER_FRAME

    def hush_before(self, frame: int) -> None:
        """What was said before this frame counts as silence: the mouth has been closed since."""
        self._mel[: max(0, frame * MEL_FRAMES_PER_FRAME - self._mel_offset)] = SILENCE

    def frame_samples(self, frame: int) -> I16:
        """int16 [1920] of a frame that has not been played; zeros after the end."""
        return self._playout.read(frame_to_playout_sample(frame), PLAYOUT_SAMPLES_PER_FRAME)

    def peak(self, frame: int) -> float:
        """Largest absolute sample of a frame, 0..1."""
        return float(np.abs(self.frame_samples(frame).astype(np.int32)).max()) / 32768.0

    def forget_played(self, next_frame: int) -> None:
        """Forget the frames before the next one to be played."""
        self._playout.forget_before(frame_to_playout_sample(next_frame))
