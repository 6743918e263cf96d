"""Taking the mouth's neighbourhood from the references: flows, blending weights, and the looking up."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mytalk.landmarks.warp import FINE, FLOW_COLUMNS, FLOW_ROWS, WINDOW_COLUMNS, WINDOW_ROWS, finer
from mytalk.landmarks.warp import FLOW_STRIDE as STRIDE
from mytalk.models.folding import ConvRelu

REFERENCES = 3
# The flow's nodes are latent pixels; here they count from the window's corner.
NEAR_ROWS = (FLOW_ROWS[0] - WINDOW_ROWS[0], FLOW_ROWS[1] - WINDOW_ROWS[0])
NEAR_COLUMNS = (FLOW_COLUMNS[0] - WINDOW_COLUMNS[0], FLOW_COLUMNS[1] - WINDOW_COLUMNS[0])
HEIGHT, WIDTH = (STRIDE * (end - begin) for begin, end in (WINDOW_ROWS, WINDOW_COLUMNS))
FLOW_UNIT_PX = 4.0  # crop pixels in a unit of the decoder's correction of the flow
FLOW_SCALE_PX = 8.0  # what a flow is divided by before a network sees it
FLOW_WIDTH = 32
LOGIT_GAIN = 6.0  # learns decisions between references faster than the rest of the network
FADE_PX = 12  # the warped neighbourhood fades into the base over so many pixels, so that its edge is not seen
TRAINED_FINE = 2  # samples in a pixel while training, interpolated bilinearly: nearly as sharp, and smooth


class Warp(nn.Module):
    """Puts what the references hold of the mouth's neighbourhood over the base: → RGB [B, 3, 160, 176].

    Two heads correct the flow of each reference and weigh the warped references and the base against each
    other, at latent resolution. ``by_flow`` sees the flows: where one stretches, its reference has nothing
    to show, as a closed mouth has no teeth.
    """

    grid: Tensor
    fade: Tensor
    down: Tensor
    across: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(width, 3 * REFERENCES + 1, 3, 1, 1)
        # Training starts from the landmarks' flow.
        last = nn.Conv2d(FLOW_WIDTH, 3 * REFERENCES + 1, 3, 1, 1)
        for head in (self.head, last):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.get_parameter("bias"))
        self.by_flow = nn.Sequential(ConvRelu(width + 2 * REFERENCES, FLOW_WIDTH), last)
        rows, columns = (
            torch.arange(begin * STRIDE, end * STRIDE) + 0.5 for begin, end in (NEAR_ROWS, NEAR_COLUMNS)
        )
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        inwards = [
            torch.minimum(at - at[0], at[-1] - at).add(0.5).div(FADE_PX).clamp(max=1)
            for at in (rows, columns)
        ]
        # Positions in the window, pixels: [2, 144, 144], x and y as in a flow.
        self.register_buffer("grid", torch.stack([x, y]), persistent=False)
        self.register_buffer("fade", inwards[0][:, None] * inwards[1], persistent=False)
        for name, size in (("down", HEIGHT), ("across", WIDTH)):
            matrix = torch.from_numpy(finer((0, size), size, TRAINED_FINE))
            self.register_buffer(name, matrix, persistent=False)

    def forward(self, features: Tensor, base: Tensor, references: Tensor, flows: Tensor) -> Tensor:
        """Warp and blend.

        features: [B, width, 40, 44]. base: [B, 3, 160, 176]. references: windows [B, 3, 3, 160, 176], or what
        ``landmarks.warp.fine_windows`` makes of them, uint8 [B, 3, 3, 480, 528], which costs less and has no
        gradient. flows: [B, 3, 2, 36, 36], crop pixels.
        """
        (top, bottom), (left, right) = NEAR_ROWS, NEAR_COLUMNS
        seen = torch.cat([features[..., top:bottom, left:right], flows.flatten(1, 2) / FLOW_SCALE_PX], dim=1)
        given = (self.head(features)[..., top:bottom, left:right] + LOGIT_GAIN * self.by_flow(seen)).float()
        flow = _spread(FLOW_UNIT_PX * given[:, : 2 * REFERENCES] + flows.flatten(1, 2))
        shares = given[:, 2 * REFERENCES :].softmax(dim=1)
        where = self.grid + flow.unflatten(1, (REFERENCES, 2))
        looked_up = references.dtype == torch.uint8
        warped = self._looked_up(references, where) if looked_up else self._interpolated(references, where)
        # Shares of the base, and of the references at their scale of brightness.
        scales = torch.ones(REFERENCES + 1, 1, 1, device=shares.device)
        scales[:REFERENCES] = 1 / 255 if looked_up else 1.0
        weights = _spread(shares * scales)
        rows, columns = (slice(STRIDE * begin, STRIDE * end) for begin, end in (NEAR_ROWS, NEAR_COLUMNS))
        found = (weights[:, REFERENCES:] - 1) * base[..., rows, columns]  # what replaces the base, less it
        for number in range(REFERENCES):
            found = found + weights[:, number : number + 1] * warped[:, number]
        margins = (columns.start, WIDTH - columns.stop, rows.start, HEIGHT - rows.stop)
        return base + F.pad(self.fade * found, margins)

    def _interpolated(self, references: Tensor, where: Tensor) -> Tensor:
        """References at positions [B, 3, 2, 144, 144] of the window: [B, 3, 3, 144, 144]."""
        with torch.autocast(references.device.type, enabled=False):  # in bfloat16 colours would be coarse
            fine = self.down @ references.flatten(0, 1).float() @ self.across.T
        size = torch.tensor([WIDTH, HEIGHT], dtype=where.dtype, device=where.device)
        places = 2 * where.flatten(0, 1).permute(0, 2, 3, 1) / size - 1
        found = F.grid_sample(fine, places, mode="bilinear", padding_mode="border", align_corners=False)
        return found.unflatten(0, (-1, REFERENCES))

    def _looked_up(self, references: Tensor, where: Tensor) -> Tensor:
        """The same by rounding, in 0..255: one gather of single values."""
        size = torch.tensor([FINE * WIDTH, FINE * HEIGHT], dtype=where.dtype, device=where.device)
        place = (FINE * where).clamp(min=0).minimum((size - 1)[:, None, None]).floor()
        # Sums of whole numbers below 2^24 are exact in float32.
        index = (place[:, :, 0] + size[0] * place[:, :, 1]).long().flatten(2)
        index = index[:, :, None].expand(-1, -1, 3, -1)
        return references.flatten(3).gather(3, index).float().unflatten(3, where.shape[3:])


def _spread(x: Tensor) -> Tensor:
    """Node values to pixels: [B, C, 36, 36] → [B, C, 144, 144]."""
    return F.interpolate(x, scale_factor=STRIDE, mode="bilinear")
