"""Which convolutions int8 harms most, and which to keep in float32 for a wanted closeness."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from export.quantise import Inputs, agreement_db, decoder_samples, quantise_graph
from mytalk.engines.initialisers import HALF, PREFIX
from mytalk.errors import MyTalkError
from mytalk.models.appearance import AppearanceModel

SAMPLES = 20  # calibration frames that layers are compared on: enough to rank them
RUNS = 15


@dataclass(frozen=True, slots=True)
class Layer:
    """One convolution kept in float32, all others in int8.

    name: its parameter. gain_db: how much closer pictures then are to float32, cost_ms: how much longer one
    takes (CPU time of one thread).
    """

    name: str
    gain_db: float
    cost_ms: float


def layers_of(source: Path) -> list[str]:
    """Parameters of a decoder's convolutions that can be kept, in the order of the graph."""
    weights = [
        node.input[1].removeprefix(PREFIX).removesuffix(HALF)
        for node in onnx.load(str(source)).graph.node
        if node.op_type == "Conv"
    ]
    return [name for name in weights if name.endswith(".weight")]


def compare_layers(source: Path, seen: list[Inputs], unseen: list[Inputs]) -> tuple[float, list[Layer]]:
    """PSNR in dB of the int8 twin of ``source``, and what each layer's stay in float32 would bring and cost.

    The twin is calibrated on ``seen`` and judged on ``unseen``, for each layer anew.
    """
    seen, unseen = (samples[:: max(1, len(samples) // SAMPLES)] for samples in (seen, unseen))
    with tempfile.TemporaryDirectory() as folder:
        twin, whole = Path(folder) / "one.onnx", Path(folder) / "all.onnx"
        quantise_graph(source, whole, seen)
        base, found = agreement_db(source, whole, unseen), []
        for name in layers_of(source):
            quantise_graph(source, twin, seen, [name])
            took = _took_ms([whole, twin], unseen[0])
            found.append(Layer(name, agreement_db(source, twin, unseen) - base, took[1] - took[0]))
    return base, sorted(found, key=lambda layer: -layer.gain_db)


def _took_ms(graphs: list[Path], sample: Inputs) -> list[float]:
    """Median CPU time of a picture, of each graph, in turns, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = [
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for path in graphs
    ]
    times: list[list[float]] = [[] for _ in sessions]
    for _ in range(RUNS):
        for session, taken in zip(sessions, times, strict=True):
            began = time.thread_time()
            session.run(None, sample)
            taken.append(1e3 * (time.thread_time() - began))
    return [float(np.median(taken)) for taken in times]


def quantise_within(
    model: AppearanceModel, source: Path, target: Path, calibration: Path, wanted_db: float
) -> tuple[float, Collection[str]]:
    """Write the int8 twin of ``source``, with as many convolutions in float32 as the wanted PSNR needs.

    Those that bring most go first. Returns the PSNR in dB on held-out clips, and the kept parameters. Raises
    ``BadInput`` if ``calibration`` is no file of ``training.calibration``, and ``MyTalkError`` if it cannot
    be reached.
    """
    seen, unseen = (decoder_samples(model, calibration, held_out=which) for which in (False, True))
    kept: list[str] = []
    quantise_graph(source, target, seen)
    reached = agreement_db(source, target, unseen)
    if reached >= wanted_db:
        return reached, kept
    for layer in compare_layers(source, seen, unseen)[1]:
        kept.append(layer.name)
        quantise_graph(source, target, seen, kept)
        reached = agreement_db(source, target, unseen)
        if reached >= wanted_db:
            return reached, kept
    raise MyTalkError(
        f"int8 cannot come within {wanted_db:g} dB of float32: {reached:.1f} dB on held-out clips"
    )
