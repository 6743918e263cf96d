"""The per-frame decoder in fewer bits: int8 (static QDQ, calibrated) for CPUs, float16 for cards."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from mytalk.errors import BadInput
from mytalk.landmarks.draw import draw_landmarks
from mytalk.landmarks.layout import load_layout
from mytalk.landmarks.warp import fine_windows, reference_flows
from mytalk.models.appearance import AppearanceModel
from mytalk.models.streaming import AppearanceEncoders

Inputs = dict[str, npt.NDArray[Any]]


class _Reader(CalibrationDataReader):
    """Feeds samples one at a time."""

    def __init__(self, samples: list[Inputs]) -> None:
        self._samples = iter(samples)

    def get_next(self) -> Inputs | None:
        """The next sample, None at the end."""
        return next(self._samples, None)


def _samples(model: AppearanceModel, calibration: Path, *, held_out: bool) -> list[Inputs]:
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


def quantise_decoder(model: AppearanceModel, source: Path, target: Path, calibration: Path) -> float:
    """Write the int8 twin of ``source``; returns its PSNR in dB against it on held-out clips.

    All convolutions get int8 weights per channel and uint8 activations; the last one only adds to pixels that
    are not rounded. calibration: a file of ``training.calibration``; raises ``BadInput`` if it is not one.
    """
    seen, unseen = (_samples(model, calibration, held_out=which) for which in (False, True))
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.onnx"
        _plain_float(source, plain)
        quantize_static(
            str(plain),
            str(target),
            _Reader(seen),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv"],
        )
    return _agreement_db(source, target, unseen)


def _agreement_db(expected: Path, actual: Path, samples: list[Inputs]) -> float:
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
