"""Train speech → motion (paper 3.3): ``python -m training.motion --data DATA --out RUN``.

Every block of frames gets its own noise level (some are clean, as the past is when it streams), so one pass
over a sequence trains every frame of every hop, and the clean past is slightly disturbed, so that a model
that hears its own output does not drift. Trains the identity extractor first. Run again to go on from the
last checkpoint.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mytalk.errors import MyTalkError
from mytalk.landmarks.layout import load_layout
from mytalk.models.conformer import rotary_tables
from mytalk.models.identity import IdentityExtractor
from mytalk.models.motion import MotionConfig, MotionModel, noise_schedule
from training.data import is_validation, list_clips, prefetch
from training.identity import train_identity
from training.loop import Average, load_checkpoint, load_config, run_arguments, save_checkpoint
from training.motion_data import MotionBatch, MotionBatches, MotionClip, load_motion_clip

LIP_WEIGHT = 3.0  # lips against the rest of the lower face, in the code and in the loss


@dataclass(frozen=True, slots=True)
class MotionRun:
    """Settings of one run."""

    steps: int = 12_000
    batch: int = 12
    frames: int = 200
    learning_rate: float = 1e-3
    final_learning_rate: float = 3e-5
    warmup_steps: int = 300
    decay_minutes: float = 60.0
    known_share: float = 0.35
    known_disturbance: float = 0.12
    velocity_weight: float = 1.0
    identity_weight: float = 1.0
    average_decay: float = 0.999
    seed: int = 1


def point_weights() -> Tensor:
    """Loss weight of every coordinate of the compact points, float32 [Kc·3]: lips more, depth less."""
    layout = load_layout()
    lips = np.isin(layout.compact, layout.lips)
    weight = np.where(lips, LIP_WEIGHT, 1.0)[:, None] * np.array([1.0, 1.0, 0.3])
    return torch.from_numpy((weight / weight.mean()).reshape(-1).astype(np.float32))


def fit_code(model: MotionModel, clips: list[MotionClip]) -> None:
    """Principal components of all displacements, weighted like the loss; sets the model's buffers."""
    weight = point_weights().sqrt().double()
    # Displacements are measured from a closed mouth, so zero (the idle face) stays the code's origin.
    data = torch.from_numpy(np.concatenate([clip.displacement[::2] for clip in clips])).double() * weight
    covariance = data.T @ data / len(data)
    values, vectors = torch.linalg.eigh(covariance)
    count = model.config.coefficients
    basis = vectors[:, -count:].flip(1).T
    deviation = values[-count:].flip(0).clamp_min(0).sqrt()
    model.basis.copy_((basis / weight).float())
    model.inverse.copy_((basis * weight).T.float())
    # A floor keeps the noise-like last components from counting as much as the jaw.
    model.scale.copy_(deviation.clamp_min(0.1 * float(deviation[0])).float())


def block_mask(blocks: Tensor, window: int) -> Tensor:
    """Who may attend to whom: own and earlier blocks in the window; sorted ids [F] → bool [1, 1, F, F]."""
    index = torch.arange(len(blocks))
    start = torch.searchsorted(blocks, blocks)
    earlier = blocks[None] <= blocks[:, None]
    near = index[None] >= start[:, None] - window
    return (earlier & near)[None, None]


def draw_levels(run: MotionRun, count: int, frames: int, tokens: int) -> tuple[Tensor, Tensor]:
    """Block ids [F] (one division for the batch) and noise levels [B, F], constant within a block."""
    sizes = torch.randint(2, tokens + 1, (1,)).item()
    offset = torch.randint(0, int(sizes), (1,)).item()
    blocks = (torch.arange(frames) + int(offset)) // int(sizes)
    number = int(blocks[-1]) + 1
    level = torch.rand(count, number)
    # The first sampling step, from pure noise, decides most of the result.
    level = torch.where(torch.rand(count, number) < 0.35, torch.ones(()), level)
    level = torch.where(torch.rand(count, number) < run.known_share, torch.zeros(()), level)
    return blocks, level[:, blocks]


