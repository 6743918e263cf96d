"""What the motion trainer minimises (paper Eq. 4), and the linear code it works in.

Three ways to noise a sequence: ``levels`` (diffusion forcing: every block of frames its own noise level, some
clean, one pass trains every frame of every hop), ``two_copy`` (as in block diffusion: a noised copy hears a
clean one) and ``whole`` (the paper's: one level, bidirectional attention).
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mytalk.landmarks.layout import Layout
from mytalk.models.conformer import rotary_tables
from mytalk.models.feature_audio import FeatureAudioEncoder
from mytalk.models.identity import IdentityExtractor, KeyLandmarks
from mytalk.models.motion import MotionModel, noise_schedule
from mytalk.models.motion_config import AUDIO_PER_FRAME
from mytalk.models.rollout import roll_out
from mytalk.models.two_copies import denoise_two_copies
from mytalk.types import F32
from training.motion_data import MotionBatch

LIP_WEIGHT = 3.0  # lips against the rest of the lower face, in the code and in the loss
DEPTH_WEIGHT = 0.3
FACES = 8  # frames of a sequence whose likeness is judged
NOISINGS = ("levels", "two_copy", "whole")


@dataclass(frozen=True, slots=True)
class MotionLoss:
    """Settings (TOML table ``[loss]``).

    noising: ``levels``, ``two_copy`` (both block-causal) or ``whole`` (bidirectional, the paper's).
    identity_weight: 1 in the paper; Table 6 tries 0 and 2. velocity_weight: ours, of the motion's first
    difference; the paper has none.
    pure_share, known_share: blocks that are all noise (the first sampling step decides most), and known ones.
    known_disturbance: most noise on known frames, so that a disturbed past does no harm.
    self_generated_share: share of batches whose known frames the model made itself, after
    ``self_generated_from`` steps, with ``self_generated_steps`` sampling steps a block.
    keep_weight: of the distance from what the weights that the run began with say, wherever somebody speaks;
    0: none. A run that shall learn something new (to rest beside music) then keeps the lips that it has.
    """

    noising: str = "levels"
    velocity_weight: float = 1.0
    identity_weight: float = 1.0
    pure_share: float = 0.35
    known_share: float = 0.35
    known_disturbance: float = 0.12
    self_generated_share: float = 0.0
    self_generated_from: int = 0
    self_generated_steps: int = 2
    keep_weight: float = 0.0


def point_weights(layout: Layout, coordinates: int) -> Tensor:
    """Loss weight of every coordinate of the compact points, float32 [Kc·x]: lips more, depth less."""
    lips = np.isin(layout.compact, layout.lips)
    axes = np.array([1.0, 1.0, DEPTH_WEIGHT])[:coordinates]
    weight = np.where(lips, LIP_WEIGHT, 1.0)[:, None] * axes
    return torch.from_numpy((weight / weight.mean()).reshape(-1).astype(np.float32))


def fit_code(model: MotionModel, displacements: Iterable[F32], weights: Tensor) -> float:
    """Set the model's linear code from displacements [F, Kc·x]: weighted principal components.

    Returns their weighted mean square, the unit of the loss.
    """
    root = weights.sqrt().double()
    # Displacements are measured from a closed mouth, so zero (the idle face) stays the code's origin.
    data = torch.from_numpy(np.concatenate([d[::2] for d in displacements])).double() * root
    values, vectors = torch.linalg.eigh(data.T @ data / len(data))
    count = model.config.coefficients
    basis = vectors[:, -count:].flip(1).T
    deviation = values[-count:].flip(0).clamp_min(0).sqrt()
    if model.config.code == "raw":
        # The coordinates themselves; one unit for all, so that still points stay small.
        model.scale.fill_(float((data / root).square().mean().sqrt().clamp_min(1e-6)))
        return float(data.square().mean())
    model.basis.copy_((basis / root).float())
    model.inverse.copy_((basis * root).T.float())
    # A floor keeps the noise-like last components from counting as much as the jaw.
    model.scale.copy_(deviation.clamp_min(0.1 * float(deviation[0])).float())
    return float(data.square().mean())


def block_mask(blocks: Tensor, window: int) -> Tensor:
    """Who may attend to whom: own and earlier blocks in the window; sorted ids [F] → bool [1, 1, F, F]."""
    index = torch.arange(len(blocks), device=blocks.device)
    start = torch.searchsorted(blocks, blocks)
    earlier = blocks[None] <= blocks[:, None]
    near = index[None] >= start[:, None] - window
    return (earlier & near)[None, None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What all processes must decide alike in a step: sharded weights are gathered by all at once.

    size, offset: of the blocks. own_past: whether known frames are the model's own.
    """

    size: int
    offset: int
    own_past: bool

    def blocks(self, frames: int) -> Tensor:
        """The division of a sequence into equal blocks: sorted ids int64 [F]."""
        return (torch.arange(frames) + self.offset) // self.size


def draw_plan(loss: MotionLoss, tokens: int, seed: int, step: int) -> Plan:
    """Blocks of 2 to ``tokens`` frames, and whose past; a function of seed and step alone."""
    random = np.random.default_rng((seed, step, 2))
    size = int(random.integers(2, tokens + 1))
    own = random.random() < loss.self_generated_share and step >= loss.self_generated_from
    return Plan(size, int(random.integers(size)), bool(own) and loss.noising != "whole")


def draw_levels(loss: MotionLoss, count: int, blocks: Tensor) -> Tensor:
    """Noise levels [B, F], constant within a block; only ``levels`` has known blocks (level 0)."""
    number = int(blocks[-1]) + 1
    level = torch.rand(count, number)
    # The first sampling step, from pure noise, decides most of the result.
    level = torch.where(torch.rand(count, number) < loss.pure_share, torch.ones(()), level)
    if loss.noising == "levels":
        level = torch.where(torch.rand(count, number) < loss.known_share, torch.zeros(()), level)
    return level[:, blocks.cpu()]


class MotionObjective(nn.Module):
    """The model (trained) and the identity extractor (frozen); ``forward`` gives the losses of a batch."""

    weights: Tensor
    compact: Tensor

    def __init__(
        self, loss: MotionLoss, model: MotionModel, identity: IdentityExtractor, layout: Layout, energy: float
    ) -> None:
        super().__init__()
        self.loss, self.layout, self.energy = loss, layout, max(energy, 1e-12)
        self.model, self.identity = model, identity.eval().requires_grad_(False)
        self.key = KeyLandmarks(identity)
        self.register_buffer("weights", point_weights(layout, model.config.coordinates), persistent=False)
        compact = torch.from_numpy(layout.compact.astype(np.int64))
        self.register_buffer("compact", compact, persistent=False)
        self.teacher: MotionModel | None = None

    def keep(self) -> None:
        """Take the model's weights of now for those that ``keep_weight`` holds it to."""
        self.teacher = deepcopy(self.model).eval().requires_grad_(False)

    def train(self, mode: bool = True) -> MotionObjective:
        """Training mode, but never of what is frozen."""
        super().train(mode)
        for frozen in (self.identity, self.teacher):
            if frozen is not None:
                frozen.eval()
        return self

    def forward(self, batch: MotionBatch, plan: Plan | None) -> dict[str, Tensor]:
        """Losses by name, each a scalar; without a plan a generated ``displacement`` [B, F, Kc·x]."""
        embedding = self.condition(batch)
        speech = self.hear(batch)
        if plan is None:
            return {"displacement": self.sample(batch, speech, embedding)}
        loss, (count, frames) = self.loss, batch.displacement.shape[:2]
        device = batch.displacement.device
        blocks = torch.zeros(frames, dtype=torch.long)
        if loss.noising != "whole":
            blocks = plan.blocks(frames)
        blocks, level = blocks.to(device), draw_levels(loss, count, blocks).to(device)
        with self.in_full(device):
            target = self.model.to_coefficients(batch.displacement)
            noise = torch.randn_like(target)
            alpha, sigma = (x[..., None] for x in noise_schedule(level))
            noised = alpha * target + sigma * noise
            past = target + loss.known_disturbance * torch.rand(count, 1, 1, device=device) * noise
        if plan.own_past:
            past = self.own_past(batch, speech, embedding, blocks)
        x0 = self.denoise(noised, past, level, speech, batch, embedding, blocks)
        kept = None
        if self.teacher is not None:
            with torch.no_grad():
                heard = self.hear(batch, self.teacher)
                kept = self.denoise(noised, past, level, heard, batch, embedding, blocks, self.teacher)
        with self.in_full(device):
            return self.compare(x0.float(), level, batch, None if kept is None else kept.float())

    @staticmethod
    def in_full(device: torch.device) -> torch.autocast:
        """float32 arithmetic inside the runner's mixed precision: landmarks are measured in it."""
        return torch.autocast(device.type, enabled=False)

    def condition(self, batch: MotionBatch) -> Tensor:
        """What the denoiser is told of the person [B, condition width]: their rest face (paper Table 5)."""
        with self.in_full(batch.rest.device):
            face = batch.rest[..., :2]
            if self.model.config.condition == "embed_cross":
                return self.identity(face)
            return self.key(face)

    def hear(self, batch: MotionBatch, model: MotionModel | None = None) -> Tensor:
        """One speech feature per frame [B, F, audio_dim]; of the trained model, or another."""
        model = model or self.model
        audio, config = model.audio, model.config
        if not isinstance(audio, FeatureAudioEncoder):
            return audio(batch.features)
        valid = batch.valid.repeat_interleave(AUDIO_PER_FRAME, dim=1)
        return audio(
            batch.features, F.pad(valid, (config.left_audio_frames, config.right_audio_frames), value=True)
        )

    def _rotary(self, frames: int, device: torch.device) -> tuple[Tensor, Tensor]:
        config = self.model.config
        return rotary_tables(torch.arange(frames, device=device)[None], config.dim // config.heads)

    def denoise(
        self,
        noised: Tensor,
        past: Tensor,
        level: Tensor,
        speech: Tensor,
        batch: MotionBatch,
        embedding: Tensor,
        blocks: Tensor,
        model: MotionModel | None = None,
    ) -> Tensor:
        """x0 [B, F, C] of every noised frame; ``past`` [B, F, C] stands where frames are known."""
        rotary = self._rotary(noised.shape[1], noised.device)
        denoiser, window = (model or self.model).denoiser, self.model.config.window
        if self.loss.noising == "whole":
            mask = batch.valid[:, None, None].expand(-1, 1, noised.shape[1], -1)
            given = (noised, level, speech, batch.upper, embedding, rotary, mask)
            return denoiser(*given, valid=batch.valid)[0]
        if self.loss.noising == "two_copy":
            return denoise_two_copies(
                denoiser, past, noised, level, speech, batch.upper, embedding, rotary, blocks, window
            )
        known = torch.where((level == 0)[..., None], past, noised)
        mask = block_mask(blocks, window)
        return denoiser(known, level, speech, batch.upper, embedding, rotary, mask)[0]

    def own_past(self, batch: MotionBatch, speech: Tensor, embedding: Tensor, blocks: Tensor) -> Tensor:
        """Coefficients [B, F, C] that the model makes on its own past, without dropout or gradients."""
        shape = (*batch.displacement.shape[:2], self.model.config.coefficients)
        noise = torch.randn(shape, device=speech.device)
        mode = self.model.training
        self.model.eval()
        made = roll_out(
            self.model, noise, speech, batch.upper, embedding, blocks, self.loss.self_generated_steps
        )
        self.model.train(mode)
        return made.float()

    def sample(self, batch: MotionBatch, speech: Tensor, embedding: Tensor, hop: int = 2) -> Tensor:
        """Displacement float32 [B, F, Kc·x] generated as the model serves: hop by hop, or all at once."""
        count, frames = batch.displacement.shape[:2]
        blocks = torch.arange(frames, device=speech.device) // hop
        if self.loss.noising != "whole":
            made = self.own_past(batch, speech, embedding, blocks)
        else:
            noise = torch.randn(count, frames, self.model.config.coefficients, device=speech.device)
            mask = batch.valid[:, None, None].expand(-1, 1, frames, -1)
            rotary = self._rotary(frames, speech.device)
            made = self.model.sample(noise, speech, batch.upper, embedding, rotary, mask, None, 4).float()
        with self.in_full(speech.device):
            return self.model.to_displacement(made)

    def compare(
        self, x0: Tensor, level: Tensor, batch: MotionBatch, kept: Tensor | None = None
    ) -> dict[str, Tensor]:
        """x0 and its velocity in landmark space, and the likeness of the faces; padding does not count.

        kept: what the teacher says [B, F, C].
        """
        moved = self.model.to_displacement(x0)
        valid = batch.valid[..., None].float()
        counted = torch.where((level == 0)[..., None], 0.05, 1.0) * valid / valid.mean()
        error = (moved - batch.displacement) * self.weights.sqrt()
        both = valid[:, 1:] * valid[:, :-1]
        velocity = (error[:, 1:] - error[:, :-1]).square() * both / both.mean().clamp_min(1e-6)
        pure = (level == 1) & batch.valid
        first = torch.where(pure, error.detach().square().mean(-1), torch.nan).nanmean() / self.energy
        losses = {
            "x0": (error.square() * counted).mean() / self.energy,
            "velocity": velocity.mean() / self.energy,
            "identity": self.unlikeness(moved, batch),
        }
        weights = {"x0": 1.0, "velocity": self.loss.velocity_weight, "identity": self.loss.identity_weight}
        if kept is not None:
            # A mouth that is exactly at rest is one of the silences that the batches put in.
            spoken = batch.displacement.abs().amax(-1, keepdim=True) > 0
            away = (moved - self.model.to_displacement(kept)) * self.weights.sqrt()
            losses["kept"] = (away.square() * counted * spoken).mean() / self.energy
            weights["kept"] = self.loss.keep_weight
        # A weight of 0 leaves the term out of the graph: it is only reported.
        total = torch.stack([weights[k] * v for k, v in losses.items() if weights[k] > 0]).sum()
        return {"total": total, "x0_from_noise": first, **losses}

    def unlikeness(self, moved: Tensor, batch: MotionBatch) -> Tensor:
        """Mean cosine distance of generated faces from the person's own (paper 3.3.2)."""
        count = len(moved)
        lengths = batch.valid.sum(dim=1)
        places = (torch.rand(count, FACES, device=moved.device) * lengths[:, None]).long()
        some = torch.gather(moved, 1, places[..., None].expand(-1, -1, moved.shape[-1]))
        shift = some.unflatten(-1, (len(self.compact), -1))[..., :2]
        faces = batch.rest[:, None, :, :2].repeat(1, FACES, 1, 1)
        faces[:, :, self.compact] = faces[:, :, self.compact] + shift
        embedding = self.identity(faces.flatten(0, 1)).unflatten(0, (count, FACES))
        own = self.identity(batch.rest[..., :2])[:, None]
        return (1 - F.cosine_similarity(embedding, own, dim=-1)).mean()
