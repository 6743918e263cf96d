"""Inference engines behind one Protocol; picked by name, or the fastest one here (``auto``)."""

from __future__ import annotations

import logging
from functools import partial
from importlib import import_module
from pathlib import Path

from mytalk.engines.bundle import read_manifest, sizes
from mytalk.engines.choose import Choice, card_candidates, choose, cpu_candidates, key_of
from mytalk.engines.engine import Engine
from mytalk.engines.fallback import FallbackEngine
from mytalk.engines.survey import survey
from mytalk.errors import BadInput, EngineFailed

logger = logging.getLogger(__name__)
# name → "module:function(bundle, threads) -> Engine"; a module is imported only when its engine is asked for.
ENGINES = {
    "onnx": "mytalk.engines.onnx:load",  # int8 where the bundle has it and the CPU is fast at it
    "onnx-fp32": "mytalk.engines.onnx:load_fp32",
    "onnx-fp16": "mytalk.engines.onnx:load_fp16",  # to check on a CPU what cards run
    "onnx-int8": "mytalk.engines.onnx:load_int8",
    "onnx-cuda": "mytalk.engines.onnx:load_cuda",  # float16 where the bundle has it
    "onnx-cuda-fp32": "mytalk.engines.onnx:load_cuda_fp32",
    "onnx-tensorrt": "mytalk.engines.onnx:load_tensorrt",  # float16 where the bundle has it
    "openvino": "mytalk.engines.openvino:load",  # int8, bfloat16 or float32, by the CPU
    "openvino-fp32": "mytalk.engines.openvino:load_fp32",
    "openvino-bf16": "mytalk.engines.openvino:load_bf16",
    "openvino-int8": "mytalk.engines.openvino:load_int8",
    "torch": "mytalk.engines.torch:load",  # bfloat16 on a CUDA card, else float32
    "torch-fp32": "mytalk.engines.torch:load_fp32",
    "torch-bf16": "mytalk.engines.torch:load_bf16",
    "torch-cuda": "mytalk.engines.torch:load_cuda",  # bfloat16, compiled, CUDA graphs
    "torch-cuda-fp32": "mytalk.engines.torch:load_cuda_fp32",
    "tensorrt": "mytalk.engines.tensorrt:load",  # float16, by torch-tensorrt
    "tensorrt-bf16": "mytalk.engines.tensorrt:load_bf16",
}
# Who takes over when an engine fails for good, best first; those that are not installed are passed over.
STAND_INS = ("onnx", "onnx-fp32", "openvino", "openvino-fp32", "torch-fp32")
_EXTRA = "pip install -c constraints.txt -e '.{}'"
# engine module → what it needs and the command that brings it
NEEDS = {
    "mytalk.engines.onnx": ("ONNX Runtime", _EXTRA.format("")),
    "mytalk.engines.openvino": ("OpenVINO", _EXTRA.format("[openvino]")),
    "mytalk.engines.torch": ("PyTorch", _EXTRA.format("[train]")),
    "mytalk.engines.tensorrt": (
        "torch-tensorrt",
        "pip install torch==2.13.0 torch-tensorrt==2.13.0 safetensors"
        " (TensorRT 11.0 comes from NVIDIA's own index)",
    ),
}
CHOICES = Path(__file__).resolve().parents[2] / ".cache" / "engines.json"  # what ``auto`` measured here


def default_bundle() -> Path:
    """Folder of the weights that ship with the project."""
    return Path(__file__).resolve().parents[2] / "weights" / "tiny"


def load_engine(name: str, bundle: Path, threads: int | None = None) -> Engine:
    """Load an engine by name, or ``auto``, from an exported bundle.

    threads: CPU threads of one inference call, None = all. Raises ``BadInput`` for an unknown name and
    ``EngineFailed`` when the bundle or the runtime cannot be used, or its library is not installed.
    """
    if name == "auto":
        choice, chosen = choose_engine(bundle, threads)
        logger.info("engine %s: %s", choice.name, choice.reason)
        return chosen
    if name not in ENGINES:
        raise BadInput(f"unknown engine {name!r}; known: auto, {', '.join(ENGINES)}", "unknown_engine")
    module, function = ENGINES[name].split(":")
    try:
        load = getattr(import_module(module), function)
    except ImportError as error:
        library, command = NEEDS[module]
        raise EngineFailed(f"the engine {name} needs {library}: {command} ({error})") from error
    engine: Engine = load(bundle, threads)
    return engine


def choose_engine(
    bundle: Path, threads: int | None = None, cache: Path | None = CHOICES
) -> tuple[Choice, Engine]:
    """What ``auto`` stands for here, and why; measured once (seconds), then kept in ``cache``."""
    manifest, machine = read_manifest(bundle), survey()
    groups = [card_candidates(machine), cpu_candidates(machine, manifest["files"])]
    names = [name for group in groups for name in group]
    key = key_of(machine, sizes(manifest, bundle)[0].weights_id, names, threads)
    return choose(groups, lambda name: load_engine(name, bundle, threads), key=key, cache=cache)


def load_lasting_engine(name: str, bundle: Path, threads: int | None = None) -> Engine:
    """``load_engine`` for a server: when it fails in the middle of sessions, another engine takes over."""
    first = load_engine(name, bundle, threads)
    return FallbackEngine(first, [partial(load_engine, other, bundle, threads) for other in STAND_INS])
