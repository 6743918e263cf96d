"""The few types that cross module borders; arrays are named with shape, dtype and unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
I16 = npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class LipReferences:
    """Pictures of a person's mouth that the appearance model takes its pixels from (paper 3.4.1).

    pictures: uint8 [3, 256, 256, 3], crops: mouth closed, half open, open. points: float32 [3, K, 2], their
    landmarks in crop pixels.
    """

    pictures: U8
    points: F32


@dataclass(frozen=True, slots=True)
class HeardState:
    """What the speech encoder remembers of the speech that known frames have heard; explicit, never mutated.

    log_mel: float32 [m, 80] — what it heard last, as long as it can matter; by it a hop knows whether its
        speech goes on from here. position: of the next token on the motion timeline.
    keys, values: float32 [La, H, b-1, d], conv: float32 [La, k-1, D], last: float32 [1, D] — attention
        memory, convolution tails and the last frame (20 ms each), oldest first.
    known: how many of the b-1 frames were heard.
    """

    log_mel: F32
    position: int
    keys: F32
    values: F32
    conv: F32
    last: F32
    known: int


@dataclass(frozen=True, slots=True)
class NewFrames:
    """The frames that became known last, P of them: the next hop puts them into the memory as it goes.

    coefficients: float32 [P, C] — as they were sampled. given: float32 [P, Kc·3] — displacements that were
        shown instead where use_given (float32 [P]) is 1.
    speech: float32 [P, A] and upper: float32 [P, U] — their conditions.
    """

    coefficients: F32
    given: F32
    use_given: F32
    speech: F32
    upper: F32


@dataclass(frozen=True, slots=True)
class Provisional:
    """What a hop thought of the frame behind it, at ``position``, before it had heard all of its speech.

    coefficients: float32 [C]. displacement: float32 [Kc, 3], the same from the rest face.
    """

    position: int
    coefficients: F32
    displacement: F32


@dataclass(frozen=True, slots=True)
class MotionState:
    """What the motion model remembers of the frames already shown; explicit, never mutated.

    keys, values: float32 [L, H, W, d] — attention memory of the last W known frames; the frame at position p
        of the motion timeline lies in place p mod W.
    conv: float32 [L, k-1, D] — convolution tails.
    known: how many of the W places are filled (0..W).
    new: the frames known last, which are in none of these yet; None: there are none.
    heard: the speech encoder's part; None where nothing was heard yet, and for encoders without memory.
    ahead: the first provisional frame of the last hop; None without lookahead.
    """

    keys: F32
    values: F32
    conv: F32
    known: int
    new: NewFrames | None = None
    heard: HeardState | None = None
    ahead: Provisional | None = None


@dataclass(frozen=True, slots=True)
class MotionJob:
    """One hop of speech → landmark motion for one session (design section 4).

    state: memory before the hop.
    log_mel: float32 [M, 80] — the fixed analysis context of the hop's tokens (see ``motion.context``).
    upper: float32 [T, U] — upper-face displacements, canonical units, of the actor frames that will be shown.
    identity: float32 [E] — the actor's identity embedding.
    noise: float32 [T, C] — start of the diffusion, a function of (seed, utterance, frame) alone.
    known: float32 [P, Kc, 3] or None — displacements already shown just before the hop (P ≤ T), given
        when an utterance starts so that it continues from the idle face; written to memory first.
    known_upper: float32 [P, U], known_log_mel: float32 [M, 80] — their conditions, given with ``known``.
    position: index of the first token on the session's motion timeline (known frames come before it).
    hop: frames of this job that become known. tokens: hop + lookahead, ≤ T; the rest is padding.
    steps: diffusion steps, one of the engine's ``step_counts``; None: its default.
    generation: tag of the speech it belongs to; results of an older generation are dropped.
    """

    generation: int
    state: MotionState
    log_mel: F32
    upper: F32
    identity: F32
    noise: F32
    position: int
    hop: int
    tokens: int
    steps: int | None = None
    known: F32 | None = None
    known_upper: F32 | None = None
    known_log_mel: F32 | None = None


@dataclass(frozen=True, slots=True)
class MotionResult:
    """What a motion job gives.

    displacement: float32 [hop, Kc, 3] from the rest face, canonical units (inter-ocular distance 1).
    state: memory after the hop. stages_s: seconds that each stage took, for figures alone.
    """

    displacement: F32
    state: MotionState
    stages_s: Mapping[str, float] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class FrameSpec:
    """What one output picture shows.

    clip_index: frame of the actor's clip (pose, upper face, background).
    displacement: float32 [Kc, 3], canonical units, added to the actor's rest face; None = idle face.
    audio_peak: largest absolute sample of the frame's speech, 0..1 (the test card flashes on it).
    """

    clip_index: int
    displacement: F32 | None
    audio_peak: float = 0.0


@dataclass(frozen=True, slots=True)
class PictureJob:
    """Landmarks → pictures for some frames of one session."""

    generation: int
    frames: tuple[FrameSpec, ...]


@dataclass(frozen=True, slots=True)
class PictureResult:
    """pictures: one full frame per FrameSpec of the job, pasted back; uint8 [H·3/2, W], ``video.planar``.

    stages_s: seconds that each stage took, for figures alone.
    """

    pictures: tuple[U8, ...]
    stages_s: Mapping[str, float] = field(default_factory=dict, compare=False)


Job = MotionJob | PictureJob
JobResult = MotionResult | PictureResult


@dataclass(frozen=True, slots=True)
class AvSlice:
    """One picture and its 40 ms of sound; they leave together.

    slot: index on the session's playout timeline (slot k leaves at start + k · 40 ms), gapless.
    samples: int16 [1920], 48 kHz mono — the speech itself, or zeros.
    picture: planar uint8 [H·3/2, W], or None: show the idle picture of ``clip_index``, unless it is late.
    play_position: where the actor's clip stands in play order (``ActorView.order``), not wrapped.
    speech_sample: position of samples[0] in the utterance at 48 kHz; None when idle.
    late: the picture was due but not ready, and the previous one is repeated.
    slack_s: how long before the deadline the picture was ready (seconds; negative when late; None for the
        idle face).
    """

    slot: int
    samples: I16
    picture: U8 | None
    clip_index: int
    play_position: int
    speech_sample: int | None
    late: bool
    slack_s: float | None
    generation: int


@dataclass(frozen=True, slots=True)
class ActorView:
    """What a session needs to know of its actor (the pixels stay with the renderer).

    order: int32 [P] — clip frame shown at play position p, looped for ever (searched loop or ping-pong).
    upper: float32 [N, U] — upper-face displacement of every clip frame, canonical units.
    identity: float32 [E] — identity embedding.
    """

    name: str
    order: npt.NDArray[np.int32]
    upper: F32
    identity: F32

    def clip_index(self, position: int) -> int:
        """Clip frame at a play position, any integer ≥ 0."""
        return int(self.order[position % len(self.order)])
