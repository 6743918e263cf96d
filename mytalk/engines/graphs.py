"""An ``Engine`` on anything that can run a bundle's four graphs: what all runtimes have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mytalk.engines.bundle import Memory
from mytalk.engines.engine import EngineSpec
from mytalk.errors import EngineFailed
from mytalk.tuned import TunedDecoder
from mytalk.types import F32, U8, MotionJob, MotionResult, MotionState

Arrays = dict[str, npt.NDArray[Any]]


class GraphRunner(Protocol):
    """Runs a bundle's graphs: ``motion``, ``identity``, ``encode`` and ``decode``.

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
        past = np.zeros((memory.layers, self.spec.window, memory.dim), np.float32)
        conv = np.zeros((memory.layers, memory.kernel - 1, memory.dim), np.float32)
        return MotionState(past, past.copy(), conv, 0)

    def identity(self, rest_xy: F32) -> F32:
        """Identity embedding [E] of a rest face [478, 2]."""
        embedding: F32 = self._runner.run("identity", {"landmarks": rest_xy[None].astype(np.float32)})[0][0]
        return embedding

    def motion(self, jobs: Sequence[MotionJob]) -> list[MotionResult]:
        """One hop for each job; the jobs are computed one by one, so that none depends on its neighbours."""
        return [self._hop(job) for job in jobs]

    def _hop(self, job: MotionJob) -> MotionResult:
        state, spec = job.state, self.spec
        if job.known is not None and job.known_upper is not None and job.known_log_mel is not None:
            count = len(job.known)
            given = np.zeros((spec.tokens, spec.compact * 3), np.float32)
            given[:count] = job.known.reshape(count, -1)
            upper = np.zeros((spec.tokens, spec.upper), np.float32)
            upper[:count] = job.known_upper[:count]
            noise = np.zeros((spec.tokens, spec.coefficients), np.float32)
            position = job.position - count
            _, state = self._call(
                state, job.known_log_mel, upper, job.identity, noise, position, count, count, given
            )
        sampled, state = self._call(
            state, job.log_mel, job.upper, job.identity, job.noise, job.position, job.tokens, job.hop, None
        )
        return MotionResult(sampled[: job.hop].reshape(job.hop, spec.compact, 3), state)

    def _call(
        self,
        state: MotionState,
        log_mel: F32,
        upper: F32,
        identity: F32,
        noise: F32,
        position: int,
        tokens: int,
        hop: int,
        given: F32 | None,
    ) -> tuple[F32, MotionState]:
        spec = self.spec
        cos, sin = rotary_tables(
            np.arange(position, position + spec.tokens), self._memory.dim // self._memory.heads
        )
        blank = np.zeros((spec.tokens, spec.compact * 3), np.float32)
        rows = {
            "log_mel": log_mel,
            "upper": upper,
            "identity": identity,
            "noise": noise,
            "cos": cos,
            "sin": sin,
            "keys": state.keys,
            "values": state.values,
            "conv": state.conv,
            "known": np.int64(state.known),
            "tokens": np.int64(tokens),
            "hop": np.int64(hop),
            "given": blank if given is None else given,
            "use_given": np.float32(given is not None),
        }
        inputs = {name: np.ascontiguousarray(np.asarray(value)[None]) for name, value in rows.items()}
        sampled, keys, values, conv = self._runner.run("motion", inputs)
        known = min(spec.window, state.known + hop)
        return sampled[0], MotionState(keys[0], values[0], conv[0], known)

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
