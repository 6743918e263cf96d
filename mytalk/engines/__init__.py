"""Inference engines behind one Protocol; picked by name."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from mytalk.engines.engine import Engine
from mytalk.errors import BadInput

# name → "module:function(bundle, threads) -> Engine"; a module is imported only when its engine is asked for.
ENGINES = {
    "onnx": "mytalk.engines.onnx:load",  # int8 where the bundle has it and the CPU is fast at it
    "onnx-fp32": "mytalk.engines.onnx:load_fp32",
    "onnx-int8": "mytalk.engines.onnx:load_int8",
}
AUTO = "onnx"


def default_bundle() -> Path:
    """Folder of the weights that ship with the project."""
    return Path(__file__).resolve().parents[2] / "weights" / "tiny"


def load_engine(name: str, bundle: Path, threads: int | None = None) -> Engine:
    """Load an engine by name, or ``auto``, from an exported bundle.

    threads: CPU threads of one inference call, None = all. Raises ``BadInput`` for an unknown name and
    ``EngineFailed`` when the bundle or the runtime cannot be used.
    """
    key = AUTO if name == "auto" else name
    if key not in ENGINES:
        raise BadInput(f"unknown engine {name!r}; known: auto, {', '.join(ENGINES)}", "unknown_engine")
    module, function = ENGINES[key].split(":")
    load = getattr(import_module(module), function)
    engine: Engine = load(bundle, threads)
    return engine
