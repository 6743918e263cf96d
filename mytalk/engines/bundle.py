"""What lies in an exported bundle, and what this CPU is fast at; needs no runtime library."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mytalk.engines.engine import EngineSpec
from mytalk.errors import EngineFailed

GRAPHS = ("motion", "identity", "encode", "decode")
INT8_DECODER = "decode_int8.onnx"
HALF_DECODER = "decode_fp16.onnx"
FORMAT = 1
CPUINFO = Path("/proc/cpuinfo")


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


def sizes(manifest: dict[str, Any], bundle: Path) -> tuple[EngineSpec, Memory]:
    """Spec and motion memory of a manifest; raises ``EngineFailed`` if something is missing."""
    try:
        spec = EngineSpec(**{field.name: manifest["spec"][field.name] for field in fields(EngineSpec)})
        return spec, Memory(**manifest["memory"])
    except (KeyError, TypeError) as error:
        raise EngineFailed(f"{bundle / 'manifest.json'} is damaged: {error}") from error


def graph_path(bundle: Path, manifest: dict[str, Any], graph: str, *, int8: bool) -> Path:
    """A graph's ONNX file; int8 is the decoder's alone. Raises ``EngineFailed`` if there is none."""
    if not int8 or graph != "decode":
        return bundle / f"{graph}.onnx"
    if INT8_DECODER not in manifest["files"]:
        raise EngineFailed(f"{bundle} holds no int8 decoder; use an engine of another precision")
    return bundle / INT8_DECODER


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
