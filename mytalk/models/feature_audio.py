"""Audio encoder over pre-trained speech features (paper Table 9): projection, Conformer, down to 25 Hz.

The table prints a hidden width of 768, which would give 44M parameters for the four layers; its 24.6M come
out with 512 and a 768 → 512 projection, which is what ``paper`` is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mytalk.models.conformer import ConformerBlock, rotary_tables
from mytalk.models.motion_config import MotionConfig


class FeatureAudioEncoder(nn.Module):
    """Speech features at 50 Hz → one feature per video frame.

    With ``audio_band`` 0 every frame hears all that is given, as the paper does with a whole clip; with a
    finite band it hears no further than ``left_audio_frames`` back and ``right_audio_frames`` ahead, so that
    a streamed call with that context gives what the whole utterance gives.
    """

    def __init__(self, config: MotionConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.audio_dim
        self.project = nn.Linear(config.speech_width, dim)
        self.blocks = nn.ModuleList(
            ConformerBlock(
                dim,
                config.audio_heads,
                config.audio_hidden,
                config.audio_kernel,
                config.dropout,
                cross=False,
                causal=config.audio_causal,
            )
            for _ in range(config.audio_layers)
        )
        self.downsample = nn.Conv1d(dim, dim, 3, 2)  # padding is in ``forward``: context, or a zero

    def _mask(self, count: int, device: torch.device) -> Tensor:
        index = torch.arange(count, device=device)
        distance = index[:, None] - index[None]
        if self.config.audio_band:
            mask = (distance < self.config.audio_band) & (distance > -self.config.audio_band)
        else:
            mask = torch.ones_like(distance, dtype=torch.bool)
        return (mask & (distance >= 0) if self.config.audio_causal else mask)[None, None]

    def forward(self, features: Tensor, valid: Tensor | None = None) -> Tensor:
        """Features [B, left + 2 F + right, speech_width] → [B, F, audio_dim].

        valid: bool [B, left + 2 F + right] or None; False where a clip is padded, which nothing then hears.
        """
        x = self.project(features)
        count = x.shape[1]
        mask = self._mask(count, x.device)
        if valid is not None:
            # A padded frame still attends to itself: a row without a key would be NaN.
            mask = mask & (valid[:, None, None] | torch.eye(count, dtype=torch.bool, device=x.device))
        rotary = rotary_tables(
            torch.arange(count, device=x.device)[None], self.config.audio_dim // self.config.audio_heads
        )
        for block in self.blocks:
            x = block(x, rotary, mask, valid=valid)[0]
        if valid is not None:
            x = x * valid[..., None]
        left, right = self.config.left_audio_frames, self.config.right_audio_frames
        # Stride 2 with one frame before the first: Table 9's padding of 1, or what was really heard there.
        x = x[:, left - 1 : count - right] if left else F.pad(x, (0, 0, 1, 0))
        return self.downsample(x.transpose(1, 2)).transpose(1, 2)
