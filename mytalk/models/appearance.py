"""Landmark-conditioned appearance VAE (paper 3.4): three encoders, FusionNet, decoder; size ``tiny``.

Same shape as the paper with three changes that a CPU needs. Everything works on the window of the 256×256
crop that holds the mask, since pixels outside it are the source's own. There are no norms and only ReLU,
since GroupNorm and SiLU cost 2–4× in every CPU runtime (residual branches start at zero instead). And most
of a picture is not painted but taken from the references' own pixels, so that lips, teeth and skin keep their
detail without a large decoder: around the mouth each reference is *warped* to the wanted landmarks
(``mytalk.landmarks.warp`` gives the flow, the decoder corrects it) and blended in every pixel by the decoder;
elsewhere there is the *base*, a blend of the references that FusionNet fixes once per clip frame. The decoder
adds what is still missing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mytalk.errors import BadInput
from mytalk.landmarks.warp import FLOW_STRIDE as STRIDE
from mytalk.landmarks.warp import WINDOW_COLUMNS, WINDOW_ROWS
from mytalk.models.autoencoder import REFERENCE_COUNTS
from mytalk.models.folding import ConvRelu, FoldedConv, ResBlock, SpreadConv
from mytalk.models.warping import REFERENCES, Warp

BASE_CHANNELS = 3 * STRIDE * STRIDE  # the base window, folded to latent size


@dataclass(frozen=True, slots=True)
class AppearanceConfig:
    """Widths of the networks. z: latent channels of one encoder; app: channels of the fused latent.

    references: what is taken from the lip references (paper Table 7): ``masked_multi`` (ours: three, of each
    what the mask hides), ``masked_single``, or ``full_single`` (the first one alone, and all of it).
    """

    z: int = 16
    app: int = 32
    encoder: int = 32
    encoder_deep: int = 64
    landmark: int = 48
    landmark_z: int = 32
    decoder: int = 64
    decoder_deep: int = 96
    decoder_fine: int = 24
    references: str = "masked_multi"

    def __post_init__(self) -> None:
        """Raise ``BadInput`` for references that do not exist."""
        if self.references not in REFERENCE_COUNTS:
            known = ", ".join(REFERENCE_COUNTS)
            raise BadInput(f"appearance references must be one of {known}, not {self.references!r}")


def window_px(x: Tensor) -> Tensor:
    """The mask's window of crop-sized pictures: [..., 256, 256] → [..., 160, 176]."""
    (top, bottom), (left, right) = WINDOW_ROWS, WINDOW_COLUMNS
    return x[..., top * STRIDE : bottom * STRIDE, left * STRIDE : right * STRIDE]


class Encoder(nn.Module):
    """Picture [B, Cin, 4H, 4W] → posterior mean and log-variance, [B, z, H, W] (paper Fig. 9a, small)."""

    def __init__(self, cin: int, width: int, deep: int, z: int) -> None:
        super().__init__()
        self.stem = ConvRelu(cin * STRIDE * STRIDE, width)
        self.down = ConvRelu(width, deep, 2)
        self.middle = nn.Sequential(ResBlock(deep), ResBlock(deep))
        self.up = nn.Conv2d(deep, width * 4, 1)
        self.fuse = ResBlock(width)
        self.quant = nn.Conv2d(width, 2 * z, 1)
        with torch.no_grad():
            # Little posterior noise at first lets the decoder find out that the latents are worth reading.
            self.quant.get_parameter("bias")[z:].fill_(-6.0)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Encode; log-variance is clamped to -30..10."""
        shallow = self.stem(F.pixel_unshuffle(x, STRIDE))
        deep = F.pixel_shuffle(self.up(self.middle(self.down(shallow))), 2)
        mean, logvar = self.quant(self.fuse(shallow + deep)).chunk(2, dim=1)
        return mean, logvar.clamp(-30.0, 10.0)


class LandmarkEncoder(nn.Module):
    """Landmark image window [B, 3, 160, 176] in 0..1 → [B, landmark_z, 40, 44]; runs for every frame."""

    def __init__(self, config: AppearanceConfig) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Sequential(FoldedConv(3, config.landmark, STRIDE), nn.ReLU(inplace=True)),
            ConvRelu(config.landmark, config.landmark),
            nn.Conv2d(config.landmark, config.landmark_z, 3, 1, 1),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Encode; deterministic, since its latent goes straight into the decoder."""
        return self.layers(image)


