"""wav2vec2 through transformers, from a small folder of random weights."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test installs it)")
pytest.importorskip("transformers", reason="transformers is not installed (the train extra)")

from mytalk.audio.speech_encoder import encode_all  # noqa: E402
from mytalk.errors import BadInput  # noqa: E402
from mytalk.models.feature_audio import FeatureAudioEncoder  # noqa: E402
from mytalk.models.motion_config import MotionConfig  # noqa: E402
from mytalk.models.wav2vec2 import Wav2Vec2Config, load_wav2vec2  # noqa: E402
from tests.small_wav2vec2 import save_small  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread():
    """These networks are so small that a second thread only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    return save_small(tmp_path_factory.mktemp("wav2vec2"))


def small(where, **changes):
    return replace(Wav2Vec2Config(where, hop_frames=4, left_frames=6, right_frames=2), **changes)


def sound(count):
    return np.random.default_rng(0).normal(0, 0.1, count).astype(np.float32)


def test_offline_is_streaming_exactly(where):
    encoder, samples = load_wav2vec2(small(where)), sound(12_800)
    whole = encode_all(encoder, samples)
    assert whole.shape == (40, 16)
    assert np.isfinite(whole).all()
    for size in (997, 5000):
        state, parts = encoder.initial(), []
        for start in range(0, len(samples), size):
            state, frames = encoder.encode(state, samples[start : start + size])
            parts.append(frames)
        np.testing.assert_array_equal(np.concatenate([*parts, encoder.finish(state)]), whole)


def test_the_delay_is_the_chunk_and_its_right_context_and_nothing_later_is_heard(where):
    encoder, samples = load_wav2vec2(small(where)), sound(16_000)
    assert encoder.delay_s == pytest.approx((3 + 2) * 0.02)
    changed = samples.copy()
    changed[320 * 10 :] = 0  # frames 0..3 hear 2 frames past their chunk, frames 4..7 up to frame 10
    before, after = encode_all(encoder, samples), encode_all(encoder, changed)
    np.testing.assert_array_equal(before[:8], after[:8])
    assert not np.array_equal(before[8:12], after[8:12])


def test_a_frame_stands_for_its_own_20_ms(where):
    """In the layer below the transformer, a click moves the frames that hold it and no others."""
    encoder = load_wav2vec2(small(where, layer=0, hop_frames=40, left_frames=1, right_frames=1))
    model = encoder.run.model
    silent = np.zeros(encoder.left_samples + 40 * 320 + encoder.right_samples, np.float32)
    click = silent.copy()
    click[encoder.left_samples + 20 * 320 + 100] = 1.0
    with torch.inference_mode():
        heard = [model.feature_extractor(torch.from_numpy(x)[None])[0].T.numpy() for x in (silent, click)]
    moved = np.abs(heard[1] - heard[0]).sum(axis=1)
    # The group norm over time moves every frame a little; the click itself stands out where it is.
    assert int(np.argmax(moved)) - 1 in (19, 20)


def test_a_layer_can_be_chosen(where):
    samples = sound(8_000)
    last, second = (encode_all(load_wav2vec2(small(where, layer=layer)), samples) for layer in (-1, 2))
    np.testing.assert_array_equal(last, second)
    assert not np.array_equal(last, encode_all(load_wav2vec2(small(where, layer=0)), samples))


def audio_encoder(**changes):
    torch.manual_seed(1)
    config = MotionConfig(
        speech="wav2vec2", speech_width=16, audio_dim=8, audio_heads=2, audio_hidden=8, audio_kernel=3
    )
    return FeatureAudioEncoder(replace(config, audio_causal=False, audio_band=0, **changes)).eval()


def test_the_papers_audio_encoder_streams_in_the_same_chunks(where):
    encoder, samples = load_wav2vec2(small(where), audio_encoder()), sound(6_400)
    assert (encoder.width, encoder.samples_per_frame, encoder.hop_frames) == (8, 640, 2)
    assert encoder.delay_s == pytest.approx(0.04 + 2 * 0.02)
    whole = encode_all(encoder, samples)
    assert whole.shape == (10, 8)
    state, parts = encoder.initial(), []
    for start in range(0, len(samples), 997):
        state, frames = encoder.encode(state, samples[start : start + 997])
        parts.append(frames)
    np.testing.assert_array_equal(np.concatenate([*parts, encoder.finish(state)]), whole)
    assert np.abs(np.diff(whole, axis=0)).max() > 0


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"audio_band": 4}, {}, "needs no chunks"),
        ({"speech_width": 12}, {}, "gives 16 features, not 12"),
        ({}, {"hop_frames": 3}, "even numbers"),
    ],
)
def test_an_audio_encoder_that_does_not_fit_is_refused(where, changes, settings, message):
    encoder = FeatureAudioEncoder(replace(audio_encoder().config, **changes))
    with pytest.raises(BadInput, match=message):
        load_wav2vec2(small(where, **settings), encoder)


def test_what_cannot_be_had_is_told_in_one_line(where, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    rate = save_small(tmp_path / "rate", conv_stride=[5, 2, 2, 2, 2, 2, 1])
    for config, message in (
        (Wav2Vec2Config(str(tmp_path / "none")), "cannot be had from there"),
        (Wav2Vec2Config(str(tmp_path)), "is a bert model"),
        (Wav2Vec2Config(rate), "gives 100 features a second"),
        (small(where, layer=7), "has 2 layers, not 7"),
        (small(where, right_frames=0), "at least one frame"),
    ):
        with pytest.raises(BadInput, match=message) as caught:
            load_wav2vec2(config)
        assert "\n" not in str(caught.value)


def test_without_transformers_the_message_says_what_installs_it(where, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(BadInput, match="the train extra installs"):
        load_wav2vec2(small(where))
