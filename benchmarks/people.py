"""``dub`` and ``actor make`` over a folder of real clips: a sheet per clip to look at, figures, a table.

The commands run as a user runs them, each in a process of its own, so that time and memory are theirs alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
import wave
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.machine import ROOT, commit, machine, versions
from mytalk.actors.faces import track_face
from mytalk.actors.follow import FaceChoice, find_face
from mytalk.dubbing.timeline import source_frame
from mytalk.errors import BadInput
from mytalk.landmarks.layout import load_layout
from mytalk.landmarks.normalise import CROP, crop_matrices
from mytalk.render.compose import crop, face_part, hidden_mask
from mytalk.types import F32, U8
from mytalk.video.media import probe_video, read_frames, read_speech
from mytalk.video.picture import Picture
from mytalk.video.spool import Spool

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".png", ".jpg")
MOMENTS = 6  # of a clip, side by side on its sheet
RATE_HZ = 48_000
LABEL_PX = 18


@dataclass(frozen=True, slots=True)
class Run:
    """How one command went: exit status, the line it ended with, seconds, and the most memory it held."""

    status: int
    says: str
    wall_s: float
    cpu_s: float
    peak_mib: float


# The command as a user gives it, and then the most memory that the process held.
CHILD = """
import pathlib, re, runpy, sys
peak = pathlib.Path(sys.argv.pop(1))
try:
    runpy.run_module("mytalk", run_name="__main__", alter_sys=True)
finally:
    status = pathlib.Path("/proc/self/status").read_text()
    peak.write_text(re.search(r"VmHWM:\\s*(\\d+)", status)[1])
"""


def run_command(arguments: Sequence[str], log: Path) -> Run:
    """Run ``python -m mytalk`` with arguments; its output goes to ``log``."""
    begin, peak = time.monotonic(), log.with_suffix(".peak")
    with log.open("wb") as out:
        child = os.posix_spawn(
            sys.executable,
            [sys.executable, "-c", CHILD, str(peak), *arguments],
            os.environ | {"PYTHONPATH": str(ROOT)},
            file_actions=[(os.POSIX_SPAWN_DUP2, out.fileno(), 1), (os.POSIX_SPAWN_DUP2, out.fileno(), 2)],
        )
        _, status, usage = os.wait4(child, 0)
    lines = log.read_text(errors="replace").strip().splitlines()
    return Run(
        os.waitstatus_to_exitcode(status),
        lines[-1] if lines else "",
        round(time.monotonic() - begin, 1),
        round(usage.ru_utime + usage.ru_stime, 1),
        round(int(peak.read_text()) / 1024, 1),
    )


def cut_speech(speech: Path, seconds: float, out: Path) -> Path:
    """The first seconds of a sound as a WAV file."""
    wanted = int(seconds * RATE_HZ)
    samples = np.concatenate(list(read_speech(speech, RATE_HZ)))[:wanted]
    with wave.open(str(out), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(samples.tobytes())
    return out


def _cell(rgb: U8, size: tuple[int, int]) -> Image.Image:
    image = Image.fromarray(rgb)
    image.thumbnail(size, Image.Resampling.LANCZOS)
    cell = Image.new("RGB", size)
    cell.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return cell


def _face(picture: Picture, matrix: F32) -> U8:
    part = face_part(picture, matrix)
    return np.zeros((CROP, CROP, 3), np.uint8) if part is None else crop(part[1], part[2])


def _outlined(face: U8) -> U8:
    mask = hidden_mask() > 0
    edge = mask & ~(np.roll(mask, 2, 0) & np.roll(mask, -2, 0) & np.roll(mask, 2, 1) & np.roll(mask, -2, 1))
    return np.where(edge[..., None], np.array([255, 60, 60], np.uint8), face)


def sheet(video: Path, dubbed: Path, choice: FaceChoice, title: str) -> Image.Image:
    """Rows of moments: the dubbed picture; the source's face with the mask; the dubbed face, magnified."""
    layout, info = load_layout(), probe_video(video)
    shown = list(_few(dubbed))
    last = max(number for number, _ in shown)
    with Spool((478, 3)) as points, Spool((478, 3)) as landmarks:
        find_face(islice(read_frames(video, info=info), last + 1), points, str(video), choice)
        track = track_face(points, landmarks, layout, str(video))
    matrices = crop_matrices(track.poses)
    matrices[:, 0] /= float(info.aspect)
    frames = len(matrices)
    side = 2 * CROP
    out = Image.new("RGB", (side * MOMENTS, LABEL_PX + CROP + 2 * side), (32, 32, 32))
    ImageDraw.Draw(out).text((4, 3), title, fill=(255, 255, 255))
    sources = [source_frame(number, frames) for number, _ in shown]
    originals = {n: p for n, p in enumerate(read_frames(video, info=info)) if n in sources}
    for column, ((_, picture), source) in enumerate(zip(shown, sources, strict=True)):
        left = column * side
        out.paste(_cell(picture.rgb(), (side, CROP)), (left, LABEL_PX))
        for row, (face, big) in enumerate(
            (
                (_outlined(_face(originals[source], matrices[source])), side),
                (_face(picture, matrices[source]), side),
            )
        ):
            image = Image.fromarray(face).resize((big, big), Image.Resampling.LANCZOS)
            out.paste(image, (left, LABEL_PX + CROP + row * side))
    return out


