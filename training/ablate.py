"""The paper's ablations, one flag each: ``python -m training.ablate references --data DATA --out DIR``.

``identity-condition`` (Table 5), ``identity-loss`` (Table 6) and ``references`` (Table 7) train every
variant alike (same data, steps and seed), export it, score it by ``training.evaluate`` and print the table,
the paper's rows beside ours. Columns ``unseen_…`` come from the data's validation clips, without an export
(``training.held_out``, ``training.held_out_pictures``); with ``--unseen-only`` there are no others.
``--again SEED`` trains the first row once more with another seed: what differs by no more than that is noise.
What is there already is kept: run again to go on, or to tabulate once more. The part that does not vary
(the appearance model in Tables 5 and 6, the motion model in 7) is a run or a bundle, by default the one that
ships.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from mytalk.engines import default_bundle
from mytalk.errors import BadInput, MyTalkError
from training import held_out, held_out_pictures
from training.bundles import bundle_as_run, is_bundle
from training.checkpoints import LAST, git_commit, read_checkpoint

WIDE = 170  # characters that the tables need; a narrower terminal wraps their lines
CONFIGS = Path(__file__).parent / "configs"


@dataclass(frozen=True, slots=True)
class Variant:
    """One row: its name in the paper, the trainer's flag, and the published figures by column."""

    title: str
    flag: str
    value: str
    published: dict[str, float]


@dataclass(frozen=True, slots=True)
class Ablation:
    """One table. columns: keys of ``training.evaluate``; the paper has those that its rows name."""

    table: str
    trainer: str
    mode: str
    columns: tuple[str, ...]
    variants: tuple[Variant, ...]


