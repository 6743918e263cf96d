"""The rating page hides who made what, works in a browser, and its answers are tabulated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mytalk.errors import BadInput
from training.userstudy import QUESTIONS, main, plan_study, tabulate, write_study

FIXTURE = Path(__file__).parent / "data" / "talking_face.mp4"
CHROMIUM = shutil.which("chromium")


@pytest.fixture
def systems(tmp_path):
    out = {}
    for system in ("secret_ours", "secret_theirs"):
        for clip in ("one.mp4", "two.mp4"):
            (tmp_path / system).mkdir(exist_ok=True)
            shutil.copy(FIXTURE, tmp_path / system / clip)
        out[system] = tmp_path / system
    return out


def test_the_page_is_whole_and_blind(systems, tmp_path):
    study = plan_study(systems, seed=3)
    page, key = write_study(study, tmp_path / "study")
    text = page.read_text()
    assert "secret" not in text
    assert "one.mp4" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert len(study.trials) == 2
    assert json.loads(key.read_text())["videos"].keys() == study.videos.keys()
    assert plan_study(systems, seed=3) == study
    assert plan_study(systems, seed=4).key.keys() != study.key.keys()
    assert len(plan_study(systems, seed=3, most=1).trials) == 1


def answers(study, participant: str, better: str) -> dict:
    """Five for one system and three for the other, everywhere."""
    ratings = [
        {"trial": n, "video": video, "question": question, "value": 5 if study.key[video][0] == better else 3}
        for n, pair in enumerate(study.trials)
        for video in pair
        for question, _, _ in QUESTIONS
    ]
    return {"study": study.id, "participant": participant, "ratings": ratings}


def test_answers_become_means_intervals_and_preferences(systems, tmp_path, capsys):
    study = plan_study(systems, seed=0)
    _, key = write_study(study, tmp_path / "study")
    files = []
    for participant, better in (
        ("a", "secret_ours"),
        ("b", "secret_ours"),
        ("c", "secret_theirs"),
        ("a", "secret_ours"),
    ):
        files.append(tmp_path / f"{len(files)}.json")
        files[-1].write_text(json.dumps(answers(study, participant, better)))
    result = tabulate(key, files)
    assert result.people == 3  # a's second file replaced the first
    ours = result.opinions["secret_ours", "sync"]
    assert (ours.mean, ours.count) == (pytest.approx(13 / 3), 6)
    assert ours.interval == pytest.approx(1.96 * (4.8 / 5 / 6 * 1.111111) ** 0.5, rel=0.02)
    assert result.preferences["secret_ours", "secret_theirs", "detail"] == 4
    assert main(["table", str(key), *map(str, files)]) == 0
    printed = capsys.readouterr().out
    assert "published" in printed
    assert "4.33" in printed
    assert "Sync 4:2" in printed


def test_other_files_and_empty_folders_are_one_line(systems, tmp_path, capsys):
    study = plan_study(systems, seed=0)
    _, key = write_study(study, tmp_path / "study")
    other = tmp_path / "other.json"
    for wrong, complaint in (
        ({"study": "x", "ratings": []}, "another study"),
        ({"study": study.id, "ratings": [{"trial": 9}]}, "damaged"),
        ({"study": study.id, "ratings": []}, "no ratings"),
        ([], "not answers"),
    ):
        other.write_text(json.dumps(wrong))
        with pytest.raises(BadInput, match=complaint):
            tabulate(key, [other])
    assert main(["make", f"a={systems['secret_ours']}", "--out", str(tmp_path / "o")]) == 1
    (tmp_path / "empty").mkdir()
    assert (
        main(["make", f"a={systems['secret_ours']}", f"b={tmp_path / 'empty'}", "--out", str(tmp_path / "o")])
        == 1
    )
    assert not (tmp_path / "o").exists()
    assert "no video of the same name" in capsys.readouterr().err


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_person_rates_every_pair_and_saves(systems, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api")
    study = plan_study(systems, seed=0)
    page_path, key = write_study(study, tmp_path / "study")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(page_path.as_uri())
        page.click("#start")
        for number in range(len(study.trials)):
            page.wait_for_function("document.getElementById('va').readyState >= 2")
            assert page.is_disabled("#next")
            for question, _, _ in QUESTIONS:
                page.click(f"label:has(input[name={question}A][value='4'])")
                page.click(f"label:has(input[name={question}B][value='2'])")
            if number == 0:
                page.reload()  # what was rated is still there
                page.wait_for_selector("input:checked", state="attached")
            page.click("#next")
        with page.expect_download() as download:
            page.click("#save")
        saved = tmp_path / "answers.json"
        download.value.save_as(saved)
        browser.close()
    result = tabulate(key, [saved])
    total = sum(opinion.mean * opinion.count for opinion in result.opinions.values())
    assert total == len(study.trials) * len(QUESTIONS) * 6
