"""What lies in an exported bundle, and what this CPU is fast at; needs no runtime library."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mytalk.clock import exact_div
from mytalk.engines.engine import EngineSpec
from mytalk.errors import EngineFailed

INT8_DECODER = "decode_int8.onnx"
HALF_DECODER = "decode_fp16.onnx"
MOTION_WEIGHTS = "motion.weights"  # the motion graphs' weights, one copy for all of them (ONNX external data)
APPEARANCE_WEIGHTS = "appearance.safetensors"
FORMAT = 3
CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Hearing:
    """Sizes of a streaming speech encoder's memory. band: frames that an attention sees, its own included."""

    layers: int
    dim: int
    heads: int
    kernel: int
    band: int

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return exact_div(self.dim, self.heads)


@dataclass(frozen=True, slots=True)
class Memory:
    """Sizes of the motion memory: layers L, model width D, attention heads, convolution kernel k.

    hearing: of the speech encoder's; None if it hears its whole context for every hop.
    """

    layers: int
    dim: int
    heads: int
    kernel: int
    hearing: Hearing | None

    @property
    def head_dim(self) -> int:
        """d, width of one attention head."""
        return exact_div(self.dim, self.heads)


def motion_graph(steps: int) -> str:
    """Name of the graph that takes so many diffusion steps for a hop."""
    return f"motion_{steps}"


def graph_names(step_counts: Sequence[int]) -> tuple[str, ...]:
    """Names of a bundle's graphs."""
    return ("hear", *(motion_graph(steps) for steps in step_counts), "identity", "encode", "decode")


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
        older = manifest.get("format") in range(1, FORMAT)
        advice = f"; bring it up to date with: python -m export update {bundle}" if older else ""
        raise EngineFailed(
            f"{path}: bundle format {manifest.get('format')!r}, this version reads {FORMAT}{advice}"
        )
    missing = [key for key in ("spec", "memory", "files") if not isinstance(manifest.get(key), dict)]
    if not missing:
        needed = [f"{graph}.onnx" for graph in graph_names(manifest["spec"].get("step_counts", ()))]
        missing = [name for name in (*needed, MOTION_WEIGHTS) if name not in manifest["files"]]
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


def appearance_id(manifest: dict[str, Any]) -> str:
    """Id of a bundle's appearance weights; raises ``KeyError`` if it has none."""
    return str(manifest["files"][APPEARANCE_WEIGHTS])[:16]


def sizes(manifest: dict[str, Any], bundle: Path) -> tuple[EngineSpec, Memory]:
    """Spec and motion memory of a manifest; raises ``EngineFailed`` if something is missing."""
    try:
        given = manifest["spec"] | {"appearance_id": appearance_id(manifest)}
        told = {field.name: given[field.name] for field in fields(EngineSpec)}
        spec = EngineSpec(**told | {"step_counts": tuple(sorted(map(int, told["step_counts"])))})
        if spec.steps not in spec.step_counts:
            raise ValueError(f"steps {spec.steps} is none of step_counts")
        memory = manifest["memory"]
        hearing = None if memory["hearing"] is None else Hearing(**memory["hearing"])
        return spec, Memory(**memory | {"hearing": hearing})
    except (KeyError, TypeError, ValueError) as error:
        raise EngineFailed(f"{bundle / 'manifest.json'} is damaged: {error}") from error


def graph_paths(bundle: Path, manifest: dict[str, Any], spec: EngineSpec, *, int8: bool) -> dict[str, Path]:
    """ONNX file of every graph; int8 is the decoder's alone. Raises ``EngineFailed`` if there is none."""
    paths = {graph: bundle / f"{graph}.onnx" for graph in graph_names(spec.step_counts)}
    if int8:
        if INT8_DECODER not in manifest["files"]:
            raise EngineFailed(f"{bundle} holds no int8 decoder; use an engine of another precision")
        paths["decode"] = bundle / INT8_DECODER
    return paths


def half_path(bundle: Path, manifest: dict[str, Any]) -> Path:
    """The float16 decoder's ONNX file; raises ``EngineFailed`` if there is none."""
    if HALF_DECODER not in manifest["files"]:
        raise EngineFailed(f"{bundle} holds no float16 decoder; use an engine of another precision")
    return bundle / HALF_DECODER


def _cpu_has(flag: str, cpuinfo: Path) -> bool:
    try:
        return flag in cpuinfo.read_text()
    except OSError:
        return False


def has_vnni(cpuinfo: Path = CPUINFO) -> bool:
    """Whether the CPU multiplies int8 fast and without saturating; False where that cannot be told."""
    return _cpu_has("vnni", cpuinfo) or _cpu_has("amx_int8", cpuinfo)


def has_amx_bf16(cpuinfo: Path = CPUINFO) -> bool:
    """Whether the CPU multiplies bfloat16 matrices fast (AMX); False where that cannot be told."""
    return _cpu_has("amx_bf16", cpuinfo)


def first_line(error: Exception) -> str:
    """What a runtime library said, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
