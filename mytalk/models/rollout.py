"""A whole sequence generated block by block on its own past, as it streams (design section 4), in torch.

Training takes self-generated prefixes from here: a model that has only seen true pasts drifts on its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mytalk.models.conformer import rotary_tables
from mytalk.models.motion import MotionModel

Memory = tuple[Tensor, Tensor, Tensor]


def kept(memory: Memory | None, new: Memory, window: int, tail: int) -> Memory:
    """Memory (keys, values [B, L, H, ≤ W, d]; tails) with a block's behind it, gated inputs [B, L, T, D]."""
    parts = (
        new if memory is None else tuple(torch.cat(pair, dim=-2) for pair in zip(memory, new, strict=True))
    )
    keys, values, gates = parts
    if gates.shape[2] < tail:
        gates = torch.nn.functional.pad(gates, (0, 0, tail - gates.shape[2], 0))
    return keys[..., -window:, :], values[..., -window:, :], gates[:, :, gates.shape[2] - tail :]


@torch.no_grad()
def roll_out(
    model: MotionModel,
    noise: Tensor,
    speech: Tensor,
    upper: Tensor,
    identity: Tensor,
    blocks: Tensor,
    steps: int,
) -> Tensor:
    """Coefficients [B, F, C] of a block-causal model that hears only what it made itself.

    noise [B, F, C]; speech [B, F, audio_dim]; upper [B, F, U]; identity [B, condition width]; blocks int64
    [F], sorted block ids; steps: of the sampler, for each block.
    """
    config, memory, made = model.config, None, []
    _, sizes = torch.unique_consecutive(blocks, return_counts=True)
    start = 0
    for size in sizes.tolist():
        part = slice(start, start + size)
        positions = torch.arange(start, start + size, device=noise.device)[None]
        rotary = rotary_tables(positions, config.dim // config.heads)
        known = 0 if memory is None else memory[0].shape[-2]
        mask = torch.ones(1, 1, size, known + size, dtype=torch.bool, device=noise.device)
        given = (speech[:, part], upper[:, part], identity, rotary, mask, memory)
        clean = model.sample(noise[:, part], *given, steps).to(noise.dtype)
        level = torch.zeros(clean.shape[:2], device=noise.device)
        _, keys, values, gates = model.denoiser(clean, level, *given)
        memory = kept(memory, (keys, values, gates), config.window, config.kernel - 1)
        made.append(clean)
        start += size
    return torch.cat(made, dim=1)
