"""What ships: weights and actors load, fit together, and stay small."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mytalk.actors.actor import list_actors, load_actor
from mytalk.engines import default_bundle, load_engine
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
        path for folder in ("weights", "actors") for path in (ROOT / folder).rglob("*") if path.is_file()
    ]
    assert sum(path.stat().st_size for path in shipped) <= MAX_BYTES
    card = (default_bundle() / "MODEL_CARD.md").read_text()
    for word in ("GRID", "CC BY 4.0", "ICT-FaceKit", "training.evaluate", "mouth-opening correlation"):
        assert word in card
