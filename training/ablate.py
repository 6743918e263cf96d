"""The paper's ablations, one flag each: ``python -m training.ablate references --data DATA --out DIR``.

``identity-condition`` (Table 5), ``identity-loss`` (Table 6) and ``references`` (Table 7) train every variant
alike, export it, score it by ``training.evaluate`` and print the table, the paper's rows beside ours. What is
there already is kept: run again to go on, or to tabulate once more. The part that does not vary (the
appearance model in Tables 5 and 6, the motion model in 7) comes from ``--appearance`` or ``--motion``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mytalk.errors import BadInput, MyTalkError


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
MOTION_COLUMNS = ("sync_conf", "id_sim", "mouth_correlation", "landmark_distance_pct")
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
        ("psnr", "fid", "lip_psnr", "lip_ssim"),
        (
            Variant("masked multi-ref.", REFERENCES, "masked_multi", {"psnr": 34.153, "fid": 4.224}),
            Variant("full single-ref.", REFERENCES, "full_single", {"psnr": 31.750, "fid": 6.62}),
            Variant("masked single-ref.", REFERENCES, "masked_single", {"psnr": 32.759, "fid": 6.453}),
        ),
    ),
}


def run_module(module: str, *arguments: str) -> None:
    """One of our commands in a process of its own; raises ``MyTalkError`` if it fails."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], check=False)
    if done.returncode != 0:
        raise MyTalkError(f"python -m {module} failed (status {done.returncode}), see above")


def train_variant(ablation: Ablation, variant: Variant, args: argparse.Namespace, folder: Path) -> None:
    """Train one row into ``folder / "run"``; goes on from its checkpoint."""
    given = ["--data", str(args.data), "--out", str(folder / "run"), variant.flag, variant.value]
    given += ["--threads", str(args.threads)]
    if args.config is not None:
        given += ["--config", str(args.config)]
    if args.minutes is not None:
        given += ["--minutes", str(args.minutes)]
    if ablation.trainer == "motion":
        given += ["--identity", str(args.identity)]
    run_module(f"training.{ablation.trainer}", *given)


def score_variant(ablation: Ablation, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Export a row's run with the fixed other model and score it; figures by key."""
    motion, appearance = args.motion, args.appearance
    if ablation.trainer == "motion":
        motion = folder / "run"
    else:
        appearance = folder / "run"
    bundle, figures = folder / "bundle", folder / "figures.json"
    run_module("export", "--motion", str(motion), "--appearance", str(appearance), "--out", str(bundle))
    given = ["--model", str(bundle), "--clips", str(args.clips), "--mode", ablation.mode]
    if args.most is not None:
        given += ["--most", str(args.most)]
    run_module("training.evaluate", *given, *args.evaluate, "--json", str(figures))
    try:
        means: dict[str, Any] = json.loads(figures.read_text())["mean"]
    except (OSError, ValueError, KeyError) as error:
        raise MyTalkError(f"{figures}: no figures ({error})") from error
    return means


def layout(ablation: Ablation, ours: list[dict[str, Any]]) -> Table:
    """The table: each row as published, where it was, and as measured here."""
    table = Table(
        title=ablation.table, caption="published: the paper's own clips and weights; not ours to compare by"
    )
    for heading in ("Method", "", *ablation.columns):
        side = "left" if heading in ("Method", "") else "right"
        table.add_column(heading, justify=side, overflow="fold")  # whole names on narrow terminals, too

    def cell(figures: dict[str, Any], key: str) -> str:
        value = figures.get(key)
        return "–" if value is None else f"{value:.3f}"

    for variant, measured in zip(ablation.variants, ours, strict=True):
        shown = [cell(variant.published, key) for key in ablation.columns]
        table.add_row(variant.title, "published", *shown, style="dim")
        table.add_row("", "ours", *(cell(measured, key) for key in ablation.columns))
    return table


def check(ablation: Ablation, args: argparse.Namespace) -> None:
    """Raise ``BadInput`` for a run that is needed and not given."""
    needed = ("appearance", "identity") if ablation.trainer == "motion" else ("motion",)
    for name in needed:
        if getattr(args, name) is None:
            raise BadInput(f"{args.ablation} needs --{name}, a run of training.{name}")


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ablation", choices=list(ABLATIONS))
    parser.add_argument("--data", type=Path, required=True, help="folder that training.prepare wrote")
    parser.add_argument("--clips", type=Path, required=True, help="videos to score: folder or list")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs, bundles and figures")
    parser.add_argument("--config", type=Path, help="TOML file of every variant's run")
    parser.add_argument("--identity", type=Path, help="run of training.identity (Tables 5 and 6)")
    parser.add_argument("--appearance", type=Path, help="run of training.appearance (Tables 5 and 6)")
    parser.add_argument("--motion", type=Path, help="run of training.motion (Table 7)")
    parser.add_argument(
        "--minutes", type=float, help="training time of each variant; default: the run's steps"
    )
    parser.add_argument("--most", type=int, help="score the first so many clips only")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument(
        "--evaluate", nargs=argparse.REMAINDER, default=[], help="last: more arguments of training.evaluate"
    )
    args = parser.parse_args(argv)
    ablation, rows = ABLATIONS[args.ablation], []
    try:
        check(ablation, args)
        for variant in ablation.variants:
            folder = args.out / args.ablation / variant.value
            train_variant(ablation, variant, args, folder)
            rows.append(score_variant(ablation, args, folder))
        named = {
            v.value: {"published": v.published, "ours": row}
            for v, row in zip(ablation.variants, rows, strict=True)
        }
        (args.out / args.ablation / "table.json").write_text(json.dumps(named, indent=1) + "\n")
    except (MyTalkError, OSError) as error:
        print(f"training.ablate: {error}", file=sys.stderr)
        return 1
    Console().print(layout(ablation, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
