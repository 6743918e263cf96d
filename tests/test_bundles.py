"""The shipped bundle in the place of runs: what export and the motion trainer read from it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test installs it)")
pytest.importorskip("lightning_fabric", reason="lightning-fabric is not installed (make test installs it)")

from export.bundle import load_trained  # noqa: E402
from mytalk.engines import default_bundle, load_engine  # noqa: E402
from mytalk.errors import BadInput  # noqa: E402
from mytalk.landmarks.layout import load_layout  # noqa: E402
from training.bundles import bundle_as_run, extractor_of, is_bundle  # noqa: E402
from training.identity import load_identity  # noqa: E402

SHIPPED = default_bundle()


def test_export_reads_a_bundle_s_models_as_if_they_were_runs(tmp_path):
    folders = [bundle_as_run(SHIPPED, part, tmp_path / part) for part in ("motion", "appearance")]
    trained = load_trained(*(folder / "last.pt" for folder in folders))
    told = json.loads((SHIPPED / "manifest.json").read_text())["training"]
    assert trained.runs["motion"]["step"] == told["motion"]["step"] > 0
    assert trained.runs["appearance"]["minutes"] == told["appearance"]["minutes"] > 0
    assert is_bundle(SHIPPED)
    assert not is_bundle(folders[0])


def test_a_bundle_s_extractor_embeds_as_the_engine_does():
    extractor, config = load_identity(SHIPPED)
    face = load_layout().template[:, :2] * 1.05
    ours = extractor(torch.from_numpy(face[None].astype(np.float32)))[0].numpy()
    theirs = load_engine("onnx-fp32", SHIPPED, threads=1).identity(np.ascontiguousarray(face, np.float32))
    assert config.embedding == len(ours)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert not any(parameter.requires_grad for parameter in extractor.parameters())


def test_a_damaged_bundle_is_one_line(tmp_path):
    copy = tmp_path / "bundle"
    shutil.copytree(SHIPPED, copy)
    (copy / "identity.safetensors").write_bytes(b"nothing")
    with pytest.raises(BadInput, match=r"identity\.safetensors"):
        extractor_of(copy)
