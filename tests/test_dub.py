from __future__ import annotations

from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from mytalk.dub import dub
from mytalk.errors import BadInput
from mytalk.media import probe_video, read_at_rate, read_speech
from mytalk.types import I16
from tests.fakes import FAKE_SPEC, FakeEngine, voice
from tests.small_actor import (
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
def test_broken_off_in_the_middle_nothing_is_left(tmp_path: Path) -> None:
    pytest.importorskip("mediapipe", reason="MediaPipe is not installed: faces cannot be found")
    speech = write_wav(tmp_path / "a.wav", voice(1.0))

    def stop(stage: str, done: int, _: int) -> None:
        if stage == "making the pictures" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dub(TALKING_FACE, speech, tmp_path / "out.mp4", fitting_engine(), progress=stop)
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]
