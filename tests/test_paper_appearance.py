"""The paper-shaped appearance model at reduced width: shapes, gradients, what each encoder may see."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test installs it)")

from mytalk.errors import BadInput  # noqa: E402
from mytalk.models.autoencoder import (  # noqa: E402
    AutoencoderConfig,
    Decoder,
    Encoder,
    sample_posterior,
    split_moments,
)
from mytalk.models.discriminator import DiscriminatorConfig, PatchGan  # noqa: E402
from mytalk.models.paper_appearance import PaperAppearance  # noqa: E402

CONFIG = AutoencoderConfig(
    picture=32, width=32, multiples=(1, 2, 2), blocks=1, fusion_width=32, fusion_blocks=1
)


def mask(size=32):
    hidden = torch.zeros(size, size)
    hidden[size // 2 :, size // 4 : 3 * size // 4] = 1
    return hidden


def make(**changes):
    torch.manual_seed(0)
    return PaperAppearance(replace(CONFIG, **changes), mask())


@pytest.mark.parametrize("references", ["masked_multi", "masked_single", "full_single"])
def test_a_training_step_reaches_every_parameter(references):
    model = make(references=references, recompute=True).train()
    count = model.config.reference_count
    pictures = torch.rand(2, 3, 32, 32)
    lips, lip_logvar = model.encode_lips(torch.rand(2, count, 3, 32, 32))
    face, face_logvar = model.encode_face(pictures)
    motion, motion_logvar = model.encode_landmarks(torch.rand(2, 3, 32, 32))
    assert lips.shape == lip_logvar.shape == (2, 3 * count, 8, 8)
    assert face.shape == motion.shape == (2, 3, 8, 8)
    latents = model.latent(sample_posterior(lips, lip_logvar), sample_posterior(face, face_logvar))
    assert latents.shape == (2, 3, 8, 8)
    made = model.decode_latents(latents, sample_posterior(motion, motion_logvar))
    assert made.shape == pictures.shape
    (made - pictures).abs().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_recomputed_activations_give_the_same_gradients():
    pictures = torch.rand(1, 3, 32, 32)
    gradients = []
    for recompute in (False, True):
        model = make(recompute=recompute).train()
        model.decode(pictures, torch.zeros(1, 3, 8, 8)).square().mean().backward()
        gradients.append([p.grad.clone() for p in model.landmark_encoder.parameters()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain)


def test_encoders_see_neither_the_current_mouth_nor_the_references_surroundings():
    model = make().eval()
    faces, references, other = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 3, 32, 32), torch.rand(1, 3, 32, 32)
    hidden = model.hidden > 0
    face, lips = model.encode_face(faces)[0], model.encode_lips(references)[0]
    torch.testing.assert_close(model.encode_face(torch.where(hidden, other, faces))[0], face)
    torch.testing.assert_close(model.encode_lips(torch.where(hidden, references, other[:, None]))[0], lips)
    assert not torch.allclose(model.encode_face(torch.where(hidden, faces, other))[0], face)
    assert not torch.allclose(model.encode_lips(torch.where(hidden, other[:, None], references))[0], lips)


def test_a_full_reference_is_seen_whole():
    model = make(references="full_single").eval()
    reference = torch.rand(1, 1, 3, 32, 32)
    elsewhere = torch.where(model.hidden > 0, reference, torch.rand_like(reference))
    assert not torch.allclose(model.encode_lips(elsewhere)[0], model.encode_lips(reference)[0])


def test_decode_is_its_two_halves_and_the_landmarks_matter():
    model = make().eval()
    drawn, latents = torch.rand(2, 3, 32, 32), torch.randn(2, 3, 8, 8)
    made = model.decode(drawn, latents)
    torch.testing.assert_close(made, model.decode_latents(latents, model.encode_landmarks(drawn)[0]))
    assert not torch.allclose(made, model.decode(drawn.flip(-1), latents))


def test_the_same_weights_take_larger_pictures():
    model = PaperAppearance(replace(CONFIG, picture=64), mask())
    assert model.hidden.shape == (64, 64)
    assert set(model.hidden.unique().tolist()) == {0.0, 1.0}
    model.load_state_dict({**make().state_dict(), "hidden": model.hidden})
    assert model.encode_face(torch.rand(1, 3, 64, 64))[0].shape == (1, 3, 16, 16)


def test_levels_set_the_stride_and_the_decoder_has_one_block_more_per_level():
    config = AutoencoderConfig(picture=32, width=32, multiples=(1, 2), blocks=2)
    moments = Encoder(config)(torch.rand(1, 3, 32, 32))
    mean, logvar = split_moments(moments * 1e3)
    assert mean.shape == (1, 3, 16, 16)
    assert logvar.abs().max() <= 30
    assert Decoder(config)(mean).shape == (1, 3, 32, 32)

    def blocks(network):
        return sum(type(layer).__name__ == "ResnetBlock" for layer in network)

    assert blocks(Encoder(config)) == 2 * 2 + 2
    assert blocks(Decoder(config)) == 2 * 3 + 2


def test_pictures_that_do_not_fit_the_stride_are_refused():
    with pytest.raises(BadInput, match="multiple of 4"):
        AutoencoderConfig(picture=250)


def test_discriminator_judges_patches_and_trains():
    torch.manual_seed(0)
    judge = PatchGan(DiscriminatorConfig(width=8))
    real, made = torch.full((2, 3, 64, 64), 0.8), torch.full((2, 3, 64, 64), 0.2)
    assert judge(real).shape == (2, 1, 6, 6)
    optimiser = torch.optim.Adam(judge.parameters(), lr=1e-3)
    for _ in range(20):
        verdict = judge(torch.cat([real, made]))
        loss = torch.relu(1 - verdict[:2]).mean() + torch.relu(1 + verdict[2:]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    verdict = judge(torch.cat([real, made]))
    assert verdict[:2].mean() > verdict[2:].mean()


def test_paper_size_shapes_on_the_meta_device():
    """Full width, 256 and 512 pixels: latents at a quarter of the side, 3 channels; nothing allocated."""
    for pixels in (256, 512):
        with torch.device("meta"):
            model = PaperAppearance(AutoencoderConfig(picture=pixels), torch.zeros(pixels, pixels)).eval()
            pictures = torch.zeros(1, 3, pixels, pixels)
            lips = model.encode_lips(pictures[:, None].expand(-1, 3, -1, -1, -1))[0]
            latents = model.latent(lips, model.encode_face(pictures)[0])
            made = model.decode(pictures, latents)
        assert lips.shape == (1, 9, pixels // 4, pixels // 4)
        assert latents.shape == (1, 3, pixels // 4, pixels // 4)
        assert made.shape == pictures.shape
