"""The ONNX Runtime engine on the bundle that ships."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from mytalk.engines import default_bundle, load_engine
from mytalk.engines.bundle import has_vnni
from mytalk.engines.graphs import GraphEngine
from mytalk.errors import BadInput, EngineFailed
from mytalk.landmarks.draw import draw_landmarks
from mytalk.landmarks.layout import load_layout
from mytalk.landmarks.warp import fine_windows, flow_shape
from mytalk.motion import hop_noise, mel_context
from mytalk.types import MotionJob


@pytest.fixture(scope="module")
def engine():
    return load_engine("onnx", default_bundle(), threads=1)


def job(engine, seed=0, **changes):
    spec, random = engine.spec, np.random.default_rng(seed)
    made = MotionJob(
        generation=0,
        state=engine.initial_state(),
        log_mel=(random.standard_normal((spec.mel_frames, 80)) - 6).astype(np.float32),
        upper=(0.01 * random.standard_normal((spec.tokens, spec.upper))).astype(np.float32),
        identity=engine.identity(np.zeros((478, 2), np.float32)),
        noise=hop_noise(seed, 0, 0, spec.tokens, spec.coefficients),
        position=0,
        hop=2,
        tokens=4,
    )
    return replace(made, **changes)


def remembered(state):
    """Frames that are known, those of the last hop included."""
    return state.known + (0 if state.new is None else len(state.new.speech))


def heard_afresh(state):
    """The same memory, of which the speech encoder's part is lost."""
    return replace(state, heard=None)


def test_speech_that_goes_on_is_heard_from_where_it_was_and_any_other_from_its_context(engine, monkeypatch):
    """Streaming finds what hearing the whole context finds, and costs a fraction of it."""
    random = np.random.default_rng(2)
    said = (random.standard_normal((400, 80)) - 6).astype(np.float32)
    heard: list[int] = []
    run = engine._runner.run

    def noting(graph, inputs):
        if graph == "hear":
            heard.append(inputs["log_mel"].shape[1])
        return run(graph, inputs)

    monkeypatch.setattr(engine._runner, "run", noting)
    state = other = engine.initial_state()
    for first in range(0, 40, 2):
        speech = mel_context(said, 0, first, engine.spec)
        now = job(engine, seed=first, log_mel=speech, position=first, state=state)
        result = engine.motion([now])[0]
        again = engine.motion([replace(now, state=heard_afresh(other))])[0]
        np.testing.assert_allclose(result.displacement, again.displacement, atol=1e-5)
        state, other = result.state, again.state
    streamed, whole = heard[2::2], heard[3::2]
    assert set(streamed) == {20}
    assert set(whole) == {108}
    for jump in (
        replace(now, state=state),
        replace(now, state=state, position=40),
    ):  # the wrong place or speech
        engine.motion([jump])
        assert heard[-1] == 108


def test_a_hop_moves_the_mouth_and_remembers_itself(engine):
    result = engine.motion([job(engine)])[0]
    assert result.displacement.shape == (2, engine.spec.compact, 3)
    assert result.displacement.dtype == np.float32
    assert np.isfinite(result.displacement).all()
    assert remembered(result.state) == 2
    later = engine.motion([job(engine, state=result.state, position=2)])[0].state
    assert later.known == 2
    assert np.abs(later.keys[:, :, :2]).min(axis=-1).max() > 0
    assert (later.keys[:, :, 2:] == 0).all()


def test_no_job_depends_on_its_neighbours_or_changes_its_input(engine):
    jobs = [job(engine, seed) for seed in range(3)]
    before = jobs[1].state.keys.copy()
    together, alone = engine.motion(jobs), engine.motion([jobs[1]])[0]
    np.testing.assert_array_equal(together[1].displacement, alone.displacement)
    np.testing.assert_array_equal(together[1].state.values, alone.state.values)
    np.testing.assert_array_equal(jobs[1].state.keys, before)


