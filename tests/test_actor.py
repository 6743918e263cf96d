from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mytalk.actors.actor import (
    CARD,
    DECODER,
    LANDMARKS,
    Actor,
    add_decoder,
    list_actors,
    load_actor,
    play_order_ping_pong,
    read_card,
)
from mytalk.actors.follow import find_face
from mytalk.actors.make import ActorSource, loop, make_actor, quiet_window
from mytalk.actors.tuned import TunedDecoder, TuningFigures
from mytalk.errors import BadInput
from mytalk.landmarks.normalise import from_canonical
from mytalk.types import F32, U8
from mytalk.video.media import read_at_rate, read_frames
from mytalk.video.spool import Spool
from tests.occluder import hand_over
from tests.small_actor import (
    LAYOUT,
    RATE,
    TALKING_FACE,
    frame_number,
    small_pictures,
    template_face,
    write_small_actor,
    write_video,
)

SOURCE = ActorSource("me", "Me", "test licence", "it is synthetic")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_small_actor(tmp_path / "tiny")


def test_a_package_loads_as_it_was_written(folder: Path) -> None:
    actor = load_actor(folder)
    assert (actor.card.name, actor.card.title, actor.card.frames) == ("tiny", 'Tiny "test" actor', 6)
    assert [frame_number(picture) for picture in actor.frames] == list(range(6))
    np.testing.assert_allclose(actor.motion.canonical, template_face(6), atol=2e-3)
    assert actor.upper.shape == (6, 2 * len(LAYOUT.upper))
    assert actor.matrices.shape == (6, 2, 3)
    assert actor.references.pictures.shape == (3, 256, 256, 3)
    assert actor.references.pictures[:, 0, 0, 0].tolist() == [60, 120, 180]
    assert actor.references.points.shape == (3, LAYOUT.points, 2)


def own_decoder(level: float = 1.0) -> TunedDecoder:
    return TunedDecoder("fake", {"decoder.out.bias": np.full(4, level, np.float16)})


FIGURES = TuningFigures(300, 24.5, 28.25, 0.8)


def test_a_package_takes_a_decoder_of_its_own_and_another_one(folder: Path) -> None:
    before = load_actor(folder)
    assert before.tuned is None
    for level in (1.0, 2.0):
        add_decoder(folder, own_decoder(level), FIGURES)
        actor = load_actor(folder)
        assert actor.tuned is not None
        assert actor.tuned.digest == own_decoder(level).digest
        assert actor.figures == FIGURES
        assert actor.card == before.card == read_card(folder)
        assert actor.fingerprint == before.fingerprint, "latents do not depend on the decoder"
    assert {path.name for path in folder.iterdir() if path.name.startswith(".")} == set()


def test_actors_that_were_tuned_before_do_not_say_how_wide_they_open(folder: Path) -> None:
    add_decoder(folder, own_decoder(), FIGURES)
    card = folder / "actor.toml"
    told = card.read_text()
    card.write_text(told.replace("opening = 0.8\n", ""))
    assert load_actor(folder).figures == TuningFigures(300, 24.5, 28.25, 1.0)
    card.write_text(told.replace("opening = 0.8", "opening = 9.0"))
    with pytest.raises(BadInput, match=r"opening must be between 0\.6 and 1\.4"):
        load_actor(folder)


def test_an_altered_or_missing_decoder_is_refused(folder: Path) -> None:
    add_decoder(folder, own_decoder(), FIGURES)
    data = bytearray((folder / DECODER).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / DECODER).write_bytes(data)
    with pytest.raises(BadInput, match=r"decoder.npz: altered"):
        load_actor(folder)
    (folder / DECODER).unlink()
    with pytest.raises(BadInput, match=r"decoder.npz: missing"):
        load_actor(folder)


