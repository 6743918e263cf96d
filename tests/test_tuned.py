"""Weights of one person in a file: written, read back, and refused when they are anything else."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from mytalk.actors.tuned import BASE, MOST_BYTES, TunedDecoder, TuningFigures, read_tuned, write_tuned
from mytalk.engines.bundle import appearance_id
from mytalk.errors import BadInput


def some_weights() -> dict[str, np.ndarray]:
    return {
        "decoder.stem.0.0.weight": np.arange(24, dtype=np.float16).reshape(2, 3, 2, 2) / 8,
        "decoder.stem.0.0.bias": np.ones(2, np.float16),
    }


def test_what_is_written_is_read(tmp_path: Path) -> None:
    tuned = TunedDecoder("abc", some_weights())
    write_tuned(tmp_path / "decoder.npz", tuned)
    read = read_tuned(tmp_path / "decoder.npz")
    assert (read.appearance_id, read.digest) == ("abc", tuned.digest)
    assert read.tensors.keys() == tuned.tensors.keys()
    for name, tensor in tuned.tensors.items():
        np.testing.assert_array_equal(read.tensors[name], tensor)


def test_the_digest_follows_weights_names_and_base() -> None:
    weights = some_weights()
    moved = {f"{name}s": tensor for name, tensor in weights.items()}
    changed = weights | {"decoder.stem.0.0.bias": np.array([1, 2], np.float16)}
    every = [
        TunedDecoder(*args).digest
        for args in (("a", weights), ("b", weights), ("a", moved), ("a", changed), ("a", dict(weights)))
    ]
    assert len(set(every)) == 4
    assert every[0] == every[-1]


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({BASE: np.array("a")}, "which weights"),
        ({BASE: np.array(3), **some_weights()}, "which weights"),
        (some_weights(), "cannot be read"),
        ({BASE: np.array("a"), "decoder.x": np.ones(2, np.float32)}, "finite float16"),
        ({BASE: np.array("a"), "decoder.x": np.array([1, np.nan], np.float16)}, "finite float16"),
        ({BASE: np.array("a"), "decoder": np.ones(2, np.float16)}, "finite float16"),
        ({BASE: np.array("a"), "decoder.x": np.array([{}], object)}, "cannot be read"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], says: str) -> None:
    np.savez(tmp_path / "decoder.npz", **arrays)
    with pytest.raises(BadInput, match=says) as caught:
        read_tuned(tmp_path / "decoder.npz")
    assert caught.value.code == "bad_weights"
    assert "\n" not in str(caught.value)


def test_files_that_are_no_archive_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "decoder.npz"
    write_tuned(path, TunedDecoder("a", some_weights()))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(BadInput, match="cannot be read"):
        read_tuned(path)
    with pytest.raises(BadInput, match="cannot be read"):
        read_tuned(tmp_path / "missing.npz")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "decoder.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("decoder.x.npy", bytes(MOST_BYTES + 1))
    with pytest.raises(BadInput, match="too large"):
        read_tuned(tmp_path / "decoder.npz")


def test_figures_read_as_a_sentence() -> None:
    assert str(TuningFigures(400, 24.96, 28.04)) == (
        "lips 25.0 → 28.0 dB on the clip's end, which was held back (400 steps)"
    )
    assert str(TuningFigures(400, 25.0, 28.0, 0.72)).endswith(
        "(400 steps); the mouth opens 0.72 times as wide"
    )


def test_a_new_motion_model_leaves_tuned_decoders_valid():
    """Only the appearance weights name what a decoder belongs to."""
    files = {"appearance.safetensors": "ab" * 32, "motion.safetensors": "cd" * 32}
    moved = files | {"motion.safetensors": "ef" * 32}
    assert appearance_id({"files": files}) == appearance_id({"files": moved}) == "ab" * 8
    with pytest.raises(KeyError):
        appearance_id({"files": {}})
