"""The motion model beyond its tiny size: conditions, attention patterns, encoders, two-copy training."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test installs it)")

from mytalk.errors import BadInput  # noqa: E402
from mytalk.models.conformer import rotary_tables  # noqa: E402
from mytalk.models.feature_audio import FeatureAudioEncoder  # noqa: E402
from mytalk.models.motion import MotionModel  # noqa: E402
from mytalk.models.motion_config import CONDITIONS, MotionConfig  # noqa: E402
from mytalk.models.sizes import BASE, PAPER  # noqa: E402
from mytalk.models.streaming import StreamingHop, initial_state  # noqa: E402
from mytalk.models.two_copies import denoise_two_copies, two_copy_mask  # noqa: E402

CAUSAL = MotionConfig(
    coefficients=6,
    compact=3,
    coordinates=2,
    code="raw",
    upper=8,
    identity=8,
    key_points=5,
    dim=32,
    layers=2,
    heads=2,
    hidden=48,
    audio_dim=32,
    audio_heads=2,
    audio_hidden=48,
    audio_kernel=5,
    audio_band=4,
    speech="wav2vec2",
    speech_width=12,
    identity_per_block=True,
    mlp_hidden=16,
    window=12,
    tokens=6,
    dropout=0.0,
)
BOTH_WAYS = replace(CAUSAL, causal=False, audio_causal=False, audio_band=0)


def make(config):
    torch.manual_seed(0)
    return MotionModel(config).eval()


def inputs(config, frames, seed=1):
    random = torch.Generator().manual_seed(seed)
    noised = torch.randn(1, frames, config.coefficients, generator=random)
    speech = torch.randn(1, frames, config.audio_dim, generator=random)
    upper = torch.randn(1, frames, config.upper, generator=random)
    identity = torch.randn(1, config.condition_width, generator=random)
    return noised, speech, upper, identity


def tables(config, frames):
    return rotary_tables(torch.arange(frames)[None], config.dim // config.heads)


def everything(frames):
    return torch.ones(1, 1, frames, frames, dtype=torch.bool)


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("config", [CAUSAL, BOTH_WAYS], ids=["causal", "both ways"])
def test_every_condition_trains_and_is_listened_to(condition, config):
    config = replace(config, condition=condition, recompute=True)
    model = make(config).train()
    frames = 10
    noised, _, upper, identity = inputs(config, frames)
    speech = model.audio(torch.randn(1, config.speech_frames(frames), config.speech_width))
    assert speech.shape == (1, frames, config.audio_dim)
    level = torch.full((1, frames), 0.5)
    arguments = (tables(config, frames), everything(frames))
    made = model.denoiser(noised, level, speech, upper, identity, *arguments)[0]
    assert made.shape == noised.shape
    made.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
    other = model.denoiser(noised, level, speech, upper, -identity, *arguments)[0]
    assert not torch.allclose(other, made)


def test_both_ways_a_frame_hears_its_future_and_causally_it_does_not():
    frames, cut = 12, 7
    earlier = torch.ones(frames, frames, dtype=torch.bool).tril()[None, None]
    for config, mask, hears in ((CAUSAL, earlier, False), (BOTH_WAYS, everything(frames), True)):
        model = make(config)
        noised, speech, upper, identity = inputs(config, frames)
        level = torch.full((1, frames), 0.5)
        rest = (upper, identity, tables(config, frames), mask)
        before = model.denoiser(noised, level, speech, *rest)[0][:, :cut]
        changed = speech.clone()
        changed[:, cut:] += 1
        after = model.denoiser(noised, level, changed, *rest)[0][:, :cut]
        assert torch.allclose(before, after, atol=1e-6) is not hears


def test_padding_frames_change_nothing():
    """A clip padded to a fixed length (paper 4.1.3: 250 frames) gives what it gives alone."""
    model, frames, padded = make(BOTH_WAYS), 7, 11
    noised, _, upper, identity = inputs(BOTH_WAYS, padded)
    features = torch.randn(1, 2 * padded, BOTH_WAYS.speech_width)
    valid = torch.arange(padded)[None] < frames
    level = torch.full((1, padded), 0.5)
    speech = model.audio(features, valid.repeat_interleave(2, dim=1))
    alone = model.audio(features[:, : 2 * frames])
    torch.testing.assert_close(speech[:, :frames], alone, atol=1e-5, rtol=1e-5)
    mask = valid[:, None, None] | torch.eye(padded, dtype=torch.bool)
    made = model.denoiser(
        noised, level, speech, upper, identity, tables(BOTH_WAYS, padded), mask, valid=valid
    )[0]
    short = (part[:, :frames] for part in (noised, level, alone, upper))
    expected = model.denoiser(*short, identity, tables(BOTH_WAYS, frames), everything(frames))[0]
    torch.testing.assert_close(made[:, :frames], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_a_banded_encoder_gives_a_frame_the_same_feature_streamed_and_whole(causal):
    config = replace(CAUSAL, audio_causal=causal)
    encoder = make(config).audio
    assert isinstance(encoder, FeatureAudioEncoder)
    left, right, frames = config.left_audio_frames, config.right_audio_frames, 30
    features = torch.randn(1, left + 2 * frames + right, config.speech_width)
    whole = encoder(features)
    assert whole.shape == (1, frames, config.audio_dim)
    assert (right > 0) is not causal
    for first in (0, 5, 24):
        streamed = encoder(features[:, 2 * first : 2 * first + config.mel_frames])
        torch.testing.assert_close(streamed, whole[:, first : first + config.tokens], atol=1e-5, rtol=1e-5)
    changed = features.clone()
    changed[:, left + 2 * 10 + right :] += 1
    torch.testing.assert_close(encoder(changed)[:, :10], whole[:, :10])


def test_a_raw_code_is_the_displacement_itself():
    model = make(CAUSAL)
    model.scale.fill_(0.5)
    model.mean.fill_(0.25)
    moved = torch.randn(2, 4, 6)
    torch.testing.assert_close(model.to_displacement(model.to_coefficients(moved)), moved)
    torch.testing.assert_close(model.to_coefficients(moved), (moved - 0.25) / 0.5)


@pytest.mark.parametrize("size", [1, 3])
def test_two_copies_predict_what_a_streamed_hop_with_that_past_would(size):
    """Every block of the noised copy = the denoiser run on it with the clean past's memory."""
    config, frames = CAUSAL, 9
    model = make(config).denoiser
    noised, speech, upper, identity = inputs(config, frames)
    clean = torch.randn(1, frames, config.coefficients)
    blocks = torch.arange(frames) // size
    level = torch.tensor([[0.3, 0.9, 0.6]])[:, blocks % 3]
    rotary = tables(config, frames)
    together = denoise_two_copies(
        model, clean, noised, level, speech, upper, identity, rotary, blocks, config.window
    )
    own = two_copy_mask(blocks, config.window)[:, :, :frames, :frames]
    _, keys, values, gates = model(clean, torch.zeros(1, frames), speech, upper, identity, rotary, own)
    for first in range(0, frames, size):
        rows = slice(first, first + size)
        tail = torch.nn.functional.pad(gates[:, :, :first], (0, 0, config.kernel - 1, 0))
        past = (keys[..., :first, :], values[..., :first, :], tail[:, :, tail.shape[2] - config.kernel + 1 :])
        mask = torch.ones(1, 1, size, first + size, dtype=torch.bool)
        hop = model(
            noised[:, rows],
            level[:, rows],
            speech[:, rows],
            upper[:, rows],
            identity,
            (rotary[0][:, rows], rotary[1][:, rows]),
            mask,
            past,
        )[0]
        torch.testing.assert_close(together[:, rows], hop, atol=1e-5, rtol=1e-5)


