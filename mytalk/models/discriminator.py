"""Patch discriminator of the paper-shaped appearance model (paper 3.4.4, Table 9: 17.5M)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class DiscriminatorConfig:
    """Sizes of the discriminator.

    width: channels of the first layer, doubled by each strided one up to eight times. layers: strided layers
    after which one more looks at its 70×70-pixel surroundings (with three). The paper prints neither; three
    is what the latent-diffusion code it follows uses, and Table 9's 17.5M then need a width of 161.
    """

    width: int = 161
    layers: int = 3


class PatchGan(nn.Sequential):
    """Pictures [B, 3, P, P], 0..1 → logits [B, 1, p, p], one per patch; higher = more real.

    With three layers p = P/8 - 2.
    """

    def __init__(self, config: DiscriminatorConfig) -> None:
        layers: list[nn.Module] = [nn.Conv2d(3, config.width, 4, 2, 1), nn.LeakyReLU(0.2)]
        current = config.width
        for level in range(1, config.layers + 1):
            wider = config.width * min(2**level, 8)
            stride = 2 if level < config.layers else 1
            layers += [
                nn.Conv2d(current, wider, 4, stride, 1, bias=False),
                nn.BatchNorm2d(wider),
                nn.LeakyReLU(0.2),
            ]
            current = wider
        super().__init__(*layers, nn.Conv2d(current, 1, 4, 1, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        """Judge."""
        return super().forward(2 * pictures - 1)
