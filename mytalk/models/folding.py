"""Layers of the tiny appearance network, in the forms that inference runtimes are fast at.

A runtime spends as long on a pixel shuffle as on a convolution, since it moves single values. So where the
network goes from pixels to folded ones, a convolution with a stride takes the picture as it is; and where it
goes back, the channels lie in the order of the pixels, so that runs of whole pixels are moved.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class ConvRelu(nn.Sequential):
    """3×3 convolution and ReLU: [B, C, H, W] → [B, C', H/s, W/s]."""

    def __init__(self, cin: int, cout: int, stride: int = 1) -> None:
        convolution = nn.Conv2d(cin, cout, 3, stride, 1)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        super().__init__(convolution, nn.ReLU(inplace=True))


class ResBlock(nn.Module):
    """Two 3×3 convolutions with a skip: [B, C, H, W] → the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvRelu(channels, channels)
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1)
        # A block starts as the identity: this is what makes depth trainable without norms.
        nn.init.zeros_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Add the residual and rectify."""
        return F.relu(x + self.conv(self.first(x)))


class FoldedConv(nn.Conv2d):
    """A 3×3 convolution of a picture folded by ``factor``: [B, C, f H, f W] → [B, C', H, W]."""

    def __init__(self, cin: int, cout: int, factor: int) -> None:
        super().__init__(cin, cout, 3 * factor, factor, factor)
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")


class SpreadConv(nn.Module):
    """A convolution to twice the size: [B, C, H, W] → [B, C', 2 H, 2 W].

    Its channels are (row, column, channel) of the four pixels that each position becomes.
    """

    def __init__(self, cin: int, cout: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout * 4, kernel, 1, kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and unfold."""
        folded = self.conv(x).permute(0, 2, 3, 1)
        height, width, channels = folded.shape[1:]
        rows = folded.unflatten(3, (2, -1)).transpose(2, 3)  # [B, H, 2, W, 2 C']
        return rows.reshape(-1, 2 * height, 2 * width, channels // 4).permute(0, 3, 1, 2)
