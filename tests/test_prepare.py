"""Videos → clips: names, parts, rejections, A/V offsets, going on after a kill, atomic files."""

from __future__ import annotations

import json
import resource
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mediapipe", reason="MediaPipe is not installed (make test installs it)")

from mytalk.engines import default_bundle
from mytalk.errors import BadInput
from mytalk.video.media import read_at_rate, read_speech
from mytalk.video.out import VideoWriter
from training.data import list_clips
from training.prepare import clip_name, find_videos, main
from training.prepare_video import PrepareConfig, prepare_video, write_atomically

FIXTURE = Path(__file__).parent / "data" / "talking_face.mp4"
PROBED = PrepareConfig(probe=str(default_bundle()))


def remade(path: Path, fps: int, late_ms: int = 0, silent: bool = False, times: int = 1) -> Path:
    """The fixture at another rate, its sound moved, played back and forth."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = np.concatenate(list(read_speech(FIXTURE, 48_000)))
    late = late_ms * 48
    sound = np.concatenate([np.zeros(late, np.int16), sound])[: len(sound)]
    sound = np.tile(sound * (0 if silent else 1), times)
    with VideoWriter(path, width=256, height=256, fps=Fraction(fps), crf=18, sound_rate_hz=48_000) as writer:
        for _ in range(times):
            for picture in read_at_rate(FIXTURE, Fraction(fps)):
                writer.add_picture(picture)
        writer.add_sound(sound)
    return path


def test_names_hold_source_person_and_the_rest():
    root = Path("/videos")
    assert clip_name(root / "grid/s1/bbaf2n.mp4", root) == "grid__s1__bbaf2n"
    assert clip_name(root / "hdtf/WDA_Obama.mp4", root) == "hdtf__WDA_Obama"
    assert clip_name(root / "holiday clip.mp4", root) == "videos__holiday_clip"
    deep = root / "cc/part 1/0042/0042_07.MP4"
    assert clip_name(deep, root, r"/(\d{4})_\d\d") == "cc__0042__part_1__0042_07"
    with pytest.raises(BadInput, match="does not match"):
        clip_name(root / "cc/odd.mp4", root, r"(\d{4})_")


def test_two_files_of_one_name_are_both_found(tmp_path):
    for name in ("a/b/c.mp4", "a/b/c.mov", "a/b/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    named = find_videos(tmp_path, None, [""])
    assert len(named) == 2
    assert "a__b__c" in named
    with pytest.raises(BadInput, match="no video under"):
        find_videos(tmp_path / "a" / "b", None, ["z"])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root, out = tmp_path_factory.mktemp("videos"), tmp_path_factory.mktemp("prepared")
    remade(root / "lab" / "late" / "x.mp4", 25, late_ms=120, times=2)
    remade(root / "lab" / "straight" / "x.mp4", 25, times=2)
    remade(root / "lab" / "thirty.mp4", 30)
    remade(root / "lab" / "mute.mp4", 25, silent=True)
    (root / "lab" / "broken.mov").write_text("not a video")
    with VideoWriter(
        root / "wall.mp4", width=64, height=64, fps=Fraction(25), crf=30, sound_rate_hz=48_000
    ) as w:
        for _ in range(30):
            w.add_picture(np.full((64, 64, 3), 90, np.uint8))
        w.add_sound(np.concatenate(list(read_speech(FIXTURE, 48_000))))
    assert main([str(root), "--out", str(out), "--workers", "1"]) == 0
    return root, out


def test_rejections_are_named_and_the_rest_is_kept(prepared):
    _, out = prepared
    report = json.loads((out / "report.json").read_text())
    codes = {row["name"]: row["rejected"] for row in report["clips"]}
    assert codes == {
        "lab__late__x": None,
        "lab__straight__x": None,
        "lab__thirty": None,
        "lab__mute": "no_speech",
        "lab__broken": "unreadable",
        "videos__wall": "no_face",
    }
    assert report["rejected"] == {"no_speech": 1, "unreadable": 1, "no_face": 1}
    assert (out / "report.png").stat().st_size > 1000
    assert [c.name for c in list_clips(out)] == ["lab__late__x", "lab__straight__x", "lab__thirty"]
    assert not list((out / "staged").iterdir())


def test_other_rates_become_25_frames_a_second(prepared):
    arrays = next(c for c in list_clips(prepared[1]) if c.name == "lab__thirty").arrays()
    assert len(arrays["points"]) == 50
    assert arrays["log_mel"].shape == (200, 80)


def test_a_late_sound_is_measured_and_moved(prepared):
    _, out = prepared
    report = json.loads((out / "report.json").read_text())
    offsets = {r["name"]: r["offset_ms"] for r in report["clips"]}
    # The fixture's own sound is some 20 ms late for the motion model.
    assert offsets["lab__straight__x"] == pytest.approx(20, abs=15)
    assert offsets["lab__late__x"] - offsets["lab__straight__x"] == pytest.approx(120, abs=10)
    assert offsets["lab__thirty"] is None  # two seconds alone do not tell
    moved = list_clips(out)[0].arrays()
    rows = round(float(moved["av_offset_ms"]) / 10)
    np.testing.assert_array_equal(moved["log_mel"][:-rows], moved["log_mel_heard"][rows:])


def test_other_limits_reject_and_take_back_without_preparing_again(prepared):
    root, out = prepared
    stamp = (out / "clips" / "lab__late__x.crops.npy").stat().st_mtime_ns
    assert main([str(root), "--out", str(out), "--workers", "1", "--max-offset-ms", "60"]) == 0
    assert [c.name for c in list_clips(out)] == ["lab__straight__x", "lab__thirty"]
    late = next(
        r for r in json.loads((out / "report.json").read_text())["clips"] if r["name"] == "lab__late__x"
    )
    assert late["rejected"] == "av_offset"
    assert late["reason"].endswith("ms late, beyond 60 ms")
    assert main([str(root), "--out", str(out), "--workers", "1"]) == 0
    assert len(list_clips(out)) == 3
    assert (out / "clips" / "lab__late__x.crops.npy").stat().st_mtime_ns == stamp


def test_features_of_sound_that_was_moved_are_taken_away(prepared):
    root, out = prepared
    path = out / "clips" / "lab__late__x.speech.npy"
    path.write_bytes(b"features")
    assert main([str(root), "--out", str(out), "--workers", "1"]) == 0
    assert path.exists()
    keep = ["--max-offset-ms", "60", "--keep-unaligned"]  # the sound goes back to where it was
    assert main([str(root), "--out", str(out), "--workers", "1", *keep]) == 0
    assert not path.exists()
    assert main([str(root), "--out", str(out), "--workers", "1"]) == 0


def test_a_folder_has_one_layout(prepared, capsys):
    root, out = prepared
    assert main([str(root), "--out", str(out), "--layout", "dense669"]) == 1
    assert "holds clips of layout mediapipe478: give another --out for dense669" in capsys.readouterr().err


def test_a_speech_model_that_cannot_be_had_costs_no_time(tmp_path, capsys, monkeypatch):
    pytest.importorskip("transformers", reason="transformers is not installed (the train extra)")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    remade(tmp_path / "v" / "a.mp4", 25)
    given = [str(tmp_path / "v"), "--out", str(tmp_path / "o"), "--speech-model", str(tmp_path / "none")]
    assert main(given) == 1
    assert "wav2vec2 cannot be had from there" in capsys.readouterr().err
    assert not (tmp_path / "o" / "done").exists()


def test_parts_know_where_in_their_video_they_begin(tmp_path):
    video, config = remade(tmp_path / "a.mp4", 25, times=2), PrepareConfig(part_frames=50, every=5)
    prepare_video(video, "lab__a", tmp_path / "out", config)
    staged = [np.load(tmp_path / "out" / "staged" / f"lab__a__p{n:03d}.npz") for n in range(2)]
    assert [int(arrays["first_frame"]) for arrays in staged] == [0, 50]


def test_long_clips_come_in_parts_and_a_kill_costs_one_video(tmp_path):
    video, config = remade(tmp_path / "a.mp4", 25, times=2), PrepareConfig(part_frames=50, every=5)
    reports = prepare_video(video, "lab__a", tmp_path / "out", config)
    assert [(r.name, r.frames) for r in reports] == [("lab__a__p000", 50), ("lab__a__p001", 50)]
    second = np.load(tmp_path / "out" / "clips" / "lab__a__p001.crops.npy")
    assert second.shape == (10, 256, 256, 3)
    # Killed before its record was written, it is made again, to the same bytes; with it, it is left alone.
    (tmp_path / "out" / "done" / "lab__a.json").unlink()
    assert prepare_video(video, "lab__a", tmp_path / "out", config) == reports
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "clips" / "lab__a__p001.crops.npy"), second)
    shutil.rmtree(tmp_path / "out" / "clips")
    assert prepare_video(video, "lab__a", tmp_path / "out", config) == reports
    assert not (tmp_path / "out" / "clips").exists()


def test_a_full_disk_is_one_line_and_what_was_done_is_kept(tmp_path, capsys):
    for name in ("a", "b"):
        remade(tmp_path / "v" / "lab" / f"{name}.mp4", 25)
    given = ["--out", str(tmp_path / "o"), "--workers", "1", "--probe", "loudness"]
    assert main([str(tmp_path / "v"), *given, "--include", "lab__a"]) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "o" / "clips").iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))  # b's crops are five times as large
    try:
        assert main([str(tmp_path / "v"), *given]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "run again to go on" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "o" / "clips").iterdir()} == before
    assert main([str(tmp_path / "v"), *given]) == 0
    assert [clip.name for clip in list_clips(tmp_path / "o")] == ["lab__a", "lab__b"]


def test_a_failed_write_leaves_the_old_file_and_no_scraps(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_bad_arguments_are_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "none"), "--out", str(tmp_path / "o")]) == 1
    assert "no such folder" in capsys.readouterr().err
    (tmp_path / "a.mp4").touch()
    assert main([str(tmp_path), "--out", str(tmp_path / "o"), "--probe", str(tmp_path)]) == 1
    assert "no weights there" in capsys.readouterr().err