@pytest.mark.parametrize("fails_at", [1, 2, 3, 4])
def test_a_full_disk_leaves_a_whole_package(folder: Path, monkeypatch, fails_at: int) -> None:
    add_decoder(folder, own_decoder(), FIGURES)
    calls = 0

    def counted(name: str):
        real = getattr(Path, name)

        def call(self, *args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == fails_at:
                raise OSError(28, "No space left on device")
            return real(self, *args, **kwargs)

        monkeypatch.setattr(Path, name, call)

    counted("write_text")
    counted("replace")
    with pytest.raises(OSError, match="No space"):
        add_decoder(folder, own_decoder(2.0), FIGURES)
    monkeypatch.undo()
    actor = load_actor(folder)
    assert actor.tuned is None or actor.tuned.digest == own_decoder().digest
    assert not list(folder.glob(".*"))


def test_pictures_can_be_freed_and_come_back(folder: Path) -> None:
    actor = load_actor(folder)
    first = actor.frames
    assert actor.frames is first
    actor.close()
    assert actor.frames is not first
    np.testing.assert_array_equal(actor.frames[3], first[3])


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    one = load_actor(write_small_actor(tmp_path / "a"))
    same = load_actor(write_small_actor(tmp_path / "b"))
    other = load_actor(write_small_actor(tmp_path / "c", frames=7))
    assert one.fingerprint == same.fingerprint != other.fingerprint


def test_ping_pong_shows_turning_frames_once() -> None:
    assert play_order_ping_pong(4).tolist() == [0, 1, 2, 3, 2, 1]
    assert play_order_ping_pong(2).tolist() == [0, 1]
    assert play_order_ping_pong(1).tolist() == [0]
    played = np.tile(play_order_ping_pong(5), 3)
    assert (np.abs(np.diff(played)) == 1).all()


def edit_card(folder: Path, old: str, new: str) -> None:
    path = folder / CARD
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("format = 2", "format = 4", "newer mytalk"),
        ("format = 2", "format = 3", r"\[tuning\] must hold exactly"),
        ("format = 2", "format = 1", "older mytalk"),
        ("format = 2\n", "", "'format' is missing"),
        ("fps = 25", "fps = 30", "fps must be 25"),
        ("fps = 25", 'fps = "25"', "fps must be a whole number"),
        ("fps = 25", "fps = 25\ncolour = 3", "unknown key colour"),
        ('licence = "none needed"\n', "", "missing key licence"),
        ('name = "tiny"', 'name = "../tiny"', "name is"),
        ("mediapipe478", "dense70", "unknown landmark layout"),
        ('"clip.mp4" =', '"../clip.mp4" =', "must name exactly"),
        ("[sha256]", "[sha256", "not valid TOML"),
        ("frames = 6", "frames = 7", "must be finite and"),
    ],
)
def test_a_wrong_card_is_refused_in_one_line(folder: Path, old: str, new: str, says: str) -> None:
    edit_card(folder, old, new)
    with pytest.raises(BadInput, match=says) as caught:
        load_actor(folder)
    assert "\n" not in str(caught.value)


def test_missing_and_altered_files_are_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such actor"):
        load_actor(tmp_path / "nobody")
    (tmp_path / "bare").mkdir()
    with pytest.raises(BadInput, match="not an actor"):
        load_actor(tmp_path / "bare")
    for name in ("clip.mp4", LANDMARKS, "reference_1.png"):
        spoilt = tmp_path / f"spoilt_{name}"
        shutil.copytree(folder, spoilt)
        data = bytearray((spoilt / name).read_bytes())
        data[len(data) // 2] ^= 1
        (spoilt / name).write_bytes(data)
        with pytest.raises(BadInput, match=rf"{name}: altered"):
            load_actor(spoilt)
        (spoilt / name).unlink()
        with pytest.raises(BadInput, match=rf"{name}: missing"):
            load_actor(spoilt)


def test_listing_tells_broken_ones_apart(tmp_path: Path) -> None:
    actors = tmp_path / "actors"
    for name in ("zoe", "ada"):
        write_small_actor(actors / name, frames=2, name=name)
    write_small_actor(actors / "broken", frames=2, name="broken")
    edit_card(actors / "broken", "format = 2", "format = 99")
    problems: list[BadInput] = []
    found = list_actors([actors, actors / "zoe", tmp_path / "none"], problems.append)
    assert [(info.name, info.folder) for info in found] == [("ada", actors / "ada"), ("zoe", actors / "zoe")]
    assert len(problems) == 1
    assert "newer" in str(problems[0])


# -- making one ---------------------------------------------------------------------------------------------


def test_the_quiet_half_is_chosen() -> None:
    opening = np.concatenate([np.full(300, 0.2), np.full(320, 0.01), np.full(80, 0.2)]).astype(np.float32)
    assert quiet_window(opening, [slice(0, 700)]) in [slice(n, n + 300) for n in range(300, 321)]
    assert quiet_window(opening, [slice(0, 50), slice(60, 160)]) == slice(60, 160)
    with pytest.raises(BadInput, match="needs 1 s"):
        quiet_window(opening, [slice(0, 20)])


def test_a_returning_motion_is_cut_into_a_loop() -> None:
    period, count = 60, 150
    angle = 2 * np.pi * np.arange(count) / period
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1)[:, None].astype(np.float32)
    thumbnails = np.stack([100 * np.cos(angle), 100 * np.sin(angle)], axis=1).astype(np.float32)
    kept, order = loop(points, thumbnails)
    assert (kept.stop - kept.start) % period == 0
    assert order.tolist() == list(range(kept.stop - kept.start))


