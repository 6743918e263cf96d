"""Train the identity extractor with ArcFace on landmarks (paper 3.3.2); run by training.motion, a minute."""

from __future__ import annotations

import numpy as np
import torch

from mytalk.landmarks.layout import load_layout
from mytalk.models.identity import ArcFace, IdentityExtractor
from training.motion_data import MotionClip


def train_identity(
    clips: list[MotionClip], embedding: int, steps: int = 1500, seed: int = 1
) -> IdentityExtractor:
    """Learn to tell the clips' people apart whatever their mouths do; returns the frozen extractor."""
    torch.manual_seed(seed)
    layout, random = load_layout(), np.random.default_rng(seed)
    names = sorted({clip.clip.identity for clip in clips})
    rests = torch.from_numpy(np.stack([clip.rest[:, :2] for clip in clips]))
    model = IdentityExtractor(layout.points, 256, embedding)
    model.mean.copy_(rests.mean(dim=0))
    model.scale.copy_((rests - model.mean).std().clamp_min(1e-3))
    head = ArcFace(embedding, len(names))
    optimiser = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=1e-3, weight_decay=1e-2)
    compact = torch.from_numpy(layout.compact.astype(np.int64))
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * (1 - step / steps)
        picked = random.integers(len(clips), size=128)
        faces = rests[torch.from_numpy(picked)].clone()
        moved = np.stack([clips[i].displacement[random.integers(len(clips[i].displacement))] for i in picked])
        faces[:, compact] += torch.from_numpy(moved).unflatten(1, (-1, 3))[..., :2]
        faces += 0.003 * torch.randn_like(faces)
        labels = torch.tensor([names.index(clips[i].clip.identity) for i in picked])
        loss = head(model(faces), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if (step + 1) % 500 == 0:
            print(f"identity step {step + 1} loss {float(loss.detach()):.3f}", flush=True)
    return model.eval().requires_grad_(False)
