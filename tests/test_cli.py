from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mytalk.__main__ import main
from mytalk.engines.engine import Engine
from tests.fakes import voice
from tests.small_actor import TALKING_FACE, fitting_engine, write_small_actor
from tests.test_dub import write_wav


def fake_engine(_: argparse.Namespace) -> Engine:
    return fitting_engine()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--help"], "dub"),
        (["dub", "--help"], "--speech"),
        (["actor", "--help"], "make"),
        (["actor", "make", "--help"], "--consent"),
        (["actor", "list", "--help"], "folders"),
        (["actor", "check", "--help"], "hash"),
        (["actor", "show", "--help"], "contact sheet"),
    ],
)
def test_help_helps(argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 0
    assert says in capsys.readouterr().out


@pytest.mark.parametrize("argv", [[], ["dub"], ["actor"], ["actor", "make", "a.mp4", "--out", "b"], ["sing"]])
def test_wrong_usage_is_status_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What went to stderr, which must be one line of ours."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("mytalk: ")
    return lines[0]


def test_errors_are_one_line_and_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    speech = str(write_wav(tmp_path / "a.wav", voice(0.1)))
    none = str(tmp_path / "none.mp4")
    out = str(tmp_path / "out.mp4")
    assert main(["dub", "--video", none, "--speech", speech, "--out", out, "--quiet"], fake_engine) == 1
    assert "no such video" in one_line(capsys)
    said = ["--consent", "me", "--quiet"]
    assert main(["actor", "make", none, "--out", str(tmp_path / "new"), *said]) == 1
    assert "no such video" in one_line(capsys)
    assert main(["actor", "make", none, "--out", str(tmp_path / "what a name!"), *said]) == 1
    assert "name" in one_line(capsys)
    assert main(["actor", "show", none, "--quiet"], fake_engine) == 1
    assert "no such actor" in one_line(capsys)


def test_listing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_small_actor(tmp_path / "tiny")
    assert main(["actor", "list", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split("\t")[0] == "tiny"
    assert main(["actor", "list", str(tmp_path / "none")]) == 0
    assert "no actor" in one_line(capsys)


def test_showing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_small_actor(tmp_path / "tiny")
    sheet = tmp_path / "sheet.png"
    assert main(["actor", "show", str(folder), "--out", str(sheet), "--quiet"], fake_engine) == 0
    assert "licence: none needed" in capsys.readouterr().out
    with_idle = Image.open(sheet)
    assert with_idle.width == 1024
    assert main(["actor", "show", str(folder), "--out", str(sheet), "--no-idle"]) == 0
    assert Image.open(sheet).height < with_idle.height
    assert np.asarray(Image.open(sheet)).std() > 20
    capsys.readouterr()
    assert main(["actor", "show", str(folder), "--no-idle", "--out", str(tmp_path / "no" / "s.png")]) == 1
    assert "cannot be written" in one_line(capsys)


@pytest.mark.mediapipe
def test_make_and_dub_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mediapipe", reason="MediaPipe is not installed: faces cannot be found")
    folder, out = tmp_path / "me", tmp_path / "out.mp4"
    argv = [
        "actor",
        "make",
        str(TALKING_FACE),
        "--out",
        str(folder),
        "--title",
        "Me",
        "--synthetic",
        "--quiet",
    ]
    assert main(argv) == 0
    assert "actor 'me'" in capsys.readouterr().out
    speech = str(write_wav(tmp_path / "a.wav", voice(0.5)))
    argv = ["dub", "--video", str(TALKING_FACE), "--speech", speech, "--out", str(out), "--quiet"]
    assert main(argv, fake_engine) == 0
    assert "13 pictures" in capsys.readouterr().out
    assert out.is_file()


def test_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mytalk", "actor", "show", "/nowhere", "--no-idle"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr == "mytalk: /nowhere: no such actor folder\n"
