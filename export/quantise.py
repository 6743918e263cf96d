"""The per-frame decoder in int8: static QDQ, calibrated on prepared clips; what runs on CPUs with VNNI."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from mytalk.errors import MyTalkError
from mytalk.models.appearance import AppearanceModel
from mytalk.models.streaming import AppearanceEncoders
from training.data import Clip, draw_for_crop, is_validation, list_clips

CALIBRATION_CLIPS, FRAMES_PER_CLIP = 24, 3
CHECK_CLIPS = 8
Inputs = dict[str, npt.NDArray[np.float32]]


class _Reader(CalibrationDataReader):
    """Feeds samples one at a time."""

    def __init__(self, samples: list[Inputs]) -> None:
        self._samples = iter(samples)

    def get_next(self) -> Inputs | None:
        """The next sample, None at the end."""
        return next(self._samples, None)


def _samples(model: AppearanceModel, clips: list[Clip], random: np.random.Generator) -> list[Inputs]:
    """Decoder inputs of real frames: landmark image [1, 3, 256, 256] and latents [1, app + 48, 40, 44]."""
    encoders, samples = AppearanceEncoders(model).eval(), []
    for clip in clips:
        arrays, crops = clip.arrays(), clip.crops()
        picked = arrays["picked"]
        order = np.argsort(arrays["opening"][picked])
        references = np.ascontiguousarray(crops[order[[0, len(order) // 2, len(order) - 1]]])
        index = random.choice(len(picked), FRAMES_PER_CLIP, replace=False)
        faces = np.ascontiguousarray(crops[index])
        with torch.no_grad():
            latents = encoders(torch.from_numpy(references), torch.from_numpy(faces)).numpy()
        for row, i in enumerate(index):
            drawn = draw_for_crop(arrays["points"][picked[i]], arrays["matrices"][picked[i]])
            samples.append({"landmark_images": drawn[None], "latents": latents[row : row + 1]})
    return samples


def _plain_float(source: Path, target: Path) -> None:
    """The graph with its stored float16 weights folded to float32, which the quantiser can read."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def quantise_decoder(model: AppearanceModel, source: Path, target: Path, data: Path) -> float:
    """Write the int8 twin of ``source``; returns its PSNR in dB against it on held-out clips.

    All convolutions but the last, whose rounding would be seen, get int8 weights per channel and uint8
    activations. Raises ``MyTalkError`` when the data has no clips to calibrate or check with.
    """
    clips, random = list_clips(data), np.random.default_rng(0)
    unseen = [clip for clip in clips if is_validation(clip, clips)]
    seen = [clip for clip in clips if clip not in unseen]
    if not seen or not unseen:
        raise MyTalkError(f"{data} needs clips to calibrate int8 with and held-out ones to check it")
    actors = [clip for clip in seen if clip.source == "actors"]
    some = [seen[i] for i in random.permutation(len(seen))[:CALIBRATION_CLIPS]]
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.onnx"
        _plain_float(source, plain)
        convolutions = [node.name for node in onnx.load(str(plain)).graph.node if node.op_type == "Conv"]
        quantize_static(
            str(plain),
            str(target),
            _Reader(_samples(model, actors + some, random)),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=convolutions[-1:],
        )
    checked = [unseen[i] for i in random.permutation(len(unseen))[:CHECK_CLIPS]]
    return _agreement_db(source, target, _samples(model, checked, random))


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
