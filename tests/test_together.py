"""Jobs of several sessions in one call: each gets what it would have got alone, bit for bit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mytalk.actors.actor import add_decoder, load_actor
from mytalk.actors.tuned import TunedDecoder, TuningFigures
from mytalk.engines import default_bundle, load_engine
from mytalk.engines.engine import Engine
from mytalk.render.renderer import Renderer
from mytalk.render.together import execute_together, rows_of
from mytalk.types import FrameSpec, MotionJob, PictureJob, PictureResult
from tests.fakes import FakeClock
from tests.small_actor import fitting_engine, write_small_actor
from tests.test_onnx_engine import job as motion_job

ENGINES = ("onnx-fp32", "onnx-int8")


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: Any) -> Engine:
    return load_engine(request.param, default_bundle(), 1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: Any) -> list[Path]:
    root = tmp_path_factory.mktemp("actors")
    return [write_small_actor(root / name, frames, name) for name, frames in (("one", 4), ("two", 6))]


def renderers(engine: Engine, folders: list[Path]) -> list[Renderer]:
    made = [Renderer(engine, load_actor(folder), clock=FakeClock()) for folder in folders]
    for renderer in made:
        renderer.prepare()
    return made


def picture_job(engine: Engine, seed: int, frames: int) -> PictureJob:
    random = np.random.default_rng(seed)
    moves = random.normal(0, 0.05, (frames, engine.spec.compact, 3)).astype(np.float32)
    return PictureJob(0, tuple(FrameSpec(int(random.integers(0, 4)), move) for move in moves))


def test_pictures_are_those_of_single_calls_bit_for_bit(engine: Engine, folders: list[Path]) -> None:
    artists = renderers(engine, folders)
    tasks = [(artists[seed % 2], picture_job(engine, seed, 1 + seed % 3)) for seed in range(5)]
    assert sum(rows_of(job) for _, job in tasks) == 9  # more than a bucket, and no power of two
    alone = [artist.execute(job) for artist, job in tasks]
    for some in ([0, 1, 2, 3, 4], [0, 1], [1, 2, 3], [4, 3, 2, 1, 0]):
        together = execute_together(engine, [tasks[i] for i in some], FakeClock())
        for i, result in zip(some, together, strict=True):
            expected = alone[i]
            assert isinstance(result, PictureResult)
            assert isinstance(expected, PictureResult)
            np.testing.assert_array_equal(np.stack(result.pictures), np.stack(expected.pictures))


def test_motion_is_that_of_single_calls_bit_for_bit(engine: Engine, folders: list[Path]) -> None:
    artist: Any = None  # motion needs no renderer
    jobs: list[MotionJob] = [motion_job(engine, seed, hop=1 + seed % 2) for seed in range(4)]
    together: Any = execute_together(engine, [(artist, job) for job in jobs], FakeClock())
    for job, result in zip(jobs, together, strict=True):
        alone = engine.motion([job])[0]
        np.testing.assert_array_equal(result.displacement, alone.displacement)
        np.testing.assert_array_equal(result.state.keys, alone.state.keys)


def test_calls_at_the_same_time_do_not_disturb_each_other(engine: Engine, folders: list[Path]) -> None:
    assert engine.concurrent
    artists = renderers(engine, folders)
    jobs = [picture_job(engine, seed, 1) for seed in range(6)]
    alone = [artists[i % 2].render(job).pictures[0] for i, job in enumerate(jobs)]
    with ThreadPoolExecutor(3) as pool:
        beside = list(pool.map(lambda i: artists[i % 2].render(jobs[i]).pictures[0], range(6)))
    np.testing.assert_array_equal(np.stack(beside), np.stack(alone))


def test_torch_calls_at_the_same_time_do_not_disturb_each_other(folders: list[Path]) -> None:
    torch = load_engine("torch-fp32", default_bundle(), 1)
    test_calls_at_the_same_time_do_not_disturb_each_other(torch, folders)


def test_time_is_shared_out_by_pictures_and_spread_is_used(folders: list[Path]) -> None:
    fake = fitting_engine()
    artists = renderers(fake, folders)
    clock, spread_over = FakeClock(), []

    def spread(function: Any, items: Any) -> Any:
        spread_over.append(len(items))
        return map(function, items)

    tasks = [(artists[0], picture_job(fake, 0, 1)), (artists[1], picture_job(fake, 1, 3))]
    fake.decode_calls = 0
    one, three = execute_together(fake, tasks, lambda: clock.advance(0.004), spread)
    assert fake.decode_calls == 1
    assert spread_over == [4, 4]
    assert one.stages_s == pytest.approx({"draw": 0.001, "decode": 0.001, "paste": 0.001})
    assert three.stages_s["decode"] == pytest.approx(0.003)


def test_rows_share_a_call_with_those_of_the_same_weights_alone(folders: list[Path], tmp_path: Path) -> None:
    fake = fitting_engine()
    own = write_small_actor(tmp_path / "own", 4, "own")
    tuned = TunedDecoder(fake.spec.appearance_id, {"decoder.out.bias": np.ones(4, np.float16)})
    add_decoder(own, tuned, TuningFigures(1, 20.0, 21.0))
    artists = renderers(fake, [folders[0], own])
    tasks = [(artists[seed % 2], picture_job(fake, seed, 2)) for seed in range(4)]
    alone = [artist.execute(job) for artist, job in tasks]
    fake.decode_calls = 0
    together = execute_together(fake, tasks, FakeClock())
    assert fake.decode_calls == 2
    for expected, result in zip(alone, together, strict=True):
        assert isinstance(result, PictureResult)
        assert isinstance(expected, PictureResult)
        np.testing.assert_array_equal(np.stack(result.pictures), np.stack(expected.pictures))


def test_nothing_to_draw_and_mixed_kinds(folders: list[Path]) -> None:
    fake = fitting_engine()
    artists = renderers(fake, folders)
    assert execute_together(fake, [(artists[0], PictureJob(0, ()))], FakeClock()) == [PictureResult(())]
    mixed: Any = [(artists[0], PictureJob(0, ())), (artists[0], motion_job(fake))]
    with pytest.raises(ValueError, match="do not share"):
        execute_together(fake, mixed, FakeClock())
