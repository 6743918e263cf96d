"""Convolutions of folded pictures: trained and served forms are the same function."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test installs it)")

import torch.nn.functional as F  # noqa: E402

from mytalk.models.folding import FoldedConv, ResBlock, SpreadConv  # noqa: E402


@pytest.mark.parametrize("factor", [2, 4])
def test_a_folded_convolution_is_one_of_the_folded_picture(factor):
    torch.manual_seed(0)
    layer, picture = FoldedConv(3, 5, factor), torch.rand(2, 3, 6 * factor, 7 * factor)
    # [5, 3, 3 f, 3 f] → [5, 3 f f, 3, 3]: kernel rows and columns are (tap, pixel within it)
    taps = layer.weight.unflatten(3, (3, factor)).unflatten(2, (3, factor))
    folded = taps.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
    expected = F.conv2d(F.pixel_unshuffle(picture, factor), folded, layer.bias, padding=1)
    assert expected.shape == (2, 5, 6, 7)
    torch.testing.assert_close(layer(picture), expected)


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_spread_convolution_is_a_pixel_shuffle(kernel):
    torch.manual_seed(0)
    layer, features = SpreadConv(6, 5, kernel), torch.rand(2, 6, 4, 3)
    plain = F.conv2d(features, layer.conv.weight, layer.conv.bias, padding=kernel // 2)
    expected = F.pixel_shuffle(plain.unflatten(1, (4, 5)).transpose(1, 2).flatten(1, 2), 2)
    torch.testing.assert_close(layer(features), expected)


def test_a_new_residual_block_only_rectifies():
    features = torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(ResBlock(4)(features), features.relu(), atol=0.2, rtol=0)
