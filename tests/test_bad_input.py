"""What a stranger may get wrong: one clear line, a non-zero exit, nothing half-made left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from mytalk.__main__ import main
from mytalk.video.media import read_at_rate
from tests.fakes import voice
from tests.small_actor import RATE, TALKING_FACE, small_pictures, write_small_actor, write_video
from tests.test_cli import fake_engine, one_line
from tests.test_dub import write_wav

ROOT = Path(__file__).parents[1]
# As `python -m mytalk`, with the tests' engine, and optionally with a disk that fills up.
PROGRAM = """
import resource, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
limit = int(sys.argv[1])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
from mytalk.__main__ import main
from mytalk.actors.actor import FORMAT
from tests.test_cli import fake_engine
sys.exit(main(sys.argv[2:], fake_engine))
"""


def empty(path: Path) -> None:
    path.touch()


def text(path: Path) -> None:
    path.write_text("this is not a video\n" * 100)


def cut_without_index(path: Path) -> None:
    whole = TALKING_FACE.read_bytes()
    path.write_bytes(whole[: len(whole) // 3])


def cut_with_index(path: Path) -> None:
    """What is left of a download: the index is in front, the pictures stop half-way."""
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "8", "g": "10"})
        stream.width = stream.height = 256
        for rgb in list(read_at_rate(TALKING_FACE, RATE)) * 2:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(stream.encode(None))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def faceless(path: Path) -> None:
    write_video(path, small_pictures(30))


def tiny_face(path: Path) -> None:
    face = next(read_at_rate(TALKING_FACE, RATE))
    picture = np.zeros((256, 256, 3), np.uint8)
    picture[100:150, 100:150] = face[::5, ::5][:50, :50]
    write_video(path, [picture] * 30)


def sound_only(path: Path) -> None:
    write_wav(path, voice(1.0))


VIDEOS = [
    (empty, "the file is empty"),
    (text, "not a readable video"),
    (cut_without_index, "not a readable video|cut off"),
    (cut_with_index, "cut off or damaged"),
    (sound_only, "no picture in this file"),
    pytest.param(faceless, "no face was found", marks=pytest.mark.mediapipe),
    pytest.param(tiny_face, "too small|no face was found", marks=pytest.mark.mediapipe),
]


def needs_mediapipe(make: Callable[[Path], None]) -> None:
    if make in (faceless, tiny_face, cut_with_index):
        pytest.importorskip("mediapipe", reason="MediaPipe is not installed: faces cannot be found")


@pytest.mark.parametrize(("make", "says"), VIDEOS)
def test_bad_videos(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], None], says: str
) -> None:
    needs_mediapipe(make)
    video, out = tmp_path / "in.mp4", tmp_path / "out"
    make(video)
    speech = str(write_wav(tmp_path / "a.wav", voice(5.0)))
    out.mkdir()
    there = ["--video", str(video), "--speech", speech, "--out", str(out / "o.mp4"), "--quiet"]
    assert main(["dub", *there], fake_engine) == 1
    line = one_line(capsys)
    assert any(part in line for part in says.split("|"))
    assert main(["actor", "make", str(video), "--out", str(out / "me"), "--synthetic", "--quiet"]) == 1
    line = one_line(capsys)
    assert any(part in line for part in says.split("|"))
    assert list(out.iterdir()) == []


def zero_samples(path: Path) -> None:
    write_pcm(path, np.zeros((0, 1), "<i2"), 16_000)


def cut_wav(path: Path) -> None:
    whole = write_wav(path.with_suffix(".wav"), voice(4.0)).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def silent_film(path: Path) -> None:
    write_video(path, small_pictures(3))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (empty, "the file is empty"),
        (text, "not a readable audio"),
        (zero_samples, "no sound in this file"),
        (cut_wav, "cut off or damaged"),
        (silent_film, "no sound in this file"),
    ],
)
def test_bad_speech(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], None], says: str
) -> None:
    speech, out = tmp_path / "a.mp4", tmp_path / "out"
    make(speech)
    out.mkdir()
    video = ["--video", str(TALKING_FACE)]
    argv = ["dub", *video, "--speech", str(speech), "--out", str(out / "o.mp4"), "--quiet"]
    assert main(argv, fake_engine) == 1
    assert says in one_line(capsys)
    assert list(out.iterdir()) == []


def write_pcm(path: Path, samples: np.ndarray, rate_hz: int) -> Path:
    """A PCM WAV file of samples [S, channels]: int16, or uint8 [S, channels, 3] for 24 bits."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(3 if samples.ndim == 3 else samples.itemsize)
        file.setframerate(rate_hz)
        file.writeframes(samples.tobytes())
    return path


