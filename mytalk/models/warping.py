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

    Node values become pixels by products with matrices, which runtimes are faster at than at resizing; the
    fade at the edges is in the weights' own matrices.
    """

    grid: Tensor
    spread_down: Tensor
    spread_across: Tensor
    faded_down: Tensor
    faded_across: Tensor
    down: Tensor
    across: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        # Without padding: it is given the neighbourhood and one node more on each side.
        self.head = nn.Conv2d(width, 3 * REFERENCES + 1, 3)
        # Training starts from the landmarks' flow.
        last = nn.Conv2d(FLOW_WIDTH, 3 * REFERENCES + 1, 3, 1, 1)
        for head in (self.head, last):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.get_parameter("bias"))
        self.by_flow = nn.Sequential(ConvRelu(width + 2 * REFERENCES, FLOW_WIDTH), last)
        rows, columns = (
            torch.arange(begin * STRIDE, end * STRIDE) + 0.5 for begin, end in (NEAR_ROWS, NEAR_COLUMNS)
        )
        # Pixels' positions in the window: x [1, 1, 1, 144] and y [1, 1, 144, 1] would be broadcast slowly.
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        buffers = {"grid": torch.stack([x, y])[:, None]}
        for name, at, count in (("down", rows, NEAR_ROWS), ("across", columns, NEAR_COLUMNS)):
            inwards = torch.minimum(at - at[0], at[-1] - at).add(0.5).div(FADE_PX).clamp(max=1)
            matrix = _spreading(count[1] - count[0])
            faded = (inwards[:, None] * matrix).half().float()  # exported graphs store it in 16 bits
            for kind, made in (("spread", matrix), ("faded", faded)):
                buffers[f"{kind}_{name}"] = made if name == "down" else made.T.contiguous()
        for name, size in (("down", HEIGHT), ("across", WIDTH)):
            buffers[name] = torch.from_numpy(finer((0, size), size, TRAINED_FINE))
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer, persistent=False)

    def forward(self, features: Tensor, base: Tensor, references: Tensor, flows: Tensor) -> Tensor:
        """Warp and blend.

        features: [B, width, 40, 44]. base: [B, 3, 160, 176]. references: windows [B, 3, 3, 160, 176], or what
        ``landmarks.warp.fine_windows`` makes of them, uint8 [B, 3, 3, 480, 528], which costs less and has no
        gradient. flows: [B, 3, 2, 36, 36], crop pixels.
        """
        (top, bottom), (left, right) = NEAR_ROWS, NEAR_COLUMNS
        around = features[..., top - 1 : bottom + 1, left - 1 : right + 1]
        seen = torch.cat([around[..., 1:-1, 1:-1], flows.flatten(1, 2) / FLOW_SCALE_PX], dim=1)
        given = (self.head(around) + LOGIT_GAIN * self.by_flow(seen)).float()
        flow = FLOW_UNIT_PX * given[:, : 2 * REFERENCES] + flows.flatten(1, 2)
        shares = given[:, 2 * REFERENCES :].softmax(dim=1)
        looked_up = references.dtype == torch.uint8
        read = self._looked_up if looked_up else self._interpolated
        warped = read(references, flow[:, 0::2], flow[:, 1::2])
        # Shares of the references at their scale of brightness, and what the base gives up for them.
        scales = torch.ones(REFERENCES + 1, 1, 1, device=shares.device)
        scales[:REFERENCES] = 1 / 255 if looked_up else 1.0
        given_up = torch.zeros(REFERENCES + 1, 1, 1, device=shares.device)
        given_up[REFERENCES:] = 1.0
        weights = self.faded_down @ (shares * scales - given_up) @ self.faded_across
        rows, columns = (slice(STRIDE * begin, STRIDE * end) for begin, end in (NEAR_ROWS, NEAR_COLUMNS))
        found = weights[:, REFERENCES:] * base[..., rows, columns]
        for number in range(REFERENCES):
            found = found + weights[:, number : number + 1] * warped[:, number]
        margins = (columns.start, WIDTH - columns.stop, rows.start, HEIGHT - rows.stop)
        return base + F.pad(found, margins)

    def _places(self, x: Tensor, y: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Where each pixel is found, in units of 1 / scale pixels of the window: x, y [B, 3, 144, 144]."""
        across, down = (
            self.spread_down @ (scale * flow) @ self.spread_across + scale * at
            for flow, at in zip((x, y), self.grid, strict=True)
        )
        return across, down

    def _interpolated(self, references: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """References along the flows x, y [B, 3, 36, 36]: [B, 3, 3, 144, 144]."""
        with torch.autocast(references.device.type, enabled=False):  # in bfloat16 colours would be coarse
            fine = self.down @ references.flatten(0, 1).float() @ self.across.T
            where = torch.stack(self._places(x, y, 1.0), dim=-1)
        size = torch.tensor([WIDTH, HEIGHT], dtype=where.dtype, device=where.device)
        places = 2 * where.flatten(0, 1) / size - 1
        found = F.grid_sample(fine, places, mode="bilinear", padding_mode="border", align_corners=False)
        return found.unflatten(0, (-1, REFERENCES))

    def _looked_up(self, references: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """The same by rounding, in 0..255: one gather of single values."""
        across, down = self._places(x, y, FINE)
        across, down = across.clamp(0, FINE * WIDTH - 1), down.clamp(0, FINE * HEIGHT - 1).floor()
        # Whole numbers below 2^18 leave float32 six bits for the fraction, which are cut off.
        index = (across + FINE * WIDTH * down).long().flatten(2)
        index = index[:, :, None].expand(-1, -1, 3, -1)
        return references.flatten(3).gather(3, index).float().unflatten(3, across.shape[2:])


def _spreading(count: int) -> Tensor:
    """Matrix [4 count, count] that makes pixels of node values, bilinearly, the last ones repeated."""
    return F.interpolate(torch.eye(count)[None], scale_factor=STRIDE, mode="linear")[0].T.contiguous()