def test_a_wandering_motion_goes_back_and_forth_and_turns_where_it_rests() -> None:
    count = 100
    place = np.arange(count, dtype=np.float32)
    place[5:] -= 0.95  # frames 4 → 5 hardly move
    points = place[:, None, None].repeat(2, axis=2)
    kept, order = loop(points, place[:, None])
    assert kept.start == 5
    assert order.tolist() == play_order_ping_pong(kept.stop - kept.start).tolist()


@pytest.mark.mediapipe
def test_an_actor_from_a_real_clip(tmp_path: Path) -> None:
    pytest.importorskip("mediapipe", reason="MediaPipe is not installed: faces cannot be found")
    told: list[tuple[str, int, int]] = []
    actor = make_actor(TALKING_FACE, tmp_path / "deep" / "me", SOURCE, lambda *step: told.append(step))
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["me"]
    assert actor.card.frames == len(actor.frames) >= 25
    assert actor.card.licence == "test licence"
    assert told[-1] == ("writing the actor", 1, 1)
    # The clip's own landmarks lie on the face: the detector finds them there again.
    with Spool((478, 3)) as spool:
        find_face(read_frames(actor.folder / "clip.mp4"), spool, "clip")
        found = spool.read(range(len(spool)))
    ours = from_canonical(actor.motion.canonical, actor.motion.poses)
    assert np.abs(found - ours)[..., :2].mean() < 1.5
    with pytest.raises(BadInput, match="exists already"):
        make_actor(TALKING_FACE, tmp_path / "deep" / "me", SOURCE)


def steps(actor: Actor) -> F32:
    """How far the upper face moves from each played picture to the next, the wrap last; eyes' distances."""
    order = actor.motion.order
    poses = actor.motion.poses.select(order)
    points = from_canonical(actor.motion.canonical[order][:, actor.layout.upper], poses)[..., :2]
    moved = np.linalg.norm(np.roll(points, -1, axis=0) - points, axis=-1).mean(axis=1)
    return np.asarray(moved / np.median(poses.scale), np.float32)


@pytest.mark.parametrize("name", ["ada", "ben", "cleo"])
def test_shipped_actors_loop_without_a_seam(name: str) -> None:
    """The step from the last picture back to the first is one like the others, in place and in pixels."""
    actor = load_actor(Path(__file__).parents[1] / "actors" / name)
    moved = steps(actor)
    assert moved[-1] <= np.quantile(moved[:-1], 0.98) + 1e-6
    order, frames = actor.motion.order, actor.frames
    changes = [
        np.abs(frames[a][::8, ::8].astype(int) - frames[b][::8, ::8]).mean()
        for a, b in zip(order, np.roll(order, -1), strict=True)
    ]
    assert changes[-1] <= np.quantile(changes[:-1], 0.98) + 1e-6