def test_places_where_nothing_can_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    speech = str(write_wav(tmp_path / "a.wav", voice(0.2)))
    there = ["dub", "--video", str(TALKING_FACE), "--speech", speech, "--quiet", "--out"]
    for out, says in (
        (tmp_path / "none" / "o.mp4", "no such folder"),
        (tmp_path / "o.avi", "end in .mp4"),
        (tmp_path, "end in .mp4"),
        (Path(speech).with_suffix(".wav"), "one of the inputs"),
    ):
        assert main([*there, str(out)], fake_engine) == 1
        assert says in one_line(capsys)
    assert main(["actor", "make", str(TALKING_FACE), "--out", speech, "--synthetic", "--name", "me"]) == 1
    assert "exists already" in one_line(capsys)
    assert main(["actor", "make", str(TALKING_FACE), "--out", str(tmp_path / "me"), "--consent", " "]) == 1
    assert "consent" in one_line(capsys)
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


def test_spoilt_actors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = write_small_actor(tmp_path / "whole")
    assert main(["actor", "check", str(whole)]) == 0
    assert "6 pictures" in capsys.readouterr().out
    missing, altered, newer, clip = (
        write_small_actor(tmp_path / n) for n in ("missing", "altered", "newer", "clip")
    )
    (missing / "landmarks.npz").unlink()
    (altered / "reference_0.png").write_bytes(b"x" + (altered / "reference_0.png").read_bytes()[1:])
    card = newer / "actor.toml"
    card.write_text(card.read_text().replace("format = 2", "format = 9"))
    (clip / "clip.mp4").write_bytes((clip / "clip.mp4").read_bytes()[:500])
    for folder, says in (
        (missing, "missing"),
        (altered, "altered"),
        (newer, "newer mytalk"),
        (clip, "altered"),
        (tmp_path / "nobody", "no such actor"),
    ):
        for argv in (["check", str(folder)], ["show", str(folder), "--no-idle"]):
            assert main(["actor", *argv]) == 1
            assert says in one_line(capsys)


def start(folder: Path, limit_bytes: int, argv: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(limit_bytes), *argv],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def commands(out: Path, speech: Path) -> dict[str, list[str]]:
    video = str(TALKING_FACE)
    dub = ["dub", "--video", video, "--speech", str(speech), "--out", str(out / "o.mp4"), "--quiet"]
    make = ["actor", "make", video, "--out", str(out / "me"), "--synthetic", "--quiet"]
    return {"dub": dub, "make": make}


@pytest.mark.mediapipe
@pytest.mark.parametrize(
    ("command", "limit_bytes", "says"),
    [("dub", 100_000, "no room"), ("dub", 330_000, "o.mp4: cannot be written"), ("make", 100_000, "no room")],
)
def test_a_disk_that_fills_up(tmp_path: Path, command: str, limit_bytes: int, says: str) -> None:
    """A limit on the size of files fails writes as a full disk does; working files first, then the video."""
    pytest.importorskip("mediapipe", reason="MediaPipe is not installed: faces cannot be found")
    out = tmp_path / "out"
    out.mkdir()
    # Half a second needs 75 kB of working files a spool, and noise on top of speech makes a large video.
    seconds = 0.5 if limit_bytes > 100_000 else 2.0
    argv = commands(out, write_wav(tmp_path / "a.wav", voice(seconds)))[command]
    if says.startswith("o.mp4"):
        random = np.random.default_rng(0)
        faces = [np.clip(f + random.normal(0, 25, f.shape), 0, 255) for f in read_at_rate(TALKING_FACE, RATE)]
        noisy = write_video(tmp_path / "noisy.mp4", [f.astype(np.uint8) for f in faces[:13]])
        argv[argv.index("--video") + 1] = str(noisy)
    process = start(tmp_path, limit_bytes, argv)
    _, errors = process.communicate(timeout=120)
    lines = [line for line in errors.splitlines() if line.startswith("mytalk: ")]
    assert process.returncode == 1
    assert "Traceback" not in errors
    assert len(lines) == 1
    assert says in lines[0]
    assert list(out.iterdir()) == []


@pytest.mark.mediapipe
@pytest.mark.parametrize(("command", "sign"), [("dub", ".o.mp4.*.part"), ("make", ".me.*")])
def test_ctrl_c_in_the_middle(tmp_path: Path, command: str, sign: str) -> None:
    pytest.importorskip("mediapipe", reason="MediaPipe is not installed: faces cannot be found")
    out = tmp_path / "out"
    out.mkdir()
    process = start(tmp_path, 0, commands(out, write_wav(tmp_path / "a.wav", voice(30.0)))[command])
    give_up = time.monotonic() + 90
    while not list(out.glob(sign)):
        assert process.poll() is None
        assert time.monotonic() < give_up
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "mytalk: interrupted"
    assert "Traceback" not in errors
    assert list(out.iterdir()) == []
