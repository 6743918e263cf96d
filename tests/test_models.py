"""The torch models: streamed = whole sequence, shapes, and what may be heard."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test installs it)")

from mytalk.landmarks.warp import flow_shape  # noqa: E402
from mytalk.models.appearance import AppearanceConfig, AppearanceModel, window_px  # noqa: E402
from mytalk.models.conformer import rotary_tables  # noqa: E402
from mytalk.models.identity import ArcFace, IdentityExtractor  # noqa: E402
from mytalk.models.motion import MotionConfig, MotionModel, band_mask, noise_schedule  # noqa: E402
from mytalk.models.streaming import (  # noqa: E402
    AppearanceDecoder,
    StreamingHop,
    StreamingSpeech,
    initial_hearing,
    initial_state,
)
from training.motion_loss import block_mask  # noqa: E402

CONFIG = MotionConfig(
    coefficients=6,
    compact=10,
    upper=8,
    identity=8,
    dim=32,
    layers=2,
    heads=2,
    hidden=48,
    audio_dim=32,
    audio_heads=2,
    audio_hidden=48,
    window=12,
    tokens=6,
    dropout=0.0,
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = MotionModel(CONFIG).eval()
    model.basis.copy_(torch.randn_like(model.basis))
    model.inverse.copy_(torch.linalg.pinv(model.basis))
    return model


def sequence(model, frames, seed=1):
    generator = torch.Generator().manual_seed(seed)
    left, right = 2 * CONFIG.left_audio_frames, CONFIG.mel_right
    mel = torch.randn(1, left + 4 * frames + right, CONFIG.mels, generator=generator) - 6
    upper = 0.1 * torch.randn(1, frames, CONFIG.upper, generator=generator)
    shown = torch.randn(1, frames, CONFIG.coefficients, generator=generator)
    identity = torch.randn(1, CONFIG.identity, generator=generator)
    return mel, upper, shown, identity


def tables(start, count):
    return rotary_tables(torch.arange(start, start + count)[None], CONFIG.dim // CONFIG.heads)


def test_speech_feature_of_a_frame_is_the_same_streamed_and_whole(model):
    mel, *_ = sequence(model, 40)
    whole = model.audio(mel)
    assert whole.shape == (1, 40, CONFIG.audio_dim)
    for first in (0, 3, 17, 34):
        streamed = model.audio(mel[:, 4 * first : 4 * first + CONFIG.mel_frames])
        torch.testing.assert_close(streamed, whole[:, first : first + CONFIG.tokens], atol=1e-5, rtol=1e-5)


def hear(model, mel, cuts):
    """Features of all frames of mel, and the memory, heard in calls that end at the cuts."""
    step, state = StreamingSpeech(model.audio), initial_hearing(CONFIG)
    made, first, known, lookahead = [], 0, 0, 2
    past = CONFIG.audio_band - 1
    quiet = torch.full((1, 2, CONFIG.mels), -6.0)
    mel = torch.cat([quiet, mel], dim=1)
    for end in cuts:
        tokens = end - first + lookahead
        frames = 2 * tokens + 1
        cos, sin = rotary_tables(
            torch.arange(2 * first, 2 * first + frames)[None], CONFIG.audio_dim // CONFIG.audio_heads
        )
        filled = torch.arange(past)[None] >= past - known
        heard = mel[:, 4 * first : 4 * first + 2 * frames + 2]
        features, *new = step(heard, cos, sin, *state, filled)
        made.append(features[:, : end - first])
        kept = 2 * (end - first)
        state = [
            torch.cat([old, one[..., :kept, :]], dim=-2)[..., -old.shape[-2] :, :]
            for old, one in zip(state, new, strict=True)
        ]
        known, first = min(past, known + kept), end
    return torch.cat(made, dim=1), state


@pytest.mark.parametrize("cuts", [[*range(1, 41)], [*range(2, 41, 2)], [1, 4, 5, 13, 14, 22, 37, 40]])
def test_however_speech_is_cut_what_is_heard_is_the_whole_sequence(model, cuts):
    """Features and memory of hops of any sizes equal one pass over everything, to rounding."""
    count, band = 2 * 40, CONFIG.audio_band
    mel = torch.randn(1, 2 * count + 14, CONFIG.mels, generator=torch.Generator().manual_seed(5)) - 6
    features, state = hear(model, mel, cuts)
    padded = torch.cat([torch.full((1, 2, CONFIG.mels), -6.0), mel], dim=1)[:, : 2 * count + 4]
    rotary = rotary_tables(torch.arange(count + 1)[None], CONFIG.audio_dim // CONFIG.audio_heads)
    mask = band_mask(count + 1, 0, band, torch.device("cpu"))
    frames, left = model.audio.run_blocks(padded, rotary, mask, None)
    whole = model.audio.to_features(torch.cat([torch.zeros_like(frames[:, :1]), frames], dim=1))
    torch.testing.assert_close(features, whole, atol=1e-5, rtol=1e-5)
    expected = [torch.stack(part, dim=1)[..., :count, :] for part in zip(*left, strict=True)]
    for made, one, kept in zip(state, expected, (band - 1, band - 1, CONFIG.audio_kernel - 1), strict=False):
        torch.testing.assert_close(made, one[..., -kept:, :], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(state[3], frames[:, count - 1 : count], atol=1e-5, rtol=1e-5)


def test_going_on_from_a_context_equals_hearing_all_of_it(model):
    """An engine starts from a context of the encoder's reach; from there on it hears what training heard."""
    tokens, left = 8, CONFIG.left_audio_frames // 2
    mel = torch.randn(1, 4 * (left + tokens + 2) + 2, CONFIG.mels) - 6
    expected = model.audio(mel[:, : CONFIG.speech_frames(tokens)])
    for later in ([tokens], range(2, tokens + 1, 2), [3, 4, tokens]):
        cuts = [7, left, *(left + end for end in later)]
        features, _ = hear(model, mel, cuts)
        torch.testing.assert_close(features[:, left:], expected, atol=1e-5, rtol=1e-5)


