"""Torch modules → ONNX graphs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from export.graph import tidy
from mytalk.clock import exact_div
from mytalk.engines.bundle import MOTION_WEIGHTS, motion_graph
from mytalk.errors import MyTalkError
from mytalk.landmarks.layout import load_layout
from mytalk.landmarks.warp import fine_shape, flow_shape
from mytalk.models.conformer import rotary_tables
from mytalk.models.motion import AUDIO_PER_FRAME, MEL_PER_AUDIO_FRAME, AudioEncoder, MotionModel
from mytalk.models.quiet import quiet
from mytalk.models.serving import Appearance, decoder_of, encoders_of, latent_shape, picture_side
from mytalk.models.streaming import StreamingHop, hearing_of, initial_hearing, initial_state
from mytalk.models.warping import REFERENCES

OPSET = 20
EXTERNAL_BYTES = 1024  # smaller tensors stay in the graph
ALIGNMENT = 64
KNOWN_EXAMPLE = 3  # frames known last, of an example


def motion_example(model: MotionModel, count: int = 1, seed: int = 0) -> dict[str, Tensor]:
    """Random inputs of the streamed hop, by name, in the order of ``StreamingHop.forward``."""
    config, random = model.config, torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=random)

    known, width = KNOWN_EXAMPLE, config.dim // config.heads
    rotary = [
        rotary_tables(torch.arange(first, last).expand(count, -1), width)
        for first, last in ((10 + known, 10 + known + config.tokens), (10, 10 + known))
    ]
    keys, values, conv = initial_state(config, count)
    return {
        "speech": normal(config.tokens, config.audio_dim),
        "upper": 0.02 * normal(config.tokens, config.upper),
        "identity": normal(config.condition_width) / 8,
        "noise": normal(config.tokens, config.coefficients),
        "cos": rotary[0][0],
        "sin": rotary[0][1],
        "tokens": torch.full((count,), 4),
        "keys": keys,
        "values": values,
        "conv": conv,
        "filled": torch.zeros(count, config.window, dtype=torch.bool),
        "kept": torch.zeros(count, config.window, dtype=torch.bool),
        "ready": torch.ones(count, dtype=torch.bool),
        "known_speech": normal(known, config.audio_dim),
        "known_upper": 0.02 * normal(known, config.upper),
        "known_cos": rotary[1][0],
        "known_sin": rotary[1][1],
        "clean": normal(known, config.coefficients),
        "given": 0.1 * normal(known, config.compact * 3),
        "use_given": torch.zeros(count, known),
    }


def _program(
    module: nn.Module, inputs: dict[str, Tensor], outputs: list[str], shapes: tuple[Any, ...]
) -> onnx.ModelProto:
    """A module as an ONNX graph; shapes: for each input, its free sizes by axis, or None."""
    with torch.no_grad(), quiet():
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
        raise MyTalkError(f"torch could not export {type(module).__name__}")
    return _store_half(tidy(program.model_proto))


def _export(
    module: nn.Module, inputs: dict[str, Tensor], outputs: list[str], path: Path, batched: set[str]
) -> None:
    batch = torch.export.Dim("batch", min=1, max=64)
    shapes = tuple({0: batch} if name in batched else None for name in inputs)
    onnx.save(_program(module, inputs, outputs, shapes), str(path))


def hearing_example(model: MotionModel, count: int = 1, seed: int = 0) -> dict[str, Tensor]:
    """Random inputs of what hears for a hop, by name, in the order of its ``forward``."""
    config, random = model.config, torch.Generator().manual_seed(seed)
    if not isinstance(model.audio, AudioEncoder):
        width = config.mels if config.speech == "log_mel" else config.speech_width
        return {"log_mel": torch.randn(count, config.mel_frames, width, generator=random)}
    frames = AUDIO_PER_FRAME * config.tokens + 1
    mel = torch.randn(count, MEL_PER_AUDIO_FRAME * frames + 2, config.mels, generator=random) - 6
    places = torch.arange(frames).expand(count, -1)
    cos, sin = rotary_tables(places, config.audio_dim // config.audio_heads)
    memory = dict(zip(("keys", "values", "conv", "last"), initial_hearing(config, count), strict=True))
    filled = torch.ones(count, config.audio_band - 1, dtype=torch.bool)
    return {"log_mel": mel, "cos": cos, "sin": sin, **memory, "filled": filled}


def _hop_shapes(model: MotionModel, inputs: dict[str, Tensor]) -> tuple[Any, ...]:
    """Free sizes of the streamed hop's inputs: the batch and the tokens."""
    batch = torch.export.Dim("batch", min=1, max=64)
    tokens = torch.export.Dim("tokens", min=1, max=model.config.tokens)
    known = torch.export.Dim("known", min=1, max=2 * model.config.tokens)
    along = dict.fromkeys(("speech", "upper", "noise", "cos", "sin"), tokens)
    parts = ("known_speech", "known_upper", "known_cos", "known_sin", "clean", "given", "use_given")
    along |= dict.fromkeys(parts, known)
    return tuple({0: batch, 1: along[name]} if name in along else {0: batch} for name in inputs)


