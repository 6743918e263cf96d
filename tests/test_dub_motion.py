from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from mytalk.clock import PLAYOUT_SAMPLES_PER_FRAME
from mytalk.dubbing.motion import MotionBetween, dub_config, speech_motion
from mytalk.errors import EngineFailed
from mytalk.types import F32, I16, MotionJob, MotionResult
from tests.fakes import FakeEngine, voice
from tests.small_actor import SPEC, fitting_engine

IDENTITY = np.ones(SPEC.identity, np.float32)


def motion_of(blocks: list[I16], engine: FakeEngine | None = None) -> F32:
    frames = -(-sum(map(len, blocks)) // PLAYOUT_SAMPLES_PER_FRAME)
    upper = np.zeros((frames, SPEC.upper), np.float32)
    return np.stack(list(speech_motion(iter(blocks), frames, upper, engine or fitting_engine(), IDENTITY)))


def test_motion_comes_for_every_frame_and_follows_the_voice() -> None:
    loud, silent = voice(2.0, level=0.8), np.zeros(48_000, np.int16)
    motion = motion_of([silent, loud, silent])
    assert motion.shape == (100, SPEC.compact, 3)
    openness = motion[:, -1, 1]
    assert openness[:20].max() < 0.02
    assert openness[30:70].mean() > 0.1
    assert openness[85:].max() < 0.02


def test_motion_does_not_depend_on_how_the_speech_is_cut() -> None:
    samples = voice(7.3)
    whole = motion_of([samples])
    for size in (1023, 48_000):
        np.testing.assert_array_equal(
            motion_of([samples[i : i + size] for i in range(0, len(samples), size)]), whole
        )


def test_one_short_sound_is_enough() -> None:
    assert len(motion_of([voice(0.01)])) == 1


def test_upper_face_conditions_are_those_of_the_frames_shown() -> None:
    seen: dict[int, float] = {}

    class Watching(FakeEngine):
        def _one(self, job: MotionJob) -> MotionResult:
            first = job.position - config.known_frames
            seen.update({first + i: float(job.upper[i, 0]) for i in range(job.hop)})
            return super()._one(job)

    engine, config = Watching(SPEC), dub_config(SPEC)
    samples = voice(2.0)
    upper = np.arange(50, dtype=np.float32)[:, None].repeat(SPEC.upper, axis=1)
    assert len(list(speech_motion(iter([samples]), 50, upper, engine, IDENTITY))) == 50
    assert [seen[i] for i in range(50)] == list(range(50))


def test_a_failing_engine_is_told() -> None:
    class Broken(FakeEngine):
        def _one(self, job: MotionJob) -> MotionResult:
            raise EngineFailed("out of order")

    with pytest.raises(EngineFailed, match="out of order"):
        motion_of([voice(1.0)], Broken(SPEC))


def test_motion_between_its_frames() -> None:
    def frames(count: int) -> MotionBetween:
        return MotionBetween(np.full((2, 3), n, np.float32) for n in range(count))

    motion = frames(10)
    assert [float(motion.at((k + 0.5) / 25)[0, 0]) for k in range(10)] == pytest.approx(range(10), abs=1e-5)
    motion = frames(10)
    doubled = [float(motion.at((k + 0.5) / 50)[0, 0]) for k in range(20)]
    assert doubled[0] == 0.0
    assert doubled[1:6] == pytest.approx([0.25, 0.75, 1.25, 1.75, 2.25], abs=1e-5)
    assert doubled[19] == 9.0
    motion = frames(10)
    slow = [float(motion.at((k + 0.5) / 12)[0, 0]) for k in range(4)]
    assert slow == pytest.approx([(k + 0.5) / 12 * 25 - 0.5 for k in range(4)], abs=1e-5)
    assert float(frames(1).at(3.0)[0, 0]) == 0.0


def test_motion_is_taken_as_it_is_needed() -> None:
    """An hour of speech is never collected."""
    taken = []

    def frames() -> Iterator[F32]:
        for n in range(1000):
            taken.append(n)
            yield np.full((2, 3), n, np.float32)

    motion = MotionBetween(frames())
    for k in range(50):
        motion.at((k + 0.5) / 25)
        assert len(taken) <= k + 2
