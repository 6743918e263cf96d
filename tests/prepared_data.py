"""A small prepared data set of made-up faces, as ``training.prepare`` would write it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mytalk.landmarks.layout import load_layout
from mytalk.landmarks.normalise import mouth_opening

FRAMES = 40


def write_clip(data: Path, name: str, seed: int) -> None:
    """One clip NAME of a face of its own, whose mouth opens with the loudness."""
    random, layout = np.random.default_rng(seed), load_layout()
    person = 1 + 0.1 * random.standard_normal(3)
    rest = (layout.template * person).astype(np.float32)
    noise = random.random((4 * FRAMES, 80))
    loudness = 0.5 + 0.5 * np.sin(np.arange(FRAMES) / 2 + seed)
    canonical = np.repeat(rest[None], FRAMES, axis=0)
    canonical[:, layout.compact, 1] += (0.05 * loudness)[:, None] * random.random(len(layout.compact))
    picked = np.arange(0, FRAMES, 2)
    (data / "clips").mkdir(parents=True, exist_ok=True)
    crops = random.integers(0, 255, (len(picked), 8, 8, 3), np.uint8).repeat(32, 1).repeat(32, 2)
    np.save(data / "clips" / f"{name}.crops.npy", crops)
    np.savez(
        data / "clips" / f"{name}.npz",
        points=(canonical[..., :2] * 60 + 128).astype(np.float32),
        matrices=np.repeat(np.eye(2, 3, dtype=np.float32)[None], FRAMES, axis=0),
        canonical=canonical.astype(np.float32),
        rest=rest,
        opening=mouth_opening(canonical, layout),
        log_mel=(np.repeat(loudness, 4)[:, None] * 6 - 12 + noise).astype(np.float32),
        picked=picked,
    )


def write_data(data: Path) -> Path:
    """Two people to train on and one held out."""
    for seed, name in enumerate(("synthetic__a_0001", "synthetic__b_0002", "synthetic__c_0007")):
        write_clip(data, name, seed)
    return data
