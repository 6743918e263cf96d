"""Convolutions in other shapes: the same function, with pixels of a row as channels.

int8 kernels are several times faster where input channels are a multiple of 4 and output channels one of 16.
A row of pixels [W, C] lies in memory as [W / g, g C] does, so a convolution of few channels may take g pixels
as one, and give several pixels as one, at no cost but some products with zero. ``export/fold.py`` chooses;
``initialisers.py`` has to know, too, since a person's weights come in the shape that they were trained in.
"""

from __future__ import annotations

import re
from dataclasses import astuple, dataclass

import numpy as np

from mytalk.types import F32

MARK = "__folded_"


@dataclass(frozen=True, slots=True)
class Fold:
    """How a convolution [C', C, h, w] was folded.

    taken: pixels of a row that are one input position. given: that are one output position. stride, left:
    horizontal stride and padding of the convolution, in pixels. rows: its output channels are so many rows of
    pixels (``models.folding.SpreadConv``), and the pixels of each stay together. cin, cout: channels after
    folding; those beyond what is needed are zero.
    """

    taken: int
    given: int
    stride: int
    left: int
    rows: int
    cin: int
    cout: int

    def first(self) -> int:
        """Input position of the first tap, relative to that of the output."""
        return -self.left // self.taken

    def taps(self, width: int) -> int:
        """Taps across, in input positions, of a kernel ``width`` pixels wide."""
        last = ((self.given - 1) * self.stride - self.left + width - 1) // self.taken
        return last - self.first() + 1

    def weight(self, weight: F32) -> F32:
        """[C', C, h, w] → [cout, cin, h, taps], per output pixel shifted and else zero."""
        cout, cin, height, width = weight.shape
        taps = self.taps(width)
        made = np.zeros((self.given, cout, cin, height, taps * self.taken), weight.dtype)
        for pixel in range(self.given):
            start = pixel * self.stride - self.left - self.first() * self.taken
            made[pixel, ..., start : start + width] = weight
        by_tap = made.reshape(self.given, cout, cin, height, taps, self.taken)
        by_tap = by_tap.transpose(0, 1, 5, 2, 3, 4)  # channels of an input position are (pixel, channel)
        found = self._by_row(by_tap.reshape(self.given, cout, self.taken * cin, height, taps))
        spare = ((0, self.cout - len(found)), (0, self.cin - found.shape[1]), (0, 0), (0, 0))
        return np.pad(found, spare)

    def bias(self, bias: F32) -> F32:
        """[C'] → [cout]."""
        found = self._by_row(np.broadcast_to(bias, (self.given, *bias.shape)))
        return np.pad(found, (0, self.cout - len(found)))

    def _by_row(self, x: F32) -> F32:
        """[given, C', ...] → [given C', ...] in the order (row, pixel, rest of the channels)."""
        split = x.reshape(self.given, self.rows, -1, *x.shape[2:]).swapaxes(0, 1)
        return split.reshape(-1, *x.shape[2:])

    def marked(self, name: str) -> str:
        """A name that tells of it."""
        return name + MARK + "_".join(map(str, astuple(self)))


def told_fold(name: str) -> tuple[str, Fold | None]:
    """A name without its mark, and the fold that the mark tells of."""
    found = re.fullmatch(rf"(.*){MARK}((?:\d+_){{6}}\d+)", name)
    if found is None:
        return name, None
    return found[1], Fold(*map(int, found[2].split("_")))
