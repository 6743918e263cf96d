"""What can be said of the card's calls without a card: one recording for each shape, and a way without."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test installs it)")

from mytalk.engines.cuda import CudaRunner, RecordedCalls, need_card  # noqa: E402
from mytalk.errors import EngineFailed  # noqa: E402
from mytalk.models.half import HalfConvolution, in_half  # noqa: E402


def test_each_shape_is_recorded_once_and_what_cannot_be_is_called():
    recorded = []

    def record(call, given):
        if len(given[0]) == 3:
            raise RuntimeError("operation not permitted when stream is capturing")
        recorded.append(given[0].shape)
        return lambda now: [call(now[0])]

    calls = RecordedCalls(lambda x: x * 2, record, lambda call: lambda now: [call(now[0])])
    for rows in (1, 2, 1, 3, 3, 2):
        np.testing.assert_array_equal(calls([np.full((rows, 2), 4.0)])[0], np.full((rows, 2), 8.0))
    assert recorded == [(1, 2), (2, 2)]


def test_without_a_card_the_error_is_one_line(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(EngineFailed, match="torch sees no CUDA card"):
        need_card()
    runner = CudaRunner({"identity": torch.nn.Identity()}, lambda graph, given: ("x",), lambda tuned: None)
    if not torch.version.cuda:
        with pytest.raises(EngineFailed, match="identity failed on the card"):
            runner.run("identity", {"x": np.zeros(3, np.float32)})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_convolutions_are_halved_in_a_copy_and_positions_are_not(dtype):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 1))
    made = in_half(network, dtype)
    given = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        plain, half = network(given), made(given)
    assert half.dtype == dtype
    assert 0 < (plain - half.float()).abs().max() < 0.02
    assert sum(isinstance(part, HalfConvolution) for part in made.modules()) == 2
    assert all(weight.dtype == torch.float32 for weight in network.parameters())
    exported = torch.export.export(made, (given,))
    torch.testing.assert_close(exported.module()(given), half)
