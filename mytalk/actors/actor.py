"""The actor package: a folder with clip, landmarks, lip references and a card; no pickle, all hashed."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mytalk.actors.tuned import OPENINGS, TunedDecoder, TuningFigures, read_tuned, write_tuned
from mytalk.clock import FPS
from mytalk.errors import BadInput
from mytalk.landmarks.layout import Layout, load_layout
from mytalk.landmarks.normalise import CROP, Poses, crop_matrices, upper_displacement
from mytalk.types import F32, U8, LipReferences
from mytalk.video.media import read_at_rate

FORMAT = 2
TUNED_FORMAT = 3  # of packages with a decoder of their own, which older versions cannot show
CARD, CLIP, LANDMARKS = "actor.toml", "clip.mp4", "landmarks.npz"
DECODER = "decoder.npz"  # only there when the actor was tuned
REFERENCES = ("reference_0.png", "reference_1.png", "reference_2.png")
FILES = (CLIP, LANDMARKS, *REFERENCES)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class ActorCard:
    """What ``actor.toml`` says besides the hashes of the files.

    name: letters, digits, - and _; what the actor is chosen by. title: for people. layout: of the landmarks.
    fps, width, height, frames: of the clip. licence: under what terms the pictures may be used; consent: who
    agreed to being shown this way. source: where the pictures come from.
    """

    name: str
    title: str
    layout: str
    fps: int
    width: int
    height: int
    frames: int
    licence: str
    consent: str
    source: str


@dataclass(frozen=True, slots=True)
class ActorInfo:
    """One line of a list of actors."""

    name: str
    title: str
    folder: Path


@dataclass(frozen=True, slots=True)
class ActorMotion:
    """What is known of every clip frame (N frames, K landmarks).

    poses: rigid pose of each frame. canonical: float32 [N, K, 3], the clip's own landmarks. rest: float32
    [K, 3], closed-mouth face, canonical. order: int32 [P], clip frame at each play position, looped for ever.
    upper_offset: float32 [U], what an emotion adds to the upper-face displacement (paper 4.3), or None.
    """

    poses: Poses
    canonical: F32
    rest: F32
    order: npt.NDArray[np.int32]
    upper_offset: F32 | None = None


class Actor:
    """A loaded package. The pictures are decoded at first use; ``close`` frees them for the time being."""

    def __init__(
        self,
        folder: Path,
        card: ActorCard,
        fingerprint: str,
        motion: ActorMotion,
        references: LipReferences,
        tuned: TunedDecoder | None = None,
        figures: TuningFigures | None = None,
    ) -> None:
        """fingerprint: hash over all files but ``DECODER``, which latents do not depend on.

        tuned, figures: the actor's own decoder, and what tuning it reached.
        """
        self.folder, self.card, self.fingerprint = folder, card, fingerprint
        self.tuned, self.figures = tuned, figures
        self.motion, self.references = motion, references
        self.layout: Layout = load_layout(card.layout)
        self.matrices: F32 = crop_matrices(motion.poses)
        self.upper: F32 = upper_displacement(motion.canonical, motion.rest, self.layout)
        if motion.upper_offset is not None:
            self.upper = self.upper + motion.upper_offset
        self._frames: list[U8] | None = None

    @property
    def frames(self) -> list[U8]:
        """The clip's N pictures, uint8 RGB [H, W, 3], decoded at first use. ``BadInput`` when damaged."""
        if self._frames is None:
            card = self.card
            frames = list(read_at_rate(self.folder / CLIP, Fraction(card.fps)))
            if len(frames) != card.frames or frames[0].shape != (card.height, card.width, 3):
                raise BadInput(f"{self.folder / CLIP}: does not hold the pictures that {CARD} promises")
            self._frames = frames
        return self._frames

    def close(self) -> None:
        """Free the pictures."""
        self._frames = None


def play_order_ping_pong(frames: int) -> npt.NDArray[np.int32]:
    """Forwards and backwards for ever, int32 [2·frames − 2]; the turning frames are shown once, not twice."""
    forward = np.arange(frames, dtype=np.int32)
    return np.concatenate([forward, forward[-2:0:-1]])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _toml_string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def write_package(folder: Path, card: ActorCard, motion: ActorMotion, references: LipReferences) -> None:
    """Complete a package in ``folder``, where the clip lies already: landmarks, references, the card last."""
    check_name(card.name)
    emotion = {} if motion.upper_offset is None else {"upper_offset": motion.upper_offset}
    np.savez_compressed(
        folder / LANDMARKS,
        **emotion,
        scale=motion.poses.scale.astype(np.float32),
        rotation=motion.poses.rotation.astype(np.float32),
        translation=motion.poses.translation.astype(np.float32),
        canonical=motion.canonical.astype(np.float16),
        rest=motion.rest.astype(np.float32),
        order=motion.order.astype(np.int32),
        reference_points=references.points.astype(np.float32),
    )
    for name, picture in zip(REFERENCES, references.pictures, strict=True):
        Image.fromarray(picture).save(folder / name)
    _write_card(folder, card, {name: _sha256(folder / name) for name in FILES}, None)


