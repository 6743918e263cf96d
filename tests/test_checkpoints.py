"""Beginning a run with somebody's weights."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test installs it)")

from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402

from mytalk.errors import BadInput  # noqa: E402
from training.checkpoints import start_from  # noqa: E402


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_a_run_can_begin_with_weights_that_fit(tmp_path):
    ours, other = network(), network()
    some = {n: v.contiguous() for n, v in ours.state_dict().items() if not n.startswith("2.")}
    some["0.bias"] = torch.zeros(3)
    save_file(some, tmp_path / "some.safetensors")
    before = {n: v.clone() for n, v in other.state_dict().items()}
    assert not start_from(tmp_path / "some.safetensors", other), "not all of it"
    for name, value in other.state_dict().items():
        kept = name.startswith("2.") or name == "0.bias"
        assert torch.equal(value, (before if kept else ours.state_dict())[name]), name


def test_a_run_s_average_is_taken(tmp_path):
    ours, other = network(), network()
    torch.save({"average": ours.state_dict(), "kind": "motion"}, tmp_path / "last.pt")
    assert start_from(tmp_path / "last.pt", other)
    assert torch.equal(other.state_dict()["0.weight"], ours.state_dict()["0.weight"])


def test_weights_that_do_not_fit_or_cannot_be_read_are_refused(tmp_path):
    save_file({"unknown": torch.zeros(1)}, tmp_path / "b.safetensors")
    with pytest.raises(BadInput, match="none of its weights fit"):
        start_from(tmp_path / "b.safetensors", network())
    (tmp_path / "c.safetensors").write_bytes(b"damage")
    with pytest.raises(BadInput, match="cannot be read"):
        start_from(tmp_path / "c.safetensors", network())
