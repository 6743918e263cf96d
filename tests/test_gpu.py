"""The card's benchmark as a command: what it writes on a CPU, and what it says without a card."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test installs it)")

from benchmarks import gpu, ladder  # noqa: E402


def test_every_lever_has_figures_or_a_reason(tmp_path, monkeypatch, capsys):
    levers = tuple(lever for lever in ladder.LADDER if "compiled (" not in lever.name)  # takes a minute
    monkeypatch.setattr(ladder, "LADDER", levers)
    out = tmp_path / "made" / "gpu.json"
    arguments = ["--device", "cpu", "--skip", "parity", "engines", "--sizes", "paper", "--batches", "2"]
    assert gpu.main([*arguments, "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    assert len(report["rows"]) == 2 * len(levers)
    rows = {(row["part"], row["lever"]): row for row in report["rows"]}
    for part in ("whole", "shown crop"):
        assert rows[part, "fp32"]["agreement_db"] > 90
        assert 10 < rows[part, "bf16 channels-last"]["agreement_db"] < 90  # random weights amplify
        assert rows[part, "fp32"]["of_floor"] > 0
        assert "not_run" in rows[part, "bf16 TensorRT"]
        assert "not_run" in rows[part, "fp8 TensorRT"]
    assert rows["shown crop", "fp32"]["tflop_per_frame"] <= rows["whole", "fp32"]["tflop_per_frame"]
    assert "shown crop" in capsys.readouterr().out


def test_without_a_card_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu.main([]) == 1
    assert capsys.readouterr().err == "error: torch sees no CUDA card here\n"
