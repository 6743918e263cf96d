"""What this machine has that engines depend on: libraries, CPU, cards. Imports no runtime library."""

from __future__ import annotations

import importlib.metadata
import os
from dataclasses import dataclass
from pathlib import Path

LIBRARIES = ("onnxruntime", "onnxruntime-gpu", "openvino", "torch", "torch-tensorrt", "tensorrt")
CPUINFO = Path("/proc/cpuinfo")
CARDS = Path("/proc/driver/nvidia/gpus")  # one folder for each card, written by NVIDIA's driver
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16", "asimddp", "i8mm")


@dataclass(frozen=True, slots=True)
class Survey:
    """libraries: versions, by name, of those installed. cpu: its model. flags: of ``FLAGS``, those it has.

    cards: models of the NVIDIA cards. cores: that this process may use.
    """

    libraries: dict[str, str]
    cpu: str
    flags: tuple[str, ...]
    cards: tuple[str, ...]
    cores: int

    @property
    def has_vnni(self) -> bool:
        """Whether the CPU multiplies int8 fast and without saturating."""
        return any(flag.endswith("vnni") or flag == "amx_int8" for flag in self.flags)


def survey(cpuinfo: Path = CPUINFO, cards: Path = CARDS) -> Survey:
    """Look; what cannot be told is left out."""
    model, flags = _cpu(cpuinfo)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Survey(_versions(), model, flags, _cards(cards), cores)


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cpu(cpuinfo: Path) -> tuple[str, tuple[str, ...]]:
    try:
        lines = [line.partition(":") for line in cpuinfo.read_text().splitlines()]
    except OSError:
        return "", ()
    told = {name.strip(): value.strip() for name, _, value in reversed(lines)}
    has = set(told.get("flags", told.get("Features", "")).split())
    return told.get("model name", ""), tuple(flag for flag in FLAGS if flag in has)


def _cards(folder: Path) -> tuple[str, ...]:
    models = []
    for path in sorted(folder.glob("*/information")):
        try:
            lines = [line.partition(":") for line in path.read_text().splitlines()]
        except OSError:
            continue
        models += [value.strip() for name, _, value in lines if name.strip() == "Model"]
    return tuple(models)