def test_what_was_shown_before_goes_into_memory_first(engine):
    spec = engine.spec
    silent = mel_context(np.zeros((0, 80), np.float32), 0, 0, spec)
    shown = {
        "known": np.zeros((3, spec.compact, 3), np.float32),
        "known_upper": np.zeros((3, spec.upper), np.float32),
        "known_log_mel": silent,
    }
    result = engine.motion([job(engine, position=3, **shown)])[0]
    assert result.state.known == 3
    assert remembered(result.state) == 5
    other = shown | {"known": np.full((3, spec.compact, 3), 0.05, np.float32)}
    moved = engine.motion([job(engine, position=3, **other)])[0]
    assert np.abs(moved.displacement - result.displacement).max() > 1e-4


def test_steps_are_chosen_by_the_job_and_unknown_ones_are_refused(engine):
    spec = engine.spec
    assert spec.step_counts == (1, 2, 4)
    default = engine.motion([job(engine)])[0].displacement
    made = {n: engine.motion([job(engine, steps=n)])[0].displacement for n in spec.step_counts}
    np.testing.assert_array_equal(made[spec.steps], default)
    assert np.abs(made[1] - made[2]).max() > 1e-5
    assert np.abs(made[2] - made[4]).max() > 1e-5
    with pytest.raises(EngineFailed, match=r"no motion graph of 3 steps \(it has 1, 2, 4\)"):
        engine.motion([job(engine, steps=3)])


def test_the_step_counts_share_their_weights():
    graphs = [(default_bundle() / f"motion_{steps}.onnx").stat().st_size for steps in (1, 2, 4)]
    assert sum(graphs) < 1_000_000 < (default_bundle() / "motion.weights").stat().st_size < 7_000_000


@pytest.mark.parametrize("tokens", [1, 2, 8])
def test_a_hop_may_have_any_number_of_tokens(engine, tokens):
    full = job(engine, tokens=tokens, hop=1)
    result = engine.motion([full])[0]
    assert result.displacement.shape == (1, engine.spec.compact, 3)
    assert remembered(result.state) == 1


def test_hop_and_lookahead_may_change_from_job_to_job(engine):
    state, position = engine.initial_state(), 0
    for hop, tokens in ((2, 3), (1, 1), (4, 8), (3, 4), (8, 8)):
        result = engine.motion([job(engine, state=state, position=position, hop=hop, tokens=tokens)])[0]
        state, position = result.state, position + hop
        assert remembered(state) == position
        assert state.known == position - hop
        assert not state.known or np.abs(state.keys[:, :, state.known - 1]).max() > 0
        assert not state.keys[:, :, state.known :].any()


def test_a_hop_begins_with_a_part_of_what_the_one_before_thought_of_its_first_frame(engine):
    before = engine.motion([job(engine)])[0].state
    now = job(engine, seed=1, state=before, position=2)
    alone = replace(now, state=replace(before, ahead=None))
    carried, plain = engine.motion([now, alone])
    mixed = 0.8 * plain.displacement[0] + 0.2 * before.ahead.displacement
    np.testing.assert_allclose(carried.displacement[0], mixed, atol=1e-6)
    np.testing.assert_array_equal(carried.displacement[1:], plain.displacement[1:])
    kept = 0.8 * plain.state.new.coefficients[0] + 0.2 * before.ahead.coefficients
    np.testing.assert_allclose(carried.state.new.coefficients[0], kept, atol=1e-5)


def test_nothing_is_carried_over_a_gap_or_without_lookahead(engine):
    before = engine.motion([job(engine)])[0].state
    elsewhere = job(engine, seed=1, state=before, position=3)
    spec = engine.spec
    shown = job(
        engine,
        seed=1,
        state=before,
        position=2,
        known=np.zeros((2, spec.compact, 3), np.float32),
        known_upper=np.zeros((2, spec.upper), np.float32),
        known_log_mel=np.full((spec.mel_frames, 80), -6, np.float32),
    )
    for now in (elsewhere, shown):
        other = replace(now, state=replace(before, ahead=None))
        carried, plain = engine.motion([now, other])
        np.testing.assert_array_equal(carried.displacement, plain.displacement)
    assert engine.motion([job(engine, tokens=2)])[0].state.ahead is None


