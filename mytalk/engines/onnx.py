"""The ONNX Runtime engine: runs an exported bundle on the CPU, or on a card by CUDA or TensorRT.

The card's providers have not been run yet: there was no card at hand (``benchmarks/gpu.py`` runs them).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import onnxruntime

from mytalk.actors.tuned import TunedDecoder
from mytalk.engines.buckets import BUCKETS, CARD_BATCH, BucketRunner
from mytalk.engines.bundle import (
    HALF_DECODER,
    INT8_DECODER,
    first_line,
    graph_paths,
    half_path,
    has_vnni,
    read_manifest,
    sizes,
)
from mytalk.engines.graphs import Arrays, GraphEngine
from mytalk.engines.initialisers import tuned_file
from mytalk.errors import EngineFailed

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
GPU_COMMAND = "pip uninstall -y onnxruntime && pip install onnxruntime-gpu==1.31.*"  # both share one folder
CACHE = Path(__file__).resolve().parents[2] / ".cache" / "onnx-tensorrt"
CUDA_OPTIONS = {
    "cudnn_conv_algo_search": "EXHAUSTIVE",  # batches come in five sizes, so it is searched five times
    "use_tf32": "0",  # would take motion out of its limits
}
Provider = tuple[str, dict[str, str]]


def _session(
    path: Path, providers: list[Provider], threads: int | None, tuned: TunedDecoder | None = None
) -> Any:
    if tuned is not None and path.name == HALF_DECODER:
        path = path.with_name("decode.onnx")  # whose initialisers keep the names of the weights
    model = str(path) if tuned is None else tuned_file(path, tuned)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    # Spinning worker threads would take the core that the network and the encoder need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(model, options, providers=[*providers, (CPU, {})])
    except Exception as error:  # ONNX Runtime raises many classes of its own
        raise EngineFailed(f"{path} cannot be loaded: {first_line(error)}") from error
    # ONNX Runtime goes on without a provider whose libraries it cannot open, and says so in its log alone.
    if providers and session.get_providers()[0] != providers[0][0]:
        raise EngineFailed(
            f"ONNX Runtime cannot open {providers[0][0]}: CUDA 13, cuDNN 9 or TensorRT is missing or too old"
        )
    return session


class OnnxRunner:
    """``GraphRunner`` on ONNX Runtime's CPU provider.

    On a CPU a batch costs what its pictures cost one by one, measured (docs/benchmarks.md); calls of one
    thread each beside each other use the cores better.
    """

    concurrent = True
    batch = 1

    def __init__(self, paths: dict[str, Path], threads: int | None) -> None:
        self._paths, self._threads = paths, threads
        self._graphs = {graph: _session(path, [], threads) for graph, path in paths.items()}
        self._tuned: WeakKeyDictionary[TunedDecoder, Any] = WeakKeyDictionary()

    def load_decoder(self, tuned: TunedDecoder) -> None:
        """Take up other weights for ``decode``."""
        if tuned not in self._tuned:
            self._tuned[tuned] = _session(self._paths["decode"], [], self._threads, tuned)

    def run(self, graph: str, inputs: Arrays, tuned: TunedDecoder | None = None) -> list[npt.NDArray[Any]]:
        """Outputs of a graph."""
        session = self._graphs[graph] if tuned is None else self._tuned[tuned]
        try:
            outputs: list[npt.NDArray[Any]] = session.run(None, inputs)
        except Exception as error:
            raise EngineFailed(f"{graph} failed in ONNX Runtime: {first_line(error)}") from error
        return outputs


class _Bound:
    """A session whose inputs keep their place on the device: one binding for each set of shapes.

    A plain run would take new memory on the card for every input of every call.
    """

    def __init__(self, session: Any, device: str, *, keep: bool) -> None:
        """keep: the bindings; of a graph that meets any batch size there would be too many."""
        self._session, self._device, self._keep = session, device, keep
        self._ready: dict[tuple[tuple[int, ...], ...], tuple[Any, dict[str, Any]]] = {}

    def __call__(self, given: Arrays) -> list[npt.NDArray[Any]]:
        """Outputs of the graph."""
        key = tuple(array.shape for array in given.values())
        binding, places = self._ready.get(key) or self._bind(given)
        if self._keep:
            self._ready[key] = (binding, places)
        for name, array in given.items():
            places[name].update_inplace(array)
        self._session.run_with_iobinding(binding)
        outputs: list[npt.NDArray[Any]] = binding.copy_outputs_to_cpu()
        return outputs

    def _bind(self, given: Arrays) -> tuple[Any, dict[str, Any]]:
        value = onnxruntime.OrtValue.ortvalue_from_numpy
        places = {name: value(array.copy(), self._device) for name, array in given.items()}
        binding = self._session.io_binding()
        for name, place in places.items():
            binding.bind_ortvalue_input(name, place)
        for output in self._session.get_outputs():
            binding.bind_output(output.name, self._device)
        return binding, places


class BoundRunner:
    """``GraphRunner`` on a card; give it batches of bucket sizes (``buckets.BucketRunner``)."""

    concurrent = False  # a binding has one set of buffers
    batch = CARD_BATCH

    def __init__(self, paths: dict[str, Path], providers: dict[str, list[Provider]], device: str) -> None:
        """providers: by graph, best first. device: ``cuda``, or ``cpu`` to try the same without a card."""
        self._device, self._decoder = device, paths["decode"]
        # A person's own weights go without TensorRT, which would build for minutes.
        self._tuned_by = [one for one in providers["decode"] if one[0] != TENSORRT]
        self._graphs = {
            graph: _Bound(_session(path, providers[graph], None), device, keep=graph != "encode")
            for graph, path in paths.items()
        }
        self._tuned: WeakKeyDictionary[TunedDecoder, _Bound] = WeakKeyDictionary()

    def load_decoder(self, tuned: TunedDecoder) -> None:
        """Take up other weights for ``decode``, in float32."""
        if tuned not in self._tuned:
            session = _session(self._decoder, self._tuned_by, None, tuned)
            self._tuned[tuned] = _Bound(session, self._device, keep=True)

    def run(self, graph: str, inputs: Arrays, tuned: TunedDecoder | None = None) -> list[npt.NDArray[Any]]:
        """Outputs of a graph."""
        bound = self._graphs[graph] if tuned is None else self._tuned[tuned]
        try:
            return bound({name: np.ascontiguousarray(array) for name, array in inputs.items()})
        except Exception as error:
            raise EngineFailed(f"{graph} failed in ONNX Runtime: {first_line(error)}") from error


def tensorrt_options(decoder: Path, cache: Path = CACHE) -> dict[str, str]:
    """TensorRT's for the decoder: one profile from 1 to 16 pictures, engines kept on disk.

    ONNX Runtime itself builds an engine anew for another card or TensorRT; the folder is the file's own.
    """
    inputs = onnxruntime.InferenceSession(str(decoder), providers=[CPU]).get_inputs()

    def shapes(batch: int) -> str:
        told = [
            "x".join(str(size if isinstance(size, int) else batch) for size in one.shape) for one in inputs
        ]
        return ",".join(f"{one.name}:{shape}" for one, shape in zip(inputs, told, strict=True))

    folder = cache / hashlib.sha256(decoder.read_bytes()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EngineFailed(f"{folder} cannot be written: {error.strerror}") from error
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
        "trt_profile_min_shapes": shapes(BUCKETS[0]),
        "trt_profile_opt_shapes": shapes(4),
        "trt_profile_max_shapes": shapes(BUCKETS[-1]),
    }


def _need(provider: str, name: str) -> None:
    if provider not in onnxruntime.get_available_providers():
        raise EngineFailed(
            f"the engine {name} needs onnxruntime-gpu in the place of onnxruntime: {GPU_COMMAND}"
            + (" tensorrt (from NVIDIA's own index)" if provider == TENSORRT else "")
        )


def _load_on_card(bundle: Path, name: str, *, tensorrt: bool, half: bool) -> GraphEngine:
    _need(TENSORRT if tensorrt else CUDA, name if half or tensorrt else f"{name}-fp32")
    manifest = read_manifest(bundle)
    spec, memory = sizes(manifest, bundle)
    paths = graph_paths(bundle, manifest, spec, int8=False)
    if half:
        paths["decode"] = half_path(bundle, manifest)
    cuda = [(CUDA, CUDA_OPTIONS)]
    providers = dict.fromkeys(paths, cuda)
    if tensorrt:
        providers["decode"] = [(TENSORRT, tensorrt_options(paths["decode"])), *cuda]
    runner = BucketRunner(BoundRunner(paths, providers, "cuda"))
    return GraphEngine(f"{name}-{'fp16' if half else 'fp32'}", spec, memory, runner)


def _load(
    bundle: Path, threads: int | None, manifest: dict[str, Any], *, int8: bool = False, half: bool = False
) -> GraphEngine:
    spec, memory = sizes(manifest, bundle)
    paths = graph_paths(bundle, manifest, spec, int8=int8)
    if half:
        paths["decode"] = half_path(bundle, manifest)
    precision = "int8" if int8 else "fp16" if half else "fp32"
    return GraphEngine(f"onnx-{precision}", spec, memory, OnnxRunner(paths, threads))


def load(bundle: Path, threads: int | None) -> GraphEngine:
    """Load the bundle at the precision that suits the CPU; see ``mytalk.engines.load_engine``."""
    manifest = read_manifest(bundle)
    return _load(bundle, threads, manifest, int8=has_vnni() and INT8_DECODER in manifest["files"])


def load_fp32(bundle: Path, threads: int | None) -> GraphEngine:
    """Load the bundle in float32."""
    return _load(bundle, threads, read_manifest(bundle))


def load_fp16(bundle: Path, threads: int | None) -> GraphEngine:
    """Load the bundle with its float16 decoder on the CPU: to check what cards run; CPUs are slow at it."""
    return _load(bundle, threads, read_manifest(bundle), half=True)


def load_int8(bundle: Path, threads: int | None) -> GraphEngine:
    """Load the bundle with its int8 decoder (about twice as fast on a CPU with VNNI)."""
    return _load(bundle, threads, read_manifest(bundle), int8=True)


def load_cuda(bundle: Path, _threads: int | None) -> GraphEngine:
    """ONNX Runtime on a card; the decoder in float16 where the bundle has one."""
    _need(CUDA, "onnx-cuda")
    half = HALF_DECODER in read_manifest(bundle)["files"]
    return _load_on_card(bundle, "onnx-cuda", tensorrt=False, half=half)


def load_cuda_fp32(bundle: Path, _threads: int | None) -> GraphEngine:
    """ONNX Runtime on a card in float32."""
    return _load_on_card(bundle, "onnx-cuda", tensorrt=False, half=False)


def load_tensorrt(bundle: Path, _threads: int | None) -> GraphEngine:
    """The decoder by TensorRT in ONNX Runtime, in float16 where the bundle has one; CUDA for the rest."""
    half = HALF_DECODER in read_manifest(bundle)["files"]
    return _load_on_card(bundle, "onnx-tensorrt", tensorrt=True, half=half)
