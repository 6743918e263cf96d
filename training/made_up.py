"""Made-up prepared clips of any layout: for throughput and tests, where no face is needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mytalk.audio.speech import MEL_FRAMES_PER_FRAME
from mytalk.landmarks.layout import load_layout
from mytalk.landmarks.normalise import mouth_opening
from mytalk.models.motion_config import AUDIO_PER_FRAME
from mytalk.models.sizes import ModelSize

NAMES = ("synthetic__a_0001", "synthetic__b_0002", "synthetic__c_0007")  # the last one is held out
MELS = 80


def write_clip(data: Path, name: str, size: ModelSize, frames: int, seed: int) -> None:
    """One clip NAME of a face of its own, whose mouth opens with the loudness, as ``prepare`` writes it."""
    random, layout = np.random.default_rng(seed), load_layout(size.layout)
    rest = (layout.template * (1 + 0.1 * random.standard_normal(3))).astype(np.float32)
    loudness = 0.5 + 0.5 * np.sin(np.arange(frames) / 2 + seed)
    canonical = np.repeat(rest[None], frames, axis=0)
    canonical[:, layout.compact, 1] += (0.05 * loudness)[:, None] * random.random(len(layout.compact))
    picked = np.arange(0, frames, 2)
    folder = data / "clips"
    folder.mkdir(parents=True, exist_ok=True)
    crops = random.integers(0, 255, (len(picked), 8, 8, 3), np.uint8).repeat(32, 1).repeat(32, 2)
    np.save(folder / f"{name}.crops.npy", crops)
    noise = random.random((MEL_FRAMES_PER_FRAME * frames, MELS))
    np.savez(
        folder / f"{name}.npz",
        points=(canonical[..., :2] * 60 + 128).astype(np.float32),
        matrices=np.repeat(np.eye(2, 3, dtype=np.float32)[None], frames, axis=0),
        canonical=canonical.astype(np.float32),
        rest=rest,
        opening=mouth_opening(canonical, layout),
        log_mel=(np.repeat(loudness, MEL_FRAMES_PER_FRAME)[:, None] * 6 - 12 + noise).astype(np.float32),
        picked=picked,
    )
    if size.motion.speech != "log_mel":
        features = random.standard_normal((AUDIO_PER_FRAME * frames, size.motion.speech_width))
        np.save(folder / f"{name}.speech.npy", features.astype(np.float32))


def write_data(data: Path, size: ModelSize, frames: int = 40) -> Path:
    """Two people to train on and one held out; returns the folder."""
    for seed, name in enumerate(NAMES):
        write_clip(data, name, size, frames, seed)
    return data