def _hearing_shapes(model: MotionModel, inputs: dict[str, Tensor]) -> tuple[Any, ...]:
    """Free sizes of what hears: the batch, the tokens, and with them the speech."""
    config = model.config
    batch = torch.export.Dim("batch", min=1, max=64)
    if not isinstance(model.audio, AudioEncoder):
        tokens = torch.export.Dim("tokens", min=1, max=config.tokens)
        context = config.speech_frames(0)
        per_token = exact_div(config.mel_frames - context, config.tokens)
        return ({0: batch, 1: per_token * tokens + context},)
    before = exact_div(
        config.left_audio_frames, AUDIO_PER_FRAME
    )  # tokens that are heard at an utterance's start
    tokens = torch.export.Dim("tokens", min=1, max=before + config.tokens)
    frames = AUDIO_PER_FRAME * tokens + 1
    along = {"log_mel": MEL_PER_AUDIO_FRAME * AUDIO_PER_FRAME * tokens + 4, "cos": frames, "sin": frames}
    return tuple({0: batch, 1: along[name]} if name in along else {0: batch} for name in inputs)


def export_motion(model: MotionModel, step_counts: Sequence[int], out: Path) -> None:
    """Write hear.onnx, motion_{steps}.onnx for each step count, and the weights of all, once, beside them."""
    inputs = motion_example(model, 2)
    names = ["displacement", "coefficients", "new_keys", "new_values", "new_gates"]
    shapes = _hop_shapes(model, inputs)
    graphs = {
        motion_graph(steps): _program(StreamingHop(model, steps), inputs, names, shapes)
        for steps in sorted(step_counts, reverse=True)
    }
    inputs = hearing_example(model, 2)
    names = ["speech", "new_keys", "new_values", "new_gates", "frames"]
    whole = names[:1] if len(inputs) == 1 else names
    graphs["hear"] = _program(hearing_of(model), inputs, whole, _hearing_shapes(model, inputs))
    weights = bytearray()
    places: dict[bytes, int] = {}  # content → where it lies in the file
    for name, graph in graphs.items():
        _turn_back(graph, places)
        for tensor in graph.graph.initializer:
            _move_out(tensor, weights, places)
        onnx.save(graph, str(out / f"{name}.onnx"))
    (out / MOTION_WEIGHTS).write_bytes(weights)


