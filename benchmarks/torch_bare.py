"""Bare networks in torch on the CPU: what its engines are held against, as ONNX files are for the others."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

from benchmarks.floor import LAYERS
from benchmarks.rival import INPUTS, build_rival


def build_chain(channels: int) -> nn.Module:
    """The chain of convolutions that ``floor.write_convolutions`` writes as ONNX."""
    layers: list[nn.Module] = []
    for _ in range(LAYERS):
        convolution = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        nn.init.normal_(convolution.weight, 0, 1 / math.sqrt(4.5 * channels))
        layers += [convolution, nn.ReLU()]
    return nn.Sequential(*layers)


def timed(bf16: bool, chain: Sequence[int] | None, threads: int | None) -> Callable[[int], float]:
    """A call that runs so many samples once and returns the seconds that it took, without making its input.

    chain: (channels, side) of convolutions; None: the compared network.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    dtype = torch.bfloat16 if bf16 else torch.float32
    network = build_rival() if chain is None else build_chain(chain[0])
    network = network.eval().requires_grad_(requires_grad=False)
    network.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    shapes = list(INPUTS.values()) if chain is None else [(chain[0], chain[1], chain[1])]

    def run(count: int) -> float:
        given = [torch.rand(count, *shape).to(dtype, memory_format=torch.channels_last) for shape in shapes]
        begin = time.perf_counter()
        with torch.inference_mode():
            network(*given)
        return time.perf_counter() - begin

    return run