@pytest.mark.mediapipe
def test_an_actor_from_a_still_picture(tmp_path: Path) -> None:
    pytest.importorskip("mediapipe", reason="MediaPipe is not installed: faces cannot be found")
    still = tmp_path / "me.jpg"
    Image.fromarray(next(read_at_rate(TALKING_FACE, RATE))).save(still, quality=95)
    actor = make_actor(still, tmp_path / "me", SOURCE)
    assert (actor.card.frames, actor.motion.order.tolist()) == (1, [0])
    assert np.abs(actor.frames[0].astype(int) - next(read_at_rate(TALKING_FACE, RATE))).mean() < 4


def is_blue(picture: U8) -> bool:
    return bool((picture[..., 2].astype(int) - picture[..., 0] > 60).any())


@pytest.mark.mediapipe
def test_a_loop_and_its_references_have_nothing_in_front_of_the_mouth(tmp_path: Path) -> None:
    pytest.importorskip("mediapipe", reason="MediaPipe is not installed: faces cannot be found")
    plain = list(read_at_rate(TALKING_FACE, RATE))
    glove = hand_over(plain, range(14), (40, 60, 200))
    actor = make_actor(write_video(tmp_path / "hand.mp4", glove), tmp_path / "me", SOURCE)
    assert len(actor.frames) >= 25
    assert is_blue(glove[3])
    assert not any(is_blue(picture) for picture in [*actor.frames, *actor.references.pictures])
    amid = hand_over(plain, range(20, 27))
    with pytest.raises(BadInput, match="nothing in front of its mouth"):
        make_actor(write_video(tmp_path / "amid.mp4", amid), tmp_path / "amid", SOURCE)


@pytest.mark.mediapipe
def test_a_far_face_fills_the_actors_picture(tmp_path: Path) -> None:
    """A face of 90 pixels in 1080p would be one of 43 in a picture of 512 lines."""
    pytest.importorskip("mediapipe", reason="MediaPipe is not installed: faces cannot be found")
    far = []
    for face in list(read_at_rate(TALKING_FACE, RATE))[:26]:
        canvas = Image.new("RGB", (1920, 1080), (90, 90, 90))
        canvas.paste(Image.fromarray(face).resize((128, 128), Image.Resampling.LANCZOS), (1300, 500))
        far.append(np.asarray(canvas))
    actor = make_actor(write_video(tmp_path / "far.mp4", far), tmp_path / "me", SOURCE)
    assert float(np.median(actor.motion.poses.scale)) > 30
    assert max(actor.card.width, actor.card.height) < 500
    with Spool((478, 3)) as spool:
        find_face(read_frames(actor.folder / "clip.mp4"), spool, "clip")
        found = spool.read(range(len(spool)))
    ours = from_canonical(actor.motion.canonical, actor.motion.poses)
    assert np.abs(found - ours)[..., :2].mean() < 1.5


@pytest.mark.mediapipe
def test_what_cannot_become_an_actor_leaves_nothing_behind(tmp_path: Path) -> None:
    pytest.importorskip("mediapipe", reason="MediaPipe is not installed: faces cannot be found")
    out = tmp_path / "made"
    out.mkdir()
    faceless = write_video(tmp_path / "faceless.mp4", small_pictures(5))
    text = tmp_path / "text.txt"
    text.write_text("no video")
    face = next(read_at_rate(TALKING_FACE, RATE))
    small = np.zeros((256, 256, 3), np.uint8)
    small[100:150, 100:150] = face[::5, ::5][:50, :50]
    two = write_video(tmp_path / "two.mp4", [np.concatenate([face, face[:, ::-1]], axis=1)] * 5)
    for video, says in (
        (faceless, "no face"),
        (text, "not a readable video"),
        (tmp_path / "none.mp4", "no such"),
        (two, "2 faces are in view"),
        (write_video(tmp_path / "short.mp4", [face] * 5), "needs 1 s"),
        (write_video(tmp_path / "small.mp4", [small] * 5), "too small|no face"),
    ):
        with pytest.raises(BadInput, match=says):
            make_actor(video, out / "me", SOURCE)
    assert list(out.iterdir()) == []
