"""A bundle of small, randomly weighted models, and frames to calibrate with; made on the fly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from export.bundle import Trained
from mytalk.actors.actor import load_actor
from mytalk.landmarks.layout import load_layout
from mytalk.models.appearance import AppearanceConfig, AppearanceModel
from mytalk.models.identity import IdentityConfig, IdentityExtractor
from mytalk.models.motion import MotionConfig, MotionModel
from mytalk.render.compose import crop, hidden_mask
from mytalk.render.renderer import crop_landmarks

ACTOR = Path(__file__).resolve().parents[1] / "actors" / "ada"


def small_trained() -> Trained:
    """Models of the shipped kind, narrow and shallow, whose every part does something."""
    torch.manual_seed(0)
    config = MotionConfig(
        dim=32, layers=2, hidden=32, audio_dim=32, audio_layers=1, audio_hidden=32, identity=16, window=48
    )
    motion = MotionModel(config)
    motion.basis.normal_(0, 0.02)
    motion.inverse.normal_(0, 0.5)
    about = IdentityConfig(load_layout().points, 16, 16, 1)
    identity = IdentityExtractor(about.points, about.hidden, about.embedding, about.layers)
    sizes = AppearanceConfig(8, 8, 8, 16, 16, 8, 16, 16, 8)
    appearance = AppearanceModel(sizes, torch.from_numpy(hidden_mask()))
    with torch.no_grad():  # what starts at zero would hide differences
        for name, weight in appearance.named_parameters():
            # equal tensors (biases of nought, for one) would become one in the exported graph
            if name.endswith(("conv.weight", "bias")) or "head" in name:
                weight.normal_(0, 0.02)
    run = {"step": 0, "minutes": 0.0, "data": "random"}
    return Trained(
        motion.eval(), identity.eval(), about, appearance.eval(), {"motion": run, "appearance": run}
    )


def write_calibration(path: Path) -> Path:
    """Frames of an actor in the form of ``training.calibration``: one clip to calibrate, one held out."""
    actor = load_actor(ACTOR)
    motion = actor.motion
    frames = np.array([[0, 9, 18, 27], [5, 14, 23, 32]])

    def points(index: int) -> np.ndarray:
        pose = motion.poses.select(slice(index, index + 1))
        return crop_landmarks(
            motion.rest,
            motion.canonical[index],
            None,
            pose=pose,
            matrix=actor.matrices[index],
            layout=actor.layout,
        )

    np.savez_compressed(
        path,
        references=np.stack([actor.references.pictures] * 2),
        reference_points=np.stack([actor.references.points] * 2),
        faces=np.stack([[crop(actor.frames[i], actor.matrices[i]) for i in row] for row in frames]),
        face_points=np.stack([[points(i) for i in row] for row in frames]),
        held_out=np.array([False, True]),
    )
    return path
