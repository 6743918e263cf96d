from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mytalk.actors.actor import Actor, add_decoder, load_actor
from mytalk.actors.tuned import TunedDecoder, TuningFigures
from mytalk.errors import BadInput
from mytalk.landmarks.draw import draw_landmarks
from mytalk.render.compose import crop, hidden_mask
from mytalk.render.prepared import PreparedCache
from mytalk.render.renderer import Renderer, crop_landmarks
from mytalk.types import FrameSpec, MotionJob, MotionResult, PictureJob, PictureResult
from mytalk.video.planar import planar, planes_of, rgb_of
from tests.fakes import FAKE_SPEC, FakeClock, FakeEngine
from tests.small_actor import LAYOUT, SPEC, fitting_engine, still_poses, write_small_actor

OPEN = np.zeros((SPEC.compact, 3), np.float32)
OPEN[:, 1] = 0.2


@pytest.fixture
def actor(tmp_path: Path) -> Actor:
    return load_actor(write_small_actor(tmp_path / "tiny"))


def make(actor: Actor, cache: PreparedCache | None = None, *, testcard: bool = False) -> Renderer:
    renderer = Renderer(fitting_engine(), actor, clock=FakeClock(), cache=cache, testcard=testcard)
    renderer.prepare()
    return renderer


def render(renderer: Renderer, *specs: FrameSpec) -> PictureResult:
    result = renderer.execute(PictureJob(0, specs))
    assert isinstance(result, PictureResult)
    return result


def outside_the_mask(actor: Actor) -> np.ndarray:
    """Frame pixels that no part of the crop's hidden region reaches, bool [H, W]."""
    rows, columns = np.mgrid[0:160, 0:160]
    inverse = np.linalg.inv(np.vstack([actor.matrices[0], [0, 0, 1]]))
    x = inverse[0, 0] * (columns + 0.5) + inverse[0, 1] * (rows + 0.5) + inverse[0, 2]
    y = inverse[1, 0] * (columns + 0.5) + inverse[1, 1] * (rows + 0.5) + inverse[1, 2]
    ys, xs = np.nonzero(hidden_mask())
    return (x < xs.min() - 2) | (x > xs.max() + 3) | (y < ys.min() - 2) | (y > ys.max() + 3)


def test_what_it_tells_a_session(actor: Actor) -> None:
    renderer = make(actor)
    assert renderer.frame_size == (160, 160)
    assert renderer.view.name == "tiny"
    assert renderer.view.order.tolist() == actor.motion.order.tolist()
    assert renderer.view.upper.shape == (6, SPEC.upper)
    assert renderer.view.identity.shape == (SPEC.identity,)
    assert renderer.initial_state().known == 0


def tuned(actor: Actor, appearance_id: str = SPEC.appearance_id) -> Actor:
    own = TunedDecoder(appearance_id, {"decoder.out.bias": np.ones(4, np.float16)})
    add_decoder(actor.folder, own, TuningFigures(1, 20.0, 21.0))
    return load_actor(actor.folder)


def test_an_actor_is_decoded_with_its_own_weights(actor: Actor, tmp_path: Path) -> None:
    cache = PreparedCache(tmp_path / "cache")
    plain = make(actor, cache)
    one = make(tuned(actor), cache)
    assert one.note is None
    assert plain._engine.decoders_loaded == []
    assert one._engine.decoders_loaded == [one.tuned.digest], "loaded before the first picture"
    pictures = [render(renderer, FrameSpec(1, OPEN)).pictures[0].astype(int) for renderer in (plain, one)]
    assert np.abs(pictures[0] - pictures[1]).max() > 50
    # latents are shared, idle pictures are not
    while plain.render_next_idle() or one.render_next_idle():
        pass
    plain.keep()
    one.keep()
    names = sorted(path.name.split(".")[1] for path in (tmp_path / "cache").iterdir())
    assert names == ["idle-fake", f"idle-fake-{one.tuned.digest}", "latents"]
    assert np.abs(plain.idle_picture(2).astype(int) - one.idle_picture(2)).max() > 50


def test_weights_for_another_bundle_are_left_out_and_said(actor: Actor) -> None:
    renderer = make(tuned(actor, "another"))
    assert renderer.note is not None
    assert "tuned for the appearance weights another" in renderer.note
    np.testing.assert_array_equal(
        render(renderer, FrameSpec(1, OPEN)).pictures[0], render(make(actor), FrameSpec(1, OPEN)).pictures[0]
    )


def test_an_actors_mouth_opens_as_wide_as_tuning_found(actor: Actor) -> None:
    add_decoder(
        actor.folder,
        TunedDecoder("another", {"a.b": np.ones(4, np.float16)}),
        TuningFigures(1, 20.0, 21.0, 0.75),
    )
    narrow, plain = (
        render(make(load_actor(actor.folder)), FrameSpec(1, OPEN)),
        render(make(actor), FrameSpec(1, OPEN * np.float32(0.75))),
    )
    np.testing.assert_array_equal(narrow.pictures[0], plain.pictures[0])


