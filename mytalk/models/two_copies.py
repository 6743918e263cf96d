"""Training a block-causal denoiser on every frame at once: a clean and a noised copy (design section 4).

As in block diffusion: the sequence is given twice. The clean copy (noise level 0) is the past as it streams:
a frame of it sees clean frames of its own and earlier blocks. The noised copy sees the clean frames of
earlier blocks and the noised ones of its own. One pass then predicts x0 of every block exactly as a streamed
hop with that past would, so every frame gives loss.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mytalk.models.motion import Denoiser


def two_copy_mask(blocks: Tensor, window: int) -> Tensor:
    """Who may attend to whom, bool [1, 1, 2 F, 2 F], clean copy first.

    blocks: int64 [F], sorted block ids. window: how many frames before its block a frame still sees.
    """
    index = torch.arange(len(blocks), device=blocks.device)
    start = torch.searchsorted(blocks, blocks)
    near = index[None] >= start[:, None] - window
    same, earlier = blocks[None] == blocks[:, None], blocks[None] < blocks[:, None]
    clean = torch.cat([(same | earlier) & near, torch.zeros_like(same)], dim=1)
    noised = torch.cat([earlier & near, same], dim=1)
    return torch.cat([clean, noised])[None, None]


def own_block(blocks: Tensor, kernel: int) -> Tensor:
    """Whether the frame j places earlier lies in the same block, bool [kernel, F]."""
    index = torch.arange(len(blocks), device=blocks.device)
    back = index[None] - torch.arange(kernel, device=blocks.device)[:, None]
    return (back >= 0) & (blocks[back.clamp_min(0)] == blocks[None])


def denoise_two_copies(
    denoiser: Denoiser,
    clean: Tensor,
    noised: Tensor,
    level: Tensor,
    speech: Tensor,
    upper: Tensor,
    identity: Tensor,
    rotary: tuple[Tensor, Tensor],
    blocks: Tensor,
    window: int,
) -> Tensor:
    """Predict x0 [B, F, C] of every noised frame.

    clean, noised [B, F, C]; level [B, F], constant within a block; speech [B, F, audio_dim]; upper [B, F, U];
    identity [B, condition_width]; rotary: cos, sin [B or 1, F, d/2]; blocks int64 [F], sorted. Causal models
    only.
    """
    config = denoiser.config
    both = torch.cat([clean, noised], dim=1)
    levels = torch.cat([torch.zeros_like(level), level], dim=1)
    x, time, contexts = denoiser.embed(both, levels, upper.repeat(1, 2, 1), identity)
    doubled = (rotary[0].repeat(1, 2, 1), rotary[1].repeat(1, 2, 1))
    mask, own = two_copy_mask(blocks, window), own_block(blocks, config.kernel)
    for block, project, context in zip(denoiser.blocks, denoiser.speech, contexts, strict=True):
        given = (x + time + project(speech).repeat(1, 2, 1), doubled, mask, None, context, None, own)
        x = denoiser.run_block(block, given)[0]
    predicted: Tensor = denoiser.leave(x[:, clean.shape[1] :])
    return predicted
