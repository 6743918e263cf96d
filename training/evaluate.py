"""Measure a model, or other systems' videos, on a folder or list of clips.

``python -m training.evaluate --model DIR --clips DIR_OR_LIST --mode appearance|pipeline --json OUT`` draws
the lips from each clip's own landmarks (appearance) or dubs each clip with its own speech (pipeline), or with
another's where the list names one after a tab. ``--outputs DIR`` scores the videos of another system, matched
by name, in the same way. docs/training.md says what each figure means.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from mytalk.actors.tuned import Tuning
from mytalk.engines import default_bundle, load_engine
from mytalk.engines.engine import Engine
from mytalk.errors import BadInput, MyTalkError
from mytalk.types import F32, U8
from mytalk.video.media import probe_video, read_at_rate
from training.cases import Case, find_output, read_cases
from training.evaluate_clip import (
    KEYS,
    Networks,
    Row,
    closure,
    network_row,
    paired_motion_row,
    picture_row,
    speech_motion_rows,
    unpaired_motion_row,
)
from training.networks import FaceEmbedder, FidFeatures, Lpips, frechet_distance
from training.prepare_video import write_atomically
from training.reels import PARTS, Shown, Source, Wanted, fitted, hear, load_source, part_of, show
from training.render import dubbed, true_landmark_pictures
from training.sheets import write_sheet
from training.silence import silence_figures
from training.streamed import Stream
from training.syncnet import load_syncnet
from training.tables import print_tables
from training.tracks import RATE
from training.tune_data import person_of_source

MODES = ("appearance", "pipeline")


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured, and how.

    outputs: folder of another system's videos. sheets: where pictures go. tune: gives each clip a decoder of
    its own, from frames that do not count.
    """

    mode: str = "pipeline"
    part: str = "whole"
    outputs: Path | None = None
    sheets: Path | None = None
    stream: Stream = field(default_factory=Stream)
    tune: Callable[[Source], Tuning] | None = None


