"""What a bundle is made of: trained models, graphs, weights and a manifest that says where they come from."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from safetensors.torch import save

from export.onnx import export_graphs, round_to_half, share_weights
from export.parity import LIMITS, REFERENCE, Material, compare, enforce, precision_of, refer
from export.quantise import halve_decoder
from export.sensitivity import quantise_within
from mytalk.engines import ENGINES, load_engine
from mytalk.engines.bundle import (
    FORMAT,
    HALF_DECODER,
    INT8_DECODER,
    MOTION_WEIGHTS,
    first_line,
    graph_names,
    motion_graph,
)
from mytalk.engines.torch import load_models
from mytalk.errors import BadInput, EngineFailed, MyTalkError
from mytalk.landmarks.layout import load_layout
from mytalk.models.appearance import AppearanceModel
from mytalk.models.checkpoint import load_checkpoint
from mytalk.models.identity import IdentityConfig, IdentityExtractor, KeyLandmarks
from mytalk.models.motion import MotionConfig, MotionModel
from mytalk.models.serving import Appearance, appearance_from
from mytalk.render.compose import hidden_mask

MOST_STEPS = 50  # a graph grows with every step; more would not be few-step sampling


@dataclass(frozen=True)
class Trained:
    """The models of a bundle and the runs they come from.

    identity: the motion model's view of a person; identity_config: of its extractor. runs: by model, what the
    manifest tells of its training (step, minutes, data id).
    """

    motion: MotionModel
    identity: torch.nn.Module
    identity_config: IdentityConfig
    appearance: Appearance
    runs: dict[str, dict[str, Any]]


def _run(saved: dict[str, Any]) -> dict[str, Any]:
    return {"step": saved["step"], "minutes": round(saved["minutes"], 1), "data": saved.get("data")}


def load_trained(motion_path: Path, appearance_path: Path) -> Trained:
    """The averaged models of two checkpoints; raises ``BadInput`` if one cannot be read."""
    motion, identity, about, heard = _load_motion(motion_path)
    appearance, seen = _load_appearance(appearance_path)
    return Trained(motion, identity, about, appearance, {"motion": heard, "appearance": seen})


def load_exported(bundle: Path, motion_path: Path | None, appearance_path: Path | None) -> Trained:
    """The models of a bundle's safetensors, one or both of them replaced by those of checkpoints.

    The bundle may be of an older format. Raises ``BadInput`` if something cannot be read.
    """
    try:
        manifest = json.loads((bundle / "manifest.json").read_text())
        models, runs = load_models(bundle, manifest["configs"]), dict(manifest.get("training", {}))
    except (OSError, ValueError, KeyError, TypeError, EngineFailed) as error:
        raise BadInput(f"{bundle}: not a bundle that can be brought up to date ({error})") from error
    motion, identity, about, appearance = models.motion, models.identity, models.about, models.appearance
    if motion_path is not None:
        motion, identity, about, runs["motion"] = _load_motion(motion_path)
    if appearance_path is not None:
        appearance, runs["appearance"] = _load_appearance(appearance_path)
    return Trained(motion.eval(), identity.eval(), about, appearance.eval(), runs)


def _load_motion(path: Path) -> tuple[MotionModel, torch.nn.Module, IdentityConfig, dict[str, Any]]:
    saved = load_checkpoint(path)
    try:
        config = MotionConfig(**json.loads(saved["config"]))
        motion = MotionModel(config)
        motion.load_state_dict(saved["average"])
        sizes = {"points": load_layout().points, "hidden": 256, "embedding": config.identity}
        sizes |= json.loads(saved.get("identity_config", "{}"))  # runs before 0.2 had one size alone
        about = IdentityConfig(**sizes)
        extractor = IdentityExtractor(about.points, about.hidden, about.embedding, about.layers)
        extractor.load_state_dict(saved["identity"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"{path}: not a checkpoint of training.motion ({first_line(error)})") from error
    told = extractor if config.condition == "embed_cross" else KeyLandmarks(extractor)
    return motion.eval(), told.eval(), about, _run(saved)


def _load_appearance(path: Path) -> tuple[Appearance, dict[str, Any]]:
    saved = load_checkpoint(path)
    try:
        appearance = appearance_from(json.loads(saved["config"]), torch.from_numpy(hidden_mask()))
        appearance.load_state_dict(saved["average"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"{path}: not a checkpoint of training.appearance ({first_line(error)})") from error
    return appearance.eval(), _run(saved)


def _commit() -> str:
    result = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"


@dataclass(frozen=True, slots=True)
class Steps:
    """Diffusion steps of a bundle: the default per hop, and all that a job may ask for (a graph each)."""

    default: int = 2
    counts: tuple[int, ...] = (1, 2, 4)

    def __post_init__(self) -> None:
        """Raise ``BadInput`` for numbers that make no sense."""
        if not all(1 <= steps <= MOST_STEPS for steps in self.counts) or len(set(self.counts)) != len(
            self.counts
        ):
            raise BadInput(f"step counts must be different numbers from 1 to {MOST_STEPS}")
        if self.default not in self.counts:
            raise BadInput(f"the default of {self.default} steps must be one of the step counts")


def _spec(config: MotionConfig, steps: Steps, weights_id: str) -> dict[str, Any]:
    return {
        "tokens": config.tokens,
        "mel_frames": config.mel_frames,
        "mel_right": config.mel_right,
        "coefficients": config.coefficients,
        "compact": config.compact,
        "upper": config.upper,
        "identity": config.condition_width,
        "window": config.window,
        "steps": steps.default,
        "step_counts": sorted(steps.counts),
        "weights_id": weights_id,
    }


def _memory(config: MotionConfig) -> dict[str, Any]:
    """Sizes of what sessions remember, as ``engines.bundle.Memory`` has them."""
    hearing = {
        "layers": config.audio_layers,
        "dim": config.audio_dim,
        "heads": config.audio_heads,
        "kernel": config.audio_kernel,
        "band": config.audio_band,
    }
    return {
        "layers": config.layers,
        "dim": config.dim,
        "heads": config.heads,
        "kernel": config.kernel,
        "hearing": hearing if config.speech == "log_mel" else None,
    }


def _shapes(graph: Path) -> dict[str, dict[str, list[int | str]]]:
    """Names and shapes of what a graph takes and gives; a text stands for a free size."""
    loaded = onnx.load(str(graph), load_external_data=False).graph

    def told(values: Any) -> dict[str, list[int | str]]:
        return {
            value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
            for value in values
        }

    return {"inputs": told(loaded.input), "outputs": told(loaded.output)}


def _save_half(model: torch.nn.Module, path: Path) -> None:
    """Weights as float16 safetensors: for tuning, the torch engine, and export elsewhere."""
    path.write_bytes(save({name: value.half().contiguous() for name, value in model.state_dict().items()}))


@dataclass(frozen=True, slots=True)
class Int8:
    """How an int8 decoder is made.

    calibrate: a file of ``training.calibration``. picture_db: how close pictures of its held-out clips
    have to be to float32; convolutions stay in float32 as far as that takes, the most sensitive first.
    """

    calibrate: Path
    picture_db: float = LIMITS["int8"].picture_db


@dataclass(frozen=True, slots=True)
class KeptInt8:
    """An int8 decoder that was made before, of these very weights; parity: what its manifest tells of it."""

    path: Path
    parity: dict[str, Any]


def write_bundle(trained: Trained, steps: Steps, int8: Int8 | KeptInt8 | None, folder: Path) -> None:
    """Write graphs, weights and the manifest into ``folder``; its parity is not measured yet.

    int8: for an int8 decoder too, made anew or kept. Raises ``BadInput`` if its calibration is none, and
    ``MyTalkError`` if it is too far from float32 on held-out clips.
    """
    if isinstance(int8, Int8) and not isinstance(trained.appearance, AppearanceModel):
        raise BadInput("int8 is for the size tiny: the others are meant for cards; leave out --calibrate")
    models = {"motion": trained.motion, "identity": trained.identity, "appearance": trained.appearance}
    for model in models.values():
        round_to_half(model)
    export_graphs(trained.motion, trained.identity, trained.appearance, sorted(steps.counts), folder)
    halve_decoder(folder / "decode.onnx", folder / HALF_DECODER)
    parity = {} if int8 is None else write_int8(trained.appearance, int8, folder)
    for name, model in models.items():
        _save_half(model, folder / f"{name}.safetensors")
    for graph, name in (("identity", "identity"), ("encode", "appearance")):
        share_weights(folder / f"{graph}.onnx", folder / f"{name}.safetensors")
    files, weights_id = _hashes(folder)
    config = trained.motion.config
    manifest = {
        "format": FORMAT,
        "spec": _spec(config, steps, weights_id),
        "memory": _memory(config),
        "configs": {
            "motion": asdict(config),
            "identity": asdict(trained.identity_config),
            "appearance": asdict(trained.appearance.config),
        },
        "shapes": _all_shapes(folder, steps),
        "precisions": ["fp32", "fp16", *(["int8"] if INT8_DECODER in files else [])],
        "training": trained.runs,
        "commit": _commit(),
        "parity": parity,
        "files": files,
    }
    _write_manifest(folder, manifest)


def write_int8(appearance: Appearance, int8: Int8 | KeptInt8, folder: Path) -> dict[str, Any]:
    """Write the int8 decoder beside the float one; returns what the manifest tells of its parity."""
    if isinstance(int8, KeptInt8):
        shutil.copy(int8.path, folder / INT8_DECODER)
        return int8.parity
    reached, kept = quantise_within(
        appearance, folder / "decode.onnx", folder / INT8_DECODER, int8.calibrate, int8.picture_db
    )
    return {"int8_picture_db": reached, "int8_kept": list(kept)}


def _hashes(folder: Path) -> tuple[dict[str, str], str]:
    """SHA-256 of a bundle's files, and the id of its weights, which is that of all of them."""
    kept = [path for path in sorted(folder.iterdir()) if path.suffix in {".onnx", ".weights", ".safetensors"}]
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}
    return files, hashlib.sha256("".join(files.values()).encode()).hexdigest()[:16]


