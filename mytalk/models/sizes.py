"""Every model from one description: ``tiny`` (ships), ``base`` (a small GPU), ``paper`` (Table 9).

``load_size`` takes one of these names, or a TOML file that starts from one and changes what it says::

    size = "base"
    layout = "dense669"      # or mediapipe478; widths that follow from it are set

    [motion]
    layers = 4
    [appearance]
    picture = 512            # the same network on 512×512 pictures

``base`` has the paper's appearance shape at half the width and a quarter of the depth (101M parameters)
rather than a wider ``tiny``: it is meant for a small GPU, where GroupNorm and SiLU cost nothing, and what is
learned on it then holds for ``paper``. Its motion model is ``tiny``'s kind (log-mel, block-causal, principal
components) at 36M, so that it streams as it is.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mytalk.errors import BadInput
from mytalk.landmarks.layout import load_layout
from mytalk.models.appearance import AppearanceConfig, AppearanceModel, PatchDiscriminator
from mytalk.models.autoencoder import AutoencoderConfig
from mytalk.models.discriminator import DiscriminatorConfig, PatchGan
from mytalk.models.identity import ArcFace, IdentityConfig, IdentityExtractor
from mytalk.models.motion import MotionModel
from mytalk.models.motion_config import MotionConfig
from mytalk.models.paper_appearance import PaperAppearance

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class ModelSize:
    """One size of both models.

    layout: landmark layout that they work on. appearance: ``AppearanceConfig`` is the tiny network,
    ``AutoencoderConfig`` the paper's shape. discriminator: of the appearance training; for the tiny network
    only its width counts.
    """

    name: str
    layout: str
    motion: MotionConfig
    identity: IdentityConfig
    appearance: AppearanceConfig | AutoencoderConfig
    discriminator: DiscriminatorConfig

    def __post_init__(self) -> None:
        """Raise ``BadInput`` where the parts do not fit each other or the layout."""
        layout, motion = load_layout(self.layout), self.motion
        for what, value, wanted in (
            ("motion.compact", motion.compact, len(layout.compact)),
            ("motion.coordinates", motion.coordinates, layout.coordinates),
            ("motion.upper", motion.upper, 2 * len(layout.upper)),
            ("motion.key_points", motion.key_points, layout.points),
            ("identity.points", self.identity.points, layout.points),
            ("motion.identity", motion.identity, self.identity.embedding),
        ):
            if value != wanted:
                raise BadInput(f"size {self.name}: {what} is {value}, but must be {wanted} ({self.layout})")


def with_layout(size: ModelSize, layout_name: str) -> ModelSize:
    """The same size on another landmark layout: sets every width that follows from it."""
    layout = load_layout(layout_name)
    motion = replace(
        size.motion,
        compact=len(layout.compact),
        coordinates=layout.coordinates,
        upper=2 * len(layout.upper),
        key_points=layout.points,
        coefficients=(
            len(layout.compact) * layout.coordinates
            if size.motion.code == "raw"
            else size.motion.coefficients
        ),
    )
    return replace(
        size, layout=layout_name, motion=motion, identity=replace(size.identity, points=layout.points)
    )


TINY = ModelSize(
    name="tiny",
    layout="mediapipe478",
    motion=MotionConfig(),
    identity=IdentityConfig(),
    appearance=AppearanceConfig(),
    discriminator=DiscriminatorConfig(width=32),
)

BASE = ModelSize(
    name="base",
    layout="mediapipe478",
    motion=MotionConfig(
        coefficients=48,
        identity=256,
        dim=384,
        layers=8,
        heads=6,
        hidden=1024,
        audio_dim=256,
        audio_layers=3,
        audio_hidden=1024,
        mlp_hidden=256,
        identity_per_block=True,
    ),
    identity=IdentityConfig(hidden=512, embedding=256),
    appearance=AutoencoderConfig(width=128, blocks=2, fusion_width=128),
    discriminator=DiscriminatorConfig(width=64),
)

PAPER = ModelSize(
    name="paper",
    layout="dense669",
    motion=MotionConfig(
        coefficients=411 * 2,
        compact=411,
        upper=258 * 2,
        identity=512,
        dim=768,
        layers=12,
        heads=12,
        hidden=2048,
        kernel=5,
        audio_dim=512,
        audio_layers=4,
        audio_heads=8,
        audio_hidden=2048,
        audio_kernel=13,
        audio_band=0,
        coordinates=2,
        code="raw",
        key_points=669,
        identity_per_block=True,
        mlp_hidden=512,
        causal=False,
        time_width=256,
        speech="wav2vec2",
        audio_causal=False,
    ),
    identity=IdentityConfig(points=669, hidden=768, embedding=512, people=1027),
    appearance=AutoencoderConfig(),
    discriminator=DiscriminatorConfig(),
)

SIZES = {size.name: size for size in (TINY, BASE, PAPER)}
TABLES = ("motion", "identity", "appearance", "discriminator")


def load_size(name: str) -> ModelSize:
    """A size by its name, or from a TOML file; raises ``BadInput`` for what cannot be read or built."""
    if name in SIZES:
        return SIZES[name]
    path = Path(name)
    if path.suffix != ".toml":
        raise BadInput(f"unknown size {name!r}; known: {', '.join(SIZES)}, or a TOML file")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"{path}: {error}") from error
    try:
        return size_from_mapping(values)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error


def size_from_mapping(values: Mapping[str, Any]) -> ModelSize:
    """A size from a parsed table: ``size`` to start from, ``layout``, and a table per part.

    Unknown keys and values of the wrong type are ``BadInput``.
    """
    _refuse_unknown(values, ("size", "layout", *TABLES), "size")
    start = values.get("size", "tiny")
    if start not in SIZES:
        raise BadInput(f"unknown size {start!r}; known: {', '.join(SIZES)}")
    size = SIZES[start]
    if "layout" in values:
        size = with_layout(size, str(values["layout"]))
    parts = {part: changed(getattr(size, part), values[part], part) for part in TABLES if part in values}
    return replace(size, **parts)


def changed(config: C, values: Any, where: str) -> C:
    """A config dataclass with some fields changed, checked by name and type."""
    if not isinstance(values, Mapping):
        raise BadInput(f"{where} must be a table, not {values!r}")
    known = [field.name for field in fields(config)]  # type: ignore[arg-type]  # a dataclass
    _refuse_unknown(values, known, where)
    return replace(  # type: ignore[type-var]
        config,
        **{name: _typed(f"{where}.{name}", value, getattr(config, name)) for name, value in values.items()},
    )


def _refuse_unknown(values: Mapping[str, Any], known: tuple[str, ...] | list[str], where: str) -> None:
    if unknown := sorted(set(values) - set(known)):
        raise BadInput(f"unknown setting {unknown[0]!r} in {where}; known: {', '.join(sorted(known))}")


def _typed(name: str, value: Any, example: Any) -> Any:
    """A value of the example's type; whole numbers may stand for fractions, lists for tuples."""
    if isinstance(example, tuple):
        if not isinstance(value, list | tuple) or not all(type(item) is int and item > 0 for item in value):
            raise BadInput(f"{name} must be a list of whole numbers above 0, not {value!r}")
        return tuple(value)
    if isinstance(example, float) and type(value) is int:
        return float(value)
    if type(value) is not type(example):
        raise BadInput(f"{name} must be a {type(example).__name__}, not {value!r}")
    if isinstance(value, int) and value < 0:
        raise BadInput(f"{name} must not be negative, not {value}")
    return value


