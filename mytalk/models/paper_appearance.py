"""Landmark-conditioned appearance VAE in the paper's own shape (3.4, 0.B.1.2); sizes ``base`` and ``paper``.

Three encoders of one architecture, FusionNet, decoder, and four 1×1 convolutions around the latents whose
parameter counts (42, 42, 21, 12) stand in Table 9 and fix their shapes: 6→6 on each pair of moments, 6→3 on
the two latents side by side, 3→3 before the decoder. The lip and the face encoder share one quant
convolution: the table counts 42 for "appearance" once.

Where the paper disagrees with itself: 0.B.1.2 lets FusionNet take "the concatenated lip appearance feature
and three non-lip appearance features"; section 3.4.1 (three lip references, one current frame without lips)
is the one that makes sense, and is what is built. Section 3.4.3 concatenates appearance and motion latents
for the decoder; with 3-channel latents the table's decoder (280M) takes 3, so the joint quant convolution
lies between.

Pictures are the whole crop (the ``tiny`` model works on the mask's window of it). The public verbs are those
of the tiny model; ``encode_landmarks`` and ``decode_latents`` are the two halves of ``decode``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mytalk.models.autoencoder import AutoencoderConfig, Decoder, Encoder, ResnetBlock, split_moments


class FusionNet(nn.Sequential):
    """Lip latents of the references and the face latent [B, (R + 1) z, h, w] → [B, z, h, w] (paper 3.4.2).

    Table 9's 4.8M: convolution 12 → 256, four residual blocks, convolution 256 → 3.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        width = config.fusion_width
        super().__init__(
            nn.Conv2d((config.reference_count + 1) * config.z, width, 3, 1, 1),
            *(ResnetBlock(width, width, recompute=config.recompute) for _ in range(config.fusion_blocks)),
            nn.Conv2d(width, config.z, 3, 1, 1),
        )


class PaperAppearance(nn.Module):
    """The whole appearance model for P×P pictures; latents are h = P / stride (64×64×3 for 256).

    ``hidden``: float32 [P, P], 1 where speech moves things; the face encoder never sees the current frame
    there, the lip encoder sees the references nowhere else (unless ``references`` is ``full_single``).
    Pictures are 0..1 at this boundary, -1..1 inside.
    """

    hidden: Tensor

    def __init__(self, config: AutoencoderConfig, hidden: Tensor) -> None:
        super().__init__()
        self.config = config
        if tuple(hidden.shape) != (config.picture, config.picture):
            hidden = F.interpolate(hidden[None, None], (config.picture, config.picture), mode="nearest")[0, 0]
        self.register_buffer("hidden", hidden)
        z = config.z
        self.lip_encoder = Encoder(config)
        self.face_encoder = Encoder(config)
        self.landmark_encoder = Encoder(config)
        self.appearance_quant = nn.Conv2d(2 * z, 2 * z, 1)
        self.landmark_quant = nn.Conv2d(2 * z, 2 * z, 1)
        self.fusion = FusionNet(config)
        self.joint_quant = nn.Conv2d(2 * z, z, 1)
        self.post_quant = nn.Conv2d(z, z, 1)
        self.decoder = Decoder(config)

    def encode_lips(self, references: Tensor) -> tuple[Tensor, Tensor]:
        """References [B, R, 3, P, P], 0..1 → mean, log-variance [B, R z, h, h] (paper Eq. 5)."""
        count = references.shape[0]
        seen = 2 * references - 1
        if self.config.references != "full_single":
            seen = seen * self.hidden
        moments = self.appearance_quant(self.lip_encoder(seen.flatten(0, 1)))
        mean, logvar = (part.unflatten(0, (count, -1)).flatten(1, 2) for part in split_moments(moments))
        return mean, logvar

    def encode_face(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        """Current pictures [B, 3, P, P], 0..1 → mean, log-variance [B, z, h, h]; blind inside the mask."""
        seen = (2 * faces - 1) * (1 - self.hidden)
        return split_moments(self.appearance_quant(self.face_encoder(seen)))

    def encode_landmarks(self, landmark_images: Tensor) -> tuple[Tensor, Tensor]:
        """Landmark images [B, 3, P, P], 0..1 → mean, log-variance [B, z, h, h]."""
        return split_moments(self.landmark_quant(self.landmark_encoder(2 * landmark_images - 1)))

    def latent(self, lips: Tensor, faces: Tensor, _references: Tensor | None = None) -> Tensor:
        """Appearance latent [B, z, h, h] of posterior samples (training) or means (serving) (paper Eq. 6).

        The tiny model also takes the references' own pixels here; this one has no use for them.
        """
        return self.fusion(torch.cat([lips, faces], dim=1))

    def decode_latents(self, latents: Tensor, motion: Tensor) -> Tensor:
        """Appearance and motion latents [B, z, h, h] → RGB [B, 3, P, P], about 0..1 (paper Eq. 7)."""
        joint = self.post_quant(self.joint_quant(torch.cat([latents, motion], dim=1)))
        return (self.decoder(joint) + 1) / 2

    def decode(self, landmark_images: Tensor, latents: Tensor) -> Tensor:
        """Landmark images [B, 3, P, P], latents [B, z, h, h] → RGB [B, 3, P, P], from the posterior mean."""
        return self.decode_latents(latents, self.encode_landmarks(landmark_images)[0])
