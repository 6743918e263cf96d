"""Train speech → motion (paper 3.3): ``python -m training.motion --data DATA --identity RUN --out RUN``.

A diffusion Conformer that predicts x0, with the identity loss of a frozen extractor (``training.identity``).
``[loss] noising`` says how: ``levels`` or ``two_copy`` train the block-causal model that serves, ``whole``
the paper's bidirectional one. Run again to go on from the last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from mytalk.errors import BadInput
from mytalk.landmarks.draw import draw_landmarks
from mytalk.landmarks.layout import Layout, load_layout
from mytalk.landmarks.normalise import Poses, crop_matrices, frame_to_crop
from mytalk.models.conformer import ConformerBlock
from mytalk.models.identity import IdentityConfig, IdentityExtractor
from mytalk.models.motion import MotionModel
from mytalk.models.motion_config import CONDITIONS
from mytalk.models.sizes import ModelSize, load_size
from mytalk.types import F32, U8
from training.checkpoints import LAST, data_id, read_checkpoint, start_from
from training.identity import load_identity, make_extractor
from training.journal import Journal
from training.launch import add_weights_argument, launch, run_parser, tell, with_arguments
from training.motion_data import MotionBatch, MotionBatches, MotionClip, MotionDraw, load_for_training
from training.motion_loss import (
    NOISINGS,
    MotionLoss,
    MotionObjective,
    draw_plan,
    fit_code,
    point_weights,
)
from training.settings import Runner, check_choice, load_settings
from training.task import Described, Losses, Modules, Network


@dataclass(frozen=True, slots=True)
class MotionRun:
    """Settings of one run; tables ``[data]``, ``[loss]`` and ``[runner]``.

    size: a name or a TOML file (``mytalk.models.sizes``). condition: how identity comes in (paper Table 5:
    embed_cross, key_concat, key_add, key_cross); empty: as the size says.
    The paper trains 3,500 epochs with an inverse-square-root schedule; its learning rate is lost.
    """

    size: str = "tiny"
    condition: str = ""
    data: MotionDraw = field(default_factory=MotionDraw)
    loss: MotionLoss = field(default_factory=MotionLoss)
    runner: Runner = field(
        default_factory=lambda: Runner(
            steps=12_000, schedule="inverse_sqrt", warmup_steps=300, report_steps=100
        )
    )

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        check_choice("loss.noising", self.loss.noising, NOISINGS)
        if self.data.frames < 8:
            raise BadInput("data.frames must be at least 8")


def picture_faces(canonical: F32, layout: Layout) -> U8:
    """Canonical faces float32 [F, K, 2] → landmark pictures uint8 [F, 256, 256, 3]."""
    upright = Poses(np.ones(1, np.float32), np.eye(3, dtype=np.float32)[None], np.zeros((1, 3), np.float32))
    matrix = crop_matrices(upright)[0]
    drawn = np.stack([draw_landmarks(frame_to_crop(face, matrix), layout) for face in canonical])
    return (drawn.transpose(0, 2, 3, 1) * 255).astype(np.uint8)


class MotionTask:
    """The motion model's objective, its batches, and a video of what it says to them."""

    kind = "motion"

    def __init__(
        self,
        run: MotionRun,
        clips: list[MotionClip],
        size: ModelSize,
        identity: tuple[IdentityExtractor, IdentityConfig],
    ) -> None:
        self.run, self.runner, self.clips = run, run.runner, clips
        self.config = config = size.motion
        self.layout = load_layout(size.layout)
        self.batches = MotionBatches(clips, config, run.data)
        self.extractor, self.identity_config = identity
        model = MotionModel(config)
        weights = point_weights(self.layout, config.coordinates)
        energy = fit_code(model, [clip.displacement for clip in clips], weights)
        self.objective = MotionObjective(run.loss, model, self.extractor, self.layout, energy)
        self.networks = (Network("model", self.objective, model, (ConformerBlock,)),)

    def draw(self, random: np.random.Generator) -> MotionBatch:
        """One batch of sequences."""
        return self.batches.draw(random)

    def frames(self, batch: MotionBatch) -> int:
        """Frames that are not padding."""
        return int(batch.valid.sum())

    def losses(self, modules: Modules, batch: MotionBatch, step: int) -> Losses:
        """The paper's objective."""
        plan = draw_plan(self.run.loss, self.config.tokens, self.runner.seed, step)
        parts = modules["model"](batch, plan)
        return Losses({"model": parts.pop("total")}, parts)

    def described(self) -> Described:
        """The model's config, and the extractor that it was trained with."""
        parts = {
            "identity": {k: v.cpu() for k, v in self.extractor.state_dict().items()},
            "identity_config": json.dumps(asdict(self.identity_config)),
        }
        return Described(self.config, self.run, data_id([clip.clip for clip in self.clips]), parts)

    def show(self, modules: Modules, batch: MotionBatch, journal: Journal, step: int) -> None:
        """Three seconds of the first sequence: what the model says (left) beside the truth."""
        few = MotionBatch(*(part[:1] for part in batch))
        made = modules["model"](few, None)["displacement"]
        sides = []
        for displacement in (made, few.displacement):
            moved = (
                displacement[0, :75]
                .float()
                .cpu()
                .numpy()
                .reshape(-1, self.config.compact, self.config.coordinates)
            )
            faces = np.repeat(few.rest[0, :, :2].cpu().numpy()[None], len(moved), axis=0)
            faces[:, self.layout.compact] += moved[..., :2]
            sides.append(picture_faces(faces, self.layout))
        journal.video(step, "motion", np.concatenate(sides, axis=2))


