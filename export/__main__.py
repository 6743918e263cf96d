"""Trained checkpoints → a bundle that engines serve, proved equal to torch; "check", "update" a bundle."""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from export.bundle import (
    Int8,
    Steps,
    engines_for,
    kept_int8,
    load_exported,
    load_trained,
    prove,
    rename_in_card,
    retired_files,
    told_steps,
    write_bundle,
)
from export.parity import (
    ACTOR,
    LIMITS,
    REFERENCE,
    SPEECH,
    Material,
    compare,
    enforce,
    load_material,
    precision_of,
    refer,
)
from export.quantise import decoder_samples
from export.sensitivity import compare_layers
from mytalk.engines import ENGINES, load_engine
from mytalk.engines.bundle import read_manifest
from mytalk.errors import BadInput, EngineFailed, MyTalkError
from mytalk.models.appearance import AppearanceModel

TARGETS = ("onnx", "openvino", "tensorrt")


def _checkpoints(args: argparse.Namespace) -> tuple[Path, Path]:
    """The two ``last.pt``: of --motion and --appearance, or of --checkpoint's runs of these names."""
    motion, appearance = args.motion, args.appearance
    if args.checkpoint is not None:
        motion, appearance = (
            motion or args.checkpoint / "motion",
            appearance or args.checkpoint / "appearance",
        )
    if motion is None or appearance is None:
        raise BadInput(
            "give --checkpoint DIR (with the runs motion and appearance), or --motion and --appearance"
        )
    return motion / "last.pt", appearance / "last.pt"


def _check_target(to: str) -> None:
    if to == "tensorrt":
        missing = importlib.util.find_spec("torch_tensorrt") is None
        need = "pip install torch-tensorrt==2.13.0 (TensorRT itself comes from NVIDIA's own index)"
        if missing:
            raise BadInput(f"--to tensorrt needs torch-tensorrt: {need}")


def export(args: argparse.Namespace) -> str:
    """Export as the command line says; returns a line for a person. Nothing is written when parity fails."""
    _check_target(args.to)
    motion, appearance = _checkpoints(args)
    default = "fp16" if args.to == "tensorrt" else "int8" if args.calibrate is not None else "fp32"
    precision = args.precision or default
    engines = engines_for(args.to, precision, args.calibrate is not None)
    if args.calibrate is not None and "onnx-int8" not in engines:
        engines.append("onnx-int8")  # the file is in the bundle, so it has to be right
    material = load_material(args.speech, args.actor)
    trained = load_trained(motion, appearance)
    steps = Steps(args.steps, tuple(sorted({*args.step_counts, args.steps})))
    int8 = _int8(args)
    _make(args.out, lambda folder: write_bundle(trained, steps, int8, folder), engines, material)
    return _told(args.out)


def _make(
    out: Path,
    write: Callable[[Path], None],
    engines: Sequence[str],
    material: Material,
    also: Sequence[str] = (),
) -> None:
    """Write a bundle, prove it, and only then put its files into ``out``. also: see ``prove``."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent) as temporary:
            folder = Path(temporary)
            with Console(stderr=True).status("exporting, some minutes ...") as status:
                write(folder)
                status.update(f"comparing {', '.join(engines)} with {REFERENCE} ...")
                prove(folder, engines, material, also)
            out.mkdir(exist_ok=True)
            for path in folder.iterdir():
                shutil.move(str(path), out / path.name)
    except OSError as error:
        raise BadInput(f"{out}: cannot be written ({error.strerror})") from error


def _told(out: Path) -> str:
    size = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    figures = read_manifest(out)["parity"]["engines"]
    told = [f"{n} {f['landmark_px']:.5f} px {f['picture_db']:.1f} dB" for n, f in figures.items()]
    return f"{out}: {size:.1f} MB; {', '.join(told)}"


def update(args: argparse.Namespace) -> str:
    """Export a bundle anew from its own weights, in its place; returns a line for a person."""
    old = told_steps(args.bundle)
    default = old.default if args.steps is None else args.steps
    steps = Steps(default, tuple(sorted({*(args.step_counts or old.counts), default})))
    material = load_material(args.speech, args.actor)
    int8 = _int8(args)
    runs = [None if run is None else run / "last.pt" for run in (args.motion, args.appearance)]
    trained = load_exported(args.bundle, *runs)
    before = json.loads((args.bundle / "manifest.json").read_text())
    kept = kept_int8(args.bundle)
    if kept is not None and args.appearance is not None and int8 is None:
        raise BadInput(f"{kept.path} holds the old weights: give --calibrate FILE (of training.calibration)")
    engines = ["onnx-fp32", "onnx-fp16"]
    if kept is not None or int8 is not None:
        engines.append("onnx-int8")
    proved_before = before.get("parity", {}).get("engines", {})
    _make(
        args.bundle,
        lambda folder: write_bundle(trained, steps, kept if int8 is None else int8, folder),
        engines,
        material,
        also=[name for name in proved_before if name not in engines],
    )
    for path in retired_files(args.bundle, steps):
        path.unlink()
    rename_in_card(args.bundle, before, read_manifest(args.bundle))
    return _told(args.bundle)


def _int8(args: argparse.Namespace) -> Int8 | None:
    return None if args.calibrate is None else Int8(args.calibrate, args.int8_db)


def sensitivity(args: argparse.Namespace) -> list[str]:
    """Lines about every convolution of a bundle's decoder: what keeping it in float32 brings and costs."""
    weights_id = read_manifest(args.bundle)["spec"]["weights_id"]
    model = load_exported(args.bundle, None, None).appearance
    if not isinstance(model, AppearanceModel):
        raise BadInput("int8 is for the size tiny")
    seen, unseen = (decoder_samples(model, args.calibrate, held_out=which) for which in (False, True))
    base, layers = compare_layers(args.bundle / "decode.onnx", seen, unseen)
    if args.json is not None:
        report = {
            "weights_id": weights_id,
            "int8_picture_db": base,
            "layers": [asdict(layer) for layer in layers],
        }
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    return [
        f"all in int8: {base:.2f} dB; in float32 alone, by what it brings:",
        *(f"{one.name:44} {one.gain_db:+6.2f} dB {one.cost_ms:+6.2f} ms" for one in layers),
    ]


