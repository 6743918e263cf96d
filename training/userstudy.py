"""A blinded A/B rating page for the four questions of the paper's Table 3, and the table of its answers.

``python -m training.userstudy make ours=DIR wav2lip=DIR --out study`` writes study/page.html, one file that
needs no network, and study/key.json, which says whose video is whose: keep that one. Participants open the
page and send a file back; ``python -m training.userstudy table study/key.json answers/*.json`` reads them.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from mytalk.errors import BadInput, MyTalkError
from training.prepare_video import write_atomically

QUESTIONS = (
    ("visual", "Visual quality: how sharp and free of flaws is the picture?", "Vis."),
    ("sync", "Lip sync: how well do the lips match the words?", "Sync"),
    ("detail", "Details: how natural are teeth, lips and skin around the mouth?", "Detail"),
    ("identity", "Identity: does it look like one and the same person throughout?", "Consis."),
)
PUBLISHED = (
    ("Wav2Lip", (3.04, 3.32, 2.98, 3.74)),
    ("VideoReTalking", (3.83, 3.42, 3.55, 3.78)),
    ("TalkLip", (3.35, 3.46, 3.40, 3.90)),
    ("MyTalk", (4.22, 3.94, 4.30, 4.45)),
)
PLACE = "/*STUDY*/"  # in the page, where the study goes
MOST_BYTES = 300 * 1024 * 1024  # of videos; browsers do not open larger pages gladly


@dataclass(frozen=True, slots=True)
class Study:
    """trials: pairs of opaque video names. videos: where each lies. key: opaque name → (system, clip)."""

    id: str
    trials: tuple[tuple[str, str], ...]
    videos: dict[str, Path]
    key: dict[str, tuple[str, str]]


def plan_study(systems: dict[str, Path], seed: int, most: int | None = None) -> Study:
    """Every pair of systems on every clip that both have; opaque names depend on the seed.

    systems: name → folder of .mp4 files. most: a random sample of so many clips. Raises ``BadInput`` when
    there is nothing to compare.
    """
    if len(systems) < 2:
        raise BadInput("a comparison needs two systems or more, as NAME=DIR")
    clips: dict[str, dict[str, Path]] = {}
    for system, folder in systems.items():
        if not folder.is_dir():
            raise BadInput(f"{folder}: no such folder")
        clips[system] = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*.mp4"))}
    random = np.random.default_rng(seed)
    common = sorted(set.intersection(*(set(own) for own in clips.values())))
    if not common:
        raise BadInput("these folders have no video of the same name")
    chosen = [common[i] for i in sorted(random.permutation(len(common))[:most])]

    def opaque(system: str, clip: str) -> str:
        return hashlib.sha256(f"{seed}/{system}/{clip}".encode()).hexdigest()[:12]

    key = {opaque(system, clip): (system, clip) for clip in chosen for system in systems}
    trials = [(opaque(a, clip), opaque(b, clip)) for clip in chosen for a, b in combinations(systems, 2)]
    # Within a pair and between pairs the order must say nothing, even to one who reads the page's source.
    mixed = [(pair if random.random() < 0.5 else pair[::-1]) for pair in trials]
    order = random.permutation(len(mixed))
    videos = {name: clips[system][clip] for name, (system, clip) in sorted(key.items())}
    identity = hashlib.sha256("/".join(videos).encode()).hexdigest()[:12]
    return Study(identity, tuple(mixed[i] for i in order), videos, key)


def write_study(study: Study, out: Path) -> tuple[Path, Path]:
    """Write page.html and key.json; returns their paths. ``BadInput`` when the videos are too much for it."""
    size = sum(path.stat().st_size for path in study.videos.values())
    if size > MOST_BYTES:
        raise BadInput(
            f"the videos are {size >> 20} MB together, a page holds {MOST_BYTES >> 20}: use --most"
        )
    videos = {
        name: "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()
        for name, path in study.videos.items()
    }
    told = {
        "id": study.id,
        "questions": [{"key": key, "text": text} for key, text, _ in QUESTIONS],
        "trials": study.trials,
        "videos": videos,
    }
    template = resources.files("training").joinpath("userstudy.html").read_text(encoding="utf-8")
    page = template.replace(PLACE, json.dumps(told).replace("</", "<\\/")).encode()
    key = json.dumps({"study": study.id, "trials": study.trials, "videos": study.key}, indent=1).encode()
    paths = out / "page.html", out / "key.json"
    for path, text in zip(paths, (page, key), strict=True):
        write_atomically(path, lambda file, text=text: file.write(text))
    return paths


@dataclass(frozen=True, slots=True)
class Opinion:
    """One system's ratings on one question: mean, half the width of its 95 % interval, how many ratings."""

    mean: float
    interval: float
    count: int


@dataclass(frozen=True, slots=True)
class Result:
    """opinions: by (system, question). preferences: trials won, by (system, other, question)."""

    systems: tuple[str, ...]
    opinions: dict[tuple[str, str], Opinion]
    preferences: dict[tuple[str, str, str], int]
    people: int


