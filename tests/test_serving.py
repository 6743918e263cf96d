"""Encoders and decoder of every size go through ONNX with a free batch size."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test installs it)")

import onnxruntime  # noqa: E402

from export.onnx import export_appearance, round_to_half  # noqa: E402
from mytalk.landmarks.warp import fine_shape  # noqa: E402
from mytalk.models.autoencoder import AutoencoderConfig  # noqa: E402
from mytalk.models.paper_appearance import PaperAppearance  # noqa: E402
from mytalk.models.serving import (  # noqa: E402
    appearance_from,
    decoder_of,
    encoders_of,
    latent_shape,
    picture_side,
)
from mytalk.render.compose import hidden_mask  # noqa: E402

SMALL = AutoencoderConfig(picture=64, width=32, blocks=1, fusion_width=32, fusion_blocks=1)


@pytest.mark.parametrize("references", ["masked_multi", "masked_single"])
def test_a_paper_shaped_model_is_the_same_in_onnx_at_any_batch(tmp_path, references):
    torch.manual_seed(0)
    config = AutoencoderConfig(
        **{name: getattr(SMALL, name) for name in SMALL.__slots__} | {"references": references}
    )
    model = PaperAppearance(config, torch.from_numpy(hidden_mask())).eval()
    round_to_half(model)
    export_appearance(model, tmp_path)
    random = np.random.default_rng(0)
    seen = random.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    encode, decode = (
        onnxruntime.InferenceSession(tmp_path / f"{name}.onnx") for name in ("encode", "decode")
    )
    for count in (1, 3):
        faces = random.integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)
        latents = encode.run(None, {"references": seen, "faces": faces})[0]
        assert latents.shape == (count, *latent_shape(model))
        given = {
            "landmark_images": random.random((count, 3, 64, 64), dtype=np.float32),
            "latents": latents,
            "references": np.zeros((count, 3, *fine_shape()), np.uint8),
            "flows": np.zeros((count, 3, 2, 36, 36), np.float32),
        }
        pictures = decode.run(None, given)[0]
        assert pictures.shape == (count, 64, 64, 3)
        with torch.no_grad():
            wanted = encoders_of(model)(torch.from_numpy(seen), torch.from_numpy(faces))
            shown = decoder_of(model)(*(torch.from_numpy(array) for array in given.values()))
        np.testing.assert_allclose(latents, wanted.numpy(), atol=1e-4)
        assert np.abs(pictures.astype(int) - shown.numpy()).max() <= 1


def test_the_kind_of_model_is_told_by_its_config():
    hidden = torch.from_numpy(hidden_mask())
    values = {name: getattr(SMALL, name) for name in SMALL.__slots__}
    paper = appearance_from(values | {"multiples": [1, 2, 4]}, hidden)  # as JSON gives it back
    assert (latent_shape(paper), picture_side(paper)) == ((3, 16, 16), 64)
    tiny = appearance_from({"app": 8}, hidden)
    assert (latent_shape(tiny), picture_side(tiny)) == ((56, 40, 44), 256)
    with pytest.raises(TypeError):
        appearance_from({"nothing": 1}, hidden)
