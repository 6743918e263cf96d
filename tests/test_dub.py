from __future__ import annotations

from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from mytalk.clock import PLAYOUT_SAMPLES_PER_FRAME
from mytalk.dub import at_output_rate, dub, dub_config, pictures_back_and_forth, source_frame, speech_motion
from mytalk.errors import BadInput, EngineFailed
from mytalk.media import probe_video, read_at_rate, read_speech
from mytalk.types import F32, I16, MotionJob, MotionResult
from tests.fakes import FAKE_SPEC, FakeEngine, voice
from tests.small_actor import (
    RATE,
    SPEC,
    TALKING_FACE,
    fitting_engine,
    frame_number,
    small_pictures,
    write_video,
)

IDENTITY = np.ones(SPEC.identity, np.float32)


def write_wav(path: Path, samples: I16) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = 48_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def motion_of(blocks: list[I16], engine: FakeEngine | None = None) -> F32:
    frames = -(-sum(map(len, blocks)) // PLAYOUT_SAMPLES_PER_FRAME)
    upper = np.zeros((frames, SPEC.upper), np.float32)
    return np.stack(list(speech_motion(iter(blocks), frames, upper, engine or fitting_engine(), IDENTITY)))


def test_going_back_and_forth() -> None:
    assert [source_frame(p, 4) for p in range(9)] == [0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert [source_frame(p, 2) for p in range(4)] == [0, 1, 0, 1]
    assert [source_frame(p, 1) for p in range(3)] == [0, 0, 0]


@pytest.mark.parametrize("frames", [1, 2, 7, 40])
def test_pictures_back_and_forth_come_in_that_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frames: int
) -> None:
    monkeypatch.setattr("mytalk.dub.BACKWARD_BYTES", 5 * 64 * 48 * 3)  # five pictures
    video = write_video(tmp_path / "a.mp4", small_pictures(40, 64, 48))
    count = 2 * frames + 13
    got = [frame_number(p) for p in pictures_back_and_forth(video, RATE, frames, count)]
    assert got == [source_frame(p, frames) for p in range(count)]


def test_motion_comes_for_every_frame_and_follows_the_voice() -> None:
    loud, silent = voice(2.0, level=0.8), np.zeros(48_000, np.int16)
    motion = motion_of([silent, loud, silent])
    assert motion.shape == (100, SPEC.compact, 3)
    openness = motion[:, -1, 1]
    assert openness[:20].max() < 0.02
    assert openness[30:70].mean() > 0.1
    assert openness[85:].max() < 0.02


def test_motion_does_not_depend_on_how_the_speech_is_cut() -> None:
    samples = voice(7.3)
    whole = motion_of([samples])
    for size in (1023, 48_000):
        np.testing.assert_array_equal(
            motion_of([samples[i : i + size] for i in range(0, len(samples), size)]), whole
        )


def test_one_short_sound_is_enough() -> None:
    assert len(motion_of([voice(0.01)])) == 1


def test_upper_face_conditions_are_those_of_the_frames_shown() -> None:
    seen: dict[int, float] = {}

    class Watching(FakeEngine):
        def _one(self, job: MotionJob) -> MotionResult:
            first = job.position - config.known_frames
            seen.update({first + i: float(job.upper[i, 0]) for i in range(job.hop)})
            return super()._one(job)

    engine, config = Watching(SPEC), dub_config(SPEC)
    samples = voice(2.0)
    upper = np.arange(50, dtype=np.float32)[:, None].repeat(SPEC.upper, axis=1)
    assert len(list(speech_motion(iter([samples]), 50, upper, engine, IDENTITY))) == 50
    assert [seen[i] for i in range(50)] == list(range(50))


def test_a_failing_engine_is_told() -> None:
    class Broken(FakeEngine):
        def _one(self, job: MotionJob) -> MotionResult:
            raise EngineFailed("out of order")

    with pytest.raises(EngineFailed, match="out of order"):
        motion_of([voice(1.0)], Broken(SPEC))


def test_motion_between_its_frames() -> None:
    motion = np.arange(10, dtype=np.float32)[:, None, None].repeat(3, axis=2)
    assert [float(at_output_rate(motion, k, Fraction(25))[0, 0]) for k in range(10)] == list(range(10))
    doubled = [float(at_output_rate(motion, k, Fraction(50))[0, 0]) for k in range(20)]
    assert doubled[0] == 0.0
    assert doubled[1:6] == pytest.approx([0.25, 0.75, 1.25, 1.75, 2.25])
    assert doubled[19] == 9.0


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
    assert (report.frames, report.fps, report.without_face) == (count, fps, 0)
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
    assert {stage for stage, _, _ in told} == {"finding the face", "moving the lips", "making the pictures"}
    assert all(0 < done <= total for _, done, total in told)


@pytest.mark.mediapipe
def test_frames_without_a_face_pass_through(tmp_path: Path) -> None:
    pytest.importorskip("mediapipe", reason="MediaPipe is not installed: faces cannot be found")
    pictures = list(islice(read_at_rate(TALKING_FACE, RATE), 20))
    pictures[10:] = small_pictures(10, 256, 256)
    video = write_video(tmp_path / "in.mp4", pictures)
    speech = write_wav(tmp_path / "a.wav", voice(0.8))
    report = dub(video, speech, tmp_path / "out.mp4", fitting_engine())
    assert report.without_face >= 9
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
