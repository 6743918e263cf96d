"""What ships: weights and actors load, fit together, and stay small."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from export.parity import LIMITS
from mytalk.actors.actor import list_actors, load_actor
from mytalk.engines import default_bundle, load_engine
from mytalk.engines.bundle import HALF_DECODER, INT8_DECODER, read_manifest
from mytalk.engines.warm import Exercise
from mytalk.render.renderer import check_fit

ROOT = Path(__file__).parents[1]
MAX_BYTES = 40_000_000


def test_every_bundled_actor_loads_and_fits_the_bundled_weights() -> None:
    engine = load_engine("auto", default_bundle(), threads=1)
    found = list_actors([ROOT / "actors"])
    assert [info.name for info in found] == ["ada", "ben", "cleo"]
    for info in found:
        actor = load_actor(info.folder)
        check_fit(engine, actor.layout)
        assert "ICT-FaceKit" in actor.card.licence
        assert actor.references.pictures.shape == (3, 256, 256, 3)
        assert np.isfinite(actor.upper).all()
        assert actor.upper.shape == (actor.card.frames, engine.spec.upper)


def test_what_ships_is_small_and_says_what_it_is() -> None:
    shipped = [
        path
        for folder in ("weights", "actors", "docs/gallery")
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
    ]
    assert sum(path.stat().st_size for path in shipped) <= MAX_BYTES
    card = (default_bundle() / "MODEL_CARD.md").read_text()
    manifest = read_manifest(default_bundle())
    assert f"`{manifest['spec']['weights_id']}`" in card, "python -m export update writes it there"
    for word in ("GRID", "CC BY 4.0", "ICT-FaceKit", "training.evaluate", "mouth-opening correlation"):
        assert word in card


def test_every_precision_ships_and_was_proved() -> None:
    manifest = read_manifest(default_bundle())
    assert manifest["precisions"] == ["fp32", "fp16", "int8"]
    assert {HALF_DECODER, INT8_DECODER} <= set(manifest["files"])
    proved = manifest["parity"]["engines"]
    for name in ("onnx-fp32", "onnx-fp16", "onnx-int8", "openvino-int8"):
        limit = LIMITS[proved[name]["precision"]]
        assert proved[name]["landmark_px"] <= limit.landmark_px
        assert proved[name]["picture_db"] >= limit.picture_db


def test_the_shipped_float16_decoder_makes_the_same_pictures() -> None:
    plain, half = (load_engine(f"onnx-{name}", default_bundle(), threads=1) for name in ("fp32", "fp16"))
    shown = [Exercise(engine, 1).decode(1).astype(np.float64) for engine in (plain, half)]
    error = np.square(shown[0] - shown[1]).mean()
    assert 0 < error < 255**2 / 10**4, "at least 40 dB, and not the same file"
