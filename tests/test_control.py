"""Controllable generation: each control changes what it should and leaves the rest (paper 4.3)."""

from __future__ import annotations

from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mytalk.__main__ import main
from mytalk.actors.actor import load_actor
from mytalk.actors.make import SYNTHETIC, ActorSource, make_actor
from mytalk.control import (
    Control,
    choose_lips,
    close_mouth,
    expression,
    guide,
    lip_openings,
    look_at,
    with_emotion,
)
from mytalk.dubbing.dub import dub
from mytalk.errors import BadInput
from mytalk.landmarks.layout import load_layout
from mytalk.landmarks.normalise import mouth_opening
from mytalk.landmarks.warp import fine_windows
from mytalk.render.compose import hidden_mask
from mytalk.types import F32, LipReferences
from mytalk.video.media import read_at_rate
from tests.fakes import FakeEngine, voice
from tests.small_actor import SPEC, TALKING_FACE
from tests.test_dub import write_wav

LAYOUT = load_layout()
REST = LAYOUT.template


def opened(by: float) -> F32:
    """The template with the lower lip, and all below it, dropped."""
    face = REST.copy()
    face[LAYOUT.compact, 1] += np.where(REST[LAYOUT.compact, 1] > 1.16, by, 0).astype(np.float32)
    return face


def lips(*openings: float) -> LipReferences:
    """Lip references whose pictures are as bright as their mouths are open."""
    pictures = [np.full((256, 256, 3), round(100 * opening), np.uint8) for opening in openings]
    points = [opened(opening)[:, :2] * (256 / 2.4) for opening in openings]
    return LipReferences(np.stack(pictures), np.stack(points).astype(np.float32))


def brightness(references: LipReferences) -> list[int]:
    return [int(picture[0, 0, 0]) for picture in references.pictures]


def test_lips_are_chosen_from_closed_to_open_whatever_their_order():
    chosen = choose_lips([lips(0.4, 0.1), lips(0.0, 0.2, 0.3)], LAYOUT)
    assert brightness(chosen) == [0, 20, 40]
    assert brightness(choose_lips([lips(0.2)], LAYOUT)) == [20, 20, 20]
    np.testing.assert_array_equal(chosen.points, lips(0.0, 0.2, 0.4).points)


def test_a_picture_of_an_emotion_takes_the_place_of_the_mouth_open_most_alike():
    own = lips(0.0, 0.2, 0.4)
    mixed = with_emotion(own, lips(0.25), LAYOUT)
    assert brightness(mixed) == [0, 25, 40]
    assert brightness(own) == [0, 20, 40]
    assert brightness(with_emotion(own, lips(0.3, 0.1, 0.2), LAYOUT)) == [10, 20, 30]
    assert brightness(with_emotion(own, lips(0.25, 0.3), LAYOUT)) == [0, 25, 30]


@pytest.mark.parametrize("drop", [0.05, 0.3])
def test_closing_the_mouth_undoes_the_jaw_and_nothing_else(drop):
    rest_gap = float(mouth_opening(REST[None], LAYOUT)[0])
    closed = close_mouth(opened(drop), rest_gap, LAYOUT)
    assert mouth_opening(closed[None], LAYOUT)[0] == pytest.approx(rest_gap, abs=0.3 * drop)
    others = np.setdiff1d(np.arange(LAYOUT.points), LAYOUT.compact)
    np.testing.assert_array_equal(closed[others], REST[others])
    np.testing.assert_array_equal(close_mouth(REST, 0.5, LAYOUT), REST)


def test_an_expression_is_the_difference_from_rest_without_the_jaw():
    corner = 61  # a mouth corner
    smile = opened(0.3)
    smile[corner, 0] -= 0.1
    moved = expression(smile, REST, LAYOUT)
    assert moved[corner, 0] == pytest.approx(-0.1, abs=1e-3)
    assert np.abs(moved[LAYOUT.upper]).max() < 1e-6
    chin = 152
    assert abs(moved[chin, 1]) < 0.1  # dropped by 0.3, raised again


def test_without_control_nothing_changes():
    references = lips(0.0, 0.1, 0.2)
    guided = guide(Control(), REST, references, LAYOUT)
    assert guided.rest is REST
    assert guided.references is references
    assert not guided.upper_offset.any()


def test_a_missing_file_is_told_before_any_work(tmp_path: Path):
    none = tmp_path / "none.png"
    with pytest.raises(BadInput, match="no such lip reference file"):
        Control(lip_references=(none,)).check()
    with pytest.raises(BadInput, match="no such emotion reference file"):
        Control(emotion=none).check()


