"""Speech encoders behind one Protocol: PCM in pieces of any size → features, streamed = offline, bit for bit.

``LogMelEncoder`` is the causal log-mel front-end that ships. ``FixedContextEncoder`` is the one chunker for
everything that hears both ways (wav2vec2, the paper's audio encoder): every chunk of frames is computed from
the same number of samples before and after it, offline as when streaming, so what it gives does not depend on
how the sound arrived, and its delay is a property of the encoder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from mytalk.audio.speech import HOP, MELS, WINDOW, LogMelState, log_mel
from mytalk.clock import ANALYSIS_RATE
from mytalk.errors import BadInput
from mytalk.types import F32

S = TypeVar("S")


class SpeechEncoder(Protocol, Generic[S]):
    """16 kHz PCM → features of ``width`` numbers, one per ``samples_per_frame`` samples.

    Frame i stands for samples i · samples_per_frame and on. Encoders hold no state of their own.
    """

    @property
    def width(self) -> int:
        """Numbers per frame."""

    @property
    def samples_per_frame(self) -> int:
        """16 kHz samples per frame, hop and all."""

    @property
    def delay_s(self) -> float:
        """Longest wait from the end of a frame's own sound until the sample that lets it be computed."""

    def initial(self) -> S:
        """State before the first sample of an utterance."""

    def encode(self, state: S, samples: F32) -> tuple[S, F32]:
        """Frames that new samples complete: float32 [S], -1..1 → next state, float32 [n, width]."""

    def finish(self, state: S) -> F32:
        """Frames of sound already given that still wait for later sound: silence follows. [n, width]."""


def encode_all(encoder: SpeechEncoder[S], samples: F32) -> F32:
    """Features of a whole utterance, float32 [S] → [n, width]: what streaming gives, all at once."""
    state, frames = encoder.encode(encoder.initial(), samples)
    whole: F32 = np.concatenate([frames, encoder.finish(state)])
    return whole


@dataclass(frozen=True, slots=True)
class LogMelEncoder:
    """The causal log-mel front-end that ships (100 Hz); a frame is complete with its own last sample."""

    @property
    def width(self) -> int:
        """Mel bands."""
        return MELS

    @property
    def samples_per_frame(self) -> int:
        """10 ms."""
        return HOP

    @property
    def delay_s(self) -> float:
        """None: a frame's window ends where the frame does."""
        return 0.0

    def initial(self) -> LogMelState:
        """State before the first sample of an utterance."""
        return LogMelState.initial()

    def encode(self, state: LogMelState, samples: F32) -> tuple[LogMelState, F32]:
        """Frames that the samples complete (see ``speech.log_mel``)."""
        return log_mel(state, samples)

    def finish(self, state: LogMelState) -> F32:
        """The frame that an utterance ends within, if it does, filled up with silence."""
        begun = len(state.tail) - (WINDOW - HOP)
        return log_mel(state, np.zeros(-begun % HOP, np.float32))[1]


@dataclass(frozen=True, slots=True)
class FixedContextState:
    """samples: float32 [n], those that later chunks still hear, silence before the utterance included.

    begun: samples of the utterance so far that no finished frame stands for.
    """

    samples: F32
    begun: int


@dataclass(frozen=True, slots=True)
class FixedContextEncoder:
    """Any function of a stretch of sound, run on chunks with a fixed context.

    run: float32 [left_samples + hop · samples_per_frame + right_samples] → float32 [hop, width], the features
    of
        the stretch's middle; the same input must give the same output.
    width: of the features. samples_per_frame: 320 for 50 Hz. hop_frames: frames per chunk.
    left_samples, right_samples: context; the right one is waited for.
    """

    run: Callable[[F32], F32]
    width: int
    samples_per_frame: int
    hop_frames: int
    left_samples: int
    right_samples: int

    def __post_init__(self) -> None:
        """Raise ``BadInput`` for sizes that cannot be."""
        if min(self.width, self.samples_per_frame, self.hop_frames) < 1:
            raise BadInput("a fixed-context encoder needs a width, a frame and a hop of at least 1")
        if min(self.left_samples, self.right_samples) < 0:
            raise BadInput("the context of an encoder must not be negative")

    @property
    def delay_s(self) -> float:
        """The right context, and for the first frame of a chunk the rest of the chunk."""
        waited = (self.hop_frames - 1) * self.samples_per_frame + self.right_samples
        return waited / ANALYSIS_RATE

    @property
    def hop_samples(self) -> int:
        """Samples that a chunk stands for."""
        return self.hop_frames * self.samples_per_frame

    def initial(self) -> FixedContextState:
        """State before the first sample: silence to the left."""
        return FixedContextState(np.zeros(self.left_samples, np.float32), 0)

    def encode(self, state: FixedContextState, samples: F32) -> tuple[FixedContextState, F32]:
        """Frames of every chunk that the new samples complete, right context included."""
        heard = np.concatenate([state.samples, samples.astype(np.float32, copy=False)])
        length = self.left_samples + self.hop_samples + self.right_samples
        chunks = max(0, (len(heard) - length) // self.hop_samples + 1)
        made = [self._chunk(heard[k * self.hop_samples :][:length]) for k in range(chunks)]
        begun = state.begun + len(samples) - chunks * self.hop_samples
        frames = np.concatenate(made) if made else np.empty((0, self.width), np.float32)
        return FixedContextState(heard[chunks * self.hop_samples :].copy(), begun), frames

    def finish(self, state: FixedContextState) -> F32:
        """The frames of the sound that is left, the last one filled up with silence."""
        missing = -(-state.begun // self.samples_per_frame)
        chunks = -(-missing // self.hop_frames)
        length = self.left_samples + chunks * self.hop_samples + self.right_samples
        silence = np.zeros(max(0, length - len(state.samples)), np.float32)
        return self.encode(state, silence)[1][:missing]

    def _chunk(self, stretch: F32) -> F32:
        features = self.run(np.ascontiguousarray(stretch))
        if features.shape != (self.hop_frames, self.width):
            raise BadInput(
                f"the encoder gave {features.shape} features for a chunk of {(self.hop_frames, self.width)}"
            )
        return features