def test_a_feature_hears_twenty_milliseconds_ahead_and_no_further(model):
    mel, *_ = sequence(model, 20)
    left, frame = 2 * CONFIG.left_audio_frames, 8
    end = left + 4 * (frame + 1)
    before = model.audio(mel)[:, frame]
    changed = mel.clone()
    changed[:, end + CONFIG.mel_right :] += 3
    torch.testing.assert_close(model.audio(changed)[:, frame], before)
    changed[:, end + CONFIG.mel_right - 1] += 3
    assert not torch.allclose(model.audio(changed)[:, frame], before)


@pytest.mark.parametrize("hop", [1, 2, 3])
def test_streamed_memory_equals_the_whole_sequence_under_the_same_mask(model, hop):
    """Known frames written hop by hop leave what one pass over everything (same band mask) computes."""
    frames = 30
    mel, upper, shown, identity = sequence(model, frames)
    speech = model.audio(mel)
    blocks = torch.arange(frames) // hop
    level = torch.zeros(1, frames)
    mask = block_mask(blocks, CONFIG.window)
    _, keys, values, gates = model.denoiser(shown, level, speech, upper, identity, tables(0, frames), mask)
    step = StreamingHop(model, steps=1)
    state = initial_state(CONFIG)
    for first in range(0, frames, hop):
        rows = slice(first, first + hop)
        given = model.to_displacement(shown[:, rows])
        state = remember(step, state, first, hop, speech[:, rows], upper[:, rows], identity, given)
    places = torch.arange(frames - CONFIG.window, frames) % CONFIG.window
    for made, whole in zip(state[:2], (keys, values), strict=True):
        torch.testing.assert_close(
            made[..., places, :], whole[..., -CONFIG.window :, :], atol=2e-4, rtol=2e-4
        )
    torch.testing.assert_close(state[2], gates[:, :, 1 - CONFIG.kernel :], atol=2e-4, rtol=2e-4)


def places(first, end):
    """Which places of the memory hold the frames first .. end, at most a window of them."""
    filled = torch.zeros(1, CONFIG.window, dtype=torch.bool)
    filled[:, torch.arange(max(0, first, end - CONFIG.window), end) % CONFIG.window] = True
    return filled


def known_frames(first, speech, upper, given):
    """Inputs that tell of frames that are known, from position ``first`` on."""
    count = speech.shape[1]
    cos, sin = tables(first, count)
    return {
        "known_speech": speech,
        "known_upper": upper,
        "known_cos": cos,
        "known_sin": sin,
        "clean": torch.zeros(1, count, CONFIG.coefficients),
        "given": given,
        "use_given": torch.ones(1, count),
    }


