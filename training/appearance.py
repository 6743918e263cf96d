"""Train the appearance model (paper 3.4.4): ``python -m training.appearance --data DATA --out RUN``.

L1 + KL 1e-6, and a patch discriminator (0.5 in the paper) that starts late. Beyond the paper, and 0 where the
config says so: the L1 counts the mouth more, and image gradients too, which keeps lip edges from blurring.
Run again to go on from the last checkpoint.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mytalk.errors import BadInput
from mytalk.landmarks.layout import load_layout
from mytalk.landmarks.normalise import CROP
from mytalk.models.appearance import AppearanceConfig, AppearanceModel
from mytalk.models.autoencoder import REFERENCE_COUNTS, AutoencoderConfig, ResnetBlock
from mytalk.models.paper_appearance import PaperAppearance
from mytalk.models.sizes import ModelSize, build_appearance, build_discriminator, load_size
from mytalk.render.compose import hidden_mask
from mytalk.types import U8
from training.appearance_data import WHOLE, WINDOW, AppearanceBatch, AppearanceBatches, AppearanceDraw
from training.checkpoints import data_id, start_from
from training.data import Clip, is_validation, list_clips
from training.journal import Journal
from training.launch import add_weights_argument, launch, run_parser, tell, with_arguments
from training.settings import Runner, load_settings
from training.task import Described, Losses, Modules, Network
from training.texture import texture_loss


@dataclass(frozen=True, slots=True)
class AppearanceLoss:
    """Settings (TOML table ``[loss]``).

    kl_weight, adversarial_weight: 1e-6 and 0.5 in the paper. adversarial_start: the step at which the
    discriminator begins. adversarial_patch: side of the square around the mouth that it judges; 0: all.
    critic_learning_rate: its own, constant. gradient_weight: ours, of horizontal and vertical differences.
    texture_weight: ours, of the amount of detail (``training.texture``).
    """

    kl_weight: float = 1e-6
    gradient_weight: float = 0.3
    texture_weight: float = 1.0
    adversarial_weight: float = 0.5
    adversarial_start: int = 20_000
    adversarial_patch: int = 96
    critic_learning_rate: float = 2e-4


@dataclass(frozen=True, slots=True)
class AppearanceRun:
    """Settings of one run; tables ``[data]``, ``[loss]`` and ``[runner]``.

    size: a name or a TOML file (``mytalk.models.sizes``). references: what the lip encoder sees (paper Table
    7: masked_multi, masked_single, full_single); empty: as the size says. The paper trains 10 epochs at a
    constant learning rate, which is lost.
    """

    size: str = "tiny"
    references: str = ""
    data: AppearanceDraw = field(default_factory=AppearanceDraw)
    loss: AppearanceLoss = field(default_factory=AppearanceLoss)
    runner: Runner = field(
        default_factory=lambda: Runner(
            steps=40_000, learning_rate=6e-4, weight_decay=1e-4, average_decay=0.998, checkpoint_minutes=5.0
        )
    )


def _sample(moments: tuple[Tensor, Tensor]) -> Tensor:
    mean, logvar = moments
    return mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)


def _kl(moments: tuple[Tensor, Tensor]) -> Tensor:
    mean, logvar = (part.float() for part in moments)
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1).mean()


class Painting(NamedTuple):
    """What a batch gives: pictures float32 [C·K, 3, H, W], and the KL penalty of the latents, a scalar.

    rewarded: the same pictures, with gradients only for what was taken from the references
    (``training.texture``).
    """

    pictures: Tensor
    rewarded: Tensor
    penalty: Tensor


class AppearanceObjective(nn.Module):
    """A batch → ``Painting``."""

    def __init__(self, model: AppearanceModel | PaperAppearance) -> None:
        super().__init__()
        self.model = model

    def _drawn(self, moments: tuple[Tensor, Tensor]) -> Tensor:
        return _sample(moments) if self.training else moments[0]

    def forward(self, batch: AppearanceBatch) -> Painting:
        """Reconstruct the targets from posterior samples; in evaluation mode from means, as it serves."""
        model, repeat = self.model, len(batch.targets) // len(batch.references)
        references = batch.references
        if isinstance(model, PaperAppearance):
            references = references[:, : model.config.reference_count]
        lips = model.encode_lips(references)
        face = model.encode_face(batch.targets.contiguous(memory_format=torch.channels_last))
        images = batch.images.contiguous(memory_format=torch.channels_last)
        drawn_lips = self._drawn(lips).repeat_interleave(repeat, 0)
        repeated = references.repeat_interleave(repeat, 0)
        latents = model.latent(drawn_lips, self._drawn(face), repeated)
        penalty = _kl(lips) + _kl(face)
        if isinstance(model, PaperAppearance):
            motion = model.encode_landmarks(images)
            whole = model.decode_latents(latents, self._drawn(motion)).float()
            return Painting(whole, whole, penalty + _kl(motion))
        taken, painted = (part.float() for part in model.decode_parts(images, latents, repeated, batch.flows))
        return Painting(taken + painted, taken + painted.detach(), penalty)


def mouth_patches(pictures: Tensor, mouths: Tensor, size: int) -> Tensor:
    """Square patches around the mouths: [B, 3, H, W] → [B, 3, size, size]; size 0: the whole pictures."""
    if size == 0:
        return pictures
    height, width = pictures.shape[-2:]
    patches = []
    for picture, (x, y) in zip(pictures, mouths.tolist(), strict=True):
        left = min(max(x - size // 2, 0), width - size)
        top = min(max(y - size // 2, 0), height - size)
        patches.append(picture[:, top : top + size, left : left + size])
    return torch.stack(patches)


def reconstruction_loss(out: Tensor, batch: AppearanceBatch, gradient_weight: float) -> Tensor:
    """Weighted L1 of pixels and of horizontal and vertical differences."""
    error, weight = out - batch.targets, batch.weights
    loss = (error.abs() * weight).mean()
    across = (error[..., 1:] - error[..., :-1]).abs() * weight[..., 1:]
    down = (error[..., 1:, :] - error[..., :-1, :]).abs() * weight[..., 1:, :]
    return loss + gradient_weight * (across.mean() + down.mean())


def sheet(batch: AppearanceBatch, out: Tensor) -> U8:
    """Contact sheet: reference, landmark image, result, truth, in columns of targets."""
    repeat = len(batch.targets) // len(batch.references)
    rows = [
        batch.references[:, 0].repeat_interleave(repeat, 0),
        batch.images,
        out.detach().clamp(0, 1),
        batch.targets,
    ]
    picture = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    return (picture.permute(1, 2, 0).float().cpu().numpy() * 255).astype(np.uint8)


class AppearanceTask:
    """The appearance model against its discriminator."""

    kind = "appearance"

    def __init__(self, run: AppearanceRun, clips: list[Clip], size: ModelSize) -> None:
        self.run, self.runner, self.clips, self.size = run, run.runner, clips, size
        paper_shaped = isinstance(size.appearance, AutoencoderConfig)
        if isinstance(size.appearance, AutoencoderConfig) and size.appearance.picture != CROP:
            raise BadInput(f"prepared crops are {CROP} pixels, size {size.name} paints others")
        self.batches = AppearanceBatches(
            clips, run.data, load_layout(size.layout), WHOLE if paper_shaped else WINDOW
        )
        objective = AppearanceObjective(build_appearance(size, torch.from_numpy(hidden_mask())))
        # Channels last is faster on every device; FSDP does not shard it.
        order = torch.contiguous_format if self.runner.strategy == "fsdp" else torch.channels_last
        objective.to(memory_format=order)
        self.networks: tuple[Network, ...] = (Network("model", objective, objective.model, (ResnetBlock,)),)
        self.critic: nn.Module | None = None
        if run.loss.adversarial_weight > 0:
            self.critic = build_discriminator(size).to(memory_format=order)
            own = {"betas": (0.5, 0.9), "weight_decay": 1e-2, "averaged": False}
            rate = run.loss.critic_learning_rate
            self.networks += (Network("critic", self.critic, self.critic, learning_rate=rate, **own),)

    def draw(self, random: np.random.Generator) -> AppearanceBatch:
        """One batch of pictures."""
        return self.batches.draw(random)

    def frames(self, batch: AppearanceBatch) -> int:
        """Pictures that are painted."""
        return len(batch.targets)

    def losses(self, modules: Modules, batch: AppearanceBatch, step: int) -> Losses:
        """The paper's Eq. 9; hinge losses for the discriminator's part once it has started."""
        settings = self.run.loss
        out, rewarded, kl = modules["model"](batch)
        fidelity = reconstruction_loss(out, batch, settings.gradient_weight)
        texture = texture_loss(out, rewarded, batch.targets, batch.weights)
        total = fidelity + settings.texture_weight * texture + settings.kl_weight * kl
        totals, figures = {}, {"reconstruction": fidelity, "texture": texture, "kl": kl}
        if self.critic is not None and step >= settings.adversarial_start:
            fake = mouth_patches(out, batch.mouths, settings.adversarial_patch)
            real = mouth_patches(batch.targets, batch.mouths, settings.adversarial_patch)
            both = modules["critic"](torch.cat([real, fake.detach()]))
            judged_real, judged_fake = both.float().chunk(2)
            totals["critic"] = F.relu(1 - judged_real).mean() + F.relu(1 + judged_fake).mean()
            deceived = -self._judge(modules, fake).mean()
            total = total + settings.adversarial_weight * deceived
            figures["deceived"] = deceived
        return Losses({"model": total, **totals}, figures)

    def _judge(self, modules: Modules, pictures: Tensor) -> Tensor:
        """The discriminator's logits, with gradients for the pictures alone."""
        assert self.critic is not None
        self.critic.requires_grad_(False)
        # By FSDP the weights are only whole inside the wrapped call, DDP would wait for gradients there.
        call = modules["critic"] if self.runner.strategy == "fsdp" else self.critic
        judged: Tensor = call(pictures).float()
        self.critic.requires_grad_(True)
        return judged

    def described(self) -> Described:
        """The model's config."""
        return Described(self.size.appearance, self.run, data_id(self.clips))

    def show(self, modules: Modules, batch: AppearanceBatch, journal: Journal, step: int) -> None:
        """The last batch, painted."""
        journal.picture(step, "sheet", sheet(batch, modules["model"](batch).pictures))