def test_pictures_change_inside_the_mask_only(actor: Actor) -> None:
    source = [planar(picture) for picture in actor.frames]
    renderer = make(actor)
    pictures = render(renderer, FrameSpec(2, OPEN), FrameSpec(2, None), FrameSpec(4, OPEN)).pictures
    away = outside_the_mask(actor)
    quarter = away.reshape(80, 2, 80, 2).all(axis=(1, 3))  # of chroma samples
    for picture, index in zip(pictures, (2, 2, 4), strict=True):
        assert picture.shape == (240, 160)
        kept = (away, quarter, quarter)
        for plane, own, outside in zip(planes_of(picture), planes_of(source[index]), kept, strict=True):
            np.testing.assert_array_equal(plane[outside], own[outside])
        assert (picture != source[index])[:160][~away].any()
    assert (pictures[0] != pictures[1]).any(), "an open mouth looks like the idle face"


def test_a_batch_equals_single_frames(actor: Actor) -> None:
    renderer = make(actor)
    specs = [FrameSpec(i, OPEN * i) for i in range(6)]
    together = render(renderer, *specs).pictures
    for spec, picture in zip(specs, together, strict=True):
        np.testing.assert_array_equal(render(renderer, spec).pictures[0], picture)


def test_idle_pictures_are_rendered_one_by_one(actor: Actor) -> None:
    source = actor.frames
    renderer = make(actor)
    np.testing.assert_array_equal(renderer.idle_picture(5), planar(source[5]))
    expected = [render(renderer, FrameSpec(i, None)).pictures[0] for i in range(6)]
    handed_out = renderer.idle_picture(0)
    before = handed_out.copy()
    steps = 0
    while renderer.render_next_idle():
        steps += 1
    assert steps == 6
    np.testing.assert_array_equal(handed_out, before)
    for i in range(6):
        np.testing.assert_array_equal(renderer.idle_picture(i), expected[i])
    assert not renderer.render_next_idle()


def test_speech_on_idle_pictures_shows_no_seam(actor: Actor) -> None:
    fresh, rendered = make(actor), make(actor)
    while rendered.render_next_idle():
        pass
    one = render(fresh, FrameSpec(3, OPEN)).pictures[0].astype(int)
    two = render(rendered, FrameSpec(3, OPEN)).pictures[0].astype(int)
    assert np.abs(one - two).mean() < 1.0  # they differ in the feathered edge only


