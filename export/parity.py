"""Exported graphs against torch: a bundle that fails is not written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch

from export.onnx import motion_example
from mytalk.landmarks.normalise import CROP, CROP_SIDE
from mytalk.landmarks.warp import flow_shape
from mytalk.models.appearance import AppearanceModel
from mytalk.models.motion import MotionModel
from mytalk.models.streaming import AppearanceDecoder, AppearanceEncoders, StreamingHop

MAX_LANDMARK_PX = 0.01  # crop pixels, fp32, after 20 streamed hops
MIN_PICTURE_DB = 60.0
MIN_INT8_PICTURE_DB = 36.0  # int8 against float32


def motion_error_px(model: MotionModel, steps: int, graph: Path, hops: int = 20) -> float:
    """Largest landmark difference in crop pixels over streamed hops, each side on its own state."""
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    hop_module = StreamingHop(model, steps).eval()
    states: list[list[torch.Tensor]] = [[], []]
    worst, known = 0.0, 0
    for index in range(hops):
        inputs = motion_example(model, seed=index)
        inputs["known"] = torch.tensor([known])
        if index == 0:
            inputs["use_given"] = torch.ones(1)
        outputs = []
        for side in range(2):
            own = dict(inputs)
            if states[side]:
                own |= dict(zip(("keys", "values", "conv"), states[side], strict=True))
            if side == 0:
                with torch.no_grad():
                    result = list(hop_module(*own.values()))
            else:
                arrays = session.run(None, {name: value.numpy() for name, value in own.items()})
                result = [torch.from_numpy(array) for array in arrays]
            states[side] = result[1:]
            outputs.append(result[0])
        known += int(inputs["hop"])
        worst = max(worst, float((outputs[0] - outputs[1]).abs().max()) * CROP / CROP_SIDE)
    return worst


def picture_db(model: AppearanceModel, encode: Path, decode: Path) -> float:
    """PSNR in dB of the ONNX pictures against torch's, encoders included."""
    random = np.random.default_rng(0)
    references, faces = (random.integers(0, 256, (3, CROP, CROP, 3), dtype=np.uint8) for _ in range(2))
    drawn = random.random((3, 3, CROP, CROP), dtype=np.float32)
    flows = random.normal(0, 5, (3, 3, 2, *flow_shape())).astype(np.float32)
    given = np.repeat(references[None], 3, axis=0)
    with torch.no_grad():
        latents = AppearanceEncoders(model).eval()(torch.from_numpy(references), torch.from_numpy(faces))
        inputs = (torch.from_numpy(drawn), latents, torch.from_numpy(given), torch.from_numpy(flows))
        expected = AppearanceDecoder(model).eval()(*inputs).numpy()
    providers = ["CPUExecutionProvider"]
    encoder = onnxruntime.InferenceSession(str(encode), providers=providers)
    decoder = onnxruntime.InferenceSession(str(decode), providers=providers)
    latents_onnx = encoder.run(None, {"references": references, "faces": faces})[0]
    rows = {"landmark_images": drawn, "latents": latents_onnx, "references": given, "flows": flows}
    actual = decoder.run(None, rows)[0]
    error = np.square(expected.astype(np.float64) - actual).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))
