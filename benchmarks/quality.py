"""Quality on clips that a model has not seen: a GRID speaker and synthetic people, by landmarks and speech.

``python benchmarks/quality.py DATA --json OUT`` takes ``DATA/grid/s32`` and ``DATA/synthetic``; other folders
of clips go in by ``--group NAME=DIR``. It runs ``training.evaluate`` once a group and mode.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that the file can be run as it stands

from benchmarks.machine import commit, machine, versions  # noqa: E402 - after the path

MODES = ("appearance", "pipeline")
UNSEEN = {"grid_s32_unseen": "grid/s32/*.mp4", "synthetic_unseen": "synthetic/*7.mp4"}


class QualityError(Exception):
    """What stops the measurement, one line for a person."""


def groups_of(data: Path | None, given: Sequence[str]) -> dict[str, list[Path]]:
    """Videos by group: those held out of the shipped weights' training, and the folders that were named."""
    groups: dict[str, list[Path]] = {}
    if data is not None:
        groups = {name: sorted(data.glob(pattern)) for name, pattern in UNSEEN.items()}
    for text in given:
        name, _, folder = text.partition("=")
        groups[name] = sorted(Path(folder).rglob("*.mp4")) if folder else []
    empty = [name for name, videos in groups.items() if not videos]
    if empty or not groups:
        raise QualityError(f"no .mp4 for {', '.join(empty) or 'any group'}")
    return groups


def evaluated(
    videos: Sequence[Path], mode: str, options: Sequence[str], sheets: Path | None
) -> dict[str, Any]:
    """The report of ``training.evaluate`` on some videos."""
    with tempfile.TemporaryDirectory(prefix="mytalk-quality-") as folder:
        clips, out = Path(folder) / "clips.txt", Path(folder) / "report.json"
        clips.write_text("".join(f"{video.resolve()}\n" for video in videos), encoding="utf-8")
        command = [sys.executable, "-m", "training.evaluate", "--clips", str(clips), "--mode", mode]
        command += ["--json", str(out), *options]
        command += [] if sheets is None else ["--sheets", str(sheets)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise QualityError(f"training.evaluate failed on {videos[0].parent.name}")
        report: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        return report


def parser() -> argparse.ArgumentParser:
    """Command-line options."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("data", type=Path, nargs="?", help="folder with grid/s32 and synthetic")
    p.add_argument("--group", action="append", default=[], metavar="NAME=DIR", help="another folder of clips")
    p.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    p.add_argument("--model", help="exported bundle (default: the shipped one)")
    p.add_argument("--engine", help="engine by name (default: auto)")
    p.add_argument("--part", help="of each clip: whole, first-half, second-half")
    p.add_argument("--most", help="the first so many clips of each group only")
    p.add_argument("--sheets", type=Path, help="contact sheets go into folders below this one")
    p.add_argument("--json", type=Path, help="write the report here")
    return p


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All groups in all modes, with what they were measured on."""
    flags = {"--model": args.model, "--engine": args.engine, "--part": args.part, "--most": args.most}
    options = [text for flag, value in flags.items() if value for text in (flag, value)]
    groups = groups_of(args.data, args.group)
    reports: dict[str, Any] = {}
    for mode in args.modes:
        for name, videos in groups.items():
            print(f"{mode}, {name}: {len(videos)} clips", file=sys.stderr)
            sheets = None if args.sheets is None else args.sheets / f"{mode}_{name}"
            reports[f"{mode}/{name}"] = evaluated(videos, mode, options, sheets)
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    told = {"machine": machine(), "versions": versions(), "commit": commit(), "date": date}
    return {"reports": reports, **told}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    args = parser().parse_args(argv)
    try:
        report = measure(args)
        if args.json:
            args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    except (QualityError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    for name, one in report["reports"].items():
        figures = {key: round(value, 3) for key, value in one["mean"].items() if value is not None}
        print(f"{name}: {json.dumps(figures)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