def test_appearance_is_kept_on_disk_by_weights_and_actor(actor: Actor, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    cache = PreparedCache(folder)
    steps: list[tuple[int, int]] = []
    first = Renderer(fitting_engine(), actor, clock=FakeClock(), cache=cache)
    with pytest.raises(BadInput, match="not prepared"):
        first.execute(PictureJob(0, (FrameSpec(0, None),)))
    first.prepare(lambda done, total: steps.append((done, total)))
    assert first.progress == (6, 6)
    assert steps == [(6, 6)]
    again = Renderer(fitting_engine(), actor, clock=FakeClock(), cache=cache)
    again.prepare(lambda done, total: steps.append((done, total)))
    assert steps == [(6, 6)], "encoded again"
    np.testing.assert_array_equal(
        render(first, FrameSpec(1, OPEN)).pictures[0], render(again, FrameSpec(1, OPEN)).pictures[0]
    )
    (kept,) = folder.iterdir()
    other_weights = Renderer(
        FakeEngine(replace(SPEC, weights_id="other")), actor, clock=FakeClock(), cache=cache
    )
    other_weights.prepare()
    assert len(list(folder.iterdir())) == 2
    kept.write_bytes(kept.read_bytes()[:100])  # a torn file is made anew
    make(actor, cache)
    assert len(kept.read_bytes()) > 100


def test_an_actor_is_prepared_in_pieces(actor: Actor) -> None:
    renderer = Renderer(fitting_engine(), actor, clock=FakeClock())
    with pytest.raises(BadInput, match="not prepared"):
        _ = renderer.view
    assert renderer.progress == (0, 6)
    assert renderer.prepare_next(4)
    assert renderer.progress == (4, 6)
    with pytest.raises(BadInput, match="not prepared"):
        renderer.execute(PictureJob(0, (FrameSpec(0, None),)))
    assert not renderer.prepare_next(4)
    whole = make(actor)
    np.testing.assert_array_equal(
        render(renderer, FrameSpec(5, OPEN)).pictures[0], render(whole, FrameSpec(5, OPEN)).pictures[0]
    )


def test_idle_pictures_are_kept_on_disk_and_need_no_engine_again(actor: Actor, tmp_path: Path) -> None:
    cache = PreparedCache(tmp_path)
    first = make(actor, cache)
    first.render_next_idle()
    first.keep()
    assert not list(tmp_path.glob("*.idle-*")), "kept half"
    while first.render_next_idle():
        pass
    first.keep()
    engine = fitting_engine()
    again = Renderer(engine, actor, clock=FakeClock(), cache=cache)
    again.prepare()
    assert not again.render_next_idle()
    assert engine.decode_calls == 0
    for i in range(6):
        np.testing.assert_array_equal(again.idle_picture(i), first.idle_picture(i))
    kept = next(tmp_path.glob("*.idle-*"))
    kept.write_bytes(kept.read_bytes()[:200])  # torn: rendered anew
    assert make(actor, cache).render_next_idle()


def test_memory_is_counted(actor: Actor) -> None:
    renderer = Renderer(fitting_engine(), actor, clock=FakeClock())
    assert renderer.memory_bytes == 6 * 160 * 160 * 3, "RGB until a frame is encoded"
    renderer.prepare()
    prepared = 6 * 160 * 240 + 6 * 3 * 64 * 64 * 2
    assert renderer.memory_bytes == prepared
    render(renderer, FrameSpec(1, OPEN))
    weights = renderer.memory_bytes - prepared
    render(renderer, FrameSpec(1, OPEN * 0.5))
    assert 0 < weights == renderer.memory_bytes - prepared, "weights are made once per clip frame"


def test_motion_jobs_go_to_the_engine_and_stages_are_timed(actor: Actor) -> None:
    clock = FakeClock()
    engine = fitting_engine()
    renderer = Renderer(engine, actor, clock=lambda: clock.advance(0.001))
    renderer.prepare()
    job = MotionJob(
        generation=0,
        state=renderer.initial_state(),
        log_mel=np.zeros((SPEC.mel_frames, 80), np.float32),
        upper=np.zeros((SPEC.tokens, SPEC.upper), np.float32),
        identity=renderer.view.identity,
        noise=np.zeros((SPEC.tokens, SPEC.coefficients), np.float32),
        position=0,
        hop=2,
        tokens=4,
    )
    result = renderer.execute(job)
    assert isinstance(result, MotionResult)
    assert result.displacement.shape == (2, SPEC.compact, 3)
    assert render(renderer).pictures == ()
    drawn = render(renderer, FrameSpec(0, None))
    stages_s = {**result.stages_s, **drawn.stages_s}
    assert set(stages_s) == {"motion", "draw", "decode", "paste"}
    assert all(0 < seconds < 0.1 for seconds in stages_s.values())


def test_the_test_card_flashes_when_the_speech_is_loud(actor: Actor) -> None:
    renderer = make(actor, testcard=True)
    quiet, loud = render(renderer, FrameSpec(0, OPEN, 0.5), FrameSpec(0, OPEN, 0.9)).pictures
    assert (rgb_of(loud)[:80, :80] == 255).all()
    assert not (rgb_of(quiet)[:80, :80] == 255).all()
    for flashed, plain in zip(planes_of(loud), planes_of(quiet), strict=True):
        np.testing.assert_array_equal(flashed[len(plain) // 2 :], plain[len(plain) // 2 :])
    assert not (rgb_of(render(make(actor), FrameSpec(0, OPEN, 0.9)).pictures[0])[:80, :80] == 255).all()


def test_weights_of_another_layout_are_refused(actor: Actor) -> None:
    with pytest.raises(BadInput, match="these weights move 20 landmarks"):
        Renderer(FakeEngine(FAKE_SPEC), actor, clock=FakeClock())


def test_only_compact_landmarks_follow_the_speech(actor: Actor) -> None:
    own = LAYOUT.template.copy()
    own[LAYOUT.upper, 1] += 0.1  # raised brows, as filmed
    own[LAYOUT.compact, 1] += 0.5  # talking, as filmed: must not show
    pose, matrix = still_poses(1), actor.matrices[0]
    filmed = crop_landmarks(LAYOUT.template, own, None, pose=pose, matrix=matrix, layout=LAYOUT)
    still = crop_landmarks(LAYOUT.template, LAYOUT.template, None, pose=pose, matrix=matrix, layout=LAYOUT)
    assert filmed.shape == (LAYOUT.points, 2)
    np.testing.assert_array_equal(filmed[LAYOUT.lips], still[LAYOUT.lips])  # lips at rest
    assert (filmed[LAYOUT.upper] != still[LAYOUT.upper]).any()  # brows as filmed


def test_landmarks_lie_where_the_crop_shows_them(actor: Actor) -> None:
    """Inner lips of the mean face are drawn where the crop matrix puts them."""
    points = crop_landmarks(
        LAYOUT.template,
        LAYOUT.template,
        None,
        pose=still_poses(1),
        matrix=actor.matrices[0],
        layout=LAYOUT,
    )
    image = draw_landmarks(points, LAYOUT)
    rows, columns = np.nonzero(image[1] > 0.5)
    pixel = actor.matrices[0] @ np.array([columns.mean() + 0.5, rows.mean() + 0.5, 1.0])
    lips = LAYOUT.template[LAYOUT.mouth_gap.ravel(), :2].mean(axis=0) * 50 + np.array([80, 50])
    np.testing.assert_allclose(pixel, lips, atol=1.5)
    assert crop(actor.frames[0], actor.matrices[0]).shape == (256, 256, 3)