# Tables 5 and 6 print one sync figure: its 6.544 is Table 1's confidence.
MOTION_COLUMNS = (
    "sync_conf",
    "id_sim",
    "mouth_correlation",
    "landmark_distance_pct",
    *held_out.KEYS,
)
CONDITION, LOSS, REFERENCES = "--identity-condition", "--identity-loss", "--references"
ABLATIONS = {
    "identity-condition": Ablation(
        "Table 5: condition types of the motion model",
        "motion",
        "pipeline",
        MOTION_COLUMNS,
        (
            Variant(
                "ID embed. cross-atten.", CONDITION, "embed_cross", {"sync_conf": 6.544, "id_sim": 0.947}
            ),
            Variant("concat. key landmark", CONDITION, "key_concat", {"sync_conf": 6.718, "id_sim": 0.923}),
            Variant("add key landmark", CONDITION, "key_add", {"sync_conf": 7.509, "id_sim": 0.932}),
            Variant(
                "key landmark cross-attn.", CONDITION, "key_cross", {"sync_conf": 6.814, "id_sim": 0.914}
            ),
        ),
    ),
    "identity-loss": Ablation(
        "Table 6: identity loss of the motion model",
        "motion",
        "pipeline",
        MOTION_COLUMNS,
        (
            Variant("ID loss 1.0", LOSS, "1", {"sync_conf": 6.544, "id_sim": 0.947}),
            Variant("w/o ID loss", LOSS, "0", {"sync_conf": 6.598, "id_sim": 0.929}),
            Variant("w. ID loss 2.0", LOSS, "2", {"sync_conf": 7.010, "id_sim": 0.951}),
        ),
    ),
    "references": Ablation(
        "Table 7: references of the appearance model",
        "appearance",
        "appearance",
        ("psnr", "fid", "lip_psnr", "lip_ssim", *held_out_pictures.KEYS),
        (
            Variant("masked multi-ref.", REFERENCES, "masked_multi", {"psnr": 34.153, "fid": 4.224}),
            Variant("full single-ref.", REFERENCES, "full_single", {"psnr": 31.750, "fid": 6.62}),
            Variant("masked single-ref.", REFERENCES, "masked_single", {"psnr": 32.759, "fid": 6.453}),
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class Measured:
    """One row as measured here: means by key, and figures of single clips by key, then clip."""

    mean: dict[str, float | None]
    clips: dict[str, dict[str, float]] = field(default_factory=dict)

    def apart(self, other: Measured, key: str) -> tuple[float, float] | None:
        """Mean difference from another row over the clips of both, and its standard error."""
        mine, theirs = self.clips.get(key, {}), other.clips.get(key, {})
        apart = np.array([mine[clip] - theirs[clip] for clip in mine if clip in theirs])
        if len(apart) < 2:
            return None
        return float(apart.mean()), float(apart.std(ddof=1) / np.sqrt(len(apart)))


def run_module(module: str, *arguments: str) -> None:
    """One of our commands in a process of its own; raises ``MyTalkError`` if it fails."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], check=False)
    if done.returncode != 0:
        raise MyTalkError(f"python -m {module} failed (status {done.returncode}), see above")


def folder_of(ablation: Ablation, variant: Variant, seed: int | None, out: Path) -> Path:
    """Where a row's run, bundle and figures lie; Tables 5 and 6 share their first row, the paper's own."""
    first = variant is ablation.variants[0]
    name = "as_published" if first else f"{variant.flag.strip('-')}_{variant.value}"
    return out / ablation.trainer / (name if seed is None else f"{name}_seed_{seed}")


def train_variant(
    ablation: Ablation, variant: Variant, args: argparse.Namespace, folder: Path, seed: int | None
) -> None:
    """Train one row into ``folder / "run"``; goes on from its checkpoint."""
    config = args.config or CONFIGS / f"{ablation.trainer}_tiny_ablation.toml"
    given = ["--data", str(args.data), "--out", str(folder / "run"), variant.flag, variant.value]
    given += ["--threads", str(args.threads), "--config", str(config)]
    for flag, value in (("--minutes", args.minutes), ("--steps", args.steps), ("--seed", seed)):
        given += [] if value is None else [flag, str(value)]
    if ablation.trainer == "motion":
        given += ["--identity", str(args.identity)]
    run_module(f"training.{ablation.trainer}", *given)


def exported(ablation: Ablation, args: argparse.Namespace, folder: Path) -> Path:
    """The bundle of a row's run and the part that does not vary; made again where the run is newer."""
    bundle, last = folder / "bundle", folder / "run" / LAST
    if is_bundle(bundle) and (bundle / "manifest.json").stat().st_mtime > last.stat().st_mtime:
        return bundle
    fixed = "appearance" if ablation.trainer == "motion" else "motion"
    other: Path = getattr(args, fixed)
    if is_bundle(other):
        other = bundle_as_run(other, fixed, args.out / f"fixed_{fixed}")
    run_module(
        "export", f"--{ablation.trainer}", str(folder / "run"), f"--{fixed}", str(other), "--out", str(bundle)
    )
    return bundle


def scored_pictures(
    ablation: Ablation, args: argparse.Namespace, folder: Path
) -> tuple[dict[str, float | None], dict[str, dict[str, float]]]:
    """Export a row's run and score what it shows of the clips: means, and figures by clip."""
    figures = folder / f"{ablation.mode}.json"
    given = ["--model", str(exported(ablation, args, folder)), "--clips", str(args.clips)]
    given += ["--mode", ablation.mode, "--json", str(figures)]
    if args.most is not None:
        given += ["--most", str(args.most)]
    run_module("training.evaluate", *given, *args.evaluate)
    try:
        report = json.loads(figures.read_text())
        return dict(report["mean"]), dict(report["clips"])
    except (OSError, ValueError, KeyError) as error:
        raise MyTalkError(f"{figures}: no figures ({error})") from error


def score_variant(ablation: Ablation, args: argparse.Namespace, folder: Path) -> Measured:
    """A row's figures: of what ``--clips`` become, if wanted, and on the data's validation clips."""
    mean: dict[str, float | None] = {}
    rows: dict[str, dict[str, float]] = {}
    if not args.unseen_only:
        mean, rows = scored_pictures(ablation, args, folder)
    judge = held_out if ablation.trainer == "motion" else held_out_pictures
    unseen = judge.held_out_figures(folder / "run", args.data)
    rows |= unseen
    mean |= {key: float(np.mean([row[key] for row in unseen.values()])) for key in judge.KEYS}
    clips = {key: {name: row[key] for name, row in rows.items() if row.get(key) is not None} for key in mean}
    return Measured(mean, clips)


def layout(ablation: Ablation, ours: list[Measured], again: tuple[int, Measured] | None = None) -> Table:
    """The table: each row as published, where it was, as measured here, and how far from the first one.

    again: seed and figures of the first row's second training.
    """
    table = Table(
        title=ablation.table,
        caption="published: the paper's own clips and weights; not ours to compare by. Differences: mean and "
        "standard error over the same clips; the seed's own difference is to be added",
    )
    for heading in ("Method", "", *ablation.columns):
        side = "left" if heading in ("Method", "") else "right"
        table.add_column(heading, justify=side, overflow="fold")  # whole names on narrow terminals, too

    def cell(figures: Mapping[str, float | None], key: str) -> str:
        value = figures.get(key)
        return "–" if value is None else f"{value:.3f}"

    def apart(measured: Measured, key: str) -> str:
        found = measured.apart(ours[0], key)
        return "–" if found is None else f"{found[0]:+.3f} ± {found[1]:.3f}"

    for variant, measured in zip(ablation.variants, ours, strict=True):
        shown = [cell(variant.published, key) for key in ablation.columns]
        table.add_row(variant.title, "published", *shown, style="dim")
        table.add_row("", "ours", *(cell(measured.mean, key) for key in ablation.columns))
        if measured is not ours[0]:
            table.add_row("", "ours − first row", *(apart(measured, key) for key in ablation.columns))
    if again is not None:
        seed, measured = again
        title = f"{ablation.variants[0].title}, seed {seed}"
        table.add_row(title, "ours", *(cell(measured.mean, key) for key in ablation.columns))
        table.add_row("", "ours − first row", *(apart(measured, key) for key in ablation.columns))
    return table


def with_rows(ablation: Ablation, values: list[str] | None) -> Ablation:
    """The ablation's first row and those of ``values`` (None: all); ``BadInput`` for a value it has not."""
    known = [variant.value for variant in ablation.variants]
    if unknown := sorted(set(values or []) - set(known)):
        raise BadInput(f"--rows {unknown[0]}: known are {', '.join(known)}")
    first, *others = ablation.variants
    return replace(ablation, variants=(first, *(v for v in others if values is None or v.value in values)))


def about(ablation: Ablation, args: argparse.Namespace) -> dict[str, Any]:
    """What the rows have in common: the first row's run, the clips, the fixed part."""
    run = folder_of(ablation, ablation.variants[0], None, args.out) / "run" / LAST
    saved = read_checkpoint(run, ablation.trainer)
    return {
        "steps": saved["step"],
        "minutes_of_first_row": round(saved["minutes"], 1),
        "frames_seen": saved["frames"],
        "run": json.loads(saved["run"]),
        "data": saved["data"],
        "threads": args.threads,
        "training_commit": saved["commit"],
        "commit": git_commit(),
    }


def tabulate(ablation: Ablation, args: argparse.Namespace) -> Table:
    """Train, export and score every row; writes ``OUT/ABLATION.json`` and ``.txt`` and gives the table."""
    found = []
    rows: list[tuple[Variant, int | None]] = [(variant, None) for variant in ablation.variants]
    rows += [] if args.again is None else [(ablation.variants[0], args.again)]
    for variant, seed in rows:
        folder = folder_of(ablation, variant, seed, args.out)
        train_variant(ablation, variant, args, folder, seed)
        found.append(score_variant(ablation, args, folder))
    ours = found[: len(ablation.variants)]
    again = None if args.again is None else (args.again, found[-1])
    told = {
        "table": ablation.table,
        "settings": about(ablation, args),
        "rows": [
            {
                "method": variant.title,
                variant.flag.strip("-").replace("-", "_"): variant.value,
                "seed_changed_to": seed,
                "published": {} if seed else variant.published,
                "mean": measured.mean,
                "minus_first_row": {key: measured.apart(ours[0], key) for key in ablation.columns},
                "clips": measured.clips,
            }
            for (variant, seed), measured in zip(rows, found, strict=True)
        ],
    }
    table = layout(ablation, ours, again)
    (args.out / f"{args.ablation}.json").write_text(json.dumps(told, indent=1) + "\n")
    with (args.out / f"{args.ablation}.txt").open("w", encoding="utf-8") as file:
        Console(file=file, width=WIDE).print(table)
    return table


def check(args: argparse.Namespace) -> None:
    """Raise ``BadInput`` for what cannot be scored, and a fixed part that is no run or bundle."""
    if args.clips is None and not args.unseen_only:
        raise BadInput("give --clips, the videos to score, or --unseen-only")
    for name in ("identity", "motion", "appearance"):
        path: Path = getattr(args, name)
        if not is_bundle(path) and not (path / LAST).is_file():
            raise BadInput(f"--{name} {path}: neither a run of training.{name} nor a bundle")


def _parser() -> argparse.ArgumentParser:
    shipped = default_bundle()
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("ablation", choices=list(ABLATIONS))
    p.add_argument("--data", type=Path, required=True, help="folder that training.prepare wrote")
    p.add_argument("--clips", type=Path, help="videos to score: folder or list")
    p.add_argument(
        "--unseen-only",
        action="store_true",
        help="the unseen_… columns alone, of the validation clips of --data: no video is made or scored",
    )
    p.add_argument("--out", type=Path, required=True, help="folder for runs, bundles and figures")
    p.add_argument(
        "--config",
        type=Path,
        help="TOML file of every variant's run (default: training/configs/TRAINER_tiny_ablation.toml)",
    )
    for name, tables in (("identity", "5 and 6"), ("appearance", "5 and 6"), ("motion", "7")):
        text = f"run of training.{name}, or a bundle (Tables {tables}; default: the one that ships)"
        p.add_argument(f"--{name}", type=Path, default=shipped, help=text)
    p.add_argument("--rows", nargs="+", metavar="VALUE", help="variants beside the first (default: all)")
    p.add_argument("--steps", type=int, help="optimiser steps of each variant, over the file's")
    p.add_argument("--minutes", type=float, help="most training time of each variant")
    p.add_argument("--again", type=int, metavar="SEED", help="the first row once more with this seed")
    p.add_argument("--most", type=int, help="score the first so many clips only")
    p.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    p.add_argument(
        "--evaluate", nargs=argparse.REMAINDER, default=[], help="last: more arguments of training.evaluate"
    )
    return p


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        check(args)
        table = tabulate(with_rows(ABLATIONS[args.ablation], args.rows), args)
    except (MyTalkError, OSError) as error:
        print(f"training.ablate: {error}", file=sys.stderr)
        return 1
    Console(width=WIDE).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