def _write_card(folder: Path, card: ActorCard, hashes: dict[str, str], figures: TuningFigures | None) -> None:
    """Write the card, or replace it in one step."""
    lines = [f"format = {FORMAT if figures is None else TUNED_FORMAT}"]
    for key, value in asdict(card).items():
        lines.append(f"{key} = {_toml_string(value) if isinstance(value, str) else value}")
    if figures is not None:
        lines += ["", "[tuning]"] + [f"{key} = {value}" for key, value in asdict(figures).items()]
    lines += ["", "[sha256]"] + [f'"{name}" = "{digest}"' for name, digest in hashes.items()]
    temporary = folder / f".{CARD}"
    try:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        temporary.replace(folder / CARD)
    finally:
        temporary.unlink(missing_ok=True)


def add_decoder(folder: Path, tuned: TunedDecoder, figures: TuningFigures) -> None:
    """Give a package its own decoder, instead of one that it has; at every moment the package is whole.

    Raises ``BadInput`` for a package that is not, ``OSError`` when the disk is full.
    """
    card, hashes, before = _read_card(folder)
    own = {name: hashes[name] for name in FILES}
    temporary = folder / f".{DECODER}.npz"
    try:
        write_tuned(temporary, tuned)
        digest = _sha256(temporary)
        if before is not None:
            _write_card(folder, card, own, None)
        temporary.replace(folder / DECODER)
    finally:
        temporary.unlink(missing_ok=True)
    _write_card(folder, card, own | {DECODER: digest}, figures)


def check_name(name: str) -> None:
    """Raise ``BadInput`` unless ``name`` can name an actor."""
    if not NAME.fullmatch(name):
        raise BadInput(f"an actor's name is 1 to 64 letters, digits, - or _, not {name!r}", "bad_actor_name")


def _read_card(folder: Path) -> tuple[ActorCard, dict[str, str], TuningFigures | None]:
    path = folder / CARD
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such actor folder", "unknown_actor")
    if not path.is_file():
        raise BadInput(f"{folder}: not an actor (there is no {CARD} in it)", "unknown_actor")
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not valid TOML ({error})") from error
    version, hashes = raw.pop("format", None), raw.pop("sha256", None)
    if not isinstance(version, int) or version < 1:
        raise BadInput(f"{path}: 'format' is missing")
    if version not in (FORMAT, TUNED_FORMAT):
        other = "a newer mytalk" if version > FORMAT else "an older mytalk; make it anew from its video"
        raise BadInput(
            f"{path}: made by {other} (format {version}; this one reads {FORMAT} and {TUNED_FORMAT})"
        )
    figures = _parse_figures(raw.pop("tuning", None), path) if version == TUNED_FORMAT else None
    card = _parse_card(raw, path)
    check_name(card.name)
    if card.fps != FPS or min(card.width, card.height, card.frames) < 1:
        raise BadInput(f"{path}: fps must be {FPS}, and width, height and frames positive")
    files = FILES if version == FORMAT else (*FILES, DECODER)
    if not isinstance(hashes, dict) or set(hashes) != set(files):
        raise BadInput(f"{path}: [sha256] must name exactly {', '.join(files)}")
    return card, {name: str(value) for name, value in hashes.items()}, figures


def _parse_figures(raw: object, path: Path) -> TuningFigures:
    names = [field.name for field in fields(TuningFigures)]
    # Actors that were tuned before 0.5 do not say how wide they open the mouth.
    given = {"opening": 1.0, **raw} if isinstance(raw, dict) else {}
    if set(given) != set(names) or any(type(value) not in (int, float) for value in given.values()):
        raise BadInput(f"{path}: [tuning] must hold exactly {', '.join(names)}, numbers")
    figures = TuningFigures(**given)
    if not OPENINGS[0] <= figures.opening <= OPENINGS[1]:
        raise BadInput(f"{path}: [tuning] opening must be between {OPENINGS[0]} and {OPENINGS[1]}")
    return figures


