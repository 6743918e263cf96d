"""Sizes: Table 9's counts, configs from TOML, and what cannot be built is refused in one line."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test installs it)")

from mytalk.errors import BadInput  # noqa: E402
from mytalk.models.appearance import AppearanceModel  # noqa: E402
from mytalk.models.paper_appearance import PaperAppearance  # noqa: E402
from mytalk.models.sizes import (  # noqa: E402
    BASE,
    PAPER,
    SIZES,
    TINY,
    build_appearance,
    build_arcface,
    build_discriminator,
    build_identity,
    build_motion,
    count_parameters,
    load_size,
    size_from_mapping,
    with_layout,
)

TABLE_9 = {
    "audio_encoder": (24.6e6, 0.02),
    "audio_downsample": (786e3, 0.01),
    "identity_extractor": (4.3e6, 0.01),
    "conformer_backbone": (188e6, 0.02),
    "lip_encoder": (237e6, 0.01),
    "non_lip_encoder": (237e6, 0.01),
    "landmark_encoder": (237e6, 0.01),
    "fusion_net": (4.8e6, 0.01),
    "appearance_quant": (42, 0),
    "landmark_quant": (42, 0),
    "joint_quant": (21, 0),
    "post_quant": (12, 0),
    "decoder": (280e6, 0.01),
    "discriminator": (17.5e6, 0.01),
    "total": (1.23e9, 0.01),
}


def test_paper_size_counts_what_table_9_prints():
    counts = count_parameters(PAPER)
    assert list(counts) == list(TABLE_9)
    for component, (published, tolerance) in TABLE_9.items():
        assert counts[component] == pytest.approx(published, rel=tolerance, abs=0), component


def test_base_lies_between_and_every_total_is_the_sum():
    totals = {}
    for name, size in SIZES.items():
        counts = count_parameters(size)
        totals[name] = counts.pop("total")
        assert totals[name] == sum(counts.values())
    assert totals["tiny"] < totals["base"] < totals["paper"]
    base = count_parameters(BASE)
    appearance = sum(base[part] for part in ("lip_encoder", "non_lip_encoder", "landmark_encoder", "decoder"))
    assert 60e6 < appearance < 150e6


def test_counting_makes_no_weights(monkeypatch):
    made = []
    real = torch.empty

    def watched(*args, **kwargs):
        tensor = real(*args, **kwargs)
        made.append(tensor.device.type)
        return tensor

    monkeypatch.setattr(torch, "empty", watched)
    count_parameters(BASE)
    assert set(made) == {"meta"}


def test_a_toml_file_starts_from_a_size_and_changes_what_it_says(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(
        'size = "base"\nlayout = "dense669"\n[motion]\nlayers = 2\ndropout = 0\n'
        "[appearance]\npicture = 512\nmultiples = [1, 2]\n"
    )
    size = load_size(str(path))
    assert size.motion.layers == 2
    assert size.motion.dropout == 0.0
    assert size.motion.dim == BASE.motion.dim
    assert (size.motion.compact, size.motion.coordinates, size.identity.points) == (411, 2, 669)
    assert size.appearance.picture == 512
    assert size.appearance.multiples == (1, 2)
    assert size.appearance.stride == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sise = 'tiny'", "unknown setting 'sise'"),
        ("size = 'huge'", "unknown size 'huge'"),
        ("layout = 'dense70'", "unknown landmark layout"),
        ("[motion]\nlayer = 2", "unknown setting 'layer' in motion"),
        ("[motion]\nlayers = 2.5", "motion.layers must be a int"),
        ("[motion]\nlayers = true", "motion.layers must be a int"),
        ("[motion]\nlayers = -1", "must not be negative"),
        ("[motion]\ncondition = 'name'", "condition must be one of"),
        ("[motion]\ncompact = 12", "motion.compact is 12, but must be 178"),
        ("[identity]\nembedding = 32", "motion.identity is 64, but must be 32"),
        ("motion = 3", "motion must be a table"),
        ("size = 'base'\n[appearance]\nwidth = 20", "multiples of 32"),
        ("size = 'base'\n[appearance]\nreferences = 'none'", "references must be one of"),
        ("size = 'base'\n[appearance]\nmultiples = [1, 0]", "whole numbers above 0"),
        ("size = [", "run.toml"),
    ],
)
def test_what_cannot_be_built_is_refused(tmp_path, text, message):
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(BadInput, match=r"run\.toml") as caught:
        load_size(str(path))
    assert message in str(caught.value)


def test_a_missing_file_and_an_unknown_name_are_refused(tmp_path):
    with pytest.raises(BadInput, match="unknown size"):
        load_size("gigantic")
    with pytest.raises(BadInput, match=r"none\.toml"):
        load_size(str(tmp_path / "none.toml"))


def test_a_raw_code_follows_the_layout():
    size = with_layout(PAPER, "mediapipe478")
    assert size.motion.coefficients == 178 * 3
    assert size.motion.key_points == size.identity.points == 478
    assert with_layout(size, "dense669") == PAPER
    assert size_from_mapping({"size": "paper", "layout": "mediapipe478"}) == size


def test_every_part_is_built_from_the_size():
    size = size_from_mapping(
        {
            "size": "paper",
            "motion": {"dim": 32, "heads": 2, "layers": 1, "hidden": 32, "audio_dim": 32, "mlp_hidden": 16},
            "appearance": {"picture": 64, "width": 32, "blocks": 1, "multiples": [1, 1], "fusion_width": 32},
            "discriminator": {"width": 8},
        }
    )
    appearance = build_appearance(size, torch.zeros(256, 256))
    assert isinstance(appearance, PaperAppearance)
    assert appearance.hidden.shape == (64, 64)
    assert isinstance(build_appearance(TINY, torch.zeros(256, 256)), AppearanceModel)
    assert build_motion(size).denoiser.config == size.motion
    assert build_identity(size)(torch.randn(2, 669, 2)).shape == (2, 512)
    assert build_arcface(size, 7).centres.shape == (7, 512)
    for chosen, pixels in ((size, 64), (TINY, 64)):
        assert build_discriminator(chosen)(torch.rand(2, 3, pixels, pixels)).shape[:2] == (2, 1)