class Evaluation:
    """Clips are scored one at a time; of each only its figures and what other clips need of it stay."""

    def __init__(self, engine: Engine, networks: Networks, settings: Settings, folder: Path) -> None:
        """folder: for the videos that the pipeline writes, removed by the caller."""
        self._engine, self._networks, self._settings, self._folder = engine, networks, settings, folder
        self.rows: dict[str, Row] = {}
        self.own_closure: dict[str, float | None] = {}
        self.skipped: dict[str, str] = {}
        self.reasons: dict[str, str] = {}
        self.light: dict[str, Source] = {}
        self.tuned: dict[str, dict[str, float]] = {}
        self.seconds_to_make = self.seconds_of_clips = 0.0
        self._features: list[tuple[F32, F32]] = []

    @property
    def _wanted(self) -> Wanted:
        return Wanted(self._networks.face is not None, self._networks.sync is not None)

    def _tune(self, case: Case, source: Source) -> Tuning | None:
        if self._settings.tune is None:
            return None
        tuning = self._settings.tune(source)
        self.tuned[case.name] = asdict(tuning.figures)
        return tuning

    def _show(self, case: Case, source: Source, tuning: Tuning | None) -> Shown:
        settings, speech = self._settings, None
        if settings.outputs is not None:
            made = find_output(settings.outputs, case)
            speech = hear(made) if probe_video(made).has_sound else None
            pictures = read_at_rate(made, RATE)
        elif settings.mode == "appearance":
            pictures = true_landmark_pictures(self._engine, source, tuning)
        else:
            out = self._folder / f"{len(self.rows)}.mp4"
            pictures = dubbed(self._engine, source, case.speech, out, tuning)
        return show(source, fitted(pictures, source.size), self._wanted, speech)

    def add(self, case: Case) -> None:
        """Score one clip; one that cannot be is kept in ``skipped`` with the reason."""
        try:
            source = load_source(case.video, case.name, self._wanted, self._settings.part)
            tuning = self._tune(case, source)
            begin = time.monotonic()
            shown = self._show(case, source, tuning)
            self.seconds_to_make += time.monotonic() - begin
            driving = source.speech if case.paired else hear(case.speech)
        except BadInput as error:
            self.skipped[case.name] = str(error)
            return
        self.seconds_of_clips += source.frames / float(RATE)
        row: Row = dict.fromkeys(KEYS)
        pictures, made, true = picture_row(source, shown, self._networks)
        if case.paired:
            row |= pictures | paired_motion_row(source, shown)
            self._remember(made, true)
        else:
            row |= {key: pictures[key] for key in ("lip_sharpness_ratio", "flicker_ratio", "seam_ratio")}
            row |= unpaired_motion_row(self._engine, shown, driving, source)
            why = "unpaired: no true picture or mouth says these words"
            lost = ("psnr", "ssim", "lip_psnr", "lip_ssim", "lpips", "fid", "landmark_distance_pct")
            self.reasons |= dict.fromkeys((*lost, "mouth_correlation"), why)
        row |= network_row(source, shown, driving if shown.speech is None else shown.speech, self._networks)
        row["closure_rate"], self.own_closure[case.name] = closure(source, case.speech, shown)
        self.rows[case.name] = row
        if case.paired:
            self.light[case.name] = source.without_pictures()
        if self._settings.sheets is not None:
            write_sheet(self._settings.sheets, case.name, shown.cuts.crops, source.cuts.crops)

    def _remember(self, made: U8, true: U8) -> None:
        if self._networks.fid is not None:
            self._features.append((self._networks.fid(made), self._networks.fid(true)))

    def _fid(self) -> float | None:
        if not self._features:
            return None
        made, true = (np.concatenate(side) for side in zip(*self._features, strict=True))
        return frechet_distance(made, true)

    def report(self) -> dict[str, object]:
        """All figures, once every clip has been added; raises ``BadInput`` when none could be scored."""
        if not self.rows:
            reason = next(iter(self.skipped.values()), "there is none")
            raise BadInput(f"no clip could be scored ({reason})")
        baselines: dict[str, dict[str, float]] = {}
        if self._settings.mode == "pipeline" and self._settings.outputs is None and self.light:
            names, sources = list(self.light), list(self.light.values())
            rows = speech_motion_rows(self._engine, sources, self._settings.stream)
            for name, motion in zip(names, rows, strict=True):
                self.rows[name]["mouth_correlation"] = motion.pop("mouth_correlation")
                baselines[name] = motion
        mean = {key: _mean([row[key] for row in self.rows.values()]) for key in KEYS}
        mean["fid"] = self._fid()
        reasons = self.reasons | self._networks.missing()
        reasons["closure_rate"] = "no phoneme times (NAME.json) or words (NAME.align) beside some clips"
        if self._networks.fid is not None:
            reasons["fid"] = "of single clips: it compares all pictures of all clips, and stands in mean"
        empty = {key for row in self.rows.values() for key in KEYS if row[key] is None}
        report: dict[str, object] = {
            "mean": mean,
            "clips": self.rows,
            "reasons": {
                key: reasons.get(key, "too short, or no face in what is shown")
                for key in KEYS
                if key in empty
            },
            "baselines": _baselines(baselines, self.own_closure),
            "skipped": self.skipped,
            "seconds_to_make": round(self.seconds_to_make, 2),
            "seconds_of_clips": round(self.seconds_of_clips, 2),
        }
        if self.tuned:
            report["tuning"] = self.tuned
        if baselines:
            rest = next(iter(self.light.values())).rest
            report["silence"] = silence_figures(self._engine, rest, self._settings.stream)
        return report


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _baselines(
    motion: dict[str, dict[str, float]], own_closure: dict[str, float | None]
) -> dict[str, float | None]:
    """What no model, or the wrong speech, would score: means over clips."""
    rows = list(motion.values())
    out: dict[str, float | None] = {"closure_rate_of_source": _mean(list(own_closure.values()))}
    for key, name in (
        ("shuffled_speech", "mouth_correlation_shuffled_speech"),
        ("loudness", "mouth_correlation_loudness"),
        ("opening_ratio", "opening_ratio"),
    ):
        out[name] = _mean([row[key] for row in rows])
    return out


def evaluate(engine: Engine, cases: list[Case], networks: Networks, settings: Settings) -> dict[str, object]:
    """Score every case; see ``Evaluation.report`` for what comes back."""
    with tempfile.TemporaryDirectory(prefix="mytalk-evaluate-") as folder:
        evaluation = Evaluation(engine, networks, settings, Path(folder))
        for case in track(cases, description="clips", console=Console(stderr=True)):
            evaluation.add(case)
            for made in Path(folder).iterdir():
                made.unlink()
    return evaluation.report()