def _few(video: Path) -> list[tuple[int, Picture]]:
    """Some moments of a video, evenly spread, with their numbers."""
    count = sum(1 for _ in read_frames(video))
    wanted = {round((i + 0.5) * count / MOMENTS) for i in range(MOMENTS)}
    return [(n, p) for n, p in enumerate(read_frames(video)) if n in wanted]


def _figures(clip: Path, speech: Path, out: Path, face: str, actors: bool) -> dict[str, Any]:
    name = "_".join(clip.with_suffix("").parts[-2:])
    dubbed, actor = out / f"{name}.mp4", out / "actors" / clip.stem.replace(".", "-")
    engine = ["--quiet", "--face", face]
    paths = ["--video", str(clip), "--speech", str(speech), "--out", str(dubbed)]
    done = run_command(["dub", *paths, *engine], out / f"{name}.dub.log")
    figures: dict[str, Any] = {"clip": clip.name, "dub": asdict(done)}
    if done.status == 0:
        choice: FaceChoice = int(face) if face.isdigit() else "largest"
        try:
            sheet(clip, dubbed, choice, f"{clip.name}: {done.says}").save(out / f"{name}.png")
        except BadInput as error:
            figures["sheet"] = str(error)
    if actors:
        shutil.rmtree(actor, ignore_errors=True)
        consent = ["--consent", "benchmark: thrown away after looking at it"]
        made = run_command(
            ["actor", "make", str(clip), "--out", str(actor), *consent, *engine], out / f"{name}.actor.log"
        )
        figures["actor"] = asdict(made)
        if made.status == 0:
            png = out / f"{name}.actor.png"
            run_command(["actor", "show", str(actor), "--out", str(png), "--quiet"], out / f"{name}.show.log")
    return figures


def _columns(run: dict[str, Any] | None) -> str:
    if run is None:
        return " " * 30
    return f"  {run['status']:4} {run['wall_s']:7.1f} {run['cpu_s']:7.1f} {run['peak_mib']:6.0f}"


def _table(rows: Sequence[dict[str, Any]]) -> str:
    heads = [f"  {name:>4} {'wall s':>7} {'cpu s':>7} {'MiB':>6}" for name in ("dub", "made")]
    lines = [f"{'clip':34}{''.join(heads)}"]
    for row in rows:
        runs = (row["dub"], row.get("actor"))
        bad = next((run["says"] for run in runs if run is not None and run["status"] != 0), "")
        lines.append(f"{row['clip'][:34]:34}{_columns(runs[0])}{_columns(runs[1])}  {bad}".rstrip())
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 1 when a clip failed."""
    parser = argparse.ArgumentParser(prog="benchmarks.people", description=__doc__)
    parser.add_argument("clips", type=Path, nargs="+", help="video files, or folders of them")
    parser.add_argument("--speech", type=Path, required=True, help="what they are made to say")
    parser.add_argument("--seconds", type=float, default=5.0, help="of the speech (default: 5)")
    parser.add_argument(
        "--face", default="largest", help="whose face: largest, or 1, 2, … (default: largest)"
    )
    parser.add_argument("--no-actors", action="store_true", help="only dub")
    parser.add_argument("--out", type=Path, required=True, help="folder for sheets, videos and figures.json")
    args = parser.parse_args(argv)
    clips = [
        path
        for given in args.clips
        for path in (sorted(given.rglob("*")) if given.is_dir() else [given])
        if path.suffix.lower() in SUFFIXES
    ]
    (args.out / "actors").mkdir(parents=True, exist_ok=True)
    speech = cut_speech(args.speech, args.seconds, args.out / "speech.wav")
    report: dict[str, Any] = {
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "seconds": args.seconds,
        "clips": [],
    }
    for clip in clips:
        report["clips"].append(_figures(clip, speech, args.out, args.face, not args.no_actors))
        print(_table(report["clips"][-1:]).splitlines()[-1], flush=True)
        (args.out / "figures.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    print(_table(report["clips"]))
    return int(any(run["dub"]["status"] != 0 for run in report["clips"]))


if __name__ == "__main__":
    sys.exit(main())
