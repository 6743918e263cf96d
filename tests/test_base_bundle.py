"""A bundle in the shape of ``base``: checkpoints, export, parity, engines, a session that speaks."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test installs it)")

from export import __main__ as cli  # noqa: E402
from export.parity import load_material  # noqa: E402
from mytalk.actors.actor import load_actor  # noqa: E402
from mytalk.config import SessionConfig  # noqa: E402
from mytalk.engines import load_engine  # noqa: E402
from mytalk.engines.bundle import read_manifest  # noqa: E402
from mytalk.models.checkpoint import save_checkpoint  # noqa: E402
from mytalk.models.paper_appearance import PaperAppearance  # noqa: E402
from mytalk.models.sizes import build_appearance, build_identity, build_motion, size_from_mapping  # noqa: E402
from mytalk.render.compose import hidden_mask  # noqa: E402
from mytalk.render.renderer import Renderer  # noqa: E402
from mytalk.session import TalkSession  # noqa: E402
from mytalk.video.planar import rgb_of  # noqa: E402
from tests.fakes import voice  # noqa: E402
from tests.small_actor import write_small_actor  # noqa: E402

SMALL_BASE = {
    "size": "base",
    "motion": {
        "dim": 24,
        "heads": 2,
        "layers": 2,
        "hidden": 32,
        "identity": 16,
        "coefficients": 8,
        "audio_dim": 16,
        "audio_heads": 2,
        "audio_layers": 1,
        "audio_hidden": 16,
        "mlp_hidden": 16,
        "window": 48,
    },
    "identity": {"hidden": 16, "embedding": 16, "layers": 1},
    # GroupNorm, attention and down-sampling as in base; four levels leave attention 32×32 places
    "appearance": {
        "width": 32,
        "multiples": [1, 1, 1, 1],
        "blocks": 1,
        "fusion_width": 32,
        "fusion_blocks": 1,
    },
}


def write_runs(folder):
    """Random checkpoints of both models, as the trainers leave them."""
    torch.manual_seed(0)
    size = size_from_mapping(SMALL_BASE)
    motion, identity = build_motion(size), build_identity(size)
    motion.basis.normal_(0, 0.02)
    motion.inverse.normal_(0, 0.5)
    appearance = build_appearance(size, torch.from_numpy(hidden_mask()))
    assert isinstance(appearance, PaperAppearance)
    parts = {"average": motion.state_dict(), "identity": identity.state_dict(), "minutes": 0.0}
    told = json.dumps(asdict(size.identity))
    save_checkpoint(folder / "motion" / "last.pt", 1, size.motion, parts | {"identity_config": told})
    pictures = {"average": appearance.state_dict(), "minutes": 0.0}
    save_checkpoint(folder / "appearance" / "last.pt", 1, size.appearance, pictures)
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    short = load_material(chunks=6, pictures=1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cli, "load_material", lambda *_: short)
        runs, out = write_runs(folder / "runs"), folder / "bundle"
        given = ["--checkpoint", str(runs), "--steps", "1", "--step-counts", "1", "--out", str(out)]
        assert cli.main(given) == 0
    return out


def test_its_manifest_tells_what_it_is_and_that_it_agrees(bundle):
    manifest = read_manifest(bundle)
    assert manifest["configs"]["appearance"]["multiples"] == [1, 1, 1, 1]
    assert manifest["precisions"] == ["fp32", "fp16"]
    assert set(manifest["parity"]["engines"]) == {"onnx-fp32", "onnx-fp16"}
    assert manifest["shapes"]["encode"]["outputs"]["latents"] == ["batch", 3, 32, 32]


def test_int8_is_refused_in_one_line_and_the_bundle_stays(bundle, tmp_path, capsys):
    calibration = tmp_path / "frames.npz"
    calibration.write_bytes(b"")
    assert cli.main(["update", str(bundle), "--calibrate", str(calibration)]) == 1
    assert "int8 is for the size tiny" in capsys.readouterr().err
    read_manifest(bundle)


@pytest.mark.parametrize("name", ["onnx", "torch"])
def test_a_session_speaks_with_it(name, bundle, tmp_path):
    engine = load_engine(name, bundle, threads=1)
    renderer = Renderer(engine, load_actor(write_small_actor(tmp_path / "actor", 2)), clock=time.monotonic)
    renderer.prepare()
    now = 0.0
    session = TalkSession(
        renderer.view, engine.spec, renderer.initial_state(), SessionConfig(), seed=1, now=now
    )
    session.receive_speech(voice(0.4), 48_000, now=now, live=False)
    session.end_of_speech(now)
    spoken = []
    while len(spoken) < 10 and now < 5.0:
        while (job := session.next_job()) is not None:
            session.complete(job, renderer.execute(job), now)
        now = max(now, session.next_due())
        spoken += [slice_ for slice_ in session.slices_due(now) if slice_.speech_sample is not None]
    stats = session.stats()
    session.close()
    assert len(spoken) == 10
    assert stats.late == 0
    source = load_actor(tmp_path / "actor").frames[0]
    shown = rgb_of(spoken[5].picture).astype(int)
    changed = np.abs(shown - source).max(axis=-1) > 8
    assert 0.02 < changed.mean() < 0.7, "the mouth is painted, the rest is the actor's own"
