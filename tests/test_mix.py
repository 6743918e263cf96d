"""Mixing the weights of runs."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test installs it)")

from safetensors.torch import save_file  # noqa: E402

from mytalk.errors import BadInput  # noqa: E402
from training.checkpoints import read_checkpoint  # noqa: E402
from training.mix import main, mixed, parts_of  # noqa: E402


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    saved = {"kind": "motion", "config": "{}", "step": 7, "optimisers": {"model": 1}}
    torch.save(saved | {"average": {"a": torch.ones(2), "b": torch.zeros(3)}}, folder / "last.pt")
    return folder


def test_a_mixture_is_a_checkpoint_of_the_first_run_with_the_mean_of_the_weights(run, tmp_path):
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.tensor([3.0, 5.0], dtype=torch.float16), "b": torch.full((3,), 4.0)}, other)
    out = tmp_path / "out"
    assert main([f"{run}=0.75", f"{other}=0.25", "--out", str(out)]) == 0
    saved = read_checkpoint(out / "last.pt", "motion")
    torch.testing.assert_close(saved["average"]["a"], torch.tensor([1.5, 2.0]))
    torch.testing.assert_close(saved["average"]["b"], torch.ones(3))
    assert saved["average"]["a"].dtype == torch.float32
    assert saved["step"] == 7
    assert "optimisers" not in saved
    assert saved["mixed"] == [f"{run}=0.75", f"{other}=0.25"]


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        (["runs/a", "runs/b=0.5"], "PATH=SHARE is wanted"),
        (["a=0.5", "b=half"], "PATH=SHARE is wanted"),
        (["a=0.5", "b=0.4"], "sum up to 1, not 0.9"),
    ],
)
def test_shares_that_are_none_are_refused(texts, why):
    with pytest.raises(BadInput, match=why):
        parts_of(texts)


def test_weights_of_two_networks_are_not_mixed():
    one = {"a": torch.ones(2)}
    for other in ({"a": torch.ones(3)}, {"b": torch.ones(2)}, one | {"b": torch.ones(2)}):
        with pytest.raises(BadInput, match="not weights of one network"):
            mixed([(one, 0.5), (other, 0.5)])


def test_motion_models_of_two_codes_are_not_mixed():
    one = {"basis": torch.eye(3), "a": torch.ones(2)}
    same = one | {"basis": torch.eye(3).half()}
    assert torch.equal(mixed([(one, 0.5), (same, 0.5)])["basis"], torch.eye(3))
    with pytest.raises(BadInput, match="different codes"):
        mixed([(one, 0.5), (one | {"basis": torch.eye(3).flip(0)}, 0.5)])


def test_what_cannot_be_mixed_is_one_line(run, tmp_path, capsys):
    save_file({"a": torch.ones(2)}, tmp_path / "first.safetensors")
    assert main([f"{tmp_path / 'first.safetensors'}=1", "--out", str(tmp_path / "out")]) == 2
    assert "first part has to be a run's folder" in capsys.readouterr().err
    assert main([f"{run}=0.5", f"{tmp_path / 'none.safetensors'}=0.5", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    torch.save({"model": 1}, tmp_path / "other.pt")
    assert main([f"{run}=0.5", f"{tmp_path / 'other.pt'}=0.5", "--out", str(tmp_path / "out")]) == 2
    assert "no averaged weights" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
