"""Tuning on a small random bundle: what it learns, when it stops, and that nothing half-made is left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test installs it)")

from mytalk.actors.actor import load_actor  # noqa: E402
from mytalk.actors.tuned import TunedDecoder  # noqa: E402
from mytalk.engines import load_engine  # noqa: E402
from mytalk.engines.bundle import appearance_id, read_manifest  # noqa: E402
from mytalk.engines.torch import load_modules  # noqa: E402
from mytalk.errors import BadInput, MyTalkError  # noqa: E402
from training import tune  # noqa: E402
from training.tune import PARTS, Tail, TuneRun, adapt, prove  # noqa: E402
from training.tune_data import Person, person_of_actor  # noqa: E402

ADA = Path(__file__).resolve().parents[1] / "actors" / "ada"


def first(person: Person, count: int, every: int = 1) -> Person:
    part = slice(0, count * every, every)
    return replace(
        person,
        crops=person.crops[part],
        points=person.points[part],
        opening=person.opening[part],
        frames=person.frames[part],
    )


@pytest.fixture(scope="module")
def person() -> Person:
    return first(person_of_actor(load_actor(ADA)), 60)


def small_run(**changes) -> TuneRun:
    run = TuneRun(check_steps=2, patience=50, least_gain_db=0.001)
    runner = {"learning_rate": 5e-4, "steps": 6}
    runner |= {name: changes.pop(name) for name in runner if name in changes}
    return replace(
        run,
        data=replace(run.data, clips=1, targets=2),
        runner=replace(run.runner, schedule="constant", warmup_steps=1, **runner),
        **changes,
    )


def test_a_person_gets_a_better_decoder_that_every_engine_takes(small_bundle, person):
    told = []
    tuning = adapt(small_bundle, person, small_run(), lambda *progress: told.append(progress))
    assert told == [(tune.STAGE, done, 6) for done in range(1, 7)]
    figures, tuned = tuning.figures, tuning.decoder
    assert tuned is not None
    assert figures.lip_psnr_after_db > figures.lip_psnr_before_db
    assert 0 < figures.steps <= 6
    assert tuned.appearance_id == appearance_id(read_manifest(small_bundle))
    assert all(name.startswith(PARTS) for name in tuned.tensors)
    assert all(tensor.dtype == np.float16 for tensor in tuned.tensors.values())
    base = load_modules(small_bundle, read_manifest(small_bundle))["decode"].model.state_dict()
    assert any(np.abs(base[name].numpy() - tensor).max() > 1e-4 for name, tensor in tuned.tensors.items())
    engine = load_engine("onnx-fp32", small_bundle, 1)
    engine.load_decoder(tuned)


def test_the_same_seed_gives_the_same_weights(small_bundle, person, monkeypatch):
    monkeypatch.setattr(tune, "ENGINES", ["onnx-fp32"])
    one, two = (adapt(small_bundle, person, small_run()).decoder for _ in range(2))
    assert one is not None
    assert two is not None
    assert one.digest == two.digest


def test_what_brings_nothing_is_thrown_away(small_bundle, person):
    tuning = adapt(small_bundle, person, small_run(learning_rate=0.0))
    assert tuning.decoder is None
    assert tuning.figures.steps == 0
    assert str(tuning).startswith("tuning brought nothing, left untuned")


def test_it_stops_when_the_tail_gets_no_better_and_when_time_is_up(small_bundle, person):
    for run, expected in ((small_run(learning_rate=0.0, patience=1), 2), (small_run(minutes=0.0), 1)):
        told = []
        adapt(small_bundle, person, run, lambda _, done, __, told=told: told.append(done))
        assert told[-1] == expected


def test_a_loss_that_is_not_finite_is_an_error(small_bundle, person, monkeypatch):
    # not by weights that are not finite: torch's grid_sample crashes on those
    monkeypatch.setattr(tune, "texture_loss", lambda out, *_: out.mean() * float("nan"))
    with pytest.raises(MyTalkError, match="not finite; nothing was written"):
        adapt(small_bundle, person, small_run())


def test_too_little_of_a_face_is_refused(small_bundle, person):
    with pytest.raises(BadInput, match=r"needs 2 s with the face; there are 1.6 s") as caught:
        adapt(small_bundle, first(person, 40), small_run())
    assert caught.value.code == "too_short"


def test_an_engine_that_does_not_hold_is_named(small_bundle, person, monkeypatch):
    manifest = read_manifest(small_bundle)
    modules = load_modules(small_bundle, manifest)
    own = {
        name: weights.detach().half().numpy()
        for name, weights in modules["decode"].model.named_parameters()
        if name.startswith(PARTS)
    }
    tuned, tail = TunedDecoder(appearance_id(manifest), own), Tail(modules["encode"], person)
    found = prove(small_bundle, tuned, tail)
    assert {"onnx-fp32", "onnx-int8", "torch-bf16"} <= set(found)
    assert found["onnx-fp32"] > 60
    limits = {"int8": replace(tune.LIMITS["int8"], picture_db=found["onnx-int8"] + 1)}
    monkeypatch.setattr(tune, "LIMITS", limits)
    with pytest.raises(MyTalkError, match="does not hold in onnx-int8"):
        prove(small_bundle, tuned, tail)
