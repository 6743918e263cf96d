"""Folded convolutions are the same function of the same memory, whatever is made one position."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test installs it)")

import torch.nn.functional as F  # noqa: E402

from mytalk.engines.folded import Fold, told_fold  # noqa: E402

HEIGHT, WIDTH = 12, 24


def plain(x, weight, bias, stride: int, left: int):
    return F.conv2d(F.pad(x, (left, left, left, left)), weight, bias, stride)


@pytest.mark.parametrize(
    ("kernel", "stride", "left", "taken", "given"),
    [(12, 4, 4, 4, 1), (6, 2, 2, 4, 2), (3, 1, 1, 1, 4), (3, 1, 1, 1, 2), (3, 1, 1, 2, 2), (1, 1, 0, 2, 4)],
)
def test_a_folded_convolution_is_the_same_function(kernel, stride, left, taken, given):
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, HEIGHT, WIDTH), torch.randn(4, 3, kernel, kernel)
    bias = torch.randn(4)
    expected = plain(x, weight, bias, stride, left)
    fold = Fold(taken, given, stride, left, 2, 3 * taken, 4 * given)
    made, taps = torch.from_numpy(fold.weight(weight.numpy())), fold.taps(kernel)
    assert made.shape == (4 * given, 3 * taken, kernel, taps)
    last = x.permute(0, 2, 3, 1).reshape(2, HEIGHT, WIDTH // taken, -1).permute(0, 3, 1, 2)
    step, count = given * stride // taken, expected.shape[3] // given
    right = (count - 1) * step + taps + fold.first() - WIDTH // taken
    found = F.conv2d(
        F.pad(last, (-fold.first(), right, left, left)),
        made,
        torch.from_numpy(fold.bias(bias.numpy())),
        (stride, step),
    )
    # channels (row, pixel, rest) of each position → the convolution's own
    apart = found.unflatten(1, (2, given, 2)).permute(0, 1, 3, 4, 5, 2)
    torch.testing.assert_close(apart.reshape(expected.shape), expected, rtol=1e-4, atol=1e-4)


def test_spare_channels_are_zero_and_change_nothing():
    weight, bias = np.ones((10, 6, 3, 3), np.float32), np.ones(10, np.float32)
    fold = Fold(1, 1, 1, 1, 1, 8, 16)
    made = fold.weight(weight)
    assert made.shape == (16, 8, 3, 3)
    np.testing.assert_array_equal(made[:10, :6], weight)
    assert not made[10:].any()
    assert not made[:, 6:].any()
    assert fold.bias(bias).tolist() == [1.0] * 10 + [0.0] * 6


def test_a_name_tells_of_its_fold():
    fold = Fold(4, 2, 2, 2, 1, 12, 48)
    assert told_fold(fold.marked("model.decoder.out.conv.weight")) == ("model.decoder.out.conv.weight", fold)
    assert told_fold("model.decoder.out.conv.weight") == ("model.decoder.out.conv.weight", None)
