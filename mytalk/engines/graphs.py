"""An ``Engine`` on anything that can run a bundle's graphs: what all runtimes have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mytalk.actors.tuned import TunedDecoder
from mytalk.audio.speech import MEL_FRAMES_PER_FRAME, MELS
from mytalk.clock import exact_div
from mytalk.engines.bundle import Hearing, Memory, motion_graph
from mytalk.engines.engine import EngineSpec
from mytalk.engines.lockstep import Computation, run_in_lockstep
from mytalk.errors import EngineFailed
from mytalk.motion import left_mel_frames
from mytalk.types import F32, U8, HeardState, MotionJob, MotionResult, MotionState

Arrays = dict[str, npt.NDArray[Any]]
# Of the log-mel speech encoder (``models/motion.py``): 50 Hz frames in a frame, log-mel frames that its first
# convolution hears before a frame, and a log-mel value that counts for nothing.
AUDIO_PER_FRAME, STEM_TAIL, QUIET = 2, 2, -6.0


class GraphRunner(Protocol):
    """Runs a bundle's graphs: ``hear``, ``motion_<steps>``, ``identity``, ``encode``, ``decode``.

    concurrent, batch: see ``Engine``.
    """

    concurrent: bool
    batch: int

    def run(self, graph: str, inputs: Arrays, tuned: TunedDecoder | None = None) -> list[npt.NDArray[Any]]:
        """Outputs of a graph, in the order of its declaration; raises ``EngineFailed`` in one line.

        tuned: a decoder that ``load_decoder`` has taken, instead of the bundle's.
        """
        ...

    def load_decoder(self, tuned: TunedDecoder) -> None:
        """Take up other weights for ``decode``, unless they are there; gone when the object is."""
        ...


def rotary_tables(positions: npt.NDArray[np.int64], head_dim: int) -> tuple[F32, F32]:
    """cos, sin float32 [T, head_dim / 2] of absolute positions; float64 inside, so that hours stay exact."""
    frequency = np.power(10_000.0, -np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    angle = positions.astype(np.float64)[:, None] * frequency
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Tokens:
    """What one motion call is about: ``count`` frames from ``position`` on, T ≥ count rows of each.

    log_mel: float32 [M, 80]. upper: float32 [T, U]. noise: float32 [T, C]. given: float32 [count, Kc·3]
    displacements to remember instead of what is sampled, or None.
    """

    log_mel: F32
    upper: F32
    noise: F32
    position: int
    count: int
    given: F32 | None


def _batch(rows: dict[str, Any]) -> Arrays:
    """Arrays or numbers as batches of one."""
    return {name: np.ascontiguousarray(np.asarray(value)[None]) for name, value in rows.items()}


def _remember(
    state: MotionState, new: tuple[F32, F32, F32], position: int, hop: int, heard: HeardState | None
) -> MotionState:
    """Memory with a hop's keys, values [L, H, T, d] and gated inputs [L, T, D] in it; a new one."""
    window = state.keys.shape[2]
    places = np.arange(position, position + hop) % window
    keys, values = state.keys.copy(), state.values.copy()
    keys[:, :, places], values[:, :, places] = new[0][:, :, :hop], new[1][:, :, :hop]
    conv = np.concatenate([state.conv, new[2][:, :hop]], axis=1)[:, hop:]
    return MotionState(keys, values, conv, min(window, state.known + hop), heard)


def _initial_hearing(sizes: Hearing, left: int, position: int) -> HeardState:
    """Nothing heard, ``left`` log-mel frames long, up to a position."""
    keys = np.zeros((sizes.layers, sizes.heads, sizes.band - 1, sizes.head_dim), np.float32)
    conv = np.zeros((sizes.layers, sizes.kernel - 1, sizes.dim), np.float32)
    quiet = np.full((left, MELS), QUIET, np.float32)
    return HeardState(quiet, position, keys, keys.copy(), conv, np.zeros((1, sizes.dim), np.float32), 0)


