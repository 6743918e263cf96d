"""Train the identity extractor (paper 3.3.2): ``python -m training.identity --data DATA --out RUN``.

ArcFace on landmarks: who somebody is, whatever the mouth does. The motion trainer takes the run's folder by
``--identity`` and keeps the extractor frozen. Run again to go on from the last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mytalk.errors import BadInput
from mytalk.landmarks.layout import load_layout
from mytalk.models.identity import ArcFace, IdentityConfig, IdentityExtractor
from mytalk.models.sizes import ModelSize, load_size
from training.bundles import extractor_of, is_bundle
from training.checkpoints import data_id, read_checkpoint
from training.journal import Journal
from training.launch import launch, run_parser, with_arguments
from training.motion_data import MotionClip, load_for_training
from training.settings import Runner, load_settings
from training.task import Described, Losses, Modules, Network


@dataclass(frozen=True, slots=True)
class IdentityRun:
    """Settings of one run.

    batch: faces of one batch. jitter: noise on every point, canonical units.
    margin, sharpness: of ArcFace. The paper trains 100 epochs; its learning rate is lost, ours is 1e-3.
    """

    size: str = "tiny"
    batch: int = 128
    jitter: float = 0.003
    margin: float = 0.3
    sharpness: float = 20.0
    runner: Runner = field(
        default_factory=lambda: Runner(
            steps=1500, schedule="cosine", warmup_steps=1, precision="32-true", report_steps=250
        )
    )


def make_extractor(config: IdentityConfig) -> IdentityExtractor:
    """An extractor of these sizes."""
    return IdentityExtractor(config.points, config.hidden, config.embedding, config.layers)


class IdentityBatch(NamedTuple):
    """faces float32 [B, K, 2], canonical; labels int64 [B]."""

    faces: Tensor
    labels: Tensor


class IdentityObjective(nn.Module):
    """The extractor with its ArcFace head: faces, labels → loss and share recognised, each a scalar."""

    def __init__(self, extractor: IdentityExtractor, head: ArcFace) -> None:
        super().__init__()
        self.extractor, self.head = extractor, head

    def forward(self, faces: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of the batch; recognised = the nearest class centre is the person's own."""
        embedding = self.extractor(faces)
        nearest = (embedding @ nn.functional.normalize(self.head.centres, dim=-1).T).argmax(dim=-1)
        return self.head(embedding, labels), (nearest == labels).float().mean()


class IdentityTask:
    """Draws faces with any mouth, and asks whose they are."""

    kind = "identity"

    def __init__(self, run: IdentityRun, clips: list[MotionClip], size: ModelSize) -> None:
        self.run, self.runner, self.clips = run, run.runner, clips
        self.layout = load_layout(size.layout)
        self.names = sorted({clip.clip.identity for clip in clips})
        if len(self.names) < 2:
            raise BadInput("telling people apart needs clips of at least two people")
        self.config = config = replace(size.identity, people=len(self.names))
        self.rests = np.stack([clip.rest[:, :2] for clip in clips]).astype(np.float32)
        self.labels = np.array([self.names.index(clip.clip.identity) for clip in clips])
        extractor = make_extractor(config)
        rests = torch.from_numpy(self.rests)
        extractor.mean.copy_(rests.mean(dim=0))
        extractor.scale.copy_((rests - extractor.mean).std().clamp_min(1e-3))
        head = ArcFace(config.embedding, len(self.names), run.margin, run.sharpness)
        objective = IdentityObjective(extractor, head)
        self.networks = (Network("model", objective, objective, betas=(0.9, 0.999)),)

    def draw(self, random: np.random.Generator) -> IdentityBatch:
        """Faces of random clips, their lower halves as in random frames."""
        picked = random.integers(len(self.clips), size=self.run.batch)
        faces = self.rests[picked].copy()
        moved = [self.clips[i].displacement for i in picked]
        frames = np.stack([d[random.integers(len(d))] for d in moved])
        faces[:, self.layout.compact] += frames.reshape(len(picked), len(self.layout.compact), -1)[..., :2]
        faces += self.run.jitter * random.standard_normal(faces.shape).astype(np.float32)
        return IdentityBatch(torch.from_numpy(faces), torch.from_numpy(self.labels[picked]))

    def frames(self, batch: IdentityBatch) -> int:
        """One face a row."""
        return len(batch.faces)

    def losses(self, modules: Modules, batch: IdentityBatch, step: int) -> Losses:
        """ArcFace."""
        loss, recognised = modules["model"](batch.faces, batch.labels)
        return Losses({"model": loss}, {"recognised": recognised})

    def described(self) -> Described:
        """The extractor's sizes and the people it was trained on."""
        clips = [clip.clip for clip in self.clips]
        return Described(self.config, self.run, data_id(clips), {"people": self.names})

    def show(self, modules: Modules, batch: IdentityBatch, journal: Journal, step: int) -> None:
        """Nothing to look at: its figures say all."""


def load_identity(path: Path) -> tuple[IdentityExtractor, IdentityConfig]:
    """The averaged, frozen extractor of a run's folder or checkpoint, or of an exported bundle."""
    if is_bundle(path):
        return extractor_of(path)
    saved = read_checkpoint(path / "last.pt" if path.is_dir() else path, "identity")
    config = IdentityConfig(**json.loads(saved["config"]))
    extractor = make_extractor(config)
    prefix = "extractor."
    average = saved["average"]
    extractor.load_state_dict({k.removeprefix(prefix): v for k, v in average.items() if k.startswith(prefix)})
    return extractor.eval().requires_grad_(False), config


def build(args: argparse.Namespace) -> IdentityTask:
    """The task that the command line asks for."""
    run = load_settings(IdentityRun, args.config, {"size": args.size})
    run = replace(run, runner=with_arguments(run.runner, args))
    size = load_size(run.size)
    loaded = load_for_training(args.data, size)
    torch.manual_seed(run.runner.seed)
    return IdentityTask(run, loaded, size)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return launch(run_parser(__doc__, IdentityRun), argv, build)


if __name__ == "__main__":
    sys.exit(main())