def find_identity(run: Path | None, out: Path) -> tuple[IdentityExtractor, IdentityConfig]:
    """The extractor of ``--identity``, or the one that the run to be continued carries."""
    if (out / LAST).exists():
        saved = read_checkpoint(out / LAST, "motion")
        config = IdentityConfig(**json.loads(saved["identity_config"]))
        extractor = make_extractor(config)
        extractor.load_state_dict(saved["identity"])
        return extractor, config
    if run is None:
        raise BadInput("a new run needs an identity extractor: --identity RUN, a folder of training.identity")
    return load_identity(run)


def build(args: argparse.Namespace) -> MotionTask:
    """The task that the command line asks for."""
    given = {"size": args.size, "condition": args.identity_condition}
    run = load_settings(MotionRun, args.config, given)
    run = replace(run, runner=with_arguments(run.runner, args))
    if args.identity_loss is not None:
        run = replace(run, loss=replace(run.loss, identity_weight=args.identity_loss))
    size = load_size(run.size)
    if run.condition:
        size = replace(size, motion=replace(size.motion, condition=run.condition))
    if not size.motion.causal and run.loss.noising != "whole":
        raise BadInput(f"size {size.name} hears the future: it trains with loss.noising = 'whole' alone")
    loaded = load_for_training(args.data, size)
    identity = find_identity(args.identity, args.out)
    if identity[1].embedding != size.motion.identity:
        raise BadInput(
            f"the identity extractor gives {identity[1].embedding} numbers, size {run.size} takes "
            f"{size.motion.identity}: train training.identity at that size"
        )
    torch.manual_seed(run.runner.seed)
    task = MotionTask(run, loaded, size, identity)
    # With the code of principal components that they were trained in.
    whole = args.weights is not None and start_from(args.weights, task.networks[0].trained)
    if run.loss.keep_weight > 0:
        if not whole:
            raise BadInput(
                "loss.keep_weight holds a run to the weights that it began with, all of them: give them by"
                " --weights, also to go on with a run"
            )
        task.objective.keep()
    tell(f"clips are drawn from {task.batches.draws.told()}")
    return task


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = run_parser(__doc__, MotionRun)
    parser.add_argument("--identity", type=Path, help="run of training.identity, or a bundle (for a new run)")
    parser.add_argument(
        "--identity-condition", help=f"how identity comes in (Table 5): {', '.join(CONDITIONS)}"
    )
    parser.add_argument("--identity-loss", type=float, help="weight of the identity loss (paper Table 6)")
    add_weights_argument(parser)
    return launch(parser, argv, build)


if __name__ == "__main__":
    sys.exit(main())
