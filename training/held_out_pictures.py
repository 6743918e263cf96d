"""What an appearance run paints of clips that it has not seen, against the true pictures; without an export.

The clips are those of the validation list, their pictures the prepared crops; references are picked as for an
actor, away from every target, and landmarks are the targets' own. The same pictures for every run.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from mytalk.landmarks.layout import load_layout
from mytalk.models.paper_appearance import PaperAppearance
from mytalk.models.sizes import build_appearance
from mytalk.render.compose import hidden_mask
from mytalk.types import U8
from training.appearance import AppearanceObjective, sized
from training.appearance_data import WHOLE, WINDOW, AppearanceBatches, AppearanceDraw
from training.checkpoints import LAST, read_checkpoint
from training.data import Clip, unseen_clips
from training.held_out import Figures
from training.looks import Looks
from training.metrics_picture import composite, lip_mask, psnr_db, sharpness_ratio, ssim

KEYS = ("unseen_psnr", "unseen_lip_psnr", "unseen_lip_ssim", "unseen_lip_sharpness_ratio")
TARGETS = 4  # pictures of a clip
AS_SERVED = AppearanceDraw(
    targets=TARGETS,
    posed_references_share=1.0,
    landmark_shift_px=0.0,
    landmark_noise_px=0.0,
    crop_jitter_px=0,
    looks=Looks(recolour_share=0.0, light_share=0.0, compress_share=0.0),
    flip=False,
)


def load_painter(run: Path) -> tuple[AppearanceObjective, str, bool]:
    """The averaged model of a run, its landmark layout, and whether it paints whole crops."""
    saved = read_checkpoint(run / LAST, "appearance")
    settings = json.loads(saved["run"])
    size = sized(settings["size"], settings["references"])
    model = build_appearance(size, torch.from_numpy(hidden_mask()))
    model.load_state_dict(saved["average"])
    return AppearanceObjective(model).eval(), size.layout, isinstance(model, PaperAppearance)


def painted(
    objective: AppearanceObjective, batches: AppearanceBatches, clip: Clip, seed: int
) -> tuple[U8, U8]:
    """Composites of a clip as the model paints them, and the true crops: uint8 [n, 256, 256, 3] each."""
    random, box = np.random.default_rng(seed), batches.box
    targets, references = batches.pick(clip, random)
    batch = batches.batch_of([batches.rows_of(clip, targets, references, random)])
    with torch.no_grad():
        made = objective(batch)[0].clamp(0, 1).permute(0, 2, 3, 1).numpy()
    true: U8 = np.array(batches.crops[clip.name][targets])
    shown = true.copy()
    shown[:, box.top : box.bottom, box.left : box.right] = np.round(255 * made)
    return composite(shown, true), true


def held_out_figures(run: Path, data: Path) -> dict[str, Figures]:
    """Figures by clip, as ``training.evaluate`` defines them, on a prepared folder's validation clips."""
    objective, layout, whole = load_painter(run)
    clips = unseen_clips(data)
    batches = AppearanceBatches(clips, AS_SERVED, load_layout(layout), WHOLE if whole else WINDOW)
    found = {}
    for number, clip in enumerate(clips):
        shown, true = painted(objective, batches, clip, number)
        found[clip.name] = {
            "unseen_psnr": psnr_db(shown, true),
            "unseen_lip_psnr": psnr_db(shown, true, lip_mask()),
            "unseen_lip_ssim": ssim(shown, true, lip_mask())[1],
            "unseen_lip_sharpness_ratio": sharpness_ratio(shown, true),
        }
    return found
