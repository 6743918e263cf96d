"""How well covered mouths are noticed: clips as they are (false alarms), then with things drawn in front.

Give it clips in which nothing is in front of the mouth. The things are drawn in the face's own units and
follow the face; they come in, stay for three tenths of the clip and leave.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from benchmarks.machine import commit, machine, versions
from mytalk.actors.covered import MouthWatch
from mytalk.actors.follow import find_face
from mytalk.errors import BadInput
from mytalk.landmarks.layout import load_layout
from mytalk.landmarks.normalise import poses_of
from mytalk.types import F32, U8
from mytalk.video.media import probe_video, read_frames
from mytalk.video.picture import Picture
from mytalk.video.spool import Spool

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi")
CANVAS, UNIT = 400, 100.0  # a thing's drawing, pixels; of these to the distance between the eyes
STAYS = (0.4, 0.7)  # share of the clip between which a thing is there
COMES_PICTURES = 6  # that it takes to come in, and to leave
HIDDEN, CLEAR = 0.8, 0.001  # share of the lips hidden: it must be found; it must not
Colour = tuple[int, int, int]

# Capsules: (x, y) to (x, y), radius, on a canvas whose middle is the middle of the lips; colour None: skin.
Capsule = tuple[tuple[int, int], tuple[int, int], int, Colour | None]
FINGERS = [((120 + 8 * abs(i - 1), 160 + 26 * i), (290, 190 + 24 * i), 14) for i in range(4)]


def _hand(colour: Colour | None) -> tuple[Capsule, ...]:
    return (((300, 330), (280, 260), 60, colour), *((*finger, colour) for finger in FINGERS))


THINGS: dict[str, tuple[Capsule, ...]] = {
    "microphone": (
        ((200, 230), (290, 399), 22, (70, 70, 75)),
        ((200, 205), (203, 208), 38, (45, 45, 48)),
    ),
    "foam": (((200, 250), (200, 399), 15, (40, 40, 40)), ((200, 200), (200, 230), 55, (30, 28, 28))),
    "white cup": (((200, 190), (200, 270), 48, (225, 225, 220)),),
    "red cup": (((200, 190), (200, 270), 48, (170, 40, 35)),),
    "own hand": _hand(None),
    "dark hand": _hand((90, 60, 45)),
    "light hand": _hand((225, 180, 155)),
}


def drawing(thing: str, skin: Colour) -> U8:
    """A thing, uint8 RGBA [CANVAS, CANVAS, 4], round by its shading."""
    out = Image.new("RGBA", (CANVAS, CANVAS))
    y, x = np.mgrid[:CANVAS, :CANVAS].astype(np.float32)
    for begin, end, radius, colour in THINGS[thing]:
        a, step = np.array(begin), np.subtract(end, begin)
        along = np.clip(((x - a[0]) * step[0] + (y - a[1]) * step[1]) / max(1, int(step @ step)), 0, 1)
        across, down = x - a[0] - along * step[0], y - a[1] - along * step[1]
        off = np.hypot(across, down) / radius
        shade = np.clip(1.08 - 0.35 * off**2 - 0.06 * down / radius, 0, 1.2)
        alpha = np.clip((1.05 - off) * radius / 1.5, 0, 1)
        rgb = shade[..., None] * np.array(colour or skin, np.float32)
        one = np.concatenate([rgb, 255 * alpha[..., None]], axis=2)
        out.alpha_composite(Image.fromarray(np.clip(one, 0, 255).astype(np.uint8)))
    return np.asarray(out)


def _skin(rgb: U8, points: F32) -> Colour:
    """Usual colour at the rigid landmarks of the upper face. points: float32 [K, 3], pixels."""
    layout = load_layout()
    x, y = points[layout.rigid, :2].round().astype(int).T
    height, width = rgb.shape[:2]
    red, green, blue = np.median(rgb[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)], axis=0)
    return int(red), int(green), int(blue)


def _in_front(rgb: U8, points: F32, thing: U8, away: float, number: int) -> tuple[U8, float]:
    """The picture with a thing in front, and the share of the lips that it hides. away: 0 there, 1 gone."""
    layout = load_layout()
    lips = points[list(next(c.points for c in layout.contours if c.name == "outer lips")), :2]
    pose = poses_of(points[None], layout.template[layout.rigid].astype(np.float64), layout)
    unit = float(pose.scale[0]) / UNIT
    middle = lips.mean(axis=0) + unit * np.array((120 * away + 3 * np.sin(number / 5), 220 * away))
    left, top = middle - unit * CANVAS / 2
    size = (rgb.shape[1], rgb.shape[0])
    inverse = (1 / unit, 0, -left / unit, 0, 1 / unit, -top / unit)
    # Premultiplied, so that the edge does not darken; softened first, so that it is not jagged.
    blur = ImageFilter.GaussianBlur(max(0.0, 0.4 / unit - 0.4))
    soft = Image.fromarray(thing).convert("RGBa").filter(blur)
    layer = np.asarray(
        soft.transform(size, Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR), np.float32
    )
    alpha = layer[..., 3:] / 255
    shadow = Image.fromarray(layer[..., 3].astype(np.uint8)).filter(ImageFilter.GaussianBlur(8 * unit))
    lit = rgb * (1 - 0.25 / 255 * np.asarray(shadow, np.float32)[..., None])
    noise = np.random.default_rng(number).normal(0, 2, rgb.shape)
    out = lit * (1 - alpha) + layer[..., :3] + noise * alpha
    outline = Image.new("1", size)
    ImageDraw.Draw(outline).polygon([(float(x), float(y)) for x, y in lips], fill=1)
    inside = np.asarray(outline)
    hidden = float(alpha[inside].mean()) if inside.any() else 0.0
    return np.clip(out, 0, 255).astype(np.uint8), hidden


def covered_by(pictures: Sequence[U8], points: F32, thing: str) -> tuple[list[U8], F32]:
    """Pictures with a thing in front of the mouth for a while, and the share of the lips it hides in each.

    points: float32 [F, K, 3], NaN where the face is not in view.
    """
    first, last = (round(share * len(pictures)) for share in STAYS)
    seen = np.flatnonzero(np.isfinite(points[:, 0, 0]))
    drawn = drawing(thing, _skin(pictures[seen[0]], points[seen[0]]))
    out, hidden = list(pictures), np.zeros(len(pictures), np.float32)
    for number in seen:
        away = max(first - number, number - last + 1, 0) / COMES_PICTURES
        if away <= 1:
            out[number], hidden[number] = _in_front(
                pictures[number], points[number], drawn, away, int(number)
            )
    return out, hidden


def looked_at(pictures: Sequence[U8], fps: float, what: str) -> tuple[npt.NDArray[np.bool_], F32]:
    """In which pictures the mouth is told to be covered, bool [F], and the landmarks, float32 [F, K, 3]."""
    with Spool((478, 3)) as spool, MouthWatch(load_layout()) as watch:
        shown = (Picture.from_rgb(rgb, number / fps) for number, rgb in enumerate(pictures))
        find_face(shown, spool, what, "largest", watch.look)
        return watch.covered(), spool.read(range(len(pictures)))


def measure(clip: Path, pictures: int, things: Sequence[str]) -> list[dict[str, Any]]:
    """What was found in a clip as it is, and with each thing in front."""
    info = probe_video(clip)
    size = (round(info.width * float(info.aspect)), info.height)
    shown = [picture.rgb(size=size) for picture in islice(read_frames(clip, info=info), pictures)]
    found, points = looked_at(shown, float(info.fps), str(clip))
    rows = [_row(clip, None, found, np.zeros(len(shown), np.float32))]
    for thing in things:
        changed, hidden = covered_by(shown, points, thing)
        rows.append(_row(clip, thing, looked_at(changed, float(info.fps), str(clip))[0], hidden))
    return rows


def _row(clip: Path, thing: str | None, found: npt.NDArray[np.bool_], hidden: F32) -> dict[str, Any]:
    must, must_not = hidden > HIDDEN, hidden < CLEAR
    return {
        "clip": clip.name,
        "thing": thing,
        "hidden": int(must.sum()),
        "found": int(found[must].sum()),
        "clear": int(must_not.sum()),
        "false": int(found[must_not].sum()),
    }


def _table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [f"{'in front':12} {'clips':>5} {'hidden':>7} {'found':>7} {'clear':>7} {'false':>7}"]
    for thing in (None, *THINGS):
        ours = [row for row in rows if row["thing"] == thing]
        if ours:
            sums = [sum(row[name] for row in ours) for name in ("hidden", "found", "clear", "false")]
            lines.append(f"{thing or 'nothing':12} {len(ours):5} " + " ".join(f"{n:7}" for n in sums))
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 1 when no clip could be looked at."""
    parser = argparse.ArgumentParser(prog="benchmarks.covered", description=__doc__)
    parser.add_argument("clips", type=Path, nargs="+", help="video files, or folders of them")
    parser.add_argument("--pictures", type=int, default=75, help="of each clip, from its start (default: 75)")
    parser.add_argument(
        "--thing", choices=THINGS, action="append", help="draw only this one (again for more; default: all)"
    )
    parser.add_argument("--json", type=Path, help="write every row there")
    args = parser.parse_args(argv)
    rows: list[dict[str, Any]] = []
    for given in args.clips:
        for clip in sorted(given.rglob("*")) if given.is_dir() else [given]:
            if clip.suffix.lower() not in SUFFIXES:
                continue
            try:
                ours = measure(clip, args.pictures, args.thing or tuple(THINGS))
            except BadInput as error:
                print(f"left out: {error}", file=sys.stderr)
                continue
            rows += ours
            hidden, found, false = (sum(row[name] for row in ours) for name in ("hidden", "found", "false"))
            print(f"{clip.name}: {found} of {hidden} found, {false} false", flush=True)
    print(_table(rows))
    if args.json is not None:
        report = {"commit": commit(), "machine": machine(), "versions": versions(), "rows": rows}
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    return int(not rows)


if __name__ == "__main__":
    sys.exit(main())
