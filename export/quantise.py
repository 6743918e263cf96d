"""The per-frame decoder in fewer bits: int8 (static QDQ, calibrated) for CPUs, float16 for cards."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from export.fold import LAST, fold_convolutions
from export.graph import GraphEditor
from mytalk.errors import BadInput, MyTalkError
from mytalk.landmarks.draw import draw_landmarks
from mytalk.landmarks.layout import load_layout
from mytalk.landmarks.warp import fine_windows, reference_flows
from mytalk.models.appearance import AppearanceModel
from mytalk.models.quiet import quiet
from mytalk.models.streaming import AppearanceEncoders

Inputs = dict[str, npt.NDArray[Any]]
MOVING = ("Transpose", "Reshape", "Slice", "Pad")  # they change no value, so that bytes go through them


class _Reader(CalibrationDataReader):
    """Feeds samples one at a time."""

    def __init__(self, samples: list[Inputs]) -> None:
        self._samples = iter(samples)

    def get_next(self) -> Inputs | None:
        """The next sample, None at the end."""
        return next(self._samples, None)


def decoder_samples(model: AppearanceModel, calibration: Path, *, held_out: bool) -> list[Inputs]:
    """Decoder inputs of real frames, one each, by name (see ``AppearanceDecoder``)."""
    try:
        with np.load(calibration, allow_pickle=False) as data:
            chosen = data["held_out"] == held_out
            rows = [data[key][chosen] for key in ("references", "reference_points", "faces", "face_points")]
    except (OSError, KeyError, ValueError) as error:
        raise BadInput(f"{calibration}: not a file of training.calibration ({error})") from error
    encoders, layout, samples = AppearanceEncoders(model).eval(), load_layout(), []
    for references, reference_points, faces, face_points in zip(*rows, strict=True):
        with torch.no_grad():
            latents = encoders(torch.from_numpy(references), torch.from_numpy(faces)).numpy()
        fine = fine_windows(references)[None]
        for row, points in enumerate(face_points):
            samples.append(
                {
                    "landmark_images": draw_landmarks(points, layout)[None],
                    "latents": latents[row : row + 1],
                    "references": fine,
                    "flows": reference_flows(points, reference_points, layout)[None],
                }
            )
    return samples


def _plain_float(source: Path, target: Path) -> None:
    """The graph with its stored float16 weights folded to float32, which the quantiser can read."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def _places(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that find where a gather reads: float16 cannot count that far."""
    makers = {output: node for node in model.graph.node for output in node.output}
    waiting = [node.input[1] for node in model.graph.node if node.op_type == "GatherElements"]
    found: dict[str, None] = {}
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.op_type != "Conv" and node.name not in found:
            found[node.name] = None
            waiting += node.input
    return list(found)


def halve_decoder(source: Path, target: Path) -> None:
    """Write the float16 twin of ``source``, which takes and gives the same types: for graphics cards.

    Positions in pictures stay float32: half a step of float16 is a tenth of a pixel at 256.
    """
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.onnx"
        _plain_float(source, plain)
        graph = onnx.load(str(plain))
        made = convert_float_to_float16(
            graph,
            keep_io_types=True,
            op_block_list=[*DEFAULT_OP_BLOCK_LIST, "GatherElements"],
            node_block_list=_places(graph),
        )
    _keep_whole(made)
    onnx.save(made, str(target))


def _keep_whole(model: onnx.ModelProto) -> None:
    """Between two nodes that stay float32 the converter rounds to float16 and back; take that out again."""
    nodes = model.graph.node
    halved = {
        node.output[0]: node.input[0]
        for node in nodes
        if node.op_type == "Cast" and node.attribute[0].i == onnx.TensorProto.FLOAT16
    }
    whole = {
        node.output[0]: halved[node.input[0]]
        for node in nodes
        if node.op_type == "Cast"
        and node.attribute[0].i == onnx.TensorProto.FLOAT
        and node.input[0] in halved
    }
    for node in nodes:
        for place, name in enumerate(node.input):
            if name in whole:
                node.input[place] = whole[name]
    outputs = {output.name for output in model.graph.output}
    used = {name for node in nodes for name in node.input} | outputs
    for node in [node for node in nodes if node.op_type == "Cast" and node.output[0] not in used]:
        nodes.remove(node)


