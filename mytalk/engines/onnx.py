"""The ONNX Runtime engine: runs an exported bundle on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy.typing as npt
import onnxruntime

from mytalk.engines.bundle import (
    GRAPHS,
    INT8_DECODER,
    first_line,
    graph_path,
    has_vnni,
    read_manifest,
    sizes,
)
from mytalk.engines.graphs import Arrays, GraphEngine
from mytalk.engines.initialisers import tuned_file
from mytalk.errors import EngineFailed
from mytalk.tuned import TunedDecoder


class OnnxRunner:
    """``GraphRunner`` on ONNX Runtime.

    On a CPU a batch costs what its pictures cost one by one, measured (docs/benchmarks.md); calls of one
    thread each beside each other use the cores better.
    """

    concurrent = True
    batch = 1

    def __init__(self, paths: dict[str, Path], threads: int | None) -> None:
        self._options = options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.inter_op_num_threads = 1
        # Spinning worker threads would take the core that the network and the encoder need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._paths = paths
        self._graphs = {graph: self._session(str(path), path) for graph, path in paths.items()}
        self._tuned: WeakKeyDictionary[TunedDecoder, Any] = WeakKeyDictionary()

    def _session(self, model: str | bytes, path: Path) -> Any:
        try:
            return onnxruntime.InferenceSession(model, self._options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises many classes of its own
            raise EngineFailed(f"{path} cannot be loaded: {first_line(error)}") from error

    def load_decoder(self, tuned: TunedDecoder) -> None:
        """Take up other weights for ``decode``."""
        if tuned not in self._tuned:
            path = self._paths["decode"]
            self._tuned[tuned] = self._session(tuned_file(path, tuned), path)

    def run(self, graph: str, inputs: Arrays, tuned: TunedDecoder | None = None) -> list[npt.NDArray[Any]]:
        """Outputs of a graph."""
        session = self._graphs[graph] if tuned is None else self._tuned[tuned]
        try:
            outputs: list[npt.NDArray[Any]] = session.run(None, inputs)
        except Exception as error:
            raise EngineFailed(f"{graph} failed in ONNX Runtime: {first_line(error)}") from error
        return outputs


def _load(bundle: Path, threads: int | None, manifest: dict[str, Any], *, int8: bool) -> GraphEngine:
    spec, memory = sizes(manifest, bundle)
    paths = {graph: graph_path(bundle, manifest, graph, int8=int8) for graph in GRAPHS}
    return GraphEngine("onnx-int8" if int8 else "onnx-fp32", spec, memory, OnnxRunner(paths, threads))


def load(bundle: Path, threads: int | None) -> GraphEngine:
    """Load the bundle at the precision that suits the CPU; see ``mytalk.engines.load_engine``."""
    manifest = read_manifest(bundle)
    return _load(bundle, threads, manifest, int8=has_vnni() and INT8_DECODER in manifest["files"])


def load_fp32(bundle: Path, threads: int | None) -> GraphEngine:
    """Load the bundle in float32."""
    return _load(bundle, threads, read_manifest(bundle), int8=False)


def load_int8(bundle: Path, threads: int | None) -> GraphEngine:
    """Load the bundle with its int8 decoder (about twice as fast on a CPU with VNNI)."""
    return _load(bundle, threads, read_manifest(bundle), int8=True)
