"""The OpenVINO engine: runs a bundle's ONNX files on the CPU, in int8 or bfloat16 where that is fast."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import openvino

from mytalk.actors.tuned import TunedDecoder
from mytalk.engines.bundle import (
    INT8_DECODER,
    first_line,
    graph_paths,
    has_amx_bf16,
    has_vnni,
    read_manifest,
    sizes,
)
from mytalk.engines.graphs import Arrays, GraphEngine
from mytalk.engines.initialisers import tuned_file
from mytalk.engines.survey import survey
from mytalk.errors import EngineFailed


@cache
def _core() -> openvino.Core:
    """The process's only one, never given up.

    Its CPU plug-in gives the thread that loads it a stack for signals, and frees it with the last Core, in
    whatever thread the garbage collector runs: the next Ctrl-C would then end the process by a segfault.
    """
    return openvino.Core()


class _Requests:
    """A compiled graph, with as many requests as there were calls at the same time."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._idle: SimpleQueue[Any] = SimpleQueue()

    def __call__(self, given: Arrays) -> list[npt.NDArray[Any]]:
        """Outputs of the graph; copies, since the next call reuses OpenVINO's own."""
        try:
            request = self._idle.get_nowait()
        except Empty:
            request = self._compiled.create_infer_request()
        try:
            found = request.infer(given, share_inputs=True)
            return [np.array(found[port]) for port in request.model_outputs]
        finally:
            self._idle.put(request)


class OpenVinoRunner:
    """``GraphRunner`` on OpenVINO's CPU plug-in; each of several calls at a time has a request of its own."""

    concurrent = True
    batch = 1

    def __init__(self, paths: dict[str, Path], threads: int | None, *, bf16: bool) -> None:
        """threads: of one call, and the cores then take several calls at a time; None: one has all cores.

        bf16: the per-frame decoder in bfloat16; all else is float32 (errors of motion would add up).
        """
        self._paths, self._threads, self._bf16 = paths, threads, bf16
        self._streams = 1 if threads is None else max(1, survey().cores // threads)
        self._graphs = {graph: self._requests(str(path), graph) for graph, path in paths.items()}
        self._tuned: WeakKeyDictionary[TunedDecoder, _Requests] = WeakKeyDictionary()

    def _requests(self, model: str | bytes, graph: str) -> _Requests:
        half = self._bf16 and graph == "decode"
        config = {
            "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": str(self._streams),
            # Motion memory and latents are float32; the runtime must not shrink them on its own.
            "EXECUTION_MODE_HINT": "PERFORMANCE" if half else "ACCURACY",
        }
        if self._threads is not None:
            config["INFERENCE_NUM_THREADS"] = str(self._threads * self._streams)
        try:
            read = _core().read_model(model if isinstance(model, str) else io.BytesIO(model))
            return _Requests(_core().compile_model(read, "CPU", config))
        except Exception as error:  # OpenVINO raises RuntimeError and classes of its own
            raise EngineFailed(f"{self._paths[graph]} cannot be loaded: {first_line(error)}") from error

    def load_decoder(self, tuned: TunedDecoder) -> None:
        """Take up other weights for ``decode``."""
        if tuned not in self._tuned:
            self._tuned[tuned] = self._requests(tuned_file(self._paths["decode"], tuned), "decode")

    def run(self, graph: str, inputs: Arrays, tuned: TunedDecoder | None = None) -> list[npt.NDArray[Any]]:
        """Outputs of a graph."""
        requests = self._graphs[graph] if tuned is None else self._tuned[tuned]
        try:
            return requests({name: np.ascontiguousarray(array) for name, array in inputs.items()})
        except Exception as error:
            raise EngineFailed(f"{graph} failed in OpenVINO: {first_line(error)}") from error


def _load(
    bundle: Path, threads: int | None, manifest: dict[str, Any], *, int8: bool = False, bf16: bool = False
) -> GraphEngine:
    spec, memory = sizes(manifest, bundle)
    paths = graph_paths(bundle, manifest, spec, int8=int8)
    precision = "int8" if int8 else "bf16" if bf16 else "fp32"
    return GraphEngine(f"openvino-{precision}", spec, memory, OpenVinoRunner(paths, threads, bf16=bf16))


def load(bundle: Path, threads: int | None) -> GraphEngine:
    """int8 where the bundle has it and the CPU is fast at it, else bfloat16 on AMX, else float32."""
    manifest = read_manifest(bundle)
    int8 = has_vnni() and INT8_DECODER in manifest["files"]
    return _load(bundle, threads, manifest, int8=int8, bf16=not int8 and has_amx_bf16())


def load_fp32(bundle: Path, threads: int | None) -> GraphEngine:
    """Load the bundle in float32."""
    return _load(bundle, threads, read_manifest(bundle))


def load_bf16(bundle: Path, threads: int | None) -> GraphEngine:
    """Load the bundle with its decoder in bfloat16; ``EngineFailed`` where the CPU has no AMX for it."""
    if not has_amx_bf16():
        raise EngineFailed("this CPU has no AMX, so bfloat16 would not be faster; use openvino-fp32 or -int8")
    return _load(bundle, threads, read_manifest(bundle), bf16=True)


def load_int8(bundle: Path, threads: int | None) -> GraphEngine:
    """Load the bundle with its int8 decoder."""
    return _load(bundle, threads, read_manifest(bundle), int8=True)
