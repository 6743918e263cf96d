"""The TensorRT engine: the decoder compiled by torch-tensorrt for this card, ahead of time, by batch size.

Building takes minutes, once: the engines are kept under ``.cache/tensorrt`` (``built.py``). Not run yet:
there was no card at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorrt
import torch
import torch_tensorrt

from mytalk.actors.tuned import TunedDecoder
from mytalk.engines.buckets import BucketRunner
from mytalk.engines.built import build_missing, engine_folder
from mytalk.engines.bundle import first_line, read_manifest, sizes
from mytalk.engines.cuda import CudaRunner, need_card
from mytalk.engines.graphs import GraphEngine
from mytalk.engines.torch import decoder_example, halving, inputs_of, modules_on_card, with_weights
from mytalk.errors import EngineFailed

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "tensorrt"
PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16}


def _build(module: torch.nn.Module, batch: int, path: Path) -> None:
    """One engine; its types are those of the module, since TensorRT 11 takes them as they are written."""
    given = decoder_example(module, batch)
    with torch.no_grad():
        program = torch.export.export(module, given, strict=False)
        compiled = torch_tensorrt.dynamo.compile(
            program, arg_inputs=list(given), min_block_size=3, truncate_double=True, optimization_level=4
        )
        torch_tensorrt.save(compiled, str(path), arg_inputs=list(given))


def _decoder(paths: dict[int, Path]) -> Callable[..., Any]:
    """A call that takes the engine of its batch size."""
    engines = {batch: torch.export.load(str(path)).module().to("cuda") for batch, path in paths.items()}

    def decode(*given: torch.Tensor) -> Any:
        return engines[len(given[0])](*given)

    return decode


def _load(bundle: Path, precision: str) -> GraphEngine:
    card = need_card()
    manifest = read_manifest(bundle)
    spec, memory = sizes(manifest, bundle)
    versions = [torch.__version__, torch_tensorrt.__version__, tensorrt.__version__]
    folder = engine_folder(CACHE, spec.weights_id, precision, card, versions)
    modules = modules_on_card(bundle, manifest)
    halve: Callable[..., Any] = halving(PRECISIONS[precision])
    paths = build_missing(folder, lambda batch, path: _build(halve(modules["decode"]), batch, path))
    try:
        built = _decoder(paths)
    except Exception as error:  # a file of another version, or cut short
        raise EngineFailed(f"{folder} cannot be loaded (delete it): {first_line(error)}") from error

    def decoder(tuned: TunedDecoder | None) -> Callable[..., Any]:
        if tuned is None:
            return built
        # One person's weights would be minutes of building; as a module they are ready at once.
        return halve(with_weights(modules["decode"], tuned))

    runner = BucketRunner(CudaRunner(modules, inputs_of, decoder))
    return GraphEngine(f"tensorrt-{precision}", spec, memory, runner)


def load(bundle: Path, _threads: int | None) -> GraphEngine:
    """The decoder in float16 (ten bits of fraction; its values are far from float16's bounds)."""
    return _load(bundle, "fp16")


def load_bf16(bundle: Path, _threads: int | None) -> GraphEngine:
    """The decoder in bfloat16."""
    return _load(bundle, "bf16")