class Listening(FakeEngine):
    """Notes what motion and appearance are told."""

    def __init__(self) -> None:
        super().__init__(SPEC)
        self.upper: list[F32] = []
        self.people: list[F32] = []
        self.references: list[np.ndarray] = []
        self.images: list[F32] = []

    def identity(self, rest_xy):
        self.people.append(rest_xy.copy())
        return super().identity(rest_xy)

    def motion(self, jobs):
        self.upper += [job.upper for job in jobs]
        return super().motion(jobs)

    def encode_appearance(self, references, faces):
        self.references.append(references)
        return super().encode_appearance(references, faces)

    def decode(self, landmark_images, latents, references, flows, tuned=None):
        self.images += list(landmark_images)
        np.testing.assert_array_equal(references[0], fine_windows(self.references[-1]))
        tint = references[:, 1].mean(axis=(2, 3))[:, None, None] / 255  # the lips' colour shows
        made = super().decode(landmark_images, latents, references, flows, tuned)
        return (0.5 * made + 0.5 * 255 * tint).astype(np.uint8)


@pytest.fixture(scope="module")
def frames():
    pytest.importorskip("mediapipe", reason="MediaPipe is not installed: faces cannot be found")
    return list(islice(read_at_rate(TALKING_FACE, Fraction(25)), 50))


@pytest.fixture(scope="module")
def runs(frames, tmp_path_factory):
    """The same dub plain, with other lips, and with an emotion: what the engine heard, and the pictures."""
    folder = tmp_path_factory.mktemp("control")
    lip = folder / "lip.png"
    # The same face in other colours: other lips that the detector is sure to find.
    Image.fromarray(frames[10][..., ::-1].copy()).save(lip)
    emotion = folder / "emotion.png"
    Image.fromarray(frames[0]).save(emotion)
    speech = write_wav(folder / "a.wav", voice(0.4))
    made = {}
    for name, control in {
        "plain": Control(),
        "lips": Control(lip_references=(lip,)),
        "emotion": Control(emotion=emotion),
    }.items():
        engine, out = Listening(), folder / f"{name}.mp4"
        dub(TALKING_FACE, speech, out, engine, control=control)
        made[name] = engine, list(read_at_rate(out, Fraction(25)))
    return made


def changed(runs, name: str):
    """Mean change of the output's pixels against the plain run, float [256, 256]."""
    plain, other = runs["plain"][1], runs[name][1]
    assert len(plain) == len(other)
    return np.mean(
        [np.abs(a.astype(int) - b).mean(axis=2) for a, b in zip(plain, other, strict=True)], axis=0
    )


@pytest.mark.mediapipe
def test_lip_references_change_the_mouth_and_neither_motion_nor_the_rest(runs):
    plain, other = runs["plain"][0], runs["lips"][0]
    assert not np.array_equal(plain.references[0], other.references[0])
    np.testing.assert_array_equal(plain.upper, other.upper)
    np.testing.assert_array_equal(plain.people, other.people)
    np.testing.assert_array_equal(plain.images, other.images)
    change = changed(runs, "lips")
    assert change[150:220, 90:166].mean() > 3
    assert change[:90].mean() < 0.5  # eyes and brow: H.264 alone


@pytest.mark.mediapipe
def test_an_emotion_changes_motion_and_appearance_and_leaves_the_upper_face(runs):
    plain, other = runs["plain"][0], runs["emotion"][0]
    assert not np.array_equal(plain.references[0], other.references[0])
    kept = [np.array_equal(a, b) for a, b in zip(plain.references[0], other.references[0], strict=True)]
    assert sorted(kept) == [False, True, True]
    offsets = np.concatenate([b - a for a, b in zip(plain.upper, other.upper, strict=True)])
    assert np.abs(offsets).max() > 1e-3
    np.testing.assert_allclose(
        offsets[offsets.any(axis=1)].std(axis=0), 0, atol=1e-5
    )  # the same in all frames
    moved = np.abs(other.people[0] - plain.people[0]).max(axis=1)
    assert moved[LAYOUT.compact].max() > 1e-2
    assert not moved[np.setdiff1d(np.arange(478), LAYOUT.compact)].any()
    assert any(np.abs(a[0] - b[0]).max() > 0.1 for a, b in zip(plain.images, other.images, strict=True))
    eyes = slice(0, 60)
    for a, b in zip(plain.images, other.images, strict=True):
        np.testing.assert_array_equal(a[:, eyes], b[:, eyes])
    change = changed(runs, "emotion")
    assert change[150:220, 90:166].mean() > 1
    assert change[:90].mean() < 0.5


