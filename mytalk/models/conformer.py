"""Conformer pieces for speech → motion (paper 3.3, 0.B.1.1): masked rotary attention, causal convolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MASKED = -1e9  # a score that counts for nothing; not -inf, of which a row without any key makes NaN


def rotary_tables(positions: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """cos, sin float32 [..., T, head_dim / 2] of absolute positions [..., T] (computed in float64)."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float64, device=positions.device) / head_dim
    angle = positions.double()[..., None] * torch.pow(10_000.0, -exponent)
    return angle.cos().float(), angle.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding: x [B, H, T, d], cos and sin [B, T, d / 2] → [B, H, T, d]."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class FeedForward(nn.Module):
    """Pre-norm two-layer network with SiLU; [B, T, D] → [B, T, D]."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, hidden),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, dim),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Transform every token alike."""
        return self.layers(x)


class Attention(nn.Module):
    """Pre-norm multi-head self-attention whose past keys and values are an explicit argument."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor, past: tuple[Tensor, ...] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, D]; mask bool [B, 1, T, W (+ P) + T], True = may attend; past keys, values [B, H, W, d].

        past may have keys and values [B, H, P, d] of a few frames more, between the past and x. Returns the
        output [B, T, D] and this call's (rotated) keys and values [B, H, T, d].
        """
        query, key, value = (self._split(part) for part in self.qkv(self.norm(x)).chunk(3, dim=-1))
        query, key = rotate(query, *rotary), rotate(key, *rotary)
        if past is None:
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        else:
            own = (key, value)
            if len(past) > 2:
                own = (torch.cat([past[2], key], dim=2), torch.cat([past[3], value], dim=2))
            mixed = _attend_past(query, own, (past[0], past[1]), mask)
        return self.out(mixed.transpose(1, 2).flatten(2)), key, value


def _attend_past(
    query: Tensor, own: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor], mask: Tensor
) -> Tensor:
    """Attention [B, H, T, d] over the past [B, H, W, d] and what is new [B, H, T, d].

    Only the scores are put together: the past, most of it, is read where it lies and copied nowhere.
    mask: bool [B, 1, T, W + T].
    """
    query = query * query.shape[-1] ** -0.5
    scores = torch.cat([query @ past[0].mT, query @ own[0].mT], dim=-1)
    weights = torch.where(mask, scores, MASKED).softmax(dim=-1)
    filled = past[0].shape[2]
    return weights[..., :filled] @ past[1] + weights[..., filled:] @ own[1]


class CausalConvolution(nn.Module):
    """Conformer convolution module with a depthwise kernel; its past input is an explicit argument.

    The kernel is causal (what serves: the past never changes) unless ``causal`` is False (the paper's
    bidirectional model): then it is centred and takes no past. Weights are the same either way.
    """

    def __init__(self, dim: int, kernel: int, dropout: float, *, causal: bool = True) -> None:
        super().__init__()
        self.kernel, self.causal = kernel, causal
        self.norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, 2 * dim)
        self.depthwise = nn.Conv1d(dim, dim, kernel, groups=dim)
        self.inner_norm = nn.LayerNorm(dim)
        self.out = nn.Sequential(nn.SiLU(), nn.Linear(dim, dim), nn.Dropout(dropout))

    def forward(self, x: Tensor, tail: Tensor | None, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x [B, T, D], tail [B, k-1, D] or None for zeros → output, gated input (next tails) [B, T, D].

        valid: bool [B, T] or None; frames where it is False (padding) are silent to their neighbours.
        """
        gated = F.glu(self.expand(self.norm(x)), dim=-1)
        if valid is not None:
            gated = gated * valid[..., None]
        if not self.causal:
            padded = F.pad(gated, (0, 0, (self.kernel - 1) // 2, self.kernel // 2))
        elif tail is None:
            padded = F.pad(gated, (0, 0, self.kernel - 1, 0))
        else:
            padded = torch.cat([tail, gated], dim=1)
        mixed = self.depthwise(padded.transpose(1, 2)).transpose(1, 2)
        return self.out(self.inner_norm(mixed)), gated

    def two_copies(self, x: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Clean and noised copy of a sequence at once, [B, 2 F, D] → output, gated input (``two_copies.py``).

        own: bool [k, F], whether the frame j places earlier lies in the same block. The noised copy hears
        noised frames of its own block and clean ones of earlier blocks, as it does when it streams.
        """
        gated = F.glu(self.expand(self.norm(x)), dim=-1)
        clean, noised = gated.chunk(2, dim=1)
        frames = clean.shape[1]
        padded = [F.pad(part, (0, 0, self.kernel - 1, 0)) for part in (clean, noised)]
        first = self.depthwise(padded[0].transpose(1, 2)).transpose(1, 2)
        weight = self.depthwise.weight[:, 0]
        second = self.depthwise.get_parameter("bias").expand_as(clean)
        for back in range(self.kernel):
            start = self.kernel - 1 - back
            past, same = (part[:, start : start + frames] for part in padded)
            second = second + weight[:, start] * torch.where(own[back, :, None], same, past)
        return self.out(self.inner_norm(torch.cat([first, second], dim=1))), gated


class CrossAttention(nn.Module):
    """Pre-norm attention to a few identity tokens (paper 3.3.3)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x [B, T, D], context [B, N, D] → [B, T, D]."""
        key, value = self.key_value(context).chunk(2, dim=-1)
        query, key, value = (
            y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (self.query(self.norm(x)), key, value)
        )
        # Written out: what an exporter makes of PyTorch's own has three times as many small operations.
        weights = (query * query.shape[-1] ** -0.5 @ key.mT).softmax(dim=-1)
        return self.out((weights @ value).transpose(1, 2).flatten(2))


class ConformerBlock(nn.Module):
    """Macaron Conformer block; with ``cross`` it attends to identity tokens after self-attention."""

    def __init__(
        self,
        dim: int,
        heads: int,
        hidden: int,
        kernel: int,
        dropout: float,
        *,
        cross: bool,
        causal: bool = True,
    ) -> None:
        super().__init__()
        self.feed_in = FeedForward(dim, hidden, dropout)
        self.attention = Attention(dim, heads)
        self.cross = CrossAttention(dim, heads) if cross else None
        self.convolution = CausalConvolution(dim, kernel, dropout, causal=causal)
        self.feed_out = FeedForward(dim, hidden, dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor,
        past: tuple[Tensor, ...] | None = None,
        context: Tensor | None = None,
        valid: Tensor | None = None,
        own: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x [B, T, D]; past = convolution tail [B, k-1, D], and keys, values of ``Attention``.

        valid: bool [B, T], False where a frame is padding (attention is told by ``mask``).
        own: x is the clean and the noised copy of a sequence, see ``CausalConvolution.two_copies``; it goes
        through this call, too, so that recomputing and sharding know of it.
        Returns the output, this call's keys and values [B, H, T, d] and gated convolution input [B, T, D].
        """
        x, key, value = self._attend(x, rotary, mask, None if past is None else past[1:], context)
        if own is None:
            convolved, gated = self.convolution(x, None if past is None else past[0], valid)
        else:
            convolved, gated = self.convolution.two_copies(x, own)
        return self._finish(x + convolved), key, value, gated

    def _attend(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor,
        past: tuple[Tensor, ...] | None,
        context: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = x + 0.5 * self.feed_in(x)
        attended, key, value = self.attention(x, rotary, mask, past)
        x = x + attended
        if self.cross is not None and context is not None:
            x = x + self.cross(x, context)
        return x, key, value

    def _finish(self, x: Tensor) -> Tensor:
        x = x + 0.5 * self.feed_out(x)
        return self.norm(x)
