"""A network of Wav2Lip's size at 96×96, to measure ours against: 4.0 G multiply-adds, 36M parameters.

Written afresh from those two figures: a picture encoder (masked face and reference), a speech encoder, and a
decoder with skips; 3×3 convolutions with norms folded away, as a runtime would fold them. The weights are
random, since only its speed counts.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from mytalk.models.quiet import quiet

SIDE = 96
INPUTS = {"faces": (6, SIDE, SIDE), "speech": (1, 80, 16)}
WIDTHS = (16, 32, 64, 128, 256, 512)  # of the picture encoder at 96, 48, 24, 12, 6, 3 pixels
UP_WIDTHS = (512, 512, 384, 256, 128, 64)  # of the decoder at 3, 6, 12, 24, 48, 96 pixels


class Layer(nn.Sequential):
    """Convolution and ReLU."""

    def __init__(
        self, cin: int, cout: int, stride: int | tuple[int, int] = 1, size: int = 3, pad: int = 1
    ) -> None:
        super().__init__(nn.Conv2d(cin, cout, size, stride, pad), nn.ReLU())


class Same(nn.Module):
    """A 3×3 convolution with a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, 1, 1)
        nn.init.normal_(self.conv.weight, 0, 0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return torch.relu(x + self.conv(x))


class Up(nn.Sequential):
    """Twice the side by a transposed convolution, then layers of the same width."""

    def __init__(self, cin: int, cout: int, layers: int) -> None:
        super().__init__(
            nn.ConvTranspose2d(cin, cout, 3, 2, 1, output_padding=1),
            nn.ReLU(),
            *(Same(cout) for _ in range(layers)),
        )


class Rival(nn.Module):
    """Faces [B, 6, 96, 96] and log-mel [B, 1, 80, 16] → mouths [B, 3, 96, 96], 0..1."""

    def __init__(self) -> None:
        super().__init__()
        down: list[nn.Module] = [Layer(6, WIDTHS[0], 1, 7, 3)]
        for cin, cout in pairwise(WIDTHS):
            same = 1 if cout == WIDTHS[-1] else 2
            down.append(nn.Sequential(Layer(cin, cout, 2), *(Same(cout) for _ in range(same))))
        down.append(nn.Sequential(Layer(WIDTHS[-1], 512, 1, 3, 0), Layer(512, 512, 1, 1, 0)))
        self.down = nn.ModuleList(down)
        self.speech = nn.Sequential(
            *(Layer(1, 32), Same(32), Layer(32, 64, (3, 1)), Same(64), Same(64)),
            *(Layer(64, 128, 3), Same(128), Same(128), Layer(128, 256, (3, 2)), Same(256)),
            *(Layer(256, 512, 1, 3, 0), Layer(512, 512, 1, 1, 0)),
        )
        self.first = nn.Sequential(nn.ConvTranspose2d(1024, UP_WIDTHS[0], 3), nn.ReLU(), Same(UP_WIDTHS[0]))
        skips = WIDTHS[::-1]
        self.up = nn.ModuleList(
            Up(cin + skip, cout, 2) for cin, skip, cout in zip(UP_WIDTHS, skips, UP_WIDTHS[1:], strict=False)
        )
        self.out = nn.Sequential(
            Layer(UP_WIDTHS[-1] + WIDTHS[0], 32), Same(32), nn.Conv2d(32, 3, 1), nn.Sigmoid()
        )

    def forward(self, faces: Tensor, speech: Tensor) -> Tensor:
        """Mouths."""
        seen, x = [], faces
        for layer in self.down:
            x = layer(x)
            seen.append(x)
        x = self.first(torch.cat([x, self.speech(speech)], dim=1))
        for layer, skip in zip(self.up, seen[-2:0:-1], strict=True):
            x = layer(torch.cat([x, skip], dim=1))
        mouths: Tensor = self.out(torch.cat([x, seen[0]], dim=1))
        return mouths


def build_rival() -> Rival:
    """The network, ready to run; the same weights every time."""
    torch.manual_seed(0)
    return Rival().eval()


def export_rival(path: Path) -> None:
    """Write it as ONNX with a free batch size."""
    batch = torch.export.Dim("batch", min=1, max=64)
    given = tuple(torch.rand(2, *shape) for shape in INPUTS.values())
    with torch.no_grad(), quiet():
        program = torch.onnx.export(
            build_rival(),
            given,
            input_names=list(INPUTS),
            output_names=["mouths"],
            dynamo=True,
            dynamic_shapes=({0: batch}, {0: batch}),
            opset_version=20,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch could not export the network to compare with")
    program.save(str(path))
