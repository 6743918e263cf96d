"""The arithmetic floor: multiply-adds counted in a graph, over the most that this machine does per second."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from mytalk.engines.bundle import motion_graph, read_manifest, sizes
from mytalk.models.quiet import quiet

OPSET = 20
LAYERS = 6  # of a network that measures the peak, so that handing over its input does not count
CONVOLUTIONS = ((64, 64), (128, 64), (256, 32))  # (channels, side): the shapes that decoders are made of
MATRIX = 1024  # side of the matrices in a product


def hop_macs(bundle: Path, tokens: int) -> dict[str, int]:
    """Multiply-adds of a hop of so many tokens, its speech included, with the bundle's default steps."""
    manifest = read_manifest(bundle)
    spec, _ = sizes(manifest, bundle)
    parts = [_graph_macs(bundle, graph, manifest, tokens) for graph in ("hear", motion_graph(spec.steps))]
    return {kind: sum(part[kind] for part in parts) for kind in parts[0]}


def _graph_macs(bundle: Path, graph: str, manifest: dict[str, Any], tokens: int) -> dict[str, int]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    # The graph's sizes are free and computed in it: ONNX Runtime works them out when they are given.
    shapes = manifest["shapes"][graph]["inputs"].values()
    for name in {size for shape in shapes for size in shape if isinstance(size, str)}:
        options.add_free_dimension_override_by_name(name, _size(name, tokens))
    with tempfile.TemporaryDirectory() as folder:
        fixed = Path(folder) / "fixed.onnx"
        options.optimized_model_filepath = str(fixed)
        onnxruntime.InferenceSession(str(bundle / f"{graph}.onnx"), options, ["CPUExecutionProvider"])
        return count_macs(fixed)


def _size(name: str, tokens: int) -> int:
    """What a free size is: one session, one frame known last, or so many for each token."""
    if name in ("batch", "known"):
        return 1
    found = re.fullmatch(r"(?:(\d+)\*)?tokens(?: \+ (\d+))?", name)
    if found is None:
        raise ValueError(f"a graph's size {name!r} is not one that is known")
    return int(found[1] or 1) * tokens + int(found[2] or 0)


def count_macs(path: Path) -> dict[str, int]:
    """Multiply-adds of one sample, by the precision of the weights: ``{"int8": n, "float": n}``.

    Convolutions, matrix products and their transposed kinds; all else (activations, resampling, copies) is
    not arithmetic that a floor can be made of.
    """
    model = onnx.load(str(path), load_external_data=False)
    for value in model.graph.input:
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_value = 1
    # what the exporter noted about shapes is symbolic and would win over what is inferred from a batch of one
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {
        value.name: [size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    shapes |= {weight.name: list(weight.dims) for weight in graph.initializer}
    from_int8 = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    counts = {"int8": 0, "float": 0}
    for node in graph.node:
        macs = _macs_of(node, shapes)
        counts["int8" if macs and node.input[1] in from_int8 else "float"] += macs
    return counts


def _macs_of(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int:
    if node.op_type not in ("Conv", "ConvTranspose", "MatMul", "Gemm"):
        return 0
    left, right = (shapes[name] for name in node.input[:2])
    made = shapes[node.output[0]]
    if node.op_type == "Conv":
        macs = math.prod(made) * math.prod(right[1:])
    elif node.op_type == "ConvTranspose":
        macs = math.prod(left) * math.prod(right[1:])
    else:
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        macs = math.prod(made) * (left[-2] if transposed else left[-1])
    if macs <= 0:
        raise ValueError(f"{node.name}: the shapes of {node.op_type} could not be inferred: {left}, {made}")
    return macs


def write_convolutions(path: Path, channels: int, side: int) -> int:
    """A chain of 3×3 convolutions with ReLU as ONNX; returns its multiply-adds."""
    nodes, weights, name = [], [], "x"
    random = np.random.default_rng(0)
    for layer in range(LAYERS):
        kernel = random.standard_normal((channels, channels, 3, 3), np.float32) / math.sqrt(4.5 * channels)
        weights.append(numpy_helper.from_array(kernel, f"w{layer}"))
        nodes.append(
            helper.make_node("Conv", [name, f"w{layer}"], [f"c{layer}"], f"conv{layer}", pads=[1, 1, 1, 1])
        )
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]))
        name = f"r{layer}"
    _save(path, nodes, weights, name, [1, channels, side, side])
    return convolution_macs(channels, side)


def convolution_macs(channels: int, side: int) -> int:
    """Multiply-adds of such a chain."""
    return LAYERS * channels * channels * 9 * side * side


def write_products(path: Path, size: int) -> int:
    """A chain of square matrix products as ONNX; returns its multiply-adds."""
    nodes, weights, name = [], [], "x"
    random = np.random.default_rng(0)
    for layer in range(LAYERS):
        matrix = random.standard_normal((size, size), np.float32) / math.sqrt(size)
        weights.append(numpy_helper.from_array(matrix, f"w{layer}"))
        nodes.append(helper.make_node("MatMul", [name, f"w{layer}"], [f"m{layer}"], f"product{layer}"))
        name = f"m{layer}"
    _save(path, nodes, weights, name, [size, size])
    return LAYERS * size**3


def _save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    weights: Sequence[TensorProto],
    last: str,
    shape: list[int],
) -> None:
    graph = helper.make_graph(
        list(nodes),
        "peak",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, shape)],
        list(weights),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = 10
    onnx.save(model, str(path))


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Feeds samples one at a time."""

    def __init__(self, samples: list[dict[str, npt.NDArray[Any]]]) -> None:
        self._samples = iter(samples)

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        """The next sample, None at the end."""
        return next(self._samples, None)


def quantise(source: Path, target: Path, samples: list[dict[str, npt.NDArray[Any]]]) -> None:
    """The int8 twin of a float graph: static, per channel, convolutions and products."""
    with quiet():
        quantize_static(
            str(source),
            str(target),
            _Reader(samples),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "ConvTranspose", "MatMul"],
        )
