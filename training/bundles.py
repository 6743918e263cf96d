"""An exported bundle in the place of a run: its models as the checkpoints that trainers and export read."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from mytalk.engines.bundle import read_manifest
from mytalk.errors import BadInput, MyTalkError
from mytalk.models.appearance import AppearanceConfig
from mytalk.models.checkpoint import save_checkpoint
from mytalk.models.identity import IdentityConfig, IdentityExtractor
from mytalk.models.motion_config import MotionConfig
from training.checkpoints import LAST


def is_bundle(path: Path) -> bool:
    """Whether a folder holds exported weights, not a run."""
    return (path / "manifest.json").is_file()


def _read(bundle: Path) -> dict[str, Any]:
    try:
        return read_manifest(bundle)
    except MyTalkError as error:
        raise BadInput(str(error)) from error


def _weights(bundle: Path, part: str) -> dict[str, Tensor]:
    try:
        return {name: tensor.float() for name, tensor in load_file(bundle / f"{part}.safetensors").items()}
    except Exception as error:  # safetensors raises a class of its own for each kind of damage
        raise BadInput(f"{bundle}: no weights of the {part} model ({error})") from error


def _identity_config(manifest: dict[str, Any]) -> IdentityConfig:
    configs = manifest["configs"]
    return IdentityConfig(**configs.get("identity", {"embedding": configs["motion"]["identity"]}))


def extractor_of(bundle: Path) -> tuple[IdentityExtractor, IdentityConfig]:
    """The frozen identity extractor of a bundle; ``BadInput`` where its motion model takes key landmarks."""
    manifest = _read(bundle)
    config = _identity_config(manifest)
    extractor = IdentityExtractor(config.points, config.hidden, config.embedding, config.layers)
    try:
        extractor.load_state_dict(_weights(bundle, "identity"))
    except RuntimeError as error:
        raise BadInput(
            f"{bundle} holds no identity extractor ({manifest['configs']['motion']['condition']})"
        ) from error
    return extractor.eval().requires_grad_(False), config


def bundle_as_run(bundle: Path, part: str, folder: Path) -> Path:
    """Write a bundle's ``motion`` or ``appearance`` model as ``folder/last.pt``, for export; returns folder.

    Optimiser and averages are not in a bundle: no trainer can go on from it.
    """
    manifest = _read(bundle)
    trained = manifest.get("training", {}).get(part, {})
    parts = {"minutes": trained.get("minutes", 0.0), "data": trained.get("data")}
    config: MotionConfig | AppearanceConfig
    if part == "motion":
        config = MotionConfig(**manifest["configs"]["motion"])
        extractor, about = extractor_of(bundle)
        parts |= {"identity": extractor.state_dict(), "identity_config": json.dumps(asdict(about))}
    else:
        config = AppearanceConfig(**manifest["configs"]["appearance"])
    parts["average"] = _weights(bundle, part)
    save_checkpoint(folder / LAST, trained.get("step", 0), config, parts)
    return folder