def check(bundle: Path, engine: str | None, material: Material) -> list[str]:
    """Lines about every engine of one precision that runs here, or about the one that is named.

    Raises ``MyTalkError`` for the first that is outside its limits, and if the named one cannot run.
    """
    read_manifest(bundle)
    names = [engine] if engine else [n for n in ENGINES if n.rpartition("-")[2] in LIMITS and n != REFERENCE]
    reference, lines = refer(load_engine(REFERENCE, bundle), material), []
    for name in names:
        try:
            loaded = load_engine(name, bundle)
        except EngineFailed as error:
            if engine:
                raise
            lines.append(f"{name}: not checked ({error})")
            continue
        found = compare(loaded, material, reference)
        enforce(loaded, found)
        limit = LIMITS[precision_of(loaded)]
        lines.append(
            f"{loaded.name}: landmarks {found.landmark_px:.5f} px (at most {limit.landmark_px}),"
            f" pictures {found.picture_db:.1f} dB (at least {limit.picture_db})"
        )
    return lines


def _material_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--speech", type=Path, default=SPEECH, help="parity is measured on this speech (5 s or more)"
    )
    parser.add_argument("--actor", type=Path, default=ACTOR, help="and on this actor package's pictures")


def _step_options(parser: argparse.ArgumentParser, default: Steps | None) -> None:
    """default: None, what the bundle has."""
    told = "the bundle's own" if default is None else f"{default.default}"
    counts = told if default is None else " ".join(map(str, default.counts))
    parser.add_argument(
        "--steps",
        type=int,
        default=None if default is None else default.default,
        help=f"diffusion steps per hop (default: {told})",
    )
    parser.add_argument(
        "--step-counts",
        type=int,
        nargs="+",
        default=None if default is None else list(default.counts),
        metavar="N",
        help=f"all step counts that a session may choose from (default: {counts}); one weights file for all",
    )


def _int8_options(parser: argparse.ArgumentParser, about: str) -> None:
    parser.add_argument("--calibrate", type=Path, metavar="FILE", help=about)
    parser.add_argument(
        "--int8-db",
        type=float,
        default=LIMITS["int8"].picture_db,
        metavar="DB",
        help="keep the most sensitive convolutions in float32 until pictures of held-out clips are so close "
        "to float32 (default %(default)s)",
    )


def _sensitivity_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export sensitivity",
        description="What it would bring and cost to keep each convolution of the int8 decoder in float32; "
        "takes minutes.",
    )
    parser.add_argument("bundle", type=Path, help="bundle folder")
    parser.add_argument(
        "--calibrate", type=Path, metavar="FILE", required=True, help="file of training.calibration"
    )
    parser.add_argument("--json", type=Path, help="write the table here")
    return parser


def _update_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export update",
        description="Export a bundle anew from its own safetensors, in its place: every graph, the float16 "
        "decoder, manifest and the ids in the model card; after an update of mytalk, for other step counts, "
        "or with a model of a new run. Nothing is changed unless the result agrees with torch.",
    )
    parser.add_argument("bundle", type=Path, help="bundle folder")
    parser.add_argument("--motion", type=Path, help="run folder: take motion from it, not from the bundle")
    parser.add_argument("--appearance", type=Path, help="run folder: take appearance from it (--calibrate!)")
    _step_options(parser, None)
    _int8_options(
        parser, "make the int8 decoder anew by this file of training.calibration (default: keep it)"
    )
    _material_options(parser)
    return parser


def _check_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export check", description="Compare a bundle's engines with torch in float32."
    )
    parser.add_argument("bundle", type=Path, help="bundle folder")
    parser.add_argument("--engine", help="this engine alone (default: every one that runs here)")
    _material_options(parser)
    return parser


def _export_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description=__doc__,
        epilog="python -m export check DIR [--engine NAME]: compare an exported bundle with torch again; "
        "python -m export update DIR: export it anew from its own weights; python -m export sensitivity DIR: "
        "which convolutions int8 harms",
    )
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="holds the runs motion and appearance")
    parser.add_argument("--motion", type=Path, help="run folder of training.motion")
    parser.add_argument("--appearance", type=Path, help="run folder of training.appearance")
    parser.add_argument("--to", choices=TARGETS, default="onnx", help="runtime to prove (default onnx)")
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16", "bf16", "int8"),
        help="of the per-frame decoder (default: fp16 for tensorrt, int8 with --calibrate, else fp32)",
    )
    _step_options(parser, Steps())
    _int8_options(parser, "also write an int8 decoder (file of training.calibration)")
    parser.add_argument("--out", type=Path, required=True, help="bundle folder (its model card is kept)")
    _material_options(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    given = sys.argv[1:] if argv is None else argv
    try:
        if given[:1] == ["check"]:
            args = _check_parser().parse_args(given[1:])
            print(*check(args.bundle, args.engine, load_material(args.speech, args.actor)), sep="\n")
        elif given[:1] == ["sensitivity"]:
            print(*sensitivity(_sensitivity_parser().parse_args(given[1:])), sep="\n")
        elif given[:1] == ["update"]:
            print(update(_update_parser().parse_args(given[1:])))
        else:
            print(export(_export_parser().parse_args(given)))
    except MyTalkError as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
