"""``python -m export --motion RUN --appearance RUN --out DIR``: trained checkpoints → a served bundle."""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from export.onnx import export_graphs, round_to_half
from export.parity import MAX_LANDMARK_PX, MIN_INT8_PICTURE_DB, MIN_PICTURE_DB, motion_error_px, picture_db
from export.quantise import quantise_decoder
from mytalk.compose import hidden_mask
from mytalk.errors import MyTalkError
from mytalk.landmarks.layout import load_layout
from mytalk.models.appearance import AppearanceConfig, AppearanceModel
from mytalk.models.checkpoint import load_checkpoint
from mytalk.models.identity import IdentityConfig, IdentityExtractor, KeyLandmarks
from mytalk.models.motion import MotionConfig, MotionModel


def load_motion(path: Path) -> tuple[MotionModel, torch.nn.Module, dict[str, Any]]:
    """The averaged motion model and its view of a person (its extractor), from a checkpoint."""
    saved = load_checkpoint(path)
    config = MotionConfig(**json.loads(saved["config"]))
    model = MotionModel(config)
    model.load_state_dict(saved["average"])
    sizes = {"points": load_layout().points, "hidden": 256, "embedding": config.identity}
    sizes |= json.loads(saved.get("identity_config", "{}"))  # runs before 0.2 had one size alone
    about = IdentityConfig(**sizes)
    identity = IdentityExtractor(about.points, about.hidden, about.embedding, about.layers)
    identity.load_state_dict(saved["identity"])
    told = identity if config.condition == "embed_cross" else KeyLandmarks(identity)
    return model.eval(), told.eval(), {"step": saved["step"], "minutes": round(saved["minutes"], 1)}


def load_appearance(path: Path) -> tuple[AppearanceModel, dict[str, Any]]:
    """The averaged appearance model from a ``training.appearance`` checkpoint."""
    saved = load_checkpoint(path)
    model = AppearanceModel(AppearanceConfig(**json.loads(saved["config"])), torch.from_numpy(hidden_mask()))
    model.load_state_dict(saved["average"])
    return model.eval(), {"step": saved["step"], "minutes": round(saved["minutes"], 1)}


def _commit() -> str:
    result = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"


def _spec(config: MotionConfig, steps: int, weights_id: str) -> dict[str, Any]:
    return {
        "tokens": config.tokens,
        "mel_frames": config.mel_frames,
        "mel_right": config.mel_right,
        "coefficients": config.coefficients,
        "compact": config.compact,
        "upper": config.upper,
        "identity": config.condition_width,
        "window": config.window,
        "steps": steps,
        "weights_id": weights_id,
    }


def _save_half(model: torch.nn.Module, path: Path) -> None:
    """Weights as float16 safetensors, for tuning and export elsewhere."""
    save_file({name: value.half().contiguous() for name, value in model.state_dict().items()}, str(path))


def build(args: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Write the bundle into ``folder``; raises ``MyTalkError`` if an engine does not agree with torch."""
    motion, identity, motion_run = load_motion(args.motion / "last.pt")
    appearance, appearance_run = load_appearance(args.appearance / "last.pt")
    for model in (motion, identity, appearance):
        round_to_half(model)
    export_graphs(motion, identity, appearance, args.steps, folder)
    parity = {
        "landmark_px": motion_error_px(motion, args.steps, folder / "motion.onnx"),
        "picture_db": picture_db(appearance, folder / "encode.onnx", folder / "decode.onnx"),
    }
    if parity["landmark_px"] > MAX_LANDMARK_PX or parity["picture_db"] < MIN_PICTURE_DB:
        raise MyTalkError(f"ONNX Runtime does not agree with torch, nothing was written: {parity}")
    if args.calibrate is not None:
        int8 = quantise_decoder(
            appearance, folder / "decode.onnx", folder / "decode_int8.onnx", args.calibrate
        )
        parity["int8_picture_db"] = int8
        if int8 < MIN_INT8_PICTURE_DB:
            raise MyTalkError(f"int8 is too far from float32, nothing was written: {int8:.1f} dB")
    for name, model in (("motion", motion), ("identity", identity), ("appearance", appearance)):
        _save_half(model, folder / f"{name}.safetensors")
    files = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}
    graphs = "".join(digest for name, digest in files.items() if name.endswith(".onnx"))
    config = motion.config
    manifest = {
        "format": 1,
        "spec": _spec(config, args.steps, hashlib.sha256(graphs.encode()).hexdigest()[:16]),
        "memory": {
            "layers": config.layers,
            "dim": config.dim,
            "heads": config.heads,
            "kernel": config.kernel,
        },
        "configs": {"motion": asdict(config), "appearance": asdict(appearance.config)},
        "training": {"motion": motion_run, "appearance": appearance_run},
        "commit": _commit(),
        "parity": parity,
        "files": files,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return parity


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--motion", type=Path, required=True, help="run folder of training.motion")
    parser.add_argument("--appearance", type=Path, required=True, help="run folder of training.appearance")
    parser.add_argument("--steps", type=int, default=2, help="diffusion steps per hop (default 2)")
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="FILE",
        help="also write an int8 decoder (file of training.calibration)",
    )
    parser.add_argument("--out", type=Path, required=True, help="bundle folder (its model card is kept)")
    args = parser.parse_args(argv)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=args.out.parent) as temporary:
            parity = build(args, Path(temporary))
            args.out.mkdir(exist_ok=True)
            for path in Path(temporary).iterdir():
                shutil.move(str(path), args.out / path.name)
    except MyTalkError as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    size = sum(path.stat().st_size for path in args.out.iterdir()) / 1e6
    print(
        f"{args.out}: {size:.1f} MB; "
        f"landmarks {parity['landmark_px']:.5f} px, pictures {parity['picture_db']:.1f} dB"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
