"""Train the appearance model (paper 3.4.4): ``python -m training.appearance --data DATA --out RUN``.

L1 + KL 1e-6, and a patch discriminator where ``adversarial_weight`` is set; the L1 counts the mouth more and
image gradients too, which keeps teeth and lip edges from blurring. Stops after ``--minutes`` or ``steps``;
run again to go on from the last checkpoint.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mytalk.compose import hidden_mask
from mytalk.errors import MyTalkError
from mytalk.landmarks.draw import draw_landmarks
from mytalk.landmarks.layout import load_layout
from mytalk.landmarks.warp import reference_flows
from mytalk.models.appearance import (
    STRIDE,
    WINDOW_COLUMNS,
    WINDOW_ROWS,
    AppearanceConfig,
    AppearanceModel,
    PatchDiscriminator,
)
from mytalk.types import F32, U8
from training.data import HELD_OUT_TAIL, Clip, crop_points, is_validation, list_clips, prefetch
from training.loop import Average, load_checkpoint, load_config, run_arguments, save_checkpoint

TOP, BOTTOM = (row * STRIDE for row in WINDOW_ROWS)
LEFT, RIGHT = (column * STRIDE for column in WINDOW_COLUMNS)
LIP_CENTRE_POINTS = (13, 14, 61, 291)
REFERENCE_RANKS = ((0.0, 0.2), (0.6, 0.85), (0.9, 1.0))  # closed, half open, open: ranks by mouth opening


@dataclass(frozen=True, slots=True)
class AppearanceRun:
    """Settings of one run. Shares are how often a clip of each source is drawn; the rest is GRID."""

    steps: int = 40_000
    clips_per_batch: int = 3
    targets_per_clip: int = 3
    learning_rate: float = 6e-4
    final_learning_rate: float = 5e-5
    warmup_steps: int = 100
    decay_minutes: float = 55.0
    actor_share: float = 0.4
    synthetic_share: float = 0.35
    kl_weight: float = 1e-6
    gradient_weight: float = 1.0
    adversarial_weight: float = 0.0
    adversarial_patch: int = 96
    average_decay: float = 0.998
    neighbour_frames: int = 5
    posed_references_share: float = 0.6  # references picked by opening, as for an actor; the rest at random
    landmark_shift_px: float = 0.4
    landmark_noise_px: float = 0.25
    soft_share: float = 0.15
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Batch:
    """K pictures of each of C clips, float32 windows in 0..1.

    references [C, 3, 3, 160, 176]; targets, images [C·K, 3, 160, 176]; flows [C·K, 3, 2, 36, 36], crop
    pixels; weights [C·K, 1, 160, 176]; mouths int [C·K, 2] (x, y).
    """

    references: Tensor
    targets: Tensor
    images: Tensor
    flows: Tensor
    weights: Tensor
    mouths: Tensor


class Batches:
    """Draws random batches; one clip gives one set of references and several targets."""

    def __init__(self, clips: list[Clip], run: AppearanceRun) -> None:
        self.run, self.random = run, np.random.default_rng(run.seed + int(time.time()))
        self.clips = {s: [c for c in clips if c.source == s] for s in ("actors", "synthetic", "grid")}
        self.arrays = {c.name: c.arrays() for c in clips}
        self.crops = {c.name: c.crops() for c in clips}

    def _clip(self) -> Clip:
        draw = self.random.random()
        source = "actors" if draw < self.run.actor_share else "synthetic"
        if draw > self.run.actor_share + self.run.synthetic_share:
            source = "grid"
        pool = self.clips[source] or [c for some in self.clips.values() for c in some]
        return pool[self.random.integers(len(pool))]

    def _pick(self, clip: Clip) -> tuple[np.ndarray, np.ndarray]:
        """Indices into the crops: targets [K], references [3] away from the targets' neighbours."""
        picked, opening = self.arrays[clip.name]["picked"], self.arrays[clip.name]["opening"]
        usable = np.arange(len(picked))
        if clip.source == "actors":
            usable = usable[picked < len(opening) - HELD_OUT_TAIL]
        # Open mouths are rarer than closed ones and harder: half of the targets are drawn by opening.
        weight = 0.02 + np.clip(opening[picked[usable]], 0, 0.3)
        by_opening = self.random.choice(usable, self.run.targets_per_clip, p=weight / weight.sum())
        uniform = self.random.choice(usable, self.run.targets_per_clip)
        targets = np.where(self.random.random(self.run.targets_per_clip) < 0.5, by_opening, uniform)
        distance = np.abs(picked[usable][:, None] - picked[targets][None]).min(axis=1)
        far = usable[distance > self.run.neighbour_frames]
        if len(far) < 3:
            far = usable
        if self.random.random() > self.run.posed_references_share:
            return targets, self.random.choice(far, 3, replace=False)
        ordered = far[np.argsort(opening[picked[far]])]
        ranks = [self.random.uniform(low, high) * (len(far) - 1) for low, high in REFERENCE_RANKS]
        return targets, ordered[np.round(ranks).astype(int)]

    def _look(self, clip: Clip, pictures: F32) -> F32:
        """One colour change for all of a clip (not for the demo actors, whose look must be exact)."""
        if clip.source == "actors" or self.random.random() < 0.3:
            return pictures
        gain = self.random.uniform(0.75, 1.2) * self.random.uniform(0.9, 1.1, (3, 1, 1))
        gamma = self.random.uniform(0.8, 1.25)
        changed: F32 = np.clip(np.power(pictures, gamma) * gain, 0, 1).astype(np.float32)
        if self.random.random() < self.run.soft_share:
            # A person filmed from afar: the window holds fewer pixels than it has room for.
            pictures_t = torch.from_numpy(changed)
            small = F.interpolate(pictures_t, scale_factor=self.random.uniform(0.4, 0.9), mode="area")
            changed = F.interpolate(small, changed.shape[2:], mode="bicubic").clamp(0, 1).numpy()
        return changed

    def _landmarks(self, clip: Clip, picked: np.ndarray) -> F32:
        """Crop landmarks float32 [n, K, 2] of some crops, disturbed as much as a detector is unsure."""
        points = crop_points(self.arrays[clip.name], picked)
        whole = self.random.normal(0, self.run.landmark_shift_px, (len(points), 1, 2))
        each = self.random.normal(0, self.run.landmark_noise_px, points.shape)
        return (points + whole + each).astype(np.float32)

    def draw(self) -> Batch:
        """One batch."""
        parts = [self._draw_clip() for _ in range(self.run.clips_per_batch)]
        references, *rest, mouths = zip(*parts, strict=True)
        return Batch(
            torch.from_numpy(np.ascontiguousarray(np.stack(references))),
            *(torch.from_numpy(np.ascontiguousarray(np.concatenate(x))) for x in rest),
            torch.from_numpy(np.concatenate(mouths)).long(),
        )

    def _draw_clip(self) -> tuple[np.ndarray, ...]:
        """What one clip gives to a batch: the fields of ``Batch``, in order."""
        clip = self._clip()
        target_index, reference_index = self._pick(clip)
        index = np.concatenate([reference_index, target_index])
        pictures = self.crops[clip.name][index][:, TOP:BOTTOM, LEFT:RIGHT]
        pictures = self._look(clip, pictures.transpose(0, 3, 1, 2).astype(np.float32) / 255)
        layout, points = load_layout(), self._landmarks(clip, index)
        drawn = np.stack([draw_landmarks(p, layout) for p in points[3:]])[:, :, TOP:BOTTOM, LEFT:RIGHT]
        flows = np.stack([reference_flows(p, points[:3], layout) for p in points[3:]])
        mouths = points[3:, list(LIP_CENTRE_POINTS)].mean(axis=1)
        weight = _loss_weight(mouths)
        mouths -= (LEFT, TOP)
        if clip.source != "actors" and self.random.random() < 0.5:
            pictures, drawn, weight, flows = (x[..., ::-1] for x in (pictures, drawn, weight, flows))
            flows = flows * np.array([-1, 1], np.float32)[:, None, None]
            mouths[:, 0] = RIGHT - LEFT - mouths[:, 0]
        return pictures[:3], pictures[3:], drawn, flows, weight, mouths