@pytest.mark.mediapipe
def test_an_actor_carries_its_lips_and_its_emotion(frames, tmp_path: Path):
    Image.fromarray(frames[0]).save(tmp_path / "emotion.png")
    source = ActorSource("a", "A", "", SYNTHETIC)
    plain = make_actor(TALKING_FACE, tmp_path / "plain", source)
    control = Control((TALKING_FACE,), tmp_path / "emotion.png")
    made = make_actor(TALKING_FACE, tmp_path / "made", ActorSource("a", "A", "", SYNTHETIC, control=control))
    again = load_actor(tmp_path / "made")
    np.testing.assert_array_equal(again.upper, made.upper)
    offset = made.upper - plain.upper
    assert np.abs(offset).max() > 1e-3
    np.testing.assert_allclose(offset.std(axis=0), 0, atol=1e-5)
    np.testing.assert_array_equal(made.motion.canonical, plain.motion.canonical)
    moved = np.abs(made.motion.rest - plain.motion.rest).max(axis=1)
    assert moved[LAYOUT.compact].max() > 1e-2
    assert not moved[np.setdiff1d(np.arange(478), LAYOUT.compact)].any()
    kept = [
        np.array_equal(a, b) for a, b in zip(plain.references.pictures, made.references.pictures, strict=True)
    ]
    assert sorted(kept) == [False, True, True]  # its own video as lip reference gives its own lips
    assert made.fingerprint != plain.fingerprint


@pytest.mark.mediapipe
def test_a_reference_without_a_face_is_told_with_its_name(tmp_path: Path):
    pytest.importorskip("mediapipe", reason="MediaPipe is not installed: faces cannot be found")
    Image.fromarray(np.full((200, 200, 3), 90, np.uint8)).save(tmp_path / "grey.png")
    with pytest.raises(BadInput, match=r"grey\.png"):
        look_at(tmp_path / "grey.png", LAYOUT)


@pytest.mark.mediapipe
def test_a_video_gives_three_mouths_and_a_picture_one(frames, tmp_path: Path):
    seen = look_at(TALKING_FACE, LAYOUT)
    assert seen.lips.pictures.shape == (3, 256, 256, 3)
    assert np.all(np.diff(lip_openings(seen.lips.points, LAYOUT)) > 0)
    Image.fromarray(frames[0]).save(tmp_path / "one.png")
    assert look_at(tmp_path / "one.png", LAYOUT).lips.pictures.shape == (1, 256, 256, 3)
    # The crop shows the mouth within the mask, where the lip encoder looks.
    x, y = seen.lips.points[:, LAYOUT.lips].mean(axis=(0, 1))
    assert hidden_mask()[int(y), int(x)] == 1


@pytest.mark.mediapipe
def test_a_reference_of_two_people_is_refused(frames, tmp_path: Path):
    Image.fromarray(np.hstack([frames[0], frames[0][:, ::-1]])).save(tmp_path / "two.png")
    with pytest.raises(BadInput, match="a reference must show one"):
        look_at(tmp_path / "two.png", LAYOUT)


def test_a_reference_is_never_overwritten(tmp_path: Path):
    speech, picture = write_wav(tmp_path / "a.wav", voice(0.2)), tmp_path / "lip.mp4"
    picture.write_bytes(b"not empty")
    with pytest.raises(BadInput, match="one of the inputs"):
        dub(TALKING_FACE, speech, picture, Listening(), control=Control((picture,)))
    assert picture.read_bytes() == b"not empty"


@pytest.mark.parametrize(
    "command",
    [
        ["dub", "--video", str(TALKING_FACE), "--speech", str(TALKING_FACE), "--out", "out.mp4"],
        ["actor", "make", str(TALKING_FACE), "--out", "out", "--synthetic"],
    ],
    ids=["dub", "actor make"],
)
def test_the_command_line_tells_of_a_missing_reference_in_one_line(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for option, what in (("--lip-reference", "lip reference"), ("--emotion", "emotion reference")):
        assert main([*command, option, "none.png"], lambda _: Listening()) == 1
        assert capsys.readouterr().err == f"mytalk: none.png: no such {what} file\n"
    assert list(tmp_path.iterdir()) == []
