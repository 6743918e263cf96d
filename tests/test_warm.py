"""Made-up work has the shapes of real work, and warming up makes every call that will be made."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mytalk.engines import default_bundle, load_engine
from mytalk.engines.warm import HOP_FRAMES, Exercise, warm_up
from mytalk.errors import EngineFailed
from tests.fakes import FakeEngine, check_motion_job


class Noting(FakeEngine):
    def __init__(self):
        super().__init__()
        self.batches, self.faces = [], []

    def motion(self, jobs):
        for job in jobs:
            check_motion_job(job, self.spec)
        return super().motion(jobs)

    def encode_appearance(self, references, faces):
        self.faces.append(len(faces))
        return super().encode_appearance(references, faces)

    def decode(self, landmark_images, *others):
        self.batches.append(len(landmark_images))
        return super().decode(landmark_images, *others)


def test_warming_up_meets_every_shape_and_is_timed():
    engine, ticks = Noting(), itertools.count(10.0, 2.5)
    assert warm_up(engine, (1, 2, 4), faces=(8,), clock=lambda: next(ticks)) == 2.5
    assert engine.batches == [1, 2, 4]
    assert engine.faces == [1, 8]
    assert engine.motion_calls == len(engine.spec.step_counts)


def test_the_shipped_engine_takes_made_up_work():
    exercise = Exercise(load_engine("onnx-fp32", default_bundle(), 1), 2)
    assert exercise.decode(2).shape == (2, 256, 256, 3)
    result = exercise.motion()
    assert result.displacement.shape[0] == HOP_FRAMES
    assert np.isfinite(result.displacement).all()


def test_an_engine_that_fails_says_so():
    engine = FakeEngine()
    engine.decode = lambda *_: (_ for _ in ()).throw(EngineFailed("out of memory"))
    with pytest.raises(EngineFailed, match="out of memory"):
        warm_up(engine, (1,))