def test_memory_is_bounded_however_long_the_speech(engine):
    state = engine.initial_state()
    for first in range(0, 260, 2):
        state = engine.motion([job(engine, state=state, position=first)])[0].state
    assert state.known == engine.spec.window
    assert state.keys.shape == engine.initial_state().keys.shape


def some_flows(random, count):
    return random.normal(0, 5, (count, 3, 2, *flow_shape())).astype(np.float32)


def test_pictures_do_not_depend_on_their_batch(engine):
    random = np.random.default_rng(0)
    references, faces = (random.integers(0, 256, (3, 256, 256, 3), dtype=np.uint8) for _ in range(2))
    latents = engine.encode_appearance(references, faces)
    assert len(latents) == 3
    drawn = random.random((3, 3, 256, 256), dtype=np.float32)
    seen, flows = np.repeat(fine_windows(references)[None], 3, axis=0), some_flows(random, 3)
    together = engine.decode(drawn, latents, seen, flows)
    assert together.shape == (3, 256, 256, 3)
    assert together.dtype == np.uint8
    for i in range(3):
        one = slice(i, i + 1)
        alone = engine.decode(drawn[one], latents[one], seen[one], flows[one])
        assert np.abs(alone[0].astype(int) - together[i]).max() <= 1


def test_int8_pictures_are_the_float_ones_but_for_rounding(engine):
    random = np.random.default_rng(1)
    references = np.full((3, 256, 256, 3), 128, np.uint8)
    faces = np.clip(references[:2] + random.integers(-20, 20, (2, 256, 256, 3)), 0, 255).astype(np.uint8)
    latents = engine.encode_appearance(references, faces)
    layout = load_layout()
    points = (layout.template[:, :2] - (0.0, 1.0)) * (256 / 2.4) + 128
    drawn = np.repeat(draw_landmarks(points.astype(np.float32), layout)[None], 2, axis=0)
    engines = [load_engine(name, default_bundle(), 1) for name in ("onnx-fp32", "onnx-int8")]
    fine = fine_windows(references)[None]
    given = (drawn, latents, np.repeat(fine, 2, axis=0), some_flows(random, 2))
    one, two = (which.decode(*given)[:, 96:256, 40:216].astype(float) for which in engines)
    assert 10 * np.log10(255**2 / np.square(one - two).mean()) > 36