class Trainer:
    """Owns the networks and the optimiser of one run; resumes from ``out/last.pt`` if it is there."""

    def __init__(self, run: MotionRun, config: MotionConfig, clips: list[MotionClip], out: Path) -> None:
        self.run, self.out, self.config = run, out, config
        self.model = MotionModel(config)
        self.identity = IdentityExtractor(load_layout().points, 256, config.identity)
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), betas=(0.9, 0.98), weight_decay=1e-2, fused=True
        )
        self.weights = point_weights()
        self.step, self.minutes = 0, 0.0
        if (out / "last.pt").exists():
            self._resume(load_checkpoint(out / "last.pt"))
        else:
            fit_code(self.model, clips)
            self.identity = train_identity(clips, config.identity)
            self.average = Average(self.model, run.average_decay)
        self.identity.eval().requires_grad_(False)
        energy = [torch.from_numpy(c.displacement[::5]).square() * self.weights for c in clips]
        self.energy = float(torch.cat(energy).mean())

    def _resume(self, saved: dict[str, object]) -> None:
        self.model.load_state_dict(saved["model"])  # type: ignore[arg-type]
        self.identity.load_state_dict(saved["identity"])  # type: ignore[arg-type]
        self.optimiser.load_state_dict(saved["optimiser"])  # type: ignore[arg-type]
        self.step, self.minutes = int(saved["step"]), float(saved["minutes"])  # type: ignore[call-overload, arg-type]
        self.average = Average(self.model, self.run.average_decay)
        self.average.weights = saved["average"]  # type: ignore[assignment]

    def save(self) -> None:
        """Write ``last.pt``."""
        parts = {
            "model": self.model.state_dict(),
            "identity": self.identity.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average.weights,
            "minutes": self.minutes,
        }
        save_checkpoint(self.out / "last.pt", self.step, self.config, parts)

    def loss(self, batch: MotionBatch) -> tuple[Tensor, dict[str, float]]:
        """Diffusion loss of one batch (paper Eq. 4): x0 and its velocity in landmark space, plus identity."""
        model, config, run = self.model, self.config, self.run
        count, frames = batch.displacement.shape[:2]
        blocks, level = draw_levels(run, count, frames, config.tokens)
        target = model.to_coefficients(batch.displacement)
        noise = torch.randn_like(target)
        alpha, sigma = (x[..., None] for x in noise_schedule(level))
        noised = alpha * target + sigma * noise
        known = (level == 0)[..., None]
        noised = torch.where(known, target + run.known_disturbance * torch.rand(count, 1, 1) * noise, noised)
        rotary = rotary_tables(torch.arange(frames)[None], config.dim // config.heads)
        embedding = self.identity(batch.rest[..., :2])
        with torch.autocast("cpu", torch.bfloat16):
            speech = model.audio(batch.log_mel)
            mask = block_mask(blocks, config.window)
            x0 = model.denoiser(noised, level, speech, batch.upper, embedding, rotary, mask)[0]
        moved = model.to_displacement(x0.float())
        counted = torch.where(known, 0.05, 1.0)
        error = (moved - batch.displacement) * self.weights.sqrt()
        reconstruction = (error.square() * counted).mean() / self.energy
        velocity = (error[:, 1:] - error[:, :-1]).square().mean() / self.energy
        face = batch.rest[:, None, :, :2].repeat(1, 8, 1, 1)
        some = torch.randint(0, frames, (8,))
        compact = torch.from_numpy(load_layout().compact.astype(np.int64))
        face[:, :, compact] = face[:, :, compact] + moved[:, some].unflatten(-1, (-1, 3))[..., :2]
        likeness = F.cosine_similarity(
            self.identity(face.flatten(0, 1)).unflatten(0, (count, 8)), embedding[:, None], dim=-1
        )
        identity = (1 - likeness).mean()
        total = reconstruction + run.velocity_weight * velocity + run.identity_weight * identity
        first = error.detach().square().mean(-1)[level == 1].mean() / self.energy
        return total, {
            "x0": float(reconstruction.detach()),
            "noise_only": float(first),
            "velocity": float(velocity.detach()),
            "identity": float(identity.detach()),
        }

    def train_step(self, batch: MotionBatch) -> dict[str, float]:
        """One optimiser step; raises ``MyTalkError`` if the loss is not finite."""
        run = self.run
        cosine = 0.5 * (1 + np.cos(np.pi * min(1.0, self.minutes / run.decay_minutes)))
        rate = run.final_learning_rate + (run.learning_rate - run.final_learning_rate) * cosine
        for group in self.optimiser.param_groups:
            group["lr"] = float(rate * min(1.0, (self.step + 1) / run.warmup_steps))
        loss, parts = self.loss(batch)
        if not torch.isfinite(loss):
            raise MyTalkError(f"loss is not finite at step {self.step}; the last checkpoint is intact")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        self.average.update(self.step)
        return parts


def train(trainer: Trainer, batches: MotionBatches, minutes: float, report_every: int = 100) -> None:
    """Train until ``minutes`` of this call or the run's steps are over; checkpoints every 3 minutes."""
    started = last = saved = time.monotonic()
    recent: list[dict[str, float]] = []
    for item in prefetch(batches.draw):
        assert isinstance(item, MotionBatch)
        recent.append(trainer.train_step(item))
        now = time.monotonic()
        trainer.minutes += (now - last) / 60
        last = now
        if trainer.step % report_every == 0:
            means = {key: float(np.nanmean([r[key] for r in recent])) for key in recent[0]}
            figures = " ".join(f"{key} {value:.4f}" for key, value in means.items())
            print(f"step {trainer.step} {trainer.minutes:.1f} min {figures}", flush=True)
            recent.clear()
        if now - saved > 180:
            trainer.save()
            saved = now
        if now - started > minutes * 60 or trainer.step >= trainer.run.steps:
            break
    trainer.save()


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = run_arguments(__doc__, MotionRun, argv)
    torch.set_num_threads(args.threads)
    try:
        run = load_config(MotionRun, args.config, {})
        torch.manual_seed(run.seed)
        clips = list_clips(args.data)
        loaded = [load_motion_clip(c) for c in clips if not is_validation(c, clips)]
        args.out.mkdir(parents=True, exist_ok=True)
        config = MotionConfig()
        batches = MotionBatches(loaded, config, run.frames, run.batch, run.seed + int(time.time()))
        train(Trainer(run, config, loaded, args.out), batches, args.minutes)
    except MyTalkError as error:
        print(f"training.motion: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
