"""What a motion run makes of clips that it has not seen, before any picture is painted.

The clips are those of the validation list. Every sequence is generated hop by hop on the model's own past, as
it serves, from the clip's speech and, since the true one leaks the mouth, the upper face of another clip; the
same noise for every run, so that runs can be compared.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from mytalk.landmarks.layout import load_layout
from mytalk.landmarks.normalise import mouth_opening
from mytalk.models.identity import IdentityConfig
from mytalk.models.motion import MotionConfig, MotionModel
from training.checkpoints import LAST, read_checkpoint
from training.data import unseen_clips
from training.identity import make_extractor
from training.motion_data import MotionBatches, MotionClip, MotionDraw, load_motion_clip
from training.motion_loss import MotionLoss, MotionObjective
from training.offsets import correlation

KEYS = ("unseen_mouth_correlation", "unseen_landmark_error_pct", "unseen_id_sim")
FRAMES = 75  # GRID's sentences; longer clips are cut, so that every clip counts alike
BATCH = 16
SEED = 0
STEPS = 2  # of the sampler, as exported
Figures = dict[str, float]


def load_objective(run: Path) -> MotionObjective:
    """The averaged model of a run with its extractor, ready to generate."""
    saved = read_checkpoint(run / LAST, "motion")
    config = MotionConfig(**json.loads(saved["config"]))
    model = MotionModel(config)
    model.load_state_dict(saved["average"])
    extractor = make_extractor(IdentityConfig(**json.loads(saved["identity_config"])))
    extractor.load_state_dict(saved["identity"])
    loss = MotionLoss(noising="levels" if config.causal else "whole", self_generated_steps=STEPS)
    points = {load_layout(name).points: name for name in ("mediapipe478", "dense669")}
    layout = load_layout(points[config.key_points])
    return MotionObjective(loss, model, extractor, layout, 1.0).eval()


def figures_of(objective: MotionObjective, clips: list[MotionClip]) -> dict[str, Figures]:
    """Figures by clip.

    ``unseen_mouth_correlation``: of generated and true mouth opening. ``unseen_landmark_error_pct``: mean
    distance of generated lower-face points from the true ones, % of the inter-ocular distance.
    ``unseen_id_sim``: cosine of generated and own face to the extractor that judges likeness in training (not
    the face recognition network of the paper's ID_sim).
    """
    config, found = objective.model.config, {}
    settings = MotionDraw(frames=FRAMES, stitch=False, change_voice=False)
    for first in range(0, len(clips), BATCH):
        some = clips[first : first + BATCH]
        batches = MotionBatches(some, config, settings)
        batch = batches.batch_of([clip.beginning(FRAMES) for clip in some], np.random.default_rng(SEED))
        batch = batch._replace(upper=batch.upper.roll(1, 0))
        torch.manual_seed(SEED)
        with torch.no_grad():
            made = objective(batch, None)["displacement"]
            for row, clip in enumerate(some):
                count = int(batch.valid[row].sum())
                shape = (count, config.compact, config.coordinates)
                moved, true = (x[row, :count].reshape(shape)[..., :2] for x in (made, batch.displacement))
                faces = batch.rest[row, None, :, :2].repeat(count, 1, 1)
                faces[:, objective.compact] += moved
                still = batch.rest[row, None, :, :2]
                alike = F.cosine_similarity(objective.identity(faces), objective.identity(still), dim=-1)
                spoken = still.repeat(count, 1, 1)
                spoken[:, objective.compact] += true
                gaps = [mouth_opening(x.numpy(), objective.layout) for x in (faces, spoken)]
                found[clip.clip.name] = {
                    "unseen_mouth_correlation": correlation(*gaps),
                    "unseen_landmark_error_pct": float(100 * (moved - true).norm(dim=-1).mean()),
                    "unseen_id_sim": float(alike.mean()),
                }
    return found


def held_out_figures(run: Path, data: Path) -> dict[str, Figures]:
    """``figures_of`` a run on the validation clips of a prepared folder (not those of seen people)."""
    objective = load_objective(run)
    config = objective.model.config
    clips = [load_motion_clip(clip, config, objective.layout) for clip in unseen_clips(data)]
    return figures_of(objective, clips)