def test_the_precision_suits_the_cpu(tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text("flags : avx2 avx512f avx512_vnni")
    assert has_vnni(info)
    info.write_text("flags : avx2 avx512f")
    assert not has_vnni(info)
    assert not has_vnni(tmp_path / "nothing")
    assert load_engine("onnx", default_bundle(), 1).name == ("onnx-int8" if has_vnni() else "onnx-fp32")


def test_the_bundle_says_where_it_comes_from():
    manifest = json.loads((default_bundle() / "manifest.json").read_text())
    assert manifest["parity"]["landmark_px"] <= 0.01
    assert len(manifest["commit"]) == 40
    assert (default_bundle() / "MODEL_CARD.md").stat().st_size > 1000


def test_unknown_engine_missing_or_altered_bundle_are_one_clear_line(tmp_path):
    with pytest.raises(BadInput, match="unknown engine 'tpu'"):
        load_engine("tpu", default_bundle())
    with pytest.raises(EngineFailed, match="no weights at"):
        load_engine("onnx", tmp_path / "nothing")
    copy = tmp_path / "copy"
    shutil.copytree(default_bundle(), copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    for broken in ({"files": {}}, {"spec": {}}, {"memory": {"layers": 1}}):
        (copy / "manifest.json").write_text(json.dumps(manifest | broken))
        with pytest.raises(EngineFailed, match="damaged"):
            load_engine("onnx", copy)
    spec = manifest["spec"] | {"steps": 3}
    (copy / "manifest.json").write_text(json.dumps(manifest | {"spec": spec}))
    with pytest.raises(EngineFailed, match="steps 3 is none of step_counts"):
        load_engine("onnx", copy)
    without = {name: digest for name, digest in manifest["files"].items() if name != "decode_int8.onnx"}
    (copy / "manifest.json").write_text(json.dumps(manifest | {"files": without}))
    assert load_engine("onnx", copy).name == "onnx-fp32"
    with pytest.raises(EngineFailed, match="no int8 decoder"):
        load_engine("onnx-int8", copy)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with (copy / "decode.onnx").open("r+b") as file:
        file.seek(2000)
        file.write(b"damage")
    with pytest.raises(EngineFailed, match="hash differs"):
        load_engine("onnx", copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    for number, complaint in ((99, "format 99, this version reads 3$"), (1, "python -m export update")):
        (copy / "manifest.json").write_text(json.dumps(manifest | {"format": number}))
        with pytest.raises(EngineFailed, match=complaint):
            load_engine("onnx", copy)


def test_bound_memory_gives_the_same_as_a_plain_run(small_bundle):
    """What cards use, with its memory on the CPU."""
    from mytalk.engines.buckets import BucketRunner
    from mytalk.engines.bundle import graph_paths, half_path, read_manifest
    from mytalk.engines.onnx import BoundRunner
    from mytalk.engines.warm import Exercise

    manifest = read_manifest(small_bundle)
    plain = load_engine("onnx-fp16", small_bundle, 1)
    paths = graph_paths(small_bundle, manifest, plain.spec, int8=False)
    paths["decode"] = half_path(small_bundle, manifest)
    runner = BoundRunner(paths, {name: [] for name in paths}, "cpu")
    bound = GraphEngine("bound", plain.spec, plain._memory, BucketRunner(runner))
    one, two = Exercise(plain, 5), Exercise(bound, 5)
    for count in (1, 3, 5, 3):
        np.testing.assert_array_equal(one.decode(count), two.decode(count))
    np.testing.assert_allclose(one.motion().displacement, two.motion().displacement, atol=1e-6)
    given = job(bound, 3)
    expected, found = (which.motion([given])[0].displacement for which in (plain, bound))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    with pytest.raises(EngineFailed, match="motion_2 failed in ONNX Runtime"):
        bound.motion([job(bound, identity=np.zeros(3, np.float32))])


def test_tensorrt_gets_one_profile_and_a_folder_of_its_own(small_bundle, tmp_path):
    from mytalk.engines.onnx import tensorrt_options

    options = tensorrt_options(small_bundle / "decode_fp16.onnx", tmp_path)
    assert "landmark_images:1x3x256x256,latents:1x" in options["trt_profile_min_shapes"]
    assert "references:16x3x3x480x528" in options["trt_profile_max_shapes"]
    other = tensorrt_options(small_bundle / "decode.onnx", tmp_path)
    assert options["trt_engine_cache_path"] != other["trt_engine_cache_path"]
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineFailed, match="cannot be written"):
        tensorrt_options(small_bundle / "decode.onnx", tmp_path / "file")


def test_a_provider_that_does_not_open_is_an_error_and_not_a_slow_cpu(small_bundle):
    from mytalk.engines.onnx import CUDA, _session

    with pytest.raises(EngineFailed, match="cannot open CUDAExecutionProvider"):
        _session(small_bundle / "identity.onnx", [(CUDA, {})], 1)


def test_a_bundle_without_a_float16_decoder_says_so():
    from mytalk.engines.bundle import half_path

    with pytest.raises(EngineFailed, match="no float16 decoder"):
        half_path(default_bundle(), {"files": {}})


def test_a_runtime_failure_is_an_engine_failure(engine):
    with pytest.raises(EngineFailed, match="motion_2 failed in ONNX Runtime"):
        engine.motion([job(engine, identity=np.zeros(3, np.float32))])
    with pytest.raises(EngineFailed, match=r"motion failed: .*\[5, 80\], not \[122, 80\]"):
        engine.motion([job(engine, log_mel=np.zeros((5, 80), np.float32))])