def build_motion(size: ModelSize) -> MotionModel:
    """The motion model; its code (basis, scale) is the trainer's to set."""
    return MotionModel(size.motion)


def build_identity(size: ModelSize) -> IdentityExtractor:
    """The identity extractor, without its head."""
    config = size.identity
    return IdentityExtractor(config.points, config.hidden, config.embedding, config.layers)


def build_arcface(size: ModelSize, people: int) -> ArcFace:
    """The head that the identity extractor is trained with, for so many people."""
    return ArcFace(size.identity.embedding, people)


def build_appearance(size: ModelSize, hidden: Tensor) -> AppearanceModel | PaperAppearance:
    """The appearance model; hidden: float32 [256, 256], 1 where speech moves things."""
    if isinstance(size.appearance, AutoencoderConfig):
        return PaperAppearance(size.appearance, hidden)
    return AppearanceModel(size.appearance, hidden)


def build_discriminator(size: ModelSize) -> nn.Module:
    """The patch discriminator of the appearance training."""
    if isinstance(size.appearance, AutoencoderConfig):
        return PatchGan(size.discriminator)
    return PatchDiscriminator(size.discriminator.width)


def count_parameters(size: ModelSize) -> dict[str, int]:
    """Parameters by Table 9's components, counted on the meta device: no memory, no weights.

    Of the tiny network, whose 1×1 convolutions around the latents belong to its encoders and decoder, the
    quant components count 0. The identity extractor counts its ArcFace head where the size says for how many
    people.
    """
    with torch.device("meta"):
        motion, identity = build_motion(size), build_identity(size)
        appearance = build_appearance(size, torch.zeros(256, 256))
        discriminator = build_discriminator(size)
        head = build_arcface(size, size.identity.people)
    parts = dict(appearance.named_children())
    downsample = _count(motion.audio.downsample)
    counts = {
        "audio_encoder": _count(motion.audio) - downsample,
        "audio_downsample": downsample,
        "identity_extractor": _count(identity) + _count(head),
        "conformer_backbone": _count(motion.denoiser),
        "lip_encoder": _count(parts.pop("lip_encoder")),
        "non_lip_encoder": _count(parts.pop("face_encoder")),
        "landmark_encoder": _count(parts.pop("landmark_encoder")),
        "fusion_net": _count(parts.pop("fusion")),
        "appearance_quant": _count(parts.pop("appearance_quant", None)),
        "landmark_quant": _count(parts.pop("landmark_quant", None)),
        "joint_quant": _count(parts.pop("joint_quant", None)),
        "post_quant": _count(parts.pop("post_quant", None)),
        "decoder": _count(parts.pop("decoder")) + sum(_count(part) for part in parts.values()),
        "discriminator": _count(discriminator),
    }
    return counts | {"total": sum(counts.values())}


def _count(module: nn.Module | None) -> int:
    return 0 if module is None else sum(parameter.numel() for parameter in module.parameters())