def quantise_graph(source: Path, target: Path, samples: list[Inputs], kept: Collection[str] = ()) -> None:
    """Write the int8 twin of a decoder's graph, its activations measured on ``samples``.

    Convolutions get int8 weights per channel and uint8 activations, and what lies between them stays in
    bytes; the sum that is the picture is rounded once, to the picture's own bytes. kept: parameters (as
    ``decoder.out.conv.weight``) whose convolutions stay float32.
    """
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.onnx"
        _plain_float(source, plain)
        graph = onnx.load(str(plain))
        chosen = [
            node.name for node in graph.graph.node if node.op_type == "Conv" and not _is_kept(node, kept)
        ]
        fold_convolutions(graph, chosen)
        shown = _end_in_sum(graph)
        onnx.save(graph, str(plain))
        byte = {"scale": np.array(1 / 255, np.float32), "zero_point": np.array(0, np.uint8)}
        with quiet():
            quantize_static(
                str(plain),
                str(target),
                _Reader(samples),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=["Conv", "Relu", "Add", "Concat", *MOVING],
                nodes_to_quantize=_in_bytes(graph, set(chosen), shown),
                extra_options={"ForceQuantizeNoInputCheck": True, "TensorQuantOverrides": {shown: [byte]}},
            )
    made = onnx.load(str(target))
    _end_in_bytes(made)
    onnx.save(made, str(target))


def _is_kept(node: onnx.NodeProto, kept: Collection[str]) -> bool:
    return any(node.input[1].endswith(name) for name in kept)


def _attribute(node: onnx.NodeProto, name: str) -> Any:
    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), None)


def _to_bytes(nodes: Sequence[onnx.NodeProto]) -> onnx.NodeProto:
    return next(
        node for node in nodes if node.op_type == "Cast" and _attribute(node, "to") == onnx.TensorProto.UINT8
    )


def _end_in_sum(model: onnx.ModelProto) -> str:
    """Let the graph end in the sum that the picture is, channels last, in place; returns that sum's name.

    Clipping, scaling and rounding go: they are what quantising that sum to steps of 1 / 255 does.
    """
    editor = GraphEditor(model)
    cast = _to_bytes(editor.nodes)
    clip: onnx.NodeProto | None = cast
    while clip is not None and clip.op_type != "Clip":
        clip = editor.maker(clip.input[0])
    total = editor.maker(clip.input[0]) if clip is not None else None
    painted = editor.maker(total.input[1]) if total is not None else None
    last = editor.users(cast.output[0])[0]
    if total is None or painted is None or (painted.op_type, last.op_type) != ("Transpose", "Transpose"):
        raise MyTalkError("int8: the decoder's graph does not end in clipping a sum")
    taken = editor.add("Transpose", [total.input[0]], total, perm=LAST)
    shown = editor.add("Add", [taken, painted.input[0]], total)
    editor.replace(last.output[0], editor.add("Cast", [shown], last, to=onnx.TensorProto.UINT8))
    editor.finish()
    return shown


def _in_bytes(model: onnx.ModelProto, convolutions: set[str], shown: str) -> list[str]:
    """Names of all nodes that take and give bytes: the convolutions, and what lies between them."""
    chosen, made = [], set()
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    for node in model.graph.node:
        after = users.get(node.output[0], [])
        ready = [name in made for name in node.input[:2]]
        wanted = {
            "Conv": node.name in convolutions,
            "Relu": ready[0],
            "Concat": any(ready),
            "Add": node.output[0] == shown or (all(ready) and [user.op_type for user in after] == ["Relu"]),
        }
        to_sum = node.op_type == "Transpose" and any(user.output[0] == shown for user in after)
        if wanted.get(node.op_type, False) or (node.op_type in MOVING and ready[0]) or to_sum:
            chosen.append(node.name)
            made.update(node.output)
    return chosen


def _end_in_bytes(model: onnx.ModelProto) -> None:
    """Give out the quantised sum itself, which is the picture; a graph's inputs stay exact for other uses."""
    editor = GraphEditor(model)
    cast = _to_bytes(editor.nodes)
    back = editor.maker(cast.input[0])
    if back is None or back.op_type != "DequantizeLinear":
        raise MyTalkError("int8: the picture's sum was not quantised")
    editor.replace(cast.output[0], back.input[0])
    given = {value.name for value in model.graph.input}
    for first in [
        node for node in editor.nodes if node.op_type == "QuantizeLinear" and node.input[0] in given
    ]:
        rounded = editor.users(first.output[0])[0].output[0]
        for user in editor.users(rounded):
            if user.op_type == "Slice":  # the base, which is shown as it is
                user.input[0] = first.input[0]
    editor.finish()


def agreement_db(expected: Path, actual: Path, samples: list[Inputs]) -> float:
    """PSNR in dB between the pictures of two decoders, inside the window that is shown."""
    sessions = [
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        for path in (expected, actual)
    ]
    errors = []
    for sample in samples:
        one, two = (session.run(None, sample)[0].astype(np.float64) for session in sessions)
        inside = one.max(axis=-1) > 0  # outside the mask's window both are black
        errors.append(np.square(one - two).mean(axis=-1)[inside].mean())
    return float(10 * np.log10(255**2 / max(float(np.mean(errors)), 1e-9)))