def remember(step, state, first, hop, speech, upper, identity, given):
    """The memory after a hop of given frames, as an engine keeps it."""
    inputs = hop_inputs(tokens=1, position=first + hop) | known_frames(first, speech, upper, given)
    inputs |= dict(zip(("keys", "values", "conv"), state, strict=True)) | {"identity": identity}
    inputs["filled"] = places(0, first)
    _, _, keys, values, gates = step(**inputs)
    written = torch.arange(first, first + hop) % CONFIG.window
    past = [memory.index_copy(3, written, new) for memory, new in zip(state[:2], (keys, values), strict=True)]
    return (*past, torch.cat([state[2], gates], dim=2)[:, :, 1 - CONFIG.kernel :])


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("known", [2, 4, 12, 14, 28])
def test_known_frames_on_their_way_into_the_memory_are_as_good_as_in_it(model, steps, known):
    """A hop whose first pass takes them along samples what one samples that finds them in the memory."""
    hop, tokens = 2, CONFIG.tokens
    mel, upper, shown, identity = sequence(model, known + tokens)
    speech, step = model.audio(mel), StreamingHop(model, steps)
    before = state = initial_state(CONFIG)
    for first in range(0, known, hop):
        rows = slice(first, first + hop)
        given = model.to_displacement(shown[:, rows])
        before, state = (
            state,
            remember(step, state, first, hop, speech[:, rows], upper[:, rows], identity, given),
        )
    rest = slice(known, known + tokens)
    inputs = hop_inputs(tokens=tokens, position=known) | {
        **dict(zip(("keys", "values", "conv"), before, strict=True)),
        **known_frames(known - hop, speech[:, rows], upper[:, rows], given),
        "speech": speech[:, rest],
        "upper": upper[:, rest],
        "identity": identity,
        "filled": places(0, known - hop),
        "kept": places(0, known - hop) & ~places(known - hop, known),
    }
    seen = torch.cat([places(0, known), torch.ones(1, tokens, dtype=torch.bool)], dim=1)[:, None, None]
    told = (speech[:, rest], upper[:, rest], identity, tables(known, tokens))
    expected = model.sample(inputs["noise"], *told, seen, state, steps)
    displacement, coefficients, *_ = step(**inputs)
    torch.testing.assert_close(coefficients, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(displacement, model.to_displacement(expected), atol=1e-4, rtol=1e-4)


def test_a_hop_costs_the_same_however_full_the_memory_is(model):
    """The graph has one shape: what is known is told by a mask, and nothing else of it changes."""
    step = StreamingHop(model, steps=2)
    shapes = []
    for known in (0, CONFIG.window // 2, CONFIG.window):
        inputs = hop_inputs(tokens=4)
        inputs["filled"] = inputs["kept"] = torch.arange(CONFIG.window)[None] < known
        with torch.profiler.profile(record_shapes=True) as profile:
            step(**inputs)
        shapes.append([(event.name, event.input_shapes) for event in profile.events()])
    assert shapes[0] == shapes[1] == shapes[2]


OF_TOKENS = ("speech", "upper", "noise", "cos", "sin")


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_exactly_the_tokens_that_are_wanted_give_what_padding_gives(model, steps):
    step = StreamingHop(model, steps)
    inputs = hop_inputs(tokens=3)
    padded = step(**inputs)
    for name in OF_TOKENS:
        inputs[name] = inputs[name][:, :3]
    exact = step(**inputs)
    for new, old in zip(exact[:2], padded[:2], strict=True):
        torch.testing.assert_close(new, old[:, :3])
    for new, old in zip(exact[2:], padded[2:], strict=True):
        torch.testing.assert_close(new, old)


def hop_inputs(tokens, position=2, seed=3):
    """Inputs of T tokens, of which ``tokens`` count, after two known frames and an empty memory."""
    generator = torch.Generator().manual_seed(seed)
    count, known = CONFIG.tokens if tokens > 1 else 1, 2
    cos, sin = tables(position, count)
    nothing = torch.zeros(1, CONFIG.window, dtype=torch.bool)

    def normal(*shape):
        return torch.randn(1, *shape, generator=generator)

    return {
        "speech": normal(count, CONFIG.audio_dim),
        "upper": normal(count, CONFIG.upper),
        "identity": normal(CONFIG.identity),
        "noise": normal(count, CONFIG.coefficients),
        "cos": cos,
        "sin": sin,
        "tokens": torch.tensor([tokens]),
        **dict(zip(("keys", "values", "conv"), initial_state(CONFIG), strict=True)),
        "filled": nothing,
        "kept": nothing,
        "ready": torch.tensor([True]),
        **known_frames(
            position - known,
            normal(known, CONFIG.audio_dim),
            normal(known, CONFIG.upper),
            0.1 * normal(known, CONFIG.compact * 3),
        ),
    }


def test_padding_tokens_change_nothing(model):
    step = StreamingHop(model, steps=2)
    inputs = hop_inputs(tokens=4)
    before = step(**inputs)
    for name in ("speech", "upper", "noise"):
        inputs[name] = inputs[name].clone()
        inputs[name][:, 4:] += 5
    after = step(**inputs)
    for old, new in zip(before[:2], after[:2], strict=True):
        torch.testing.assert_close(new[:, :4], old[:, :4])
    for old, new in zip(before[2:], after[2:], strict=True):
        torch.testing.assert_close(new, old)


def test_code_of_displacements_round_trips(model):
    coefficients = torch.randn(5, CONFIG.coefficients)
    torch.testing.assert_close(
        model.to_coefficients(model.to_displacement(coefficients)), coefficients, atol=1e-4, rtol=1e-4
    )


def test_noise_schedule_keeps_unit_variance():
    alpha, sigma = noise_schedule(torch.linspace(0, 1, 11))
    torch.testing.assert_close(alpha.square() + sigma.square(), torch.ones(11))
    assert alpha[0] == 1
    assert sigma[0] == 0


def test_appearance_sees_neither_the_current_mouth_nor_the_references_surroundings():
    torch.manual_seed(0)
    hidden = torch.zeros(256, 256)
    hidden[110:240, 60:190] = 1
    model = AppearanceModel(AppearanceConfig(), hidden).eval()
    faces, references = torch.rand(2, 3, 256, 256), torch.rand(2, 3, 3, 256, 256)
    face, lips = model.encode_face(window_px(faces))[0], model.encode_lips(window_px(references))[0]
    other_mouth = torch.where(hidden > 0, torch.rand(2, 3, 256, 256), faces)
    other_surroundings = torch.where(hidden > 0, references, torch.rand(2, 3, 3, 256, 256))
    torch.testing.assert_close(model.encode_face(window_px(other_mouth))[0], face)
    torch.testing.assert_close(model.encode_lips(window_px(other_surroundings))[0], lips)
    latents = model.latent(lips, face, window_px(references))
    drawn, seen = torch.rand(2, 3, 256, 256), torch.randint(0, 256, (2, 3, 3, 480, 528), dtype=torch.uint8)
    pictures = AppearanceDecoder(model)(drawn, latents, seen, torch.zeros(2, 3, 2, *flow_shape()))
    assert pictures.shape == (2, 256, 256, 3)
    assert pictures.dtype == torch.uint8


def test_references_are_taken_from_where_the_flow_points():
    torch.manual_seed(0)
    model = AppearanceModel(AppearanceConfig(), torch.ones(256, 256)).eval()
    with torch.no_grad():
        model.decoder.warp.head.bias.zero_()[9] = -30.0  # nothing of the base
    torch.nn.init.zeros_(model.decoder.out.conv.weight)
    torch.nn.init.zeros_(model.decoder.out.conv.bias)
    coarse = torch.rand(1, 3, 10, 11)
    reference = torch.nn.functional.interpolate(coarse, scale_factor=16, mode="bicubic")[None]
    references = reference.expand(1, 3, -1, -1, -1)
    flows = torch.zeros(1, 3, 2, *flow_shape())
    flows[:, :, 0] = 8.0
    latents = torch.zeros(1, AppearanceConfig().app + 48, 40, 44)
    picture = model.decode(torch.zeros(1, 3, 160, 176), latents, references, flows)
    inside = (slice(24, 136), slice(32, 144))
    moved = reference[0, 0][:, inside[0], inside[1].start + 8 : inside[1].stop + 8]
    torch.testing.assert_close(picture[0][:, *inside], moved, atol=0.01, rtol=0)


def test_identity_is_a_unit_vector_and_arcface_learns_to_tell_two_people_apart():
    torch.manual_seed(0)
    model, head = IdentityExtractor(12, 16, 8), ArcFace(8, 2)
    people = torch.randn(2, 12, 2)
    optimiser = torch.optim.Adam([*model.parameters(), *head.parameters()], lr=1e-2)
    labels = torch.arange(2).repeat(8)
    first = last = 0.0
    for step in range(60):
        loss = head(model(people[labels] + 0.1 * torch.randn(16, 12, 2)), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        value = float(loss.detach())
        first, last = (value if step == 0 else first), value
    assert last < 0.2 * first
    torch.testing.assert_close(model(people).norm(dim=-1), torch.ones(2))
