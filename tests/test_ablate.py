"""The ablation tables: the paper's rows beside ours, and what is needed for a run."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

pytest.importorskip("torch", reason="torch is not installed (make test installs it)")
pytest.importorskip("lightning_fabric", reason="lightning-fabric is not installed (make test installs it)")

from mytalk.models.autoencoder import REFERENCE_COUNTS
from mytalk.models.motion_config import CONDITIONS
from training.ablate import ABLATIONS, layout, main


def test_every_variant_of_the_models_is_a_row():
    assert {v.value for v in ABLATIONS["identity-condition"].variants} == set(CONDITIONS)
    assert {v.value for v in ABLATIONS["references"].variants} == set(REFERENCE_COUNTS)
    assert [float(v.value) for v in ABLATIONS["identity-loss"].variants] == [1, 0, 2]


def test_published_rows_stand_beside_ours_and_are_marked():
    ablation = ABLATIONS["identity-loss"]
    ours = [{"sync_conf": None, "id_sim": 0.5, "mouth_correlation": 0.25 + i} for i in range(3)]
    console = Console(width=200, record=True, file=StringIO())
    console.print(layout(ablation, ours))
    lines = console.export_text().splitlines()
    first = next(i for i, line in enumerate(lines) if "w/o ID loss" in line)
    assert "published" in lines[first]
    assert "6.598" in lines[first]
    assert "0.929" in lines[first]
    assert "ours" in lines[first + 1]
    assert "1.250" in lines[first + 1]
    assert "published" not in lines[first + 1]


def test_the_part_that_does_not_vary_must_be_given(tmp_path, capsys):
    given = ["--data", str(tmp_path), "--clips", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(["references", *given]) == 1
    assert "needs --motion" in capsys.readouterr().err
    assert main(["identity-loss", *given]) == 1
    assert "needs --appearance" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