def _turn_back(graph: onnx.ModelProto, places: Mapping[bytes, int]) -> None:
    """Let a graph turn over weights that lie the other way around in the file already, at load.

    The exporter turns those that a graph uses once, so a graph of one step would have a copy of nearly all.
    """
    turns = []
    for tensor in graph.graph.initializer:
        if len(tensor.dims) != 2:
            continue
        array = onnx.numpy_helper.to_array(tensor)
        turned = np.ascontiguousarray(array.T)
        if array.tobytes() not in places and turned.tobytes() in places:
            name = tensor.name
            tensor.CopyFrom(onnx.numpy_helper.from_array(turned, f"{name}__turned"))
            turns.append(onnx.helper.make_node("Transpose", [tensor.name], [name], perm=[1, 0]))
    nodes = [*turns, *graph.graph.node]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)


def _move_out(tensor: onnx.TensorProto, weights: bytearray, places: dict[bytes, int]) -> None:
    """Store a large tensor's content in ``weights`` (once, whoever has it) and refer to it from the graph."""
    content = onnx.numpy_helper.to_array(tensor).tobytes()
    if len(content) < EXTERNAL_BYTES:
        return
    if content not in places:
        weights.extend(b"\0" * (-len(weights) % ALIGNMENT))
        places[content] = len(weights)
        weights.extend(content)
    _refer(tensor, MOTION_WEIGHTS, places[content], len(content))


def share_weights(graph: Path, weights: Path) -> None:
    """Let a graph read from a safetensors file beside it what lies there already, so that it is shipped once.

    A safetensors file is a length, a table of names and places, and then the numbers as they are.
    """
    content = weights.read_bytes()
    size = int.from_bytes(content[:8], "little")
    places: dict[bytes, tuple[int, int]] = {}
    for name, about in json.loads(content[8 : 8 + size]).items():
        if name != "__metadata__":
            first, last = (8 + size + offset for offset in about["data_offsets"])
            places.setdefault(content[first:last], (first, last - first))
    model = onnx.load(str(graph))
    for tensor in model.graph.initializer:
        numbers = onnx.numpy_helper.to_array(tensor).tobytes()
        if len(numbers) >= EXTERNAL_BYTES and numbers in places:
            _refer(tensor, weights.name, *places[numbers])
    onnx.save(model, str(graph))


def _refer(tensor: onnx.TensorProto, file: str, offset: int, length: int) -> None:
    """Take a tensor's numbers out of its graph: they lie in a file beside it."""
    tensor.raw_data = b"moved"  # onnx wants to see raw data before it is told that there is none
    onnx.external_data_helper.set_external_data(tensor, file, offset=offset, length=length)
    for field in ("raw_data", "float_data", "int32_data", "int64_data"):
        tensor.ClearField(field)


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
    motion: MotionModel,
    identity: nn.Module,
    appearance: Appearance,
    step_counts: Sequence[int],
    out: Path,
) -> None:
    """Write motion_{steps}, identity, encode and decode.onnx into ``out``; batches are of any size."""
    out.mkdir(parents=True, exist_ok=True)
    export_motion(motion, step_counts, out)
    faces = {"landmarks": torch.zeros(2, load_layout().points, 2)}
    _export(identity, faces, ["embedding"], out / "identity.onnx", {"landmarks"})
    export_appearance(appearance, out)


def export_appearance(appearance: Appearance, out: Path) -> None:
    """Write {encode,decode}.onnx of any size into ``out``; pictures have the side that the model works on."""
    out.mkdir(parents=True, exist_ok=True)
    side = picture_side(appearance)
    crops = {
        "references": torch.zeros(3, side, side, 3, dtype=torch.uint8),
        "faces": torch.zeros(2, side, side, 3, dtype=torch.uint8),
    }
    _export(encoders_of(appearance), crops, ["latents"], out / "encode.onnx", {"faces"})
    drawn = {
        "landmark_images": torch.zeros(2, 3, side, side),
        "latents": torch.zeros(2, *latent_shape(appearance)),
        "references": torch.zeros(2, REFERENCES, *fine_shape(), dtype=torch.uint8),
        "flows": torch.zeros(2, 3, 2, *flow_shape()),
    }
    _export(decoder_of(appearance), drawn, ["pictures"], out / "decode.onnx", set(drawn))