def sized(name: str, references: str) -> ModelSize:
    """A model size, with another choice of references where one is given."""
    size = load_size(name)
    if not references:
        return size
    if references not in REFERENCE_COUNTS:
        raise BadInput(f"references = {references!r}; known: {', '.join(REFERENCE_COUNTS)}")
    changed: AppearanceConfig | AutoencoderConfig = replace(size.appearance, references=references)
    return replace(size, appearance=changed)


def build(args: argparse.Namespace) -> AppearanceTask:
    """The task that the command line asks for."""
    given = {"size": args.size, "references": args.references}
    run = load_settings(AppearanceRun, args.config, given)
    run = replace(run, runner=with_arguments(run.runner, args))
    size = sized(run.size, run.references)
    clips = list_clips(args.data)
    kept = [clip for clip in clips if not is_validation(clip, clips)]
    if not kept:
        raise BadInput(f"{args.data} has no clips to train on: all {len(clips)} are held out")
    torch.manual_seed(run.runner.seed)
    task = AppearanceTask(run, kept, size)
    if args.weights is not None:
        start_from(args.weights, task.networks[0].trained)
    tell(f"clips are drawn from {task.batches.draws.told()}")
    return task


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = run_parser(__doc__, AppearanceRun)
    parser.add_argument(
        "--references", help=f"what the lip encoder sees (Table 7): {', '.join(REFERENCE_COUNTS)}"
    )
    add_weights_argument(parser)
    return launch(parser, argv, build)


if __name__ == "__main__":
    sys.exit(main())
