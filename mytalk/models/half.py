"""Convolutions in 16 bits inside a float32 network: what graphics cards are fast at."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class HalfConvolution(nn.Module):
    """A convolution whose weights and arithmetic are 16-bit; it takes any float input.

    What follows it stays in 16 bits until it meets float32, as PyTorch's rules of promotion have it, so that
    flows, positions and pictures, which are float32, keep their precision.
    """

    def __init__(self, convolution: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        weight = convolution.weight.detach().to(dtype)
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last), requires_grad=False)
        bias = convolution.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach().to(dtype), requires_grad=False)
        self.stride, self.padding = convolution.stride, convolution.padding
        self.dilation, self.groups = convolution.dilation, convolution.groups

    def forward(self, x: Tensor) -> Tensor:
        """Convolve [B, C, H, W] in 16 bits."""
        return F.conv2d(
            x.to(self.weight.dtype),
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )


def in_half(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of a network with every 2-D convolution in ``dtype`` (bfloat16 or float16)."""
    made = copy.deepcopy(module)
    for parent in list(made.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d):
                setattr(parent, name, HalfConvolution(child, dtype))
    return made.eval()
