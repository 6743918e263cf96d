"""The ablation tables: the paper's rows beside ours, and what is needed for a run."""

from __future__ import annotations

import json
from dataclasses import asdict
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

pytest.importorskip("torch", reason="torch is not installed (make test installs it)")
pytest.importorskip("lightning_fabric", reason="lightning-fabric is not installed (make test installs it)")

from mytalk.models.autoencoder import REFERENCE_COUNTS
from mytalk.models.checkpoint import save_checkpoint
from mytalk.models.motion_config import CONDITIONS
from training import ablate, held_out_pictures
from training.ablate import ABLATIONS, Measured, folder_of, layout, main
from training.appearance import AppearanceRun


def test_every_variant_of_the_models_is_a_row():
    assert {v.value for v in ABLATIONS["identity-condition"].variants} == set(CONDITIONS)
    assert {v.value for v in ABLATIONS["references"].variants} == set(REFERENCE_COUNTS)
    assert [float(v.value) for v in ABLATIONS["identity-loss"].variants] == [1, 0, 2]


def measured(**mean):
    clips = {key: {f"clip{n}": value + n / 10 for n in range(3)} for key, value in mean.items() if value}
    return Measured(mean, clips)


def lines_of(table):
    console = Console(width=200, record=True, file=StringIO())
    console.print(table)
    return console.export_text().splitlines()


def test_published_rows_stand_beside_ours_and_are_marked():
    ours = [measured(sync_conf=None, id_sim=0.5, mouth_correlation=0.25 + i) for i in range(3)]
    lines = lines_of(layout(ABLATIONS["identity-loss"], ours, (7, measured(id_sim=0.75))))
    first = next(i for i, line in enumerate(lines) if "w/o ID loss" in line)
    assert "published" in lines[first]
    assert "6.598" in lines[first]
    assert "0.929" in lines[first]
    assert "ours" in lines[first + 1]
    assert "1.250" in lines[first + 1]
    assert "published" not in lines[first + 1]
    assert "+1.000 ± 0.000" in lines[first + 2]
    again = next(i for i, line in enumerate(lines) if "seed 7" in line)
    assert "0.750" in lines[again]
    assert "+0.250 ± 0.000" in lines[again + 1]


def test_rows_are_compared_clip_by_clip():
    one = Measured({}, {"psnr": {"a": 30.0, "b": 20.0, "only here": 99.0}})
    other = Measured({}, {"psnr": {"a": 29.0, "b": 17.0}})
    assert one.apart(other, "psnr") == pytest.approx((2.0, 1.0))
    assert one.apart(other, "ssim") is None


class Commands:
    """In the place of the trainers, export and evaluate: writes what each leaves."""

    def __init__(self):
        self.given = []

    def __call__(self, module, *arguments):
        self.given.append((module, arguments))
        option = dict(zip(arguments[::2], arguments[1::2], strict=False))
        out = Path(option.get("--out", "."))
        if module == "training.appearance":
            run = AppearanceRun(references=option["--references"])
            told = {"kind": "appearance", "run": json.dumps(asdict(run)), "data": "d", "commit": "c"}
            save_checkpoint(out / "last.pt", 3, run, told | {"minutes": 1.0, "frames": 27})
        elif module == "export":
            out.mkdir()
            (out / "manifest.json").write_text("{}")
        else:
            row = {"psnr": 30.0 + len(self.given), "fid": None}
            report = {"mean": row | {"fid": 5.0}, "clips": {"a": row, "b": row}}
            Path(option["--json"]).write_text(json.dumps(report))


def test_every_row_is_trained_alike_scored_and_written(tmp_path, monkeypatch, capsys):
    commands = Commands()
    monkeypatch.setattr(ablate, "run_module", commands)
    unseen = {
        "x": dict.fromkeys(held_out_pictures.KEYS, 20.0),
        "y": dict.fromkeys(held_out_pictures.KEYS, 30.0),
    }
    monkeypatch.setattr(held_out_pictures, "held_out_figures", lambda *_: unseen)
    given = ["references", "--data", str(tmp_path), "--clips", "CLIPS", "--out", str(tmp_path / "out")]
    given += ["--steps", "3", "--again", "5", "--most", "2"]
    assert main(given) == 0
    assert "seed 5" in capsys.readouterr().out
    trained = [arguments for module, arguments in commands.given if module == "training.appearance"]
    assert [a[a.index("--references") + 1] for a in trained] == [
        "masked_multi",
        "full_single",
        "masked_single",
        "masked_multi",
    ]
    assert ["--seed" in a for a in trained] == [False, False, False, True]
    assert len({a[a.index("--config") + 1] for a in trained}) == 1
    assert {a[a.index("--steps") + 1] for a in trained} == {"3"}
    told = json.loads((tmp_path / "out" / "references.json").read_text())
    assert [row["mean"]["fid"] for row in told["rows"]] == [5.0] * 4
    assert [row["mean"]["unseen_lip_psnr"] for row in told["rows"]] == [25.0] * 4
    assert told["settings"]["frames_seen"] == 27
    assert "Table 7" in (tmp_path / "out" / "references.txt").read_text()
    # A second call trains on (nothing is left to do) and tabulates, but exports nothing again.
    count = sum(module == "export" for module, _ in commands.given)
    monkeypatch.setattr(
        ablate, "run_module", lambda m, *a: None if m == "training.appearance" else commands(m, *a)
    )
    assert main(given) == 0
    assert sum(module == "export" for module, _ in commands.given) == count == 4


def test_unseen_clips_alone_need_no_videos_and_no_export(tmp_path, monkeypatch, capsys):
    commands = Commands()
    monkeypatch.setattr(ablate, "run_module", commands)
    row = dict.fromkeys(held_out_pictures.KEYS, 20.0)
    monkeypatch.setattr(held_out_pictures, "held_out_figures", lambda *_: {"x": row})
    given = ["references", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(given) == 1
    assert "give --clips" in capsys.readouterr().err
    assert main([*given, "--unseen-only"]) == 0
    assert {module for module, _ in commands.given} == {"training.appearance"}
    assert main([*given, "--unseen-only", "--rows", "huge"]) == 1
    assert "known are masked_multi, full_single" in capsys.readouterr().err
    assert main([*given, "--unseen-only", "--rows", "full_single"]) == 0
    told = json.loads((tmp_path / "out" / "references.json").read_text())
    assert [row["references"] for row in told["rows"]] == ["masked_multi", "full_single"]
    assert set(told["rows"][0]["mean"]) == set(held_out_pictures.KEYS)


def test_the_paper_s_own_motion_model_is_trained_once_for_both_tables(tmp_path):
    first, second = (ABLATIONS[name] for name in ("identity-condition", "identity-loss"))
    assert folder_of(first, first.variants[0], None, tmp_path) == folder_of(
        second, second.variants[0], None, tmp_path
    )
    every = {folder_of(a, v, None, tmp_path) for a in (first, second) for v in a.variants}
    assert len(every) == 6


def test_what_is_neither_a_run_nor_a_bundle_is_refused_before_training(tmp_path, capsys):
    given = ["--data", str(tmp_path), "--clips", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(["references", *given, "--motion", str(tmp_path)]) == 1
    assert "neither a run of training.motion nor a bundle" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
