"""From the command line to tuning: PyTorch that is missing, Ctrl-C, and a package that stays whole."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from mytalk.__main__ import main
from mytalk.actors import tuning
from mytalk.actors.actor import load_actor
from mytalk.actors.make import ActorSource, make_actor
from mytalk.actors.tuned import TunedDecoder, Tuning, TuningFigures
from tests.small_actor import TALKING_FACE, write_small_actor

FIGURES = TuningFigures(100, 24.0, 27.0)
GOOD = Tuning(TunedDecoder("fake", {"decoder.out.bias": np.ones(4, np.float16)}), FIGURES)
NOTHING = Tuning(None, FIGURES)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_small_actor(tmp_path / "tiny")


def test_missing_torch_is_one_sentence_with_the_command(folder: Path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "training.tune", None)
    before = files(folder)
    assert main(["actor", "tune", str(folder)]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "tuning needs PyTorch: pip install -c constraints.txt -e '.[actors,train]'" in said[0]
    assert files(folder) == before
    arguments = [
        "actor",
        "make",
        str(TALKING_FACE),
        "--out",
        str(folder.parent / "new"),
        "--synthetic",
        "--tune",
    ]
    assert main(arguments) == 1
    assert "tuning needs PyTorch" in capsys.readouterr().err
    assert not (folder.parent / "new").exists()


def test_an_actor_is_tuned_in_place_and_told(folder: Path, monkeypatch, capsys) -> None:
    asked = []
    monkeypatch.setattr(tuning, "_own_tuner", lambda actor, *_: lambda lips: asked.append(lips) or GOOD)
    assert main(["actor", "tune", str(folder), "--quiet"]) == 0
    assert "tuned: lips 24.0 → 27.0 dB" in capsys.readouterr().out
    actor = load_actor(folder)
    assert actor.tuned is not None
    assert actor.tuned.digest == GOOD.decoder.digest
    np.testing.assert_array_equal(asked[0].pictures, actor.references.pictures)
    assert main(["actor", "show", str(folder), "--no-idle"]) == 0
    assert "tuned: lips 24.0 → 27.0 dB" in capsys.readouterr().out


def test_an_actor_that_gains_nothing_stays_as_it_was(folder: Path, monkeypatch, capsys) -> None:
    before = files(folder)
    monkeypatch.setattr(tuning, "_own_tuner", lambda *_: lambda lips: NOTHING)
    assert main(["actor", "tune", str(folder), "--quiet"]) == 0
    assert "tuning brought nothing" in capsys.readouterr().out
    assert files(folder) == before


def interrupted(*_: object) -> Tuning:
    raise KeyboardInterrupt


def test_ctrl_c_leaves_an_actor_as_it_was(folder: Path, monkeypatch) -> None:
    before = files(folder)
    monkeypatch.setattr(tuning, "_own_tuner", lambda *_: interrupted)
    assert main(["actor", "tune", str(folder), "--quiet"]) == 130
    assert files(folder) == before


SOURCE = ActorSource("me", "Me", "test licence", "it is synthetic")


def test_ctrl_c_while_tuning_leaves_no_actor(tmp_path: Path) -> None:
    pytest.importorskip("mediapipe", reason="MediaPipe is not installed: faces cannot be found")
    with pytest.raises(KeyboardInterrupt):
        make_actor(TALKING_FACE, tmp_path / "me", SOURCE, tune=interrupted)
    assert list(tmp_path.iterdir()) == []


def test_an_actor_is_made_with_its_decoder(tmp_path: Path) -> None:
    pytest.importorskip("mediapipe", reason="MediaPipe is not installed: faces cannot be found")
    actor = make_actor(TALKING_FACE, tmp_path / "me", SOURCE, tune=lambda _: GOOD)
    assert actor.tuned is not None
    assert actor.figures == FIGURES
    shutil.rmtree(tmp_path / "me")
    assert make_actor(TALKING_FACE, tmp_path / "me", SOURCE, tune=lambda _: NOTHING).tuned is None
