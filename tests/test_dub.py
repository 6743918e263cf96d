from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from mytalk.actors.faces import track_face
from mytalk.actors.follow import find_face
from mytalk.actors.tuned import Tuning, TuningFigures
from mytalk.dubbing.dub import dub
from mytalk.errors import BadInput
from mytalk.landmarks.normalise import crop_matrices
from mytalk.render.compose import hidden_mask
from mytalk.render.renderer import crop_landmarks
from mytalk.types import F32, I16
from mytalk.video.media import probe_video, read_at_rate, read_frames, read_speech
from mytalk.video.out import VideoWriter
from mytalk.video.picture import Picture, planes
from mytalk.video.spool import Spool
from tests.fakes import FAKE_SPEC, FakeEngine, voice
from tests.occluder import hand_over
from tests.small_actor import (
    LAYOUT,
    RATE,
    TALKING_FACE,
    fitting_engine,
    small_pictures,
    write_video,
)


def write_wav(path: Path, samples: I16) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = 48_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_the_inputs_are_never_overwritten(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", small_pictures(3), sound=voice(0.1))
    before = video.read_bytes()
    with pytest.raises(BadInput, match="one of the inputs"):
        dub(video, video, video, fitting_engine())
    assert video.read_bytes() == before


def test_bad_inputs_get_one_clear_line(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", small_pictures(3))
    speech = write_wav(tmp_path / "a.wav", voice(0.2))
    text = tmp_path / "a.txt"
    text.write_text("no media")
    out = tmp_path / "out.mp4"
    for args, says in (
        ((tmp_path / "none.mp4", speech), "no such video"),
        ((video, tmp_path / "none.wav"), "no such speech"),
        ((video, text), "not a readable audio"),
        ((video, video), "no sound"),
        ((speech, speech), "no picture"),
    ):
        with pytest.raises(BadInput, match=says):
            dub(*args, out, fitting_engine())
    with pytest.raises(BadInput, match="these weights move"):
        dub(video, speech, out, FakeEngine(FAKE_SPEC))
    assert not out.exists()


@pytest.mark.mediapipe
@pytest.mark.parametrize(("seconds", "fps"), [(1.0, 25), (3.1, 25), (1.0, 30)])
def test_a_real_clip_says_something_else(tmp_path: Path, seconds: float, fps: int) -> None:
    pytest.importorskip("mediapipe", reason="MediaPipe is not installed: faces cannot be found")
    speech = write_wav(tmp_path / "a.wav", voice(seconds))
    video = TALKING_FACE
    if fps != 25:
        video = write_video(
            tmp_path / "in.mp4", list(read_at_rate(TALKING_FACE, Fraction(fps))), Fraction(fps)
        )
    out = tmp_path / "out.mp4"
    told: list[tuple[str, int, int]] = []
    report = dub(video, speech, out, fitting_engine(), progress=lambda *step: told.append(step))
    count = int(np.ceil(seconds * fps))
    assert (report.frames, report.fps, report.untouched) == (count, fps, 0)
    info = probe_video(out)
    assert (info.width, info.height, info.fps) == (256, 256, fps)
    got = list(read_at_rate(out, Fraction(fps)))
    assert len(got) == count
    source = list(islice(read_at_rate(video, Fraction(fps)), count))
    changed = np.abs(got[3].astype(int) - source[3]).mean(axis=2)
    assert changed[:60].mean() < 2.5  # forehead: only H.264 has passed over it
    assert changed[150:230, 80:176].mean() > 10  # mouth and chin: the fake engine's colours
    sound = np.concatenate(list(read_speech(out, 48_000)))
    assert len(sound) / 48_000 == pytest.approx(seconds, abs=0.1)
    assert {stage for stage, _, _ in told} == {"finding the face", "making the pictures"}
    assert all(0 < done <= total for _, done, total in told)


@pytest.mark.mediapipe
def test_frames_without_a_face_pass_through(tmp_path: Path) -> None:
    pytest.importorskip("mediapipe", reason="MediaPipe is not installed: faces cannot be found")
    pictures = list(islice(read_at_rate(TALKING_FACE, RATE), 20))
    pictures[10:] = small_pictures(10, 256, 256)
    video = write_video(tmp_path / "in.mp4", pictures)
    speech = write_wav(tmp_path / "a.wav", voice(0.8))
    report = dub(video, speech, tmp_path / "out.mp4", fitting_engine())
    assert report.untouched >= 9
    last = list(read_at_rate(tmp_path / "out.mp4", RATE))[-1]
    assert np.abs(last.astype(int) - pictures[-1]).mean() < 2.5


@pytest.mark.mediapipe
def test_a_hand_in_front_of_the_mouth_is_not_painted_over(tmp_path: Path) -> None:
    pytest.importorskip("mediapipe", reason="MediaPipe is not installed: faces cannot be found")
    plain = list(islice(read_at_rate(TALKING_FACE, RATE), 40))
    covered = range(18, 30)
    video = write_video(tmp_path / "in.mp4", hand_over(plain, covered))
    speech = write_wav(tmp_path / "a.wav", voice(1.6))
    report = dub(video, speech, tmp_path / "out.mp4", fitting_engine())
    assert report.untouched == len(covered)
    assert "covered" in report.notes[-1]
    pairs = zip(read_at_rate(tmp_path / "out.mp4", RATE), read_at_rate(video, RATE), strict=True)
    changes = [np.abs(a[140:200, 90:170].astype(int) - b[140:200, 90:170]).mean() for a, b in pairs]
    assert max(changes[n] for n in covered) < 2.5  # only H.264 has passed over it
    assert min(changes[n] for n in (5, 12, 35)) > 10  # the fake engine's colours
    assert changes[10] > changes[15] > changes[17] > 2.5  # ours fades out while the hand comes


@pytest.mark.mediapipe
def test_before_encoding_all_but_the_mask_is_the_source_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mediapipe", reason="MediaPipe is not installed: faces cannot be found")
    handed: list[Picture] = []
    add_frame = VideoWriter.add_frame

    def watched(writer: VideoWriter, picture: Picture, time_s: float | None = None) -> None:
        handed.append(picture)
        add_frame(writer, picture, time_s)

    monkeypatch.setattr(VideoWriter, "add_frame", watched)
    speech = write_wav(tmp_path / "a.wav", voice(0.4))
    dub(TALKING_FACE, speech, tmp_path / "out.mp4", fitting_engine())
    assert len(handed) == 10
    raw, landmarks = Spool((478, 3)), Spool((478, 3))
    sources = list(islice(read_frames(TALKING_FACE), 10))
    find_face(sources, raw, "it")
    matrices = crop_matrices(track_face(raw, landmarks, LAYOUT, "it").poses)
    for source, out, matrix in zip(sources, handed, matrices, strict=True):
        hidden = mask_in_frame(matrix)
        for number, (before, after) in enumerate(zip(planes(source), planes(out), strict=True)):
            # A sample of colour stands for four pixels.
            near = hidden if number == 0 else hidden.reshape(128, 2, 128, 2).any(axis=(1, 3))
            np.testing.assert_array_equal(before[~near], after[~near])
            assert (before[near] != after[near]).mean() > 0.3


@pytest.mark.mediapipe
def test_the_mouth_opens_as_wide_as_tuning_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mediapipe", reason="MediaPipe is not installed: faces cannot be found")
    said: list[F32] = []

    def watched(rest: F32, own: F32, displacement: F32, **where: Any) -> F32:
        said.append(displacement)
        return crop_landmarks(rest, own, displacement, **where)

    monkeypatch.setattr("mytalk.dubbing.dub.crop_landmarks", watched)
    speech = write_wav(tmp_path / "a.wav", voice(0.4))
    for opening in (1.0, 0.75):
        found = Tuning(None, TuningFigures(1, 20.0, 21.0, opening))
        dub(TALKING_FACE, speech, tmp_path / "out.mp4", fitting_engine(), tune=lambda _, found=found: found)
    plain, narrow = np.stack(said[:10]), np.stack(said[10:])
    assert np.abs(plain).max() > 0.01
    np.testing.assert_allclose(narrow, 0.75 * plain, rtol=1e-6)


def mask_in_frame(matrix: F32) -> np.ndarray:
    """Which pixels of a 256×256 frame the mask can reach, one pixel of interpolation included."""
    y, x = np.mgrid[:256, :256] + 0.5
    back = np.linalg.inv(np.vstack([matrix, (0, 0, 1)]))
    u, v = (np.floor(back[i, 0] * x + back[i, 1] * y + back[i, 2]).astype(int) for i in range(2))
    near = np.zeros((256, 256), bool)
    for dx in (-1, 0, 1):
        for dy in (-1, 0, 1):
            a, b = np.clip(u + dx, 0, 255), np.clip(v + dy, 0, 255)
            near |= hidden_mask()[b, a] > 0
    return near


@pytest.mark.mediapipe
def test_a_still_picture_speaks(tmp_path: Path) -> None:
    pytest.importorskip("mediapipe", reason="MediaPipe is not installed: faces cannot be found")
    still = tmp_path / "me.png"
    Image.fromarray(next(read_at_rate(TALKING_FACE, RATE))).save(still)
    speech = write_wav(tmp_path / "a.wav", voice(0.4))
    report = dub(still, speech, tmp_path / "out.mp4", fitting_engine())
    assert (report.frames, report.untouched) == (10, 0)
    assert len(list(read_frames(tmp_path / "out.mp4"))) == 10


@pytest.mark.mediapipe
def test_a_film_at_no_fixed_rate_keeps_its_times_and_an_anamorphic_one_its_shape(tmp_path: Path) -> None:
    pytest.importorskip("mediapipe", reason="MediaPipe is not installed: faces cannot be found")
    video, out = tmp_path / "in.mp4", tmp_path / "out.mp4"
    times = np.cumsum([0, 0.02, 0.07, 0.03, 0.04, 0.11, 0.03, 0.05])
    like = replace(probe_video(TALKING_FACE), aspect=Fraction(2), coded=(128, 256))
    with VideoWriter(video, width=128, height=256, fps=RATE, crf=12, like=like, regular=False) as writer:
        for time_s, picture in zip(times, read_frames(TALKING_FACE), strict=False):
            narrow = picture.frame.reformat(128, 256)
            writer.add_frame(Picture(0.0, narrow), float(time_s))
    speech = write_wav(tmp_path / "a.wav", voice(0.5))
    report = dub(video, speech, out, fitting_engine())
    assert (report.untouched, len(report.notes)) == (0, 2)
    info = probe_video(out)
    assert (info.coded, info.aspect) == ((128, 256), 2)
    got = [p.time_s for p in read_frames(out)]
    steps = np.diff(times)
    expected = np.concatenate([[0], np.cumsum(np.concatenate([steps, steps[::-1]]))])
    assert got == pytest.approx(expected[: len(got)].tolist(), abs=1e-3)
    assert len(got) == int((expected < 0.5).sum())


@pytest.mark.mediapipe
def test_broken_off_in_the_middle_nothing_is_left(tmp_path: Path) -> None:
    pytest.importorskip("mediapipe", reason="MediaPipe is not installed: faces cannot be found")
    speech = write_wav(tmp_path / "a.wav", voice(1.0))

    def stop(stage: str, done: int, _: int) -> None:
        if stage == "making the pictures" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dub(TALKING_FACE, speech, tmp_path / "out.mp4", fitting_engine(), progress=stop)
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]
