"""The paper's tables with our rows in them."""

from __future__ import annotations

import json
from io import StringIO

from rich.console import Console

from training.evaluate_clip import KEYS
from training.tables import TABLE_1, TABLE_2, TABLE_4, TABLE_10, main, print_tables, tables_for


def report(mode: str, paired: bool = True, **figures: float) -> dict:
    return {
        "mean": dict.fromkeys(KEYS) | figures,
        "clips": {"a": {}},
        "reasons": {"lpips": "needs weights"},
        "baselines": {"mouth_correlation_loudness": 0.25},
        "skipped": {"b": "no face"},
        "seconds_to_make": 12.5,
        "settings": {"system": "ours", "mode": mode, "paired": paired, "parameters": 5_100_000},
    }


def test_each_kind_of_report_goes_into_its_tables():
    assert tables_for(report("pipeline")) == (TABLE_1, TABLE_10)
    assert tables_for(report("outputs")) == (TABLE_1, TABLE_10)
    assert tables_for(report("pipeline", paired=False)) == (TABLE_2,)
    assert tables_for(report("appearance")) == (TABLE_4,)
    for table in (TABLE_1, TABLE_2, TABLE_4, TABLE_10):
        assert all(len(values) == len(table.columns) for _, values in table.rows)


def test_published_rows_are_marked_and_ours_stand_below():
    console = Console(record=True, width=120, file=StringIO())
    print_tables([report("pipeline", psnr=31.25, id_sim=0.9)], console)
    lines = console.export_text().splitlines()
    published = next(line for line in lines if "MyTalk" in line)
    ours = next(line for line in lines if "ours" in line and "31.250" in line)
    assert "published" in published
    assert "33.547" in published
    assert "measured, 1 clips" in ours
    assert lines.index(published) < lines.index(ours)
    text = "\n".join(lines)
    assert "0.0051" in text
    assert "12.500" in text
    assert "lpips: needs weights" in text
    assert "left out b: no face" in text


def test_reports_in_files_make_one_table(tmp_path, capsys):
    paths = []
    for name, psnr in (("one", 30.5), ("two", 31.5)):
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(report("appearance", psnr=psnr)))
    assert main([str(path) for path in paths]) == 0
    printed = capsys.readouterr().out
    assert "30.500" in printed
    assert "31.500" in printed
    assert printed.count("lpips: needs weights") == 1
    (tmp_path / "odd.json").write_text("[1]")
    assert main([str(tmp_path / "odd.json")]) == 1
    assert "not a report" in capsys.readouterr().err
