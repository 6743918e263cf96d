"""Torch modules → ONNX graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from mytalk.errors import MyTalkError
from mytalk.landmarks.layout import load_layout
from mytalk.landmarks.warp import flow_shape
from mytalk.models.appearance import AppearanceModel
from mytalk.models.conformer import rotary_tables
from mytalk.models.motion import MotionModel
from mytalk.models.streaming import AppearanceDecoder, AppearanceEncoders, StreamingHop, initial_state

OPSET = 20
CROP = 256


def motion_example(model: MotionModel, count: int = 1, seed: int = 0) -> dict[str, Tensor]:
    """Random inputs of the streamed hop, by name, in the order of ``StreamingHop.forward``."""
    config, random = model.config, torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=random)

    cos, sin = rotary_tables(
        torch.arange(10, 10 + config.tokens).expand(count, -1), config.dim // config.heads
    )
    keys, values, conv = initial_state(config, count)
    return {
        "log_mel": normal(config.mel_frames, config.mels) - 6,
        "upper": 0.02 * normal(config.tokens, config.upper),
        "identity": normal(config.condition_width) / 8,
        "noise": normal(config.tokens, config.coefficients),
        "cos": cos,
        "sin": sin,
        "keys": keys,
        "values": values,
        "conv": conv,
        "known": torch.full((count,), 0),
        "tokens": torch.full((count,), 4),
        "hop": torch.full((count,), 2),
        "given": 0.1 * normal(config.tokens, config.compact * 3),
        "use_given": torch.zeros(count),
    }


def _export(
    module: nn.Module, inputs: dict[str, Tensor], outputs: list[str], path: Path, batched: set[str]
) -> None:
    batch = torch.export.Dim("batch", min=1, max=64)
    shapes = tuple({0: batch} if name in batched else None for name in inputs)
    with torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=outputs,
            dynamo=True,
            dynamic_shapes=shapes,
            opset_version=OPSET,
            verbose=False,
        )
    if program is None:
        raise MyTalkError(f"torch could not export {path.stem}")
    onnx.save(_store_half(program.model_proto), str(path))


def _store_half(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Keep large weights as float16 on disk, cast back at load: half the size, the same arithmetic.

    The weights were rounded to float16 before (``round_to_half``), so nothing is lost here.
    """
    initializers, casts = [], []
    for weight in graph.graph.initializer:
        array = onnx.numpy_helper.to_array(weight)
        if array.dtype != np.float32 or array.size < 1024:
            initializers.append(weight)
            continue
        stored = f"{weight.name}__half"
        initializers.append(onnx.numpy_helper.from_array(array.astype(np.float16), stored))
        casts.append(onnx.helper.make_node("Cast", [stored], [weight.name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.graph.node]
    for part in (*nodes, *graph.graph.input, *graph.graph.output):
        # The exporter writes stack traces of the exporting machine here.
        del part.metadata_props[:]
        part.doc_string = ""
    del graph.graph.metadata_props[:], graph.metadata_props[:]
    del graph.graph.initializer[:], graph.graph.node[:], graph.graph.value_info[:]
    graph.graph.initializer.extend(initializers)
    graph.graph.node.extend(nodes)
    return graph


def round_to_half(module: nn.Module) -> None:
    """Round a model's weights to what float16 can hold (in place); they stay float32."""
    with torch.no_grad():
        for value in (*module.parameters(), *module.buffers()):
            if value.dtype == torch.float32:
                value.copy_(value.half().float())


def export_graphs(
    motion: MotionModel, identity: nn.Module, appearance: AppearanceModel, steps: int, out: Path
) -> None:
    """Write {motion,identity,encode,decode}.onnx into ``out``; the batch is dynamic but for motion."""
    out.mkdir(parents=True, exist_ok=True)
    inputs = motion_example(motion)
    names = ["displacement", "next_keys", "next_values", "next_conv"]
    _export(StreamingHop(motion, steps), inputs, names, out / "motion.onnx", set())
    faces = {"landmarks": torch.zeros(2, load_layout().points, 2)}
    _export(identity, faces, ["embedding"], out / "identity.onnx", {"landmarks"})
    crops = {
        "references": torch.zeros(3, CROP, CROP, 3, dtype=torch.uint8),
        "faces": torch.zeros(2, CROP, CROP, 3, dtype=torch.uint8),
    }
    _export(AppearanceEncoders(appearance), crops, ["latents"], out / "encode.onnx", {"faces"})
    drawn = {
        "landmark_images": torch.zeros(2, 3, CROP, CROP),
        "latents": torch.zeros(2, appearance.config.app + 48, 40, 44),
        "references": torch.zeros(2, 3, CROP, CROP, 3, dtype=torch.uint8),
        "flows": torch.zeros(2, 3, 2, *flow_shape()),
    }
    _export(AppearanceDecoder(appearance), drawn, ["pictures"], out / "decode.onnx", set(drawn))