def _listened(heard: HeardState, log_mel: F32, new: tuple[F32, F32, F32, F32], tokens: int) -> HeardState:
    """What was heard, and ``tokens`` more of log_mel [.., 80]; new: keys, values, gated inputs and frames."""
    frames = AUDIO_PER_FRAME * tokens
    kept = [
        np.concatenate([old, made[..., :frames, :]], axis=-2)[..., -old.shape[-2] :, :]
        for old, made in zip((heard.keys, heard.values, heard.conv, heard.last), new, strict=True)
    ]
    mel = np.concatenate([heard.log_mel, log_mel[: MEL_FRAMES_PER_FRAME * tokens]])[-len(heard.log_mel) :]
    known = min(heard.keys.shape[2], heard.known + frames)
    return HeardState(mel, heard.position + tokens, kept[0], kept[1], kept[2], kept[3], known)


class GraphEngine:
    """``Engine`` on a runner; each graph is loaded once and shared by all talk sessions."""

    def __init__(self, name: str, spec: EngineSpec, memory: Memory, runner: GraphRunner) -> None:
        self.name, self.spec = name, spec
        self._memory, self._runner = memory, runner

    @property
    def concurrent(self) -> bool:
        """Whether several threads may call it at the same time."""
        return self._runner.concurrent

    @property
    def batch(self) -> int:
        """How many rows a call should have at most to be cheaper than single ones."""
        return self._runner.batch

    def initial_state(self) -> MotionState:
        """Memory with nothing known."""
        memory = self._memory
        past = np.zeros((memory.layers, memory.heads, self.spec.window, memory.head_dim), np.float32)
        conv = np.zeros((memory.layers, memory.kernel - 1, memory.dim), np.float32)
        return MotionState(past, past.copy(), conv, 0)

    def identity(self, rest_xy: F32) -> F32:
        """Identity embedding [E] of a rest face [478, 2]."""
        embedding: F32 = self._runner.run("identity", {"landmarks": rest_xy[None].astype(np.float32)})[0][0]
        return embedding

    def motion(self, jobs: Sequence[MotionJob]) -> list[MotionResult]:
        """One hop for each job; one by one unless the runner is faster at batches (``lockstep``)."""
        return run_in_lockstep([self._hop(job) for job in jobs], self._runner.run, self.batch)

    def _hop(self, job: MotionJob) -> Computation[MotionResult]:
        state, spec = job.state, self.spec
        steps = spec.steps if job.steps is None else job.steps
        if steps not in spec.step_counts:
            known = ", ".join(map(str, spec.step_counts))
            raise EngineFailed(f"this bundle has no motion graph of {steps} steps (it has {known})")
        if job.known is not None and job.known_upper is not None and job.known_log_mel is not None:
            count = len(job.known)
            given = Tokens(
                job.known_log_mel,
                job.known_upper,
                np.zeros((count, spec.coefficients), np.float32),
                job.position - count,
                count,
                job.known.reshape(count, -1),
            )
            # What is sampled is not used: the least of it will do.
            _, state = yield from self._call(state, job.identity, given, count, spec.step_counts[0])
        new = Tokens(job.log_mel, job.upper, job.noise, job.position, job.tokens, None)
        sampled, state = yield from self._call(state, job.identity, new, job.hop, steps)
        return MotionResult(sampled[: job.hop].reshape(job.hop, spec.compact, 3), state)

    def _call(
        self, state: MotionState, identity: F32, new: Tokens, hop: int, steps: int
    ) -> Computation[tuple[F32, MotionState]]:
        spec, count = self.spec, new.count
        if len(new.log_mel) != spec.mel_frames:
            # A runtime with free sizes might compute something of it.
            told, wanted = list(new.log_mel.shape), [spec.mel_frames, MELS]
            raise EngineFailed(f"motion failed: its log-mel context is {told}, not {wanted}")
        speech, heard = yield from self._hear(state.heard, new, hop)
        cos, sin = rotary_tables(np.arange(new.position, new.position + count), self._memory.head_dim)
        filled = np.zeros(spec.window, np.bool_)
        filled[np.arange(new.position - state.known, new.position) % spec.window] = True
        # The graph's own tokens are exactly those that are wanted; it costs what they cost.
        blank = np.zeros((count, spec.compact * 3), np.float32)
        rows = {
            "speech": speech,
            "upper": new.upper[:count],
            "identity": identity,
            "noise": new.noise[:count],
            "cos": cos,
            "sin": sin,
            "keys": state.keys,
            "values": state.values,
            "conv": state.conv,
            "filled": filled,
            "tokens": np.int64(count),
            "hop": np.int64(hop),
            "given": blank if new.given is None else new.given,
            "use_given": np.float32(new.given is not None),
        }
        sampled, keys, values, gates = yield motion_graph(steps), _batch(rows)
        return sampled[0], _remember(state, (keys[0], values[0], gates[0]), new.position, hop, heard)

    def _hear(
        self, heard: HeardState | None, new: Tokens, hop: int
    ) -> Computation[tuple[F32, HeardState | None]]:
        """Speech features [count, D] of the tokens, and what the encoder remembers after ``hop`` of them.

        If the speech before them is not what was heard last (an utterance starts, or frames were left out),
        all of their context is heard.
        """
        left, sizes = left_mel_frames(self.spec), self._memory.hearing
        mel = new.log_mel[: left + new.count * MEL_FRAMES_PER_FRAME + self.spec.mel_right]
        if sizes is None:
            (features,) = yield "hear", _batch({"log_mel": mel})
            return features[0], None
        before = 0
        if (
            heard is None
            or heard.position != new.position
            or not np.array_equal(heard.log_mel, new.log_mel[:left])
        ):
            before = exact_div(left, MEL_FRAMES_PER_FRAME)
            heard = _initial_hearing(sizes, left, new.position - before)
        else:
            mel = mel[left:]
        frames = AUDIO_PER_FRAME * (before + new.count) + 1
        first = AUDIO_PER_FRAME * heard.position
        cos, sin = rotary_tables(np.arange(first, first + frames), sizes.head_dim)
        rows = {
            "log_mel": np.concatenate([heard.log_mel[-STEM_TAIL:], mel]),
            "cos": cos,
            "sin": sin,
            "keys": heard.keys,
            "values": heard.values,
            "conv": heard.conv,
            "last": heard.last,
            "filled": np.arange(sizes.band - 1) >= sizes.band - 1 - heard.known,
        }
        features, keys, values, gates, made = yield "hear", _batch(rows)
        left_behind = _listened(heard, mel, (keys[0], values[0], gates[0], made[0]), before + hop)
        return features[0, before:], left_behind

    def encode_appearance(self, references: U8, faces: U8) -> F32:
        """Appearance latents [N, Ca, 40, 44] of an actor's crops."""
        latents: F32 = self._runner.run("encode", {"references": references, "faces": faces})[0]
        return latents

    def load_decoder(self, tuned: TunedDecoder) -> None:
        """Make ready to decode with one person's weights."""
        if tuned.weights_id != self.spec.weights_id:
            raise EngineFailed(
                f"the tuned decoder belongs to the weights {tuned.weights_id}, not {self.spec.weights_id}"
            )
        self._runner.load_decoder(tuned)

    def decode(
        self,
        landmark_images: F32,
        latents: F32,
        references: U8,
        flows: F32,
        tuned: TunedDecoder | None = None,
    ) -> U8:
        """Lip pictures, uint8 RGB crops; black outside the mask's window."""
        if tuned is not None:
            self.load_decoder(tuned)
        inputs: Arrays = {
            "landmark_images": landmark_images,
            "latents": latents.astype(np.float32, copy=False),
            "references": references,
            "flows": flows,
        }
        pictures: U8 = self._runner.run("decode", inputs, tuned)[0]
        return pictures
