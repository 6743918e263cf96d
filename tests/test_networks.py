"""Scoring networks with small or random weights: equal pictures are equal, and bad files are one line."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test installs it)")
onnx = pytest.importorskip("onnx", reason="onnx is not installed (make test installs it)")

from mytalk.errors import BadInput  # noqa: E402
from training.networks import (  # noqa: E402
    ALEX,
    ALEX_NAMES,
    FaceEmbedder,
    FidFeatures,
    Lpips,
    frechet_distance,
)


def pictures(count: int, seed: int, side: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def random_alexnet(path):
    generator, weights = torch.Generator().manual_seed(0), {}
    for name, (into, out, kernel, _, _) in zip(ALEX_NAMES, ALEX, strict=True):
        weights[f"{name}.weight"] = 0.05 * torch.randn(out, into, kernel, kernel, generator=generator)
        weights[f"{name}.bias"] = torch.zeros(out)
    torch.save(weights | {"classifier.1.weight": torch.zeros(2, 2)}, path)
    return path


def test_lpips_is_zero_for_equal_pictures_and_grows_with_the_difference(tmp_path):
    score, true = Lpips(random_alexnet(tmp_path / "alex.pth")), pictures(3, 0)
    near = np.clip(true.astype(np.int16) + 6, 0, 255).astype(np.uint8)
    assert score(true, true) == pytest.approx(0, abs=1e-7)
    assert 0 < score(near, true) < score(pictures(3, 1), true)


def test_frechet_distance_of_known_gaussians():
    random = np.random.default_rng(0)
    a = random.standard_normal((20_000, 3)).astype(np.float32)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a, a + np.array([3, 0, 4], np.float32)) == pytest.approx(25, abs=0.01)
    # N(0, 1) against N(0, 4) in each of three directions: 3 · (1 + 4 − 2 · 2)
    assert frechet_distance(a, 2 * a) == pytest.approx(3, abs=0.1)


# A script of one's own is what the well-known file is; torch warns that it will go.
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_fid_features_come_from_a_script_with_and_without_the_option(tmp_path):
    class Pool(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.float().mean(dim=(2, 3))

    path = tmp_path / "inception.pt"
    torch.jit.script(Pool()).save(str(path))
    got = FidFeatures(path)(pictures(20, 0))
    np.testing.assert_allclose(got, pictures(20, 0).mean(axis=(1, 2)), rtol=1e-4)


def test_identity_is_the_cosine_of_face_embeddings(tmp_path):
    from onnx import TensorProto, helper

    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["p"]), helper.make_node("Flatten", ["p"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 3, 112, 112])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "face.onnx"
    onnx.save(model, str(path))
    face = FaceEmbedder(path)
    red, green, dark = (
        np.full((2, 112, 112, 3), colour, np.uint8)
        for colour in ((255, 127, 127), (127, 255, 127), (0, 127, 127))
    )
    assert face.similarity(red, red) == pytest.approx(1, abs=1e-5)
    assert face.similarity(red, green) == pytest.approx(0, abs=0.02)
    assert face.similarity(red, dark) == pytest.approx(-1, abs=0.01)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("load", [Lpips, FidFeatures, FaceEmbedder])
def test_missing_and_damaged_weights_are_one_line(load, tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        load(tmp_path / "none")
    bad = tmp_path / "bad"
    bad.write_bytes(b"not weights")
    with pytest.raises(BadInput, match="not "):
        load(bad)
