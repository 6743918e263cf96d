"""The measurement in a browser, briefly and for real."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import browser

HAS_CHROMIUM = any(map(shutil.which, browser.BROWSERS))


def test_without_chromium_it_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert browser.main(["--seconds", "5"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_lengths_are_checked() -> None:
    with pytest.raises(SystemExit):
        browser.main(["--seconds", "1"])


@pytest.mark.browser
@pytest.mark.skipif(not HAS_CHROMIUM, reason="no Chromium on this machine")
def test_pushed_flashes_are_seen_in_chromium(tmp_path: Path) -> None:
    pytest.importorskip("playwright")
    out = tmp_path / "browser.json"
    assert browser.main(["--seconds", "4", "--pushes", "4", "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    # how many and how soon is the machine's business; that some were seen, and none before its push, is ours
    assert report["pushes_missed"] < report["pushes"] == 4
    assert min(report["raw_push_to_decoded_ms"]) > 20