def parameters(model: Path) -> int | None:
    """How many numbers the weights of a bundle hold, None where it has no safetensors."""
    from safetensors import safe_open

    total = 0
    for path in model.glob("*.safetensors"):
        with safe_open(str(path), "np") as tensors:
            names = list(tensors.keys())
            total += sum(int(np.prod(tensors.get_slice(name).get_shape())) for name in names)
    return total or None


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", type=Path, default=default_bundle(), help="exported bundle (default: shipped)")
    p.add_argument(
        "--clips",
        type=Path,
        required=True,
        help="folder of .mp4 files, one file, or a list: a video a line, after a tab the file it is to say",
    )
    p.add_argument("--mode", choices=MODES, default="pipeline", help="(default %(default)s)")
    p.add_argument("--outputs", type=Path, help="score another system's videos of the same names")
    p.add_argument("--system", default="mytalk", help="its name in the tables (default %(default)s)")
    p.add_argument("--part", choices=PARTS, default="whole", help="of each clip that counts")
    p.add_argument(
        "--tune", choices=["first-half"], help="tune on it, measure on the second, untuned beside tuned"
    )
    p.add_argument("--tune-steps", type=int, help="(default: as `mytalk actor make --tune`)")
    p.add_argument("--json", type=Path, help="write the figures here")
    p.add_argument("--sheets", type=Path, help="write a contact sheet of every clip into this folder")
    p.add_argument("--engine", default="onnx", help="engine by name (default onnx: figures stay comparable)")
    p.add_argument("--hop", type=int, default=2, help="frames per hop (default %(default)s)")
    p.add_argument("--lookahead", type=int, default=1, help="frames behind it (default %(default)s)")
    p.add_argument("--most", type=int, help="score the first so many clips only")
    p.add_argument("--lpips-weights", type=Path, help="torchvision's AlexNet weights")
    p.add_argument("--lpips-heads", type=Path, help="alex.pth of lpips (default: torchmetrics' copy)")
    p.add_argument("--fid-weights", type=Path, help="Inception v3 as TorchScript, or pytorch-fid's file")
    p.add_argument("--face-onnx", type=Path, help="ArcFace-like network, 112×112 → embedding")
    p.add_argument("--syncnet-weights", type=Path, help="syncnet_v2.model")
    return p


def _networks(args: argparse.Namespace) -> Networks:
    return Networks(
        lpips=Lpips(args.lpips_weights, args.lpips_heads) if args.lpips_weights else None,
        fid=FidFeatures(args.fid_weights) if args.fid_weights else None,
        face=FaceEmbedder(args.face_onnx) if args.face_onnx else None,
        sync=load_syncnet(args.syncnet_weights) if args.syncnet_weights else None,
    )


def _run(args: argparse.Namespace) -> dict[str, object]:
    if args.tune and args.outputs:
        raise BadInput("--tune is for this system: it cannot tune what made --outputs")
    if args.json is not None and not args.json.parent.is_dir():
        raise BadInput(f"{args.json.parent}: no such folder")
    cases = read_cases(args.clips)[: args.most]
    networks, engine = _networks(args), load_engine(args.engine, args.model)
    stream = Stream(args.hop, args.lookahead)
    if not 1 <= stream.hop <= stream.hop + stream.lookahead <= engine.spec.tokens:
        raise BadInput(f"--hop must be 1 or more, and {engine.spec.tokens} at most with --lookahead")
    part = "second-half" if args.tune else args.part
    settings = Settings(args.mode, part, args.outputs, args.sheets, stream)
    untuned = evaluate(engine, cases, networks, settings) if args.tune else None
    if args.tune:
        sheets = None if args.sheets is None else args.sheets / "tuned"
        settings = replace(settings, sheets=sheets, tune=_tuner(args))
    report = evaluate(engine, cases, networks, settings)
    about = _about(args, engine, cases, settings)
    if untuned is not None:
        report["untuned"] = untuned | {"settings": about}
        about = about | {"system": f"{args.system}, tuned on the first half"}
    return report | {"settings": about}


def _about(
    args: argparse.Namespace, engine: Engine, cases: list[Case], settings: Settings
) -> dict[str, object]:
    """What a report tells of how it came about."""
    return {
        "system": args.system,
        "mode": "outputs" if args.outputs else args.mode,
        "paired": all(case.paired for case in cases),
        "part": settings.part,
        "engine": engine.name,
        "weights": engine.spec.weights_id,
        "parameters": None if args.outputs else parameters(args.model),
        **asdict(settings.stream),
    }


def _tuner(args: argparse.Namespace) -> Callable[[Source], Tuning]:
    """Tunes to the first half of a clip."""
    from training.tune import TuneRun, adapt  # takes seconds to import

    run = TuneRun()
    if args.tune_steps is not None:
        run = replace(run, runner=replace(run.runner, steps=args.tune_steps))

    def tune(source: Source) -> Tuning:
        return adapt(args.model, person_of_source(source, part_of(source.frames, "first-half")), run)

    return tune


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        report = _run(args)
        if args.json:
            text = (json.dumps(report, indent=1) + "\n").encode()
            write_atomically(args.json, lambda file: file.write(text))
    except MyTalkError as error:
        print(f"training.evaluate: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"training.evaluate: cannot be written ({error})", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    untuned = report.get("untuned")
    print_tables([*([untuned] if isinstance(untuned, dict) else []), report])
    return 0


if __name__ == "__main__":
    sys.exit(main())
