"""The card's benchmark, gone through on a CPU: levers that need a card say so, the rest has figures."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test installs it)")

from benchmarks import gpu  # noqa: E402
from mytalk.models.serving import decoder_of  # noqa: E402


def test_every_lever_has_figures_or_a_reason(tmp_path, monkeypatch, capsys):
    levers = tuple(
        lever for lever in gpu.LADDER if "compiled (" not in lever.name
    )  # compiling takes a minute
    monkeypatch.setattr(gpu, "LADDER", levers)
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


def test_the_paper_size_costs_what_the_issue_says():
    with torch.device("meta"):
        model = gpu.build("paper", "meta")
    given = gpu.make_inputs(model, 1, "meta")
    assert gpu.count_flops(decoder_of(model), given) / 1e12 == pytest.approx(9.5, rel=0.05)


def test_the_shown_window_holds_the_mask_and_is_smaller_than_the_picture():
    rows, columns = gpu.shown_window(64)
    assert (rows.stop - rows.start) * (columns.stop - columns.start) < 0.7 * 64 * 64
    assert all(place % 4 == 0 for place in (rows.start, rows.stop, columns.start, columns.stop))
