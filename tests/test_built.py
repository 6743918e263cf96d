"""Engines that are built for a card are kept by all that they depend on, and are whole or not there."""

from __future__ import annotations

import pytest

from mytalk.engines.buckets import BUCKETS
from mytalk.engines.built import build_missing, engine_folder
from mytalk.errors import EngineFailed


def test_another_card_library_precision_or_weights_is_another_folder(tmp_path):
    given = [
        ("w", "fp16", "NVIDIA H200 sm90", ["2.13.0", "11.0"]),
        ("v", "fp16", "NVIDIA H200 sm90", ["2.13.0", "11.0"]),
        ("w", "bf16", "NVIDIA H200 sm90", ["2.13.0", "11.0"]),
        ("w", "fp16", "NVIDIA L4 sm89", ["2.13.0", "11.0"]),
        ("w", "fp16", "NVIDIA H200 sm90", ["2.13.0", "11.1"]),
    ]
    folders = {engine_folder(tmp_path, *one) for one in given}
    assert len(folders) == len(given)
    assert engine_folder(tmp_path, *given[0]) in folders


def test_every_bucket_is_built_once(tmp_path):
    built = []

    def build(batch, path):
        built.append(batch)
        path.write_text(str(batch))

    folder = tmp_path / "made" / "key"
    paths = build_missing(folder, build)
    assert {batch: path.read_text() for batch, path in paths.items()} == {b: str(b) for b in BUCKETS}
    paths[4].unlink()
    assert build_missing(folder, build) == paths
    assert built == [*BUCKETS, 4]


def test_a_build_that_fails_leaves_nothing_and_is_one_line(tmp_path):
    def build(batch, path):
        path.write_text("half")
        raise RuntimeError("no tactic\nfor this layer")

    with pytest.raises(EngineFailed, match=r"TensorRT cannot build 1 pictures: no tactic$"):
        build_missing(tmp_path / "key", build)
    assert list((tmp_path / "key").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineFailed, match="cannot be written"):
        build_missing(tmp_path / "file" / "key", build)
