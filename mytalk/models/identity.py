"""Identity extractor: a few MLP layers on landmarks, trained with ArcFace (paper 3.3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class IdentityConfig:
    """Sizes of the identity extractor; the defaults are ``tiny``, which ships.

    points: landmarks it sees. hidden, layers: its MLP. embedding: E. people: identities that the ArcFace head
    tells apart in training (the paper: 1,027); 0: as many as the data has, to be set by the trainer.

    Table 9's 4.3M at hidden 768: 1338→768, four times 768→768, 768→512, and the head's 512 × 1,027 with it.
    """

    points: int = 478
    hidden: int = 256
    embedding: int = 64
    layers: int = 4
    people: int = 0


class IdentityExtractor(nn.Module):
    """Canonical landmarks [B, points, 2] → unit-length embedding [B, E]."""

    mean: Tensor
    scale: Tensor

    def __init__(self, points: int, hidden: int, embedding: int, layers: int = 4) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(points, 2))
        self.register_buffer("scale", torch.ones(()))
        body: list[nn.Module] = [nn.Linear(2 * points, hidden), nn.ReLU()]
        for _ in range(layers):
            body += [nn.Linear(hidden, hidden), nn.ReLU()]
        self.body = nn.Sequential(*body, nn.Linear(hidden, embedding))

    def forward(self, landmarks: Tensor) -> Tensor:
        """Embed; the mean face is taken away first, since people differ by little of what faces share."""
        return F.normalize(self.body(((landmarks - self.mean) / self.scale).flatten(1)), dim=-1)


class KeyLandmarks(nn.Module):
    """Landmarks [B, points, 2] → the same numbers in a row [B, 2 points], without the mean face.

    The identity condition of Table 5's other three rows, in the place of the extractor's embedding.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, extractor: IdentityExtractor) -> None:
        super().__init__()
        self.register_buffer("mean", extractor.mean.clone())
        self.register_buffer("scale", extractor.scale.clone())

    def forward(self, landmarks: Tensor) -> Tensor:
        """Normalise as the extractor does."""
        return ((landmarks - self.mean) / self.scale).flatten(1)


class ArcFace(nn.Module):
    """Additive angular margin head for training: embedding [B, E], labels [B] → loss."""

    def __init__(self, embedding: int, identities: int, margin: float = 0.3, sharpness: float = 20.0) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(identities, embedding))
        self.margin, self.sharpness = margin, sharpness

    def forward(self, embedding: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy with the true class's angle widened by the margin."""
        cosine = (embedding @ F.normalize(self.centres, dim=-1).T).clamp(-1 + 1e-6, 1 - 1e-6)
        hot = F.one_hot(labels, len(self.centres)).bool()
        widened = torch.where(hot, torch.cos(torch.acos(cosine) + self.margin), cosine)
        return F.cross_entropy(self.sharpness * widened, labels)