def _parse_card(raw: dict[str, Any], path: Path) -> ActorCard:
    types = {field.name: {"int": int, "str": str}[str(field.type)] for field in fields(ActorCard)}
    for wrong, keys in (("unknown", raw.keys() - types.keys()), ("missing", types.keys() - raw.keys())):
        if keys:
            raise BadInput(f"{path}: {wrong} key {', '.join(sorted(keys))}")
    for key, kind in types.items():
        if type(raw[key]) is not kind:
            raise BadInput(f"{path}: {key} must be {'a string' if kind is str else 'a whole number'}")
    return ActorCard(**raw)


def _read_motion(path: Path, card: ActorCard) -> tuple[ActorMotion, F32]:
    """What is known of the frames, and the landmarks of the references, float32 [3, K, 2]."""
    layout, frames = load_layout(card.layout), card.frames
    points = layout.points
    shapes: dict[str, tuple[int, ...]] = {
        "scale": (frames,),
        "rotation": (frames, 3, 3),
        "translation": (frames, 3),
        "canonical": (frames, points, 3),
        "rest": (points, 3),
        "reference_points": (len(REFERENCES), points, 2),
    }
    try:
        with np.load(path, allow_pickle=False) as raw:
            if "upper_offset" in raw.files:  # of actors with an emotion
                shapes["upper_offset"] = (2 * len(layout.upper),)
            arrays = {name: raw[name].astype(np.float32) for name in shapes}
            order = raw["order"].astype(np.int32)
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path}: cannot be read ({error})") from error
    for name, shape in shapes.items():
        if arrays[name].shape != shape or not np.isfinite(arrays[name]).all():
            raise BadInput(f"{path}: {name} must be finite and {list(shape)}, not {list(arrays[name].shape)}")
    if order.ndim != 1 or len(order) == 0 or order.min() < 0 or order.max() >= frames:
        raise BadInput(f"{path}: order must name frames of the clip")
    poses = Poses(arrays["scale"], arrays["rotation"], arrays["translation"])
    motion = ActorMotion(poses, arrays["canonical"], arrays["rest"], order, arrays.get("upper_offset"))
    return motion, arrays["reference_points"]


def _read_references(folder: Path) -> U8:
    pictures = []
    for name in REFERENCES:
        with Image.open(folder / name) as image:
            if image.size != (CROP, CROP):
                raise BadInput(f"{folder / name}: must be {CROP}×{CROP} pixels")
            pictures.append(np.asarray(image.convert("RGB"), np.uint8))
    return np.stack(pictures)


def load_actor(folder: Path) -> Actor:
    """Load and check a package; raises ``BadInput`` with one line for a missing, altered or newer file."""
    card, hashes, figures = _read_card(folder)
    for name, expected in hashes.items():
        if not (folder / name).is_file():
            raise BadInput(f"{folder / name}: missing from the actor's folder")
        if _sha256(folder / name) != expected:
            raise BadInput(
                f"{folder / name}: altered since the actor was made (its hash is not the one in {CARD})"
            )
    motion, reference_points = _read_motion(folder / LANDMARKS, card)
    try:
        references = LipReferences(_read_references(folder), reference_points)
    except OSError as error:
        raise BadInput(f"{folder}: a reference picture cannot be read ({error})") from error
    tuned = read_tuned(folder / DECODER) if DECODER in hashes else None
    return Actor(folder, card, _fingerprint(hashes), motion, references, tuned, figures)


def _fingerprint(hashes: dict[str, str]) -> str:
    return hashlib.sha256("".join(hashes[name] for name in FILES).encode()).hexdigest()


def read_fingerprint(folder: Path) -> str:
    """``Actor.fingerprint`` as the card promises it, without a look at the files; raises ``BadInput``."""
    return _fingerprint(_read_card(folder)[1])


def list_actors(
    folders: Iterable[Path], on_problem: Callable[[BadInput], None] | None = None
) -> list[ActorInfo]:
    """Actors found in the given folders (each an actor itself, or holding actors), sorted by name.

    The first of a name wins. Only the cards are read; a broken one is left out, and told to ``on_problem``.
    """
    found: dict[str, ActorInfo] = {}
    for folder in folders:
        inner = sorted(path.parent for path in folder.glob(f"*/{CARD}"))
        for candidate in [folder] if (folder / CARD).is_file() else inner:
            try:
                card = _read_card(candidate)[0]
            except BadInput as error:
                if on_problem is not None:
                    on_problem(error)
                continue
            found.setdefault(card.name, ActorInfo(card.name, card.title, candidate))
    return sorted(found.values(), key=lambda info: info.name)


def read_card(folder: Path) -> ActorCard:
    """What an actor's card says, without a look at the other files; raises ``BadInput``."""
    return _read_card(folder)[0]