def _all_shapes(folder: Path, steps: Steps) -> dict[str, Any]:
    return {graph: _shapes(folder / f"{graph}.onnx") for graph in graph_names(sorted(steps.counts))}


def kept_int8(bundle: Path) -> KeptInt8 | None:
    """The int8 decoder of a bundle; None where it has none."""
    parity = json.loads((bundle / "manifest.json").read_text()).get("parity", {})
    path, told = bundle / INT8_DECODER, ("int8_picture_db", "int8_kept")
    return KeptInt8(path, {key: parity[key] for key in told if key in parity}) if path.is_file() else None


def told_steps(bundle: Path) -> Steps:
    """The step counts that a bundle has; those of a new one if it is of an older format."""
    try:
        spec = json.loads((bundle / "manifest.json").read_text())["spec"]
        return Steps(int(spec["steps"]), tuple(int(steps) for steps in spec["step_counts"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Steps()


def rename_in_card(bundle: Path, before: dict[str, Any], after: dict[str, Any]) -> None:
    """Put the new weights id and commit in the place of the old ones in a bundle's model card."""
    card = bundle / "MODEL_CARD.md"
    if not card.is_file():
        return
    text = card.read_text(encoding="utf-8")
    old, new = (
        (made.get("spec", {}).get("weights_id"), str(made.get("commit", ""))[:12]) for made in (before, after)
    )
    for was, now in zip(old, new, strict=True):
        text = text.replace(was, now) if was else text
    card.write_text(text, encoding="utf-8")


def retired_files(bundle: Path, steps: Steps) -> list[Path]:
    """Motion graphs in a bundle that are none of its step counts (any more)."""
    wanted = {MOTION_WEIGHTS, *(f"{motion_graph(count)}.onnx" for count in steps.counts)}
    return [path for path in bundle.glob("motion*.onnx") if path.name not in wanted]


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def prove(folder: Path, names: Sequence[str], material: Material, also: Sequence[str] = ()) -> None:
    """Measure engines against torch and write the figures into the manifest; raises if one is too far off.

    also: engines that are left out where they cannot be loaded.
    """
    reference = refer(load_engine(REFERENCE, folder), material)
    manifest = json.loads((folder / "manifest.json").read_text())
    figures = {}
    for name in (*names, *also):
        try:
            engine = load_engine(name, folder)
        except MyTalkError:
            if name in names:
                raise
            continue
        found = compare(engine, material, reference)
        enforce(engine, found)
        figures[engine.name] = {"precision": precision_of(engine), **asdict(found)}
    if "onnx-fp32" in figures:
        manifest["parity"] |= {key: figures["onnx-fp32"][key] for key in ("landmark_px", "picture_db")}
    manifest["parity"]["engines"] = figures
    _write_manifest(folder, manifest)


def engines_for(to: str, precision: str, bundle_has_int8: bool) -> list[str]:
    """Engines whose agreement an export has to prove; ``BadInput`` for a pair that does not exist."""
    if (to, precision) == ("onnx", "bf16"):
        raise BadInput("ONNX Runtime has no bf16 on a CPU: --to openvino has")
    if precision == "int8" and not bundle_has_int8:
        raise BadInput("int8 needs --calibrate FILE (a file of training.calibration)")
    name = "tensorrt" if (to, precision) == ("tensorrt", "fp16") else f"{to}-{precision}"
    if name not in ENGINES:
        raise BadInput(f"--to {to} has no --precision {precision}; engines: {', '.join(ENGINES)}")
    return list(dict.fromkeys(("onnx-fp32", "onnx-fp16", name)))