def _read_json(path: Path, what: str) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: not {what} ({error})") from error
    if not isinstance(raw, dict) or "study" not in raw:
        raise BadInput(f"{path}: not {what}")
    return raw


def _checked(path: Path, answers: dict[str, Any], key: dict[str, Any]) -> dict[tuple[int, str, str], int]:
    """Ratings by (trial, video, question); ``BadInput`` for answers to something else."""
    if answers["study"] != key["study"]:
        raise BadInput(f"{path}: answers to another study")
    questions, out = {name for name, _, _ in QUESTIONS}, {}
    for row in answers.get("ratings", []):
        try:
            trial, video, question, value = row["trial"], row["video"], row["question"], row["value"]
            known = video in key["trials"][trial] and question in questions and value in range(1, 6)
        except (TypeError, KeyError, IndexError) as error:
            raise BadInput(f"{path}: a damaged rating ({error!r})") from error
        if not known:
            raise BadInput(f"{path}: a rating that this study does not ask for ({row})")
        out[trial, video, question] = int(value)
    return out


def tabulate(key_path: Path, answer_paths: Sequence[Path]) -> Result:
    """Read the key and the answers. A participant's second file replaces the first; raises ``BadInput``."""
    key = _read_json(key_path, "the key of a study")
    people: dict[str, dict[tuple[int, str, str], int]] = {}
    for path in answer_paths:
        answers = _read_json(path, "answers of a study")
        people[str(answers.get("participant", path.name))] = _checked(path, answers, key)
    values: dict[tuple[str, str], list[int]] = defaultdict(list)
    preferences: dict[tuple[str, str, str], int] = defaultdict(int)
    system_of = {video: system for video, (system, _) in key["videos"].items()}
    for ratings in people.values():
        for (trial, video, question), value in ratings.items():
            values[system_of[video], question].append(value)
            one, two = key["trials"][trial]
            other = two if video == one else one
            if value > ratings.get((trial, other, question), value):
                preferences[system_of[video], system_of[other], question] += 1
    if not values:
        raise BadInput("there are no ratings in these files")
    opinions = {place: _opinion(numbers) for place, numbers in values.items()}
    systems = tuple(dict.fromkeys(system_of.values()))
    return Result(systems, opinions, dict(preferences), len(people))


def _opinion(numbers: Sequence[int]) -> Opinion:
    spread = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else float("nan")
    return Opinion(float(np.mean(numbers)), 1.96 * spread / float(np.sqrt(len(numbers))), len(numbers))


def print_result(result: Result, console: Console) -> None:
    """Table 3 with the paper's rows, marked as published, and who was preferred to whom."""
    table = Table(title=f"Table 3: subjective, 1–5, {result.people} participants")
    table.add_column("system")
    table.add_column("from")
    for _, _, heading in QUESTIONS:
        table.add_column(heading, justify="right")
    for name, figures in PUBLISHED:
        table.add_row(name, "published", *(f"{value:.2f}" for value in figures), style="dim")
    table.add_section()
    for system in sorted(result.systems):
        cells = []
        for question, _, _ in QUESTIONS:
            opinion = result.opinions.get((system, question))
            cells.append("–" if opinion is None else f"{opinion.mean:.2f} ± {opinion.interval:.2f}")
        table.add_row(system, "measured", *cells)
    console.print(table)
    for one, other in combinations(sorted(result.systems), 2):
        words = []
        for question, _, heading in QUESTIONS:
            wins, losses = (
                result.preferences.get((a, b, question), 0) for a, b in ((one, other), (other, one))
            )
            words.append(f"{heading} {wins}:{losses}")
        console.print(f"{one} rated above {other}, and below: {', '.join(words)}")


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = p.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="write the page and its key")
    make.add_argument(
        "systems", nargs="+", metavar="NAME=DIR", help="videos of the same names in each folder"
    )
    make.add_argument("--out", type=Path, required=True, help="folder for page.html and key.json")
    make.add_argument("--most", type=int, help="a random sample of so many clips (the paper: 44 videos)")
    make.add_argument("--seed", type=int, default=0, help="of names, sample and order (default %(default)s)")
    table = commands.add_parser("table", help="tabulate the answers")
    table.add_argument("key", type=Path, help="key.json")
    table.add_argument("answers", type=Path, nargs="+", help="files that participants sent back")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        if args.command == "table":
            print_result(tabulate(args.key, args.answers), Console(width=100))
            return 0
        systems = {name: Path(folder) for name, _, folder in (text.partition("=") for text in args.systems)}
        if len(systems) < len(args.systems):
            raise BadInput("two systems have the same name")
        study = plan_study(systems, args.seed, args.most)
        page, key = write_study(study, args.out)
    except MyTalkError as error:
        print(f"training.userstudy: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"training.userstudy: {error}", file=sys.stderr)
        return 1
    print(f"{page}: {len(study.trials)} pairs; {key} says whose they are: keep it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
