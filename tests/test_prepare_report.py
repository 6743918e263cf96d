"""The report of a preparation: totals, codes, tables."""

from __future__ import annotations

import json

from training.prepare_report import print_report, summary, write_report
from training.prepare_sync import PersonOffset
from training.prepare_video import Report

REPORTS = [
    Report("a__b__c", "a/b/c.mp4", 50, offset_ms=12.0, correlation=0.8),
    Report("a__d__e", "a/d/e.mp4", 25),
    Report("a__f__g", "a/f/g.mp4", 0, "no_face", "no face was found in the picture"),
]
PEOPLE = [PersonOffset("a/b", 1, 12.34, 0.81234, 0.0, False)]


def test_totals_and_codes(tmp_path, capsys):
    told = summary(REPORTS, PEOPLE)
    assert (told["kept"], told["seconds"], told["rejected"]) == (2, 3.0, {"no_face": 1})
    write_report(tmp_path, REPORTS, PEOPLE)
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored["people"][0] == {
        "identity": "a/b",
        "clips": 1,
        "offset_ms": 12.3,
        "correlation": 0.812,
        "spread_ms": 0.0,
        "pooled": False,
    }
    assert stored["clips"][2]["reason"] == "no face was found in the picture"
    print_report(REPORTS, PEOPLE)
    printed = capsys.readouterr().out
    assert "2 clips, 0.1 minutes; 1 rejected" in printed
    assert "+12" in printed
    assert "no_face" in printed
