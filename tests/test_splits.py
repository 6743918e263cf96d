"""Splits keep identities apart; test lists pair videos with speech."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from mytalk.errors import BadInput
from training.data import identity_of, is_validation, list_clips
from training.splits import Shares, check_disjoint, main, pair_lists, write_default_splits

FIXTURE = Path(__file__).parent / "data" / "talking_face.mp4"


def folder(root: Path, names: list[str]) -> Path:
    (root / "clips").mkdir(parents=True)
    for name in names:
        np.savez(root / "clips" / f"{name}.npz", opening=np.zeros(3))
    return root


def test_identity_is_source_and_person():
    assert identity_of("grid__s1__bbaf2n") == "grid/s1"
    assert identity_of("synthetic__id0300_0001") == "synthetic/id0300_0001"
    assert identity_of("hdtf__WDA_Obama__p003") == "hdtf/WDA_Obama"


def test_lists_are_identity_disjoint_and_are_obeyed(tmp_path):
    names = [f"hdtf__person{n:02d}__p{part:03d}" for n in range(40) for part in range(3)]
    names += ["grid__s32__a", "grid__s1__b", "synthetic__x7", "synthetic__x8", "actors__ada"]
    data = folder(tmp_path / "data", names)
    counts = write_default_splits(data, Shares(validation=0.2, test=0.2))
    assert sum(counts.values()) == len(names)
    assert min(counts["validation"], counts["test"], counts["train"]) > 5
    clips = list_clips(data)
    people = {s: {c.identity for c in clips if c.split == s} for s in ("train", "validation", "test")}
    assert not people["train"] & (people["validation"] | people["test"])
    split = {clip.name: clip.split for clip in clips}
    assert (split["grid__s32__a"], split["grid__s1__b"]) == ("validation", "train")
    assert (split["synthetic__x7"], split["synthetic__x8"]) == ("validation", "train")
    # A list written by hand wins over the rule.
    moved = [c.name for c in clips if c.split == "train" and c.name != "synthetic__x8"]
    (data / "splits" / "train.txt").write_text("\n".join(moved))
    with (data / "splits" / "validation.txt").open("a") as file:
        file.write("synthetic__x8\n")
    clips = list_clips(data)
    assert is_validation(next(c for c in clips if c.name == "synthetic__x8"), clips)


def test_a_person_stays_where_they_are_when_data_is_added(tmp_path):
    few = folder(tmp_path / "few", [f"cc__p{n}__a" for n in range(30)])
    many = folder(tmp_path / "many", [f"cc__p{n}__{clip}" for n in range(60) for clip in "ab"])
    write_default_splits(few, Shares(0.3))
    write_default_splits(many, Shares(0.3))
    before = {c.identity: c.split for c in list_clips(few)}
    after = {c.identity: c.split for c in list_clips(many)}
    assert all(after[who] == split for who, split in before.items())


def test_validation_covers_the_hours_asked_for(tmp_path):
    data = folder(tmp_path, [f"cc__p{n}__{clip}" for n in range(20) for clip in "ab"])  # 6 frames a person
    write_default_splits(data, Shares(validation_hours=20 / 25 / 3600))
    clips = [clip for clip in list_clips(data) if clip.split == "validation"]
    assert len(clips) == 8  # 24 frames: the first four people that reach 20
    assert main([str(data), "--validation-share", "0.9", "--test-share", "0.2"]) == 1


def test_a_clip_in_two_lists_and_a_shared_identity_are_refused(tmp_path):
    data = folder(tmp_path, ["cc__p1__a", "cc__p1__b"])
    write_default_splits(data, Shares())
    clips = list_clips(data)
    with pytest.raises(BadInput, match="identities in train and test: cc/p1"):
        check_disjoint({"train": clips[:1], "validation": [], "test": clips[1:]})
    (data / "splits" / "test.txt").write_text("cc__p1__a\n")
    with pytest.raises(BadInput, match=r"is in train\.txt, too"):
        list_clips(data)


def test_unpaired_lists_give_everybody_another_persons_speech(tmp_path, capsys):
    videos = [f"v{n}.mp4" for n in range(9)]
    people = ["a", "a", "a", "b", "b", "c", "c", "d", "e"]
    paired, unpaired = pair_lists(videos, people)
    who = dict(zip(videos, people, strict=True))
    assert paired == videos
    pairs = [line.split("\t") for line in unpaired]
    assert [video for video, _ in pairs] == videos
    assert all(who[video] != who[speech] for video, speech in pairs)
    assert sorted(speech for _, speech in pairs) == videos
    for name in ("x/one.mp4", "y/two.mp4"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    assert main([str(tmp_path), "--videos"]) == 0
    assert (tmp_path / "unpaired.txt").read_text() == "x/one.mp4\ty/two.mp4\ny/two.mp4\tx/one.mp4\n"
    shutil.copy(FIXTURE, tmp_path / "x/one.mp4")
    shutil.copy(FIXTURE, tmp_path / "y/two.mp4")
    assert main([str(tmp_path), "--videos", "--frames", "60"]) == 0  # 50 frames each: both are needed
    assert len((tmp_path / "paired.txt").read_text().split()) == 2
    assert main([str(tmp_path / "x"), "--videos"]) == 1
    assert "two .mp4 files or more" in capsys.readouterr().err
