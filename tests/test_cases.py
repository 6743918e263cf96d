"""Folders and lists of clips."""

from __future__ import annotations

import pytest

from mytalk.errors import BadInput
from training.cases import find_output, read_cases


def test_folders_files_and_lists(tmp_path):
    for name in ("a/one.mp4", "two.mp4", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [case.name for case in read_cases(tmp_path)] == ["a/one", "two"]
    assert [case.name for case in read_cases(tmp_path / "two.mp4")] == ["two"]
    (tmp_path / "list.txt").write_text("# a comment\n\ntwo.mp4\na/one.mp4\ttwo.mp4\n")
    paired, unpaired = read_cases(tmp_path / "list.txt")
    assert (paired.name, paired.paired) == ("two", True)
    assert (unpaired.name, unpaired.paired) == ("a/one+two", False)
    assert unpaired.speech == tmp_path / "two.mp4"
    (tmp_path / "list.txt").write_text(f"{tmp_path}/a/one.mp4\n")
    assert read_cases(tmp_path / "list.txt")[0].name == "a/one"  # reports do not tell where clips lie


@pytest.mark.parametrize(
    ("text", "complaint"), [("no.mp4\n", "line 1"), ("x.mp4\nx.mp4\n", "named twice"), ("", "no .mp4")]
)
def test_bad_lists_are_refused(tmp_path, text, complaint):
    (tmp_path / "x.mp4").touch()
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(BadInput, match=complaint):
        read_cases(tmp_path / "list.txt")


def test_outputs_are_matched_by_path_or_name(tmp_path):
    (tmp_path / "in" / "s1").mkdir(parents=True)
    (tmp_path / "in" / "s1" / "clip.mp4").touch()
    case = read_cases(tmp_path / "in")[0]
    with pytest.raises(BadInput, match="no output for this clip"):
        find_output(tmp_path, case)
    (tmp_path / "clip.mp4").touch()
    assert find_output(tmp_path, case) == tmp_path / "clip.mp4"
    (tmp_path / "s1").mkdir()
    (tmp_path / "s1" / "clip.mp4").touch()
    assert find_output(tmp_path, case) == tmp_path / "s1" / "clip.mp4"