def _loss_weight(mouths: F32) -> F32:
    """Weight of every pixel of the window, float32 [n, 1, 160, 176]; mouths: centres in the crop [n, 2]."""
    rows, columns = np.mgrid[TOP:BOTTOM, LEFT:RIGHT] + 0.5
    near = np.stack([np.exp(-0.5 * (((columns - x) / 30) ** 2 + ((rows - y) / 24) ** 2)) for x, y in mouths])
    hidden = hidden_mask()[TOP:BOTTOM, LEFT:RIGHT]
    weight: F32 = ((0.1 + 0.9 * hidden) * (1 + 4 * near)).astype(np.float32)[:, None]
    return weight


def _sample(mean: Tensor, logvar: Tensor) -> Tensor:
    return mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)


def _kl(mean: Tensor, logvar: Tensor) -> Tensor:
    mean, logvar = mean.float(), logvar.float()
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1).mean()


def mouth_patches(pictures: Tensor, mouths: Tensor, size: int) -> Tensor:
    """Square patches around the mouths: [B, 3, H, W] → [B, 3, size, size]."""
    height, width = pictures.shape[-2:]
    patches = []
    for picture, (x, y) in zip(pictures, mouths.tolist(), strict=True):
        left = min(max(x - size // 2, 0), width - size)
        top = min(max(y - size // 2, 0), height - size)
        patches.append(picture[:, top : top + size, left : left + size])
    return torch.stack(patches)


def reconstruct(model: AppearanceModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Pictures float32 [B, 3, 160, 176] and the KL penalty of one batch."""
    targets_per_clip = len(batch.targets) // len(batch.references)
    channels_last = torch.channels_last
    with torch.autocast("cpu", torch.bfloat16):
        lip_mean, lip_logvar = model.encode_lips(batch.references)
        face_mean, face_logvar = model.encode_face(batch.targets.contiguous(memory_format=channels_last))
        lips = _sample(lip_mean, lip_logvar).repeat_interleave(targets_per_clip, 0)
        references = batch.references.repeat_interleave(targets_per_clip, 0)
        latents = model.latent(lips, _sample(face_mean, face_logvar), references)
        images = batch.images.contiguous(memory_format=channels_last)
        out = model.decode(images, latents, references, batch.flows)
    return out.float(), _kl(lip_mean, lip_logvar) + _kl(face_mean, face_logvar)


def reconstruction_loss(out: Tensor, batch: Batch, gradient_weight: float) -> Tensor:
    """Weighted L1 of pixels and of horizontal and vertical differences."""
    error, weight = out - batch.targets, batch.weights
    loss = (error.abs() * weight).mean()
    across = (error[..., 1:] - error[..., :-1]).abs() * weight[..., 1:]
    down = (error[..., 1:, :] - error[..., :-1, :]).abs() * weight[..., 1:, :]
    return loss + gradient_weight * (across.mean() + down.mean())


def learning_rate(run: AppearanceRun, step: int, minutes: float) -> float:
    """Linear warm-up, then cosine decay over ``decay_minutes`` of training time."""
    progress = min(1.0, minutes / run.decay_minutes)
    cosine = 0.5 * (1 + np.cos(np.pi * progress))
    base = run.final_learning_rate + (run.learning_rate - run.final_learning_rate) * cosine
    return float(base * min(1.0, (step + 1) / run.warmup_steps))


def sheet(batch: Batch, out: Tensor) -> U8:
    """Contact sheet: reference, landmark image, result, truth, in columns of targets."""
    repeat = len(batch.targets) // len(batch.references)
    rows = [
        batch.references[:, 0].repeat_interleave(repeat, 0),
        batch.images,
        out.detach().clamp(0, 1),
        batch.targets,
    ]
    picture = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    return (picture.permute(1, 2, 0).numpy() * 255).astype(np.uint8)


class Trainer:
    """Owns the networks, optimisers and averages of one run; resumes from ``out/last.pt`` if it is there."""

    def __init__(self, run: AppearanceRun, config: AppearanceConfig, out: Path) -> None:
        self.run, self.out, self.config = run, out, config
        self.model = AppearanceModel(config, torch.from_numpy(hidden_mask())).to(
            memory_format=torch.channels_last
        )
        self.critic = PatchDiscriminator().to(memory_format=torch.channels_last)
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), betas=(0.9, 0.98), weight_decay=1e-4, fused=True
        )
        self.critic_optimiser = torch.optim.AdamW(
            self.critic.parameters(), lr=2e-4, betas=(0.5, 0.9), fused=True
        )
        self.step, self.minutes = 0, 0.0
        self.average = Average(self.model, run.average_decay)
        if (out / "last.pt").exists():
            self._resume(load_checkpoint(out / "last.pt"))

    def _resume(self, saved: dict[str, object]) -> None:
        self.model.load_state_dict(saved["model"])  # type: ignore[arg-type]
        self.critic.load_state_dict(saved["critic"])  # type: ignore[arg-type]
        self.optimiser.load_state_dict(saved["optimiser"])  # type: ignore[arg-type]
        self.critic_optimiser.load_state_dict(saved["critic_optimiser"])
        self.step, self.minutes = int(saved["step"]), float(saved["minutes"])
        self.average.weights = saved["average"]  # type: ignore[assignment]

    def save(self) -> None:
        """Write ``last.pt``."""
        parts = {
            "model": self.model.state_dict(),
            "critic": self.critic.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "critic_optimiser": self.critic_optimiser.state_dict(),
            "average": self.average.weights,
            "minutes": self.minutes,
        }
        save_checkpoint(self.out / "last.pt", self.step, self.config, parts)

    def train_step(self, batch: Batch) -> tuple[float, Tensor]:
        """One step of the generator and, if used, the discriminator; returns the L1 part and the pictures."""
        rate = learning_rate(self.run, self.step, self.minutes)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        out, kl = reconstruct(self.model, batch)
        fidelity = reconstruction_loss(out, batch, self.run.gradient_weight)
        loss = fidelity + self.run.kl_weight * kl
        if self.run.adversarial_weight > 0:
            fake = mouth_patches(out, batch.mouths, self.run.adversarial_patch)
            real = mouth_patches(batch.targets, batch.mouths, self.run.adversarial_patch)
            loss = loss + self._adversarial(fake, real)
        if not torch.isfinite(loss):
            raise MyTalkError(f"loss is not finite at step {self.step}; the last checkpoint is intact")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        self.average.update(self.step)
        return float(fidelity.detach()), out

    def _adversarial(self, fake: Tensor, real: Tensor) -> Tensor:
        """Hinge loss; trains the discriminator on the detached pictures first."""
        with torch.autocast("cpu", torch.bfloat16):
            judged_real, judged_fake = self.critic(real), self.critic(fake.detach())
        critic_loss = F.relu(1 - judged_real.float()).mean() + F.relu(1 + judged_fake.float()).mean()
        self.critic_optimiser.zero_grad(set_to_none=True)
        critic_loss.backward()
        self.critic_optimiser.step()
        with torch.autocast("cpu", torch.bfloat16):
            judged = self.critic(fake)
        return -self.run.adversarial_weight * judged.float().mean()


def train(trainer: Trainer, batches: Batches, minutes: float, report_every: int = 50) -> None:
    """Train until ``minutes`` of this call or the run's steps are over; checkpoints every 5 minutes."""
    started = last = saved = time.monotonic()
    recent: list[float] = []
    for item in prefetch(batches.draw):
        assert isinstance(item, Batch)
        loss, out = trainer.train_step(item)
        now = time.monotonic()
        trainer.minutes += (now - last) / 60
        last = now
        recent.append(loss)
        if trainer.step % report_every == 0:
            rate = len(recent) * len(item.targets) / (now - started)
            mean = float(np.mean(recent[-report_every:]))
            print(f"step {trainer.step} {trainer.minutes:.1f} min loss {mean:.4f} {rate:.1f}/s", flush=True)
        if now - saved > 300 or trainer.step == 100:
            trainer.save()
            Image.fromarray(sheet(item, out)).save(trainer.out / "sheet.png")
            saved = now
        if now - started > minutes * 60 or trainer.step >= trainer.run.steps:
            break
    trainer.save()


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = run_arguments(__doc__, AppearanceRun, argv)
    torch.set_num_threads(args.threads)
    try:
        run = load_config(AppearanceRun, args.config, {})
        clips = list_clips(args.data)
        torch.manual_seed(run.seed)
        args.out.mkdir(parents=True, exist_ok=True)
        batches = Batches([c for c in clips if not is_validation(c, clips)], run)
        train(Trainer(run, AppearanceConfig(), args.out), batches, args.minutes)
    except MyTalkError as error:
        print(f"training.appearance: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