def test_a_frame_sees_no_further_back_than_the_window():
    mask = two_copy_mask(torch.arange(8) // 2, window=3)[0, 0]
    clean, noised = mask[:8, :8], mask[8:]
    assert not mask[:8, 8:].any()
    assert clean[6].tolist() == [False] * 3 + [True] * 5
    assert noised[6, :8].tolist() == [False] * 3 + [True] * 3 + [False] * 2
    assert noised[6, 8:].tolist() == [False] * 6 + [True] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"condition": "name"}, "condition must be one of"),
        ({"speech": "whisper"}, "speech must be one of"),
        ({"coefficients": 5}, "must be compact · coordinates = 6"),
        ({"heads": 3}, "multiples of twice their heads"),
        ({"speech": "log_mel", "audio_band": 0}, "finite band"),
    ],
)
def test_impossible_combinations_are_refused(changes, message):
    with pytest.raises(BadInput, match=message):
        replace(CAUSAL, **changes)


def test_a_base_like_model_streams_through_the_one_hop_graph():
    """A hop on an empty memory = sampling its frames by themselves."""
    config = replace(
        BASE.motion,
        dim=32,
        heads=2,
        layers=2,
        hidden=32,
        audio_dim=32,
        audio_heads=2,
        audio_layers=1,
        audio_hidden=32,
        window=6,
        tokens=3,
    )
    model = make(config)
    model.basis.copy_(torch.randn_like(model.basis))
    noise, _, upper, identity = inputs(config, config.tokens)
    mel = torch.randn(1, config.mel_frames, config.mels) - 6
    rotary, count = tables(config, config.tokens), torch.tensor([config.tokens])
    nothing = torch.zeros(1, config.window, dtype=torch.bool)
    speech = model.audio(mel)
    none = [torch.zeros_like(part[:, :1]) for part in (speech, upper, *rotary, noise)]
    given = torch.zeros(1, 1, config.compact * 3)
    made, _, keys, _, gates = StreamingHop(model, steps=2)(
        speech,
        upper,
        identity,
        noise,
        *rotary,
        count,
        *initial_state(config),
        nothing,
        nothing,
        torch.tensor([False]),
        *none,
        given,
        torch.zeros(1, 1),
    )
    mask = everything(config.tokens)
    alone = model.sample(noise, model.audio(mel), upper, identity, rotary, mask, None, 2)
    torch.testing.assert_close(made, model.to_displacement(alone), atol=1e-4, rtol=1e-4)
    assert keys.shape == (1, 2, 2, 1, 16)
    assert gates.shape == (1, 2, 1, 32)


def test_paper_size_shapes_on_the_meta_device():
    """A forward pass of the full motion model: 250 frames, nothing allocated."""
    with torch.device("meta"):
        model = MotionModel(PAPER.motion).eval()
        frames = 250
        speech = model.audio(torch.zeros(2, 2 * frames, 768))
        made, keys, _, _ = model.denoiser(
            torch.zeros(2, frames, 822),
            torch.zeros(2, frames),
            speech,
            torch.zeros(2, frames, 516),
            torch.zeros(2, 512),
            tables(PAPER.motion, frames),
            everything(frames),
        )
        moved = model.to_displacement(made)
    assert speech.shape == (2, frames, 512)
    assert keys.shape == (2, 12, 12, frames, 64)
    assert moved.shape == (2, frames, 411 * 2)
