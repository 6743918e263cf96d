"""The table of what a precision costs: the same clips before and after; what has no number is left out."""

from __future__ import annotations

import json

import pytest

from benchmarks import precision, quality


def report(**means):
    return {"reports": {"appearance/one": {"mean": means, "clips": 3}}, "commit": "abc", "machine": {}}


def test_figures_of_both_are_compared():
    changes = precision.differences(
        report(psnr=30.0, ssim=0.9, sync=None), report(psnr=29.5, ssim=0.9, sync=1.0)
    )
    assert changes["appearance/one"]["psnr"] == {"before": 30.0, "after": 29.5, "change": -0.5}
    assert set(changes["appearance/one"]) == {"psnr", "ssim"}


def test_each_engine_is_measured_on_the_same_clips(monkeypatch, tmp_path, capsys):
    seen = []

    def measure(args):
        seen.append((args.engine, args.data, args.most))
        return report(psnr=30.0 if args.engine == "onnx-fp32" else 29.75)

    monkeypatch.setattr(quality, "measure", measure)
    out = tmp_path / "made" / "int8.json"
    assert precision.main([str(tmp_path), "--most", "2", "--json", str(out)]) == 0
    assert seen == [("onnx-fp32", tmp_path, "2"), ("onnx-int8", tmp_path, "2")]
    told = json.loads(out.read_text())
    assert told["changes"]["onnx-int8"]["appearance/one"]["psnr"]["change"] == pytest.approx(-0.25)
    assert told["commit"] == "abc"
    assert "-0.2500" in capsys.readouterr().out


def test_no_clips_is_one_line(tmp_path, capsys):
    assert precision.main([str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: no .mp4 for")