class FusionNet(nn.Module):
    """Three lip latents, one face latent [B, 4 z, 40, 44] → appearance [B, app, 40, 44] (paper 3.4.2).

    Also gives blending weights of the references [B, 3, 160, 176], which sum to 1 in every pixel.
    """

    def __init__(self, config: AppearanceConfig) -> None:
        super().__init__()
        width = config.encoder_deep
        self.layers = nn.Sequential(
            ConvRelu((REFERENCES + 1) * config.z, width),
            ResBlock(width),
            ResBlock(width),
            nn.Conv2d(width, config.app + REFERENCES, 1),
        )

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse."""
        fused = self.layers(latents)
        features, weights = fused[:, :-REFERENCES], fused[:, -REFERENCES:]
        return features, F.interpolate(weights, scale_factor=STRIDE, mode="bilinear").softmax(dim=1)


class Decoder(nn.Module):
    """[z_app, base, z_lm] [B, app + 48 + landmark_z, 40, 44] → RGB [B, 3, 160, 176], unclamped (paper 3.4.3).

    It blends what ``Warp`` finds in the references, and adds what the landmarks ask for beyond that. It sees
    the base at two scales, so that it can also take away.
    """

    def __init__(self, config: AppearanceConfig) -> None:
        super().__init__()
        width, deep, fine = config.decoder, config.decoder_deep, config.decoder_fine
        self.stem = nn.Sequential(
            ConvRelu(config.app + BASE_CHANNELS + config.landmark_z, width), ResBlock(width)
        )
        self.down = ConvRelu(width, deep, 2)
        self.middle = nn.Sequential(ResBlock(deep), ResBlock(deep), ResBlock(deep))
        self.up = SpreadConv(deep, width, 1)
        self.join = ResBlock(width)
        self.warp = Warp(width)
        self.up_fine = SpreadConv(width, fine, 3)
        self.base_fine = FoldedConv(3, fine, 2)
        self.fine = ConvRelu(fine, fine)
        self.out = SpreadConv(fine, 3, 3)
        with torch.no_grad():
            self.out.conv.weight.mul_(0.1)  # the first pictures are the references' pixels

    def forward(
        self, latents: Tensor, base: Tensor, references: Tensor, flows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What is taken from the references, and what is painted on it, [B, 3, 160, 176] each.

        base [B, 3, 160, 176] is the latents' own, for the rest see ``Warp``.
        """
        shallow = self.stem(latents)
        joined = self.join(F.relu(shallow + self.up(self.middle(self.down(shallow)))))
        taken = self.warp(joined, base, references, flows)
        fine = self.up_fine(joined) + self.base_fine(taken)
        return taken, self.out(self.fine(F.relu(fine)))


class AppearanceModel(nn.Module):
    """The whole appearance model. ``hidden``: float32 [256, 256], 1 where speech moves things."""

    hidden: Tensor

    def __init__(self, config: AppearanceConfig, hidden: Tensor) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("hidden", window_px(hidden))
        self.lip_encoder = Encoder(3, config.encoder, config.encoder_deep, config.z)
        self.face_encoder = Encoder(3, config.encoder, config.encoder_deep, config.z)
        self.landmark_encoder = LandmarkEncoder(config)
        self.fusion = FusionNet(config)
        self.decoder = Decoder(config)

    def encode_lips(self, references: Tensor) -> tuple[Tensor, Tensor]:
        """Reference windows [B, 3, 3, 160, 176], 0..1 → mean, logvar [B, 3 z, 40, 44]; sees the mask only."""
        count = references.shape[0]
        seen = self._given(references) - 0.5
        if self.config.references != "full_single":
            seen = seen * self.hidden
        mean, logvar = self.lip_encoder(seen.flatten(0, 1))
        return mean.reshape(count, -1, *mean.shape[2:]), logvar.reshape(count, -1, *mean.shape[2:])

    def encode_face(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        """Current windows [B, 3, 160, 176], 0..1 → mean, logvar [B, z, 40, 44]; hidden inside the mask."""
        return self.face_encoder((faces - 0.5) * (1 - self.hidden))

    def latent(self, lips: Tensor, faces: Tensor, references: Tensor) -> Tensor:
        """Appearance latent [B, app + 48, 40, 44] of posterior samples or means and the references."""
        features, weights = self.fusion(torch.cat([lips, faces], dim=1))
        base = (weights[:, :, None] * self._given(references)).sum(dim=1)
        return torch.cat([features, F.pixel_unshuffle(base, STRIDE)], dim=1)

    def decode(self, landmark_images: Tensor, latents: Tensor, references: Tensor, flows: Tensor) -> Tensor:
        """One picture each: RGB windows [B, 3, 160, 176], unclamped.

        landmark_images: windows [B, 3, 160, 176]. latents: [B, app + 48, 40, 44]. references: windows of the
        lip references [B, 3, 3, 160, 176], 0..1, or the fine ones that ``Warp`` looks things up in. flows: of
        ``reference_flows``, [B, 3, 2, 36, 36].
        """
        taken, painted = self.decode_parts(landmark_images, latents, references, flows)
        return taken + painted

    def decode_parts(
        self, landmark_images: Tensor, latents: Tensor, references: Tensor, flows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The two parts that ``decode`` adds: what is taken from the references, what is painted on it."""
        z_lm = self.landmark_encoder(landmark_images)
        base = F.pixel_shuffle(latents[:, self.config.app :], STRIDE)
        return self.decoder(
            torch.cat([latents, z_lm], dim=1), base, self._given(references), self._given(flows)
        )

    def _given(self, references: Tensor) -> Tensor:
        """All references, or the first one in every place (paper Table 7's single ones) [B, 3, ...]."""
        if self.config.references == "masked_multi":
            return references
        return references[:, :1].expand_as(references)


class PatchDiscriminator(nn.Module):
    """Patch discriminator (paper 3.4.4): [B, 3, H, W] → logits [B, 1, H/8, W/8]."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for cin, cout in ((width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.Conv2d(cin, cout, 4, 2, 1), nn.LeakyReLU(0.2)]
        layers.append(nn.Conv2d(4 * width, 1, 3, 1, 1))
        self.layers = nn.Sequential(*layers)

    def forward(self, pictures: Tensor) -> Tensor:
        """Higher = more real."""
        return self.layers(pictures)
