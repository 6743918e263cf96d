"""What every inference engine does; engines are synchronous."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mytalk.actors.tuned import TunedDecoder
from mytalk.types import F32, U8, MotionJob, MotionResult, MotionState


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Sizes that the trained bundle fixes (read from its manifest).

    tokens: T, most frames of one motion call (hop + lookahead). mel_frames: M, log-mel frames (100 Hz)
    of a motion call. mel_right: how many of them lie after the last token's end (right context, 10 ms each).
    coefficients: C, noise channels. compact: Kc, generated landmarks. upper: U. identity: E.
    window: W, most known frames. steps: diffusion steps per hop unless a job names another number;
    step_counts: all that the bundle has, ascending. weights_id: hash of all the weights;
    appearance_id: of the appearance model's alone, which tuned decoders belong to.
    """

    tokens: int
    mel_frames: int
    mel_right: int
    coefficients: int
    compact: int
    upper: int
    identity: int
    window: int
    steps: int
    step_counts: tuple[int, ...]
    weights_id: str
    appearance_id: str


class Engine(Protocol):
    """Runs the two models. Raises ``EngineFailed`` when the runtime fails; inputs are never mutated.

    concurrent: whether several threads may call it at the same time. batch: hops or pictures of one call up
    to which a call is cheaper than single ones, a power of two; 1 where batches bring nothing (a CPU).
    """

    name: str
    spec: EngineSpec

    @property
    def concurrent(self) -> bool:
        """See the class."""
        ...

    @property
    def batch(self) -> int:
        """See the class."""
        ...

    def initial_state(self) -> MotionState:
        """Memory with nothing known."""
        ...

    def identity(self, rest_xy: F32) -> F32:
        """Identity embedding [E] of a rest face: float32 [478, 2], canonical units (paper 3.3.2)."""
        ...

    def motion(self, jobs: Sequence[MotionJob]) -> list[MotionResult]:
        """Few-step diffusion of one hop for each job (paper 3.3; design section 4)."""
        ...

    def encode_appearance(self, references: U8, faces: U8) -> F32:
        """Appearance latents of an actor's crops (paper 3.4.1–3.4.2), once per actor and weights.

        references: uint8 [3, 256, 256, 3] lip reference crops; faces: uint8 [N, 256, 256, 3], crops of
        the clip (the engine masks both). Returns float16 or float32 [N, Ca, h, w]; size `tiny`:
        40 × 44, the window of the crop that holds the mask.
        """
        ...

    def load_decoder(self, tuned: TunedDecoder) -> None:
        """Make ready to decode with one person's weights (0.1 s; any thread); ``decode`` would do it, too.

        It stays ready for as long as the object lives. Raises ``EngineFailed`` if the weights do not fit the
        bundle's decoder, and for those that started from another bundle's.
        """
        ...

    def decode(
        self,
        landmark_images: F32,
        latents: F32,
        references: U8,
        flows: F32,
        tuned: TunedDecoder | None = None,
    ) -> U8:
        """Lip pictures: uint8 RGB crops [B, 256, 256, 3].

        landmark_images: float32 [B, 3, 256, 256], 0..1. latents: rows of what ``encode_appearance`` gave.
        references: uint8 [B, 3, 3, 480, 528], ``landmarks.warp.fine_windows`` of the reference crops that it
        was given. flows: float32 [B, 3, 2, h, w], where each of them holds what is wanted
        (``landmarks.warp.reference_flows``).
        tuned: one person's weights instead of the bundle's; so pictures of one call share them.
        """
        ...
