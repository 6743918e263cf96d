"""A gallery that a person can judge: ``python -m training.gallery CLIP_OR_DIR … --out docs/gallery``.

For each clip one picture: faces at moments of the clip, and below them mouths, magnified; in rows the source,
what is drawn from the source's own landmarks, and what its speech alone makes. Moments are evenly spread over
the frames in which somebody talks; mouths are those with the widest openings, where teeth show, and, where
phoneme times are beside the clip (NAME.json), one of each of some sounds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from mytalk.clock import FPS
from mytalk.engines import default_bundle, load_engine
from mytalk.engines.engine import Engine
from mytalk.errors import BadInput, MyTalkError
from mytalk.types import U8
from training.cases import read_cases
from training.reels import Source, Wanted, cut_all, fitted, load_source
from training.render import dubbed, true_landmark_pictures

COLUMNS = 6
FACE_PX, MOUTH_PX, LABEL_PX = 224, 224, 18
FACE = (24, 0, 256, 256)  # of the crop: top, left, bottom, right; the forehead is nobody's concern
MOUTH = (112, 80, 176, 176)
ROWS = ("source", "from the source's landmarks", "from speech alone")
SOUNDS = ("m", "f", "aa", "iy", "uw", "b")  # phonemes that look different
APART = 6  # frames between two mouths that are picked
WIDEST = 0.2  # share of frames with the widest mouths, of which some are picked
QUALITY = 85  # of the JPEG


@dataclass(frozen=True, slots=True)
class Moment:
    """A frame of the clip and what to write above it."""

    frame: int
    label: str


def evenly(source: Source) -> list[Moment]:
    """Moments spread over the part of the clip in which the mouth moves."""
    opened = source.track.opening
    moving = np.flatnonzero(opened > np.quantile(opened, 0.5))
    frames = np.linspace(moving[0], moving[-1], COLUMNS).round().astype(int)
    return [Moment(int(f), f"{f / FPS:.2f} s") for f in frames]


def widest(source: Source) -> list[Moment]:
    """Wide open mouths of scored frames, away from each other."""
    opened = np.where(source.scored, source.track.opening, -1)
    order = np.argsort(opened)[::-1][: max(COLUMNS, round(WIDEST * len(opened)))]
    picked: list[int] = []
    for frame in order:
        if all(abs(int(frame) - other) >= APART for other in picked):
            picked.append(int(frame))
    return [Moment(f, f"{f / FPS:.2f} s") for f in sorted(picked[:COLUMNS])]


def spoken(source: Source, beside: Path) -> list[Moment]:
    """The middle of one of each of some phonemes, the longest; none without exact times."""
    path = beside.with_suffix(".json")
    if not path.is_file():
        return []
    try:
        phonemes = json.loads(path.read_text(encoding="utf-8"))["phonemes"]
        said = [(str(name).lower(), float(start), float(end)) for name, start, end in phonemes]
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path}: cannot be read ({error})") from error
    found = []
    for sound in SOUNDS:
        spans = [(end - start, start, end) for name, start, end in said if name.rstrip("012") == sound]
        frames = [int((start + end) / 2 * FPS) for _, start, end in sorted(spans, reverse=True)]
        inside = [f for f in frames if f < source.frames]
        found += [Moment(inside[0], f"/{sound}/ {inside[0] / FPS:.2f} s")] if inside else []
    return found


def _block(moments: Sequence[Moment], rows: Sequence[U8], box: tuple[int, int, int, int], width: int) -> U8:
    """Labelled rows of a part of the crops [F, 256, 256, 3], a column each moment."""
    top, left, bottom, right = box
    height = round(width * (bottom - top) / (right - left))
    strip = Image.new("RGB", (width * COLUMNS, LABEL_PX), (32, 32, 32))
    for column, moment in enumerate(moments):
        ImageDraw.Draw(strip).text((column * width + 4, 3), moment.label, fill=(255, 255, 255))
    lines = [np.asarray(strip, np.uint8)]
    for crops in rows:
        cells = []
        for moment in moments:
            image = Image.fromarray(crops[min(moment.frame, len(crops) - 1), top:bottom, left:right])
            cells.append(np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), np.uint8))
        blank = np.zeros((height, width * (COLUMNS - len(cells)), 3), np.uint8)
        lines.append(np.concatenate([*cells, blank], axis=1))
    return np.concatenate(lines)


def _title(text: str) -> U8:
    strip = Image.new("RGB", (FACE_PX * COLUMNS, LABEL_PX), (0, 0, 0))
    ImageDraw.Draw(strip).text((4, 3), text, fill=(255, 220, 120))
    return np.asarray(strip, np.uint8)


def made_crops(engine: Engine, source: Source, speech: Path) -> tuple[U8, U8]:
    """Crops [F, 256, 256, 3] from the source's landmarks, and from speech; encoding and pasting included."""
    wanted = Wanted()
    drawn = fitted(true_landmark_pictures(engine, source), source.size)
    first = cut_all(drawn, source.points, source.matrices, wanted).crops
    with tempfile.TemporaryDirectory(prefix="mytalk-gallery-") as folder:
        said = fitted(dubbed(engine, source, speech, Path(folder) / "dub.mp4"), source.size)
        return first, cut_all(said, source.points, source.matrices, wanted).crops


def picture(engine: Engine, source: Source, beside: Path) -> U8:
    """The gallery's picture of one clip, uint8 [H, W, 3]."""
    rows = (source.cuts.crops, *made_crops(engine, source, beside))
    lines = [
        _title(f"{source.name}: {', '.join(ROWS)}, from top to bottom; weights {engine.spec.weights_id}"),
        _block(evenly(source), rows, FACE, FACE_PX),
        _block(widest(source), rows, MOUTH, MOUTH_PX),
    ]
    sounds = spoken(source, beside)
    if sounds:
        lines.append(_block(sounds, rows, MOUTH, MOUTH_PX))
    return np.concatenate(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("clips", type=Path, nargs="+", help="videos, folders of .mp4, or lists of them")
    p.add_argument("--out", type=Path, required=True, help="folder for the pictures, NAME.jpg")
    p.add_argument("--model", type=Path, default=default_bundle(), help="bundle (default: the shipped one)")
    p.add_argument("--engine", default="onnx", help="engine by name (default onnx)")
    args = p.parse_args(argv)
    try:
        cases = [case for path in args.clips for case in read_cases(path)]
        engine = load_engine(args.engine, args.model)
        args.out.mkdir(parents=True, exist_ok=True)
        for case in cases:
            print(case.name, file=sys.stderr, flush=True)
            source = load_source(case.video, case.name, Wanted())
            made = Image.fromarray(picture(engine, source, case.video))
            path = args.out / f"{case.name.replace('/', '_')}.jpg"
            made.save(path, quality=QUALITY, subsampling=0, optimize=True)
    except MyTalkError as error:
        print(f"training.gallery: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"training.gallery: cannot be written ({error})", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
