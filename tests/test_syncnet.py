"""SyncNet: public layout, MFCC, and scores with known answers."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test installs it)")

from mytalk.errors import BadInput  # noqa: E402
from training.syncnet import SyncNet, agreement, load_syncnet, mfcc, sync_scores  # noqa: E402


def test_layers_have_the_public_files_names_and_shapes():
    shapes = {
        key: tuple(value.shape) for key, value in SyncNet().state_dict().items() if "tracked" not in key
    }
    assert shapes["netcnnaud.0.weight"] == (64, 1, 3, 3)
    assert shapes["netcnnaud.18.weight"] == (512, 256, 5, 4)
    assert shapes["netcnnlip.0.weight"] == (96, 3, 5, 7, 7)
    assert shapes["netcnnlip.18.weight"] == (512, 256, 1, 6, 6)
    assert shapes["netfcaud.3.weight"] == shapes["netfclip.3.weight"] == (1024, 512)


def test_mfcc_of_a_tone_stand_in_its_band():
    time_s = np.arange(16_000) / 16_000
    low, high = (mfcc((0.3 * np.sin(2 * np.pi * hz * time_s)).astype(np.float32)) for hz in (300, 4000))
    assert low.shape == (99, 13)
    assert (
        low[10:-10, 1].mean() > 10 > -10 > high[10:-10, 1].mean()
    )  # the first cosine: low bands over high ones
    louder = mfcc((0.6 * np.sin(2 * np.pi * 300 * time_s)).astype(np.float32))
    np.testing.assert_allclose(louder[10:-10, 0] - low[10:-10, 0], np.log(4), atol=0.01)
    np.testing.assert_allclose(louder[10:-10, 1:], low[10:-10, 1:], atol=0.05)


def test_confidence_and_distance_find_what_belongs_together():
    sound = torch.from_numpy(np.random.default_rng(0).standard_normal((60, 16)).astype(np.float32))
    confidence, distance = agreement(sound, sound)
    assert distance == pytest.approx(0, abs=1e-4)
    assert confidence > 4
    late_confidence, late_distance = agreement(torch.roll(sound, 3, 0)[3:], sound[3:])
    assert late_distance < 1
    assert late_confidence > 3
    other, far = agreement(
        torch.from_numpy(np.random.default_rng(1).standard_normal((60, 16)).astype(np.float32)), sound
    )
    assert other < 1
    assert far > 4


def test_a_weights_file_loads_and_scores_a_clip(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "syncnet_v2.model"
    torch.save(SyncNet().state_dict(), path)
    net = load_syncnet(path)
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (8, 224, 224, 3), dtype=np.uint8)
    speech = random.normal(0, 0.1, 16_000).astype(np.float32)
    confidence, distance = sync_scores(net, frames, speech)
    assert confidence >= 0
    assert distance > 0
    assert sync_scores(net, frames[:4], speech) is None
    torch.save({"netcnnaud.0.weight": torch.zeros(1)}, path)
    with pytest.raises(BadInput, match="not weights of SyncNet"):
        load_syncnet(path)
