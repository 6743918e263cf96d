"""The ONNX Runtime engine: runs an exported bundle on the CPU."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from mytalk.engines.engine import EngineSpec
from mytalk.errors import EngineFailed
from mytalk.types import F32, U8, MotionJob, MotionResult, MotionState

GRAPHS = ("motion", "identity", "encode", "decode")
INT8_DECODER = "decode_int8.onnx"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Memory:
    """Sizes of the motion memory: layers L, model width D, attention heads, convolution kernel k."""

    layers: int
    dim: int
    heads: int
    kernel: int


def read_manifest(bundle: Path) -> dict[str, Any]:
    """The bundle's manifest, its files' hashes verified; raises ``EngineFailed`` in one line."""
    path = bundle / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
    except OSError as error:
        raise EngineFailed(f"no weights at {bundle}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise EngineFailed(f"{path} is damaged: {error}") from error
    if manifest.get("format") != FORMAT:
        raise EngineFailed(f"{path}: bundle format {manifest.get('format')!r}, this version reads {FORMAT}")
    missing = [key for key in ("spec", "memory", "files") if not isinstance(manifest.get(key), dict)]
    missing += [f"{graph}.onnx" for graph in GRAPHS if f"{graph}.onnx" not in manifest.get("files", {})]
    if missing:
        raise EngineFailed(f"{path} is damaged: it lacks {', '.join(missing)}")
    for name, expected in manifest["files"].items():
        try:
            actual = hashlib.sha256((bundle / name).read_bytes()).hexdigest()
        except OSError as error:
            raise EngineFailed(f"{bundle / name} cannot be read: {error.strerror}") from error
        if actual != expected:
            raise EngineFailed(f"{bundle / name} is not the file that was exported (hash differs)")
    return manifest


def rotary_tables(positions: npt.NDArray[np.int64], head_dim: int) -> tuple[F32, F32]:
    """cos, sin float32 [T, head_dim / 2] of absolute positions; float64 inside, so that hours stay exact."""
    frequency = np.power(10_000.0, -np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    angle = positions.astype(np.float64)[:, None] * frequency
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


class OnnxEngine:
    """``Engine`` on ONNX Runtime; each graph is one session, shared by all talk sessions."""

    def __init__(self, bundle: Path, threads: int | None, *, int8: bool) -> None:
        """int8: the per-frame decoder in int8 (about 2.5 times as fast on a CPU with VNNI)."""
        manifest = read_manifest(bundle)
        if int8 and INT8_DECODER not in manifest["files"]:
            raise EngineFailed(f"{bundle} holds no int8 decoder; use the engine onnx-fp32")
        self.name = "onnx-int8" if int8 else "onnx-fp32"
        try:
            known = {field.name for field in fields(EngineSpec)}
            self.spec = EngineSpec(**{key: manifest["spec"][key] for key in known})
            self._memory = Memory(**manifest["memory"])
        except (KeyError, TypeError) as error:
            raise EngineFailed(f"{bundle / 'manifest.json'} is damaged: {error}") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.inter_op_num_threads = 1
        # Spinning worker threads would take the core that the network and the encoder need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._graphs = {}
        for graph in GRAPHS:
            path = bundle / (INT8_DECODER if int8 and graph == "decode" else f"{graph}.onnx")
            try:
                self._graphs[graph] = onnxruntime.InferenceSession(
                    str(path), options, providers=["CPUExecutionProvider"]
                )
            except Exception as error:  # ONNX Runtime raises many classes of its own
                raise EngineFailed(f"{path} cannot be loaded: {_first_line(error)}") from error

    def _run(self, graph: str, inputs: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        try:
            outputs: list[npt.NDArray[Any]] = self._graphs[graph].run(None, inputs)
        except Exception as error:
            raise EngineFailed(f"{graph} failed in ONNX Runtime: {_first_line(error)}") from error
        return outputs

    def initial_state(self) -> MotionState:
        """Memory with nothing known."""
        memory = self._memory
        past = np.zeros((memory.layers, self.spec.window, memory.dim), np.float32)
        conv = np.zeros((memory.layers, memory.kernel - 1, memory.dim), np.float32)
        return MotionState(past, past.copy(), conv, 0)

    def identity(self, rest_xy: F32) -> F32:
        """Identity embedding [E] of a rest face [478, 2]."""
        embedding: F32 = self._run("identity", {"landmarks": rest_xy[None].astype(np.float32)})[0][0]
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
        sampled, keys, values, conv = self._run("motion", inputs)
        known = min(spec.window, state.known + hop)
        return sampled[0], MotionState(keys[0], values[0], conv[0], known)

    def encode_appearance(self, references: U8, faces: U8) -> F32:
        """Appearance latents [N, Ca, 40, 44] of an actor's crops."""
        latents: F32 = self._run("encode", {"references": references, "faces": faces})[0]
        return latents

    def decode(self, landmark_images: F32, latents: F32, references: U8, flows: F32) -> U8:
        """Lip pictures, uint8 RGB crops; black outside the mask's window."""
        inputs: dict[str, npt.NDArray[Any]] = {
            "landmark_images": landmark_images,
            "latents": latents.astype(np.float32, copy=False),
            "references": references,
            "flows": flows,
        }
        pictures: U8 = self._run("decode", inputs)[0]
        return pictures


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def has_vnni(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU multiplies int8 fast and without saturating; False where that cannot be told."""
    try:
        return "vnni" in cpuinfo.read_text()
    except OSError:
        return False


def load(bundle: Path, threads: int | None) -> OnnxEngine:
    """Load the bundle at the precision that suits the CPU; see ``mytalk.engines.load_engine``."""
    return OnnxEngine(bundle, threads, int8=has_vnni() and INT8_DECODER in read_manifest(bundle)["files"])


def load_fp32(bundle: Path, threads: int | None) -> OnnxEngine:
    """Load the bundle in float32."""
    return OnnxEngine(bundle, threads, int8=False)


def load_int8(bundle: Path, threads: int | None) -> OnnxEngine:
    """Load the bundle with its int8 decoder."""
    return OnnxEngine(bundle, threads, int8=True)
