"""An ``Engine`` on anything that can run a bundle's graphs: what all runtimes have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
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
from mytalk.types import F32, U8, HeardState, MotionJob, MotionResult, MotionState, NewFrames, Provisional

Arrays = dict[str, npt.NDArray[Any]]
# Of the log-mel speech encoder (``models/motion.py``): 50 Hz frames in a frame, log-mel frames that its first
# convolution hears before a frame, and a log-mel value that counts for nothing.
AUDIO_PER_FRAME, STEM_TAIL, QUIET = 2, 2, -6.0
# How much of a hop's first frame is what the hop before thought of it: hops are sampled apart, and without it
# the step from one to the next is larger than those within (docs/benchmarks.md has the figures).
CARRIED = np.float32(0.2)


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


def _batch(rows: dict[str, Any]) -> Arrays:
    """Arrays or numbers as batches of one."""
    return {name: np.ascontiguousarray(np.asarray(value)[None]) for name, value in rows.items()}


def _remember(state: MotionState, new: tuple[F32, F32, F32], first: int) -> MotionState:
    """A memory with keys, values [L, H, P, d] and gated inputs [L, P, D] of frames from ``first`` on."""
    window, count = state.keys.shape[2], new[0].shape[2]
    places = np.arange(first, first + count) % window
    keys, values = state.keys.copy(), state.values.copy()
    keys[:, :, places], values[:, :, places] = new[0], new[1]
    conv = np.concatenate([state.conv, new[2]], axis=1)[:, count:]
    return MotionState(keys, values, conv, min(window, state.known + count))


def _places(window: int, first: int, end: int) -> npt.NDArray[np.bool_]:
    """Which places of the memory hold the frames ``first`` .. ``end``: bool [W]."""
    filled = np.zeros(window, np.bool_)
    filled[np.arange(first, end) % window] = True
    return filled


def _joined(one: NewFrames | None, other: NewFrames) -> NewFrames:
    """Frames, and those that come after them."""
    if one is None:
        return other
    parts = [(getattr(one, f.name), getattr(other, f.name)) for f in fields(NewFrames)]
    return NewFrames(*(np.concatenate(both) for both in parts))


def _carried_on(job: MotionJob, moved: F32, made: F32) -> tuple[F32, F32]:
    """Displacements [T, Kc, 3] and coefficients [T, C] whose first frame leans on the hop before, if it told.

    An utterance that goes on from given frames has no such hop.
    """
    ahead = job.state.ahead
    if ahead is None or ahead.position != job.position or job.known is not None:
        return moved, made
    moved, made = moved.copy(), made.copy()
    moved[0] += CARRIED * (ahead.displacement - moved[0])
    made[0] += CARRIED * (ahead.coefficients - made[0])
    return moved, made


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
        before, heard = state.new, state.heard
        if job.known is not None and job.known_upper is not None and job.known_log_mel is not None:
            count = len(job.known)
            speech, heard = yield from self._hear(
                heard, job.known_log_mel, job.position - count, count, count
            )
            blank = np.zeros((count, spec.coefficients), np.float32)
            shown = job.known.reshape(count, -1).astype(np.float32)
            ones = np.ones(count, np.float32)
            before = _joined(before, NewFrames(blank, shown, ones, speech, job.known_upper[:count]))
        speech, heard = yield from self._hear(heard, job.log_mel, job.position, job.tokens, job.hop)
        inputs = self._inputs(job, before, speech)
        sampled, made, *left = yield motion_graph(steps), _batch(inputs)
        if before is not None:
            first = job.position - len(before.speech)
            state = _remember(state, (left[0][0], left[1][0], left[2][0]), first)
        hop, blank = job.hop, np.zeros((job.hop, spec.compact * 3), np.float32)
        none = np.zeros(hop, np.float32)
        moved, made = _carried_on(job, sampled[0].reshape(-1, spec.compact, 3), made[0])
        new = NewFrames(made[:hop], blank, none, speech[:hop], job.upper[:hop])
        ahead = Provisional(job.position + hop, made[hop], moved[hop]) if job.tokens > hop else None
        return MotionResult(moved[:hop], replace(state, new=new, heard=heard, ahead=ahead))

    def _inputs(self, job: MotionJob, before: NewFrames | None, speech: F32) -> dict[str, Any]:
        """What the motion graph takes: the frames known last, or one that stands for none, and the tokens."""
        spec, state, count = self.spec, job.state, job.tokens
        known = before or NewFrames(
            np.zeros((1, spec.coefficients), np.float32),
            np.zeros((1, spec.compact * 3), np.float32),
            np.zeros(1, np.float32),
            np.zeros_like(speech[:1]),
            np.zeros_like(job.upper[:1]),
        )
        first = job.position - len(known.speech)
        own, before_them = (
            rotary_tables(np.arange(begin, end), self._memory.head_dim)
            for begin, end in ((job.position, job.position + count), (first, job.position))
        )
        end = job.position if before is None else first
        oldest = end - state.known
        return {
            "speech": speech,
            "upper": job.upper[:count],
            "identity": job.identity,
            "noise": job.noise[:count],
            "cos": own[0],
            "sin": own[1],
            "tokens": np.int64(count),
            "keys": state.keys,
            "values": state.values,
            "conv": state.conv,
            "filled": _places(spec.window, oldest, end),
            "kept": _places(spec.window, max(oldest, job.position - spec.window), end),
            "ready": np.bool_(before is not None),
            "known_speech": known.speech,
            "known_upper": known.upper,
            "known_cos": before_them[0],
            "known_sin": before_them[1],
            "clean": known.coefficients,
            "given": known.given,
            "use_given": known.use_given,
        }

    def _hear(
        self, heard: HeardState | None, log_mel: F32, position: int, count: int, hop: int
    ) -> Computation[tuple[F32, HeardState | None]]:
        """Speech features [count, D] of tokens from ``position`` on, and the memory after ``hop`` of them.

        If the speech before them is not what was heard last (an utterance starts, or frames were left out),
        all of their context is heard.
        """
        spec, sizes = self.spec, self._memory.hearing
        if len(log_mel) != spec.mel_frames:
            # A runtime with free sizes might compute something of it.
            told, wanted = list(log_mel.shape), [spec.mel_frames, MELS]
            raise EngineFailed(f"motion failed: its log-mel context is {told}, not {wanted}")
        left = left_mel_frames(spec)
        mel = log_mel[: left + count * MEL_FRAMES_PER_FRAME + self.spec.mel_right]
        if sizes is None:
            (features,) = yield "hear", _batch({"log_mel": mel})
            return features[0], None
        before = 0
        if heard is None or heard.position != position or not np.array_equal(heard.log_mel, log_mel[:left]):
            before = exact_div(left, MEL_FRAMES_PER_FRAME)
            heard = _initial_hearing(sizes, left, position - before)
        else:
            mel = mel[left:]
        frames = AUDIO_PER_FRAME * (before + count) + 1
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
        if tuned.appearance_id != self.spec.appearance_id:
            raise EngineFailed(
                f"the tuned decoder belongs to the appearance weights {tuned.appearance_id},"
                f" not {self.spec.appearance_id}"
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
