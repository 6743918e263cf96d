"""Every engine that runs on a CPU agrees with torch in float32, and what does not agree is refused."""

from __future__ import annotations

import gc
import json
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test installs it)")

from export import __main__ as cli  # noqa: E402
from export.bundle import engines_for, load_exported, prove  # noqa: E402
from export.parity import LIMITS, Parity, compare, enforce, load_material, refer, stream  # noqa: E402
from mytalk.actors.tuned import TunedDecoder  # noqa: E402
from mytalk.engines import load_engine  # noqa: E402
from mytalk.engines.bundle import appearance_id, has_amx_bf16, read_manifest  # noqa: E402
from mytalk.errors import BadInput, EngineFailed, MyTalkError  # noqa: E402
from mytalk.models.checkpoint import save_checkpoint  # noqa: E402
from mytalk.render.renderer import decode_landmarks, lip_source  # noqa: E402
from tests.small_bundle import small_trained  # noqa: E402

ENGINES = (
    "onnx-fp32",
    "onnx-fp16",
    "onnx-int8",
    "torch-bf16",
    "openvino-fp32",
    "openvino-int8",
    "openvino-bf16",
)


@pytest.fixture(scope="module")
def material():
    return load_material(chunks=12, pictures=3)


@pytest.fixture(scope="module")
def reference(small_bundle, material):
    return refer(load_engine("torch-fp32", small_bundle, 1), material)


def tuned_decoder(bundle, seed=0):
    """The bundle's decoder with every weight moved by a tenth, as if somebody had tuned it."""
    safetensors = pytest.importorskip("safetensors.numpy")
    weights = safetensors.load_file(bundle / "appearance.safetensors")
    random = np.random.default_rng(seed)
    moved = {
        name: (tensor * (1 + 0.1 * random.standard_normal(tensor.shape))).astype(np.float16)
        for name, tensor in weights.items()
        if name.startswith(("decoder.", "landmark_encoder."))
    }
    return TunedDecoder(appearance_id(read_manifest(bundle)), moved)


def loaded(name, bundle):
    if name.startswith("openvino"):
        pytest.importorskip("openvino", reason="OpenVINO is not installed (make test installs it)")
    if name == "openvino-bf16" and not has_amx_bf16():
        pytest.skip("this CPU has no AMX for bfloat16")
    return load_engine(name, bundle, 1)


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_agrees_with_torch_on_speech_and_pictures(name, small_bundle, material, reference):
    engine = loaded(name, small_bundle)
    assert engine.name == name
    found = compare(engine, material, reference)
    enforce(engine, found)
    if not name.endswith("fp32"):
        assert found.picture_db < 90, "a reduced precision that changes nothing was not used"


def test_the_material_moves_the_mouth_and_the_pictures(reference):
    assert np.ptp(reference.displacement, axis=0).max() > 0.02
    assert np.abs(np.diff(reference.pictures, axis=0)).mean() > 0.5


def test_what_is_outside_its_limits_is_refused(small_bundle, material, reference):
    engine = load_engine("onnx-fp32", small_bundle, 1)
    for worse in (Parity(0.02, 90.0), Parity(0.0, 59.0), Parity(float("nan"), 90.0)):
        with pytest.raises(MyTalkError, match="onnx-fp32 does not agree"):
            enforce(engine, worse)
    other = replace(reference, displacement=reference.displacement + 0.01)
    with pytest.raises(MyTalkError, match="does not agree"):
        enforce(engine, compare(engine, material, other))
    assert LIMITS["int8"].picture_db < LIMITS["bf16"].picture_db < LIMITS["fp32"].picture_db


def test_the_manifest_tells_what_was_proved(small_bundle, material, tmp_path):
    copy = tmp_path / "bundle"
    shutil.copytree(small_bundle, copy)
    prove(copy, ["onnx-fp32", "onnx-int8"], material)
    manifest = read_manifest(copy)
    assert set(manifest["parity"]["engines"]) == {"onnx-fp32", "onnx-int8"}
    assert manifest["parity"]["landmark_px"] <= 0.01
    assert manifest["parity"]["int8_picture_db"] >= 36
    assert manifest["precisions"] == ["fp32", "fp16", "int8"]
    assert manifest["training"]["motion"]["data"] == "random"
    given = {"landmark_images", "latents", "references", "flows"}
    assert set(manifest["shapes"]["decode"]["inputs"]) == given
    assert manifest["spec"]["step_counts"] == [1, 2]
    assert manifest["shapes"]["hear"]["inputs"]["log_mel"][2] == 80
    assert manifest["shapes"]["motion_1"]["outputs"]["displacement"][2] == 178 * 3


def test_a_step_count_that_is_wrong_is_found(small_bundle, material, reference):
    """Parity runs every graph of a bundle, not the default one alone."""
    engine = load_engine("onnx-fp32", small_bundle, 1)
    assert set(reference.few) == {1}
    few = {1: reference.few[1] + 0.01}
    with pytest.raises(MyTalkError, match="does not agree"):
        enforce(engine, compare(engine, material, replace(reference, few=few)))


def test_a_bundle_of_an_older_format_is_brought_up_to_date(small_bundle, tmp_path, capsys, monkeypatch):
    short = load_material(chunks=4, pictures=1)
    monkeypatch.setattr(cli, "load_material", lambda *_: short)
    copy = tmp_path / "bundle"
    shutil.copytree(small_bundle, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "motion.onnx").write_bytes(b"the one graph of format 1")
    kept = [name for name in manifest["files"] if not name.startswith("motion_")]
    older = {"format": 1, "files": dict.fromkeys([*kept, "motion.onnx"], "")}
    (copy / "decode_fp16.onnx").unlink()  # which did not exist then
    card, old_id = copy / "MODEL_CARD.md", manifest["spec"]["weights_id"]
    card.write_text(f"weights id `{old_id}`, exported at {manifest['commit'][:12]}.\n")
    (copy / "manifest.json").write_text(json.dumps(manifest | older))
    with pytest.raises(EngineFailed, match="python -m export update"):
        load_engine("onnx", copy)
    assert cli.main(["update", str(copy), "--steps", "1", "--step-counts", "1"]) == 0
    said = capsys.readouterr()
    assert all(name in said.out for name in ("onnx-fp32", "onnx-fp16", "onnx-int8"))
    assert "torchvision" not in said.err, "libraries talk about themselves"
    made = read_manifest(copy)
    assert made["spec"]["weights_id"] != old_id
    assert (
        card.read_text() == f"weights id `{made['spec']['weights_id']}`, exported at {made['commit'][:12]}.\n"
    )
    assert made["training"] == manifest["training"]
    assert made["files"]["appearance.safetensors"] == manifest["files"]["appearance.safetensors"]
    assert (copy / "decode_int8.onnx").read_bytes() == (small_bundle / "decode_int8.onnx").read_bytes()
    engine = load_engine("onnx-fp32", copy, 1)
    assert engine.spec.step_counts == (1,)
    assert not list(copy.glob("motion.onnx")) + list(copy.glob("motion_2.onnx"))
    old = load_engine("onnx-fp32", small_bundle, 1)
    np.testing.assert_allclose(stream(engine, short), stream(old, short, 1), atol=1e-6)


def test_an_update_that_cannot_be_made_changes_nothing(small_bundle, tmp_path, capsys):
    assert cli.main(["update", str(tmp_path)]) == 1
    assert "not a bundle that can be brought up to date" in capsys.readouterr().err
    for wrong, complaint in ((["--step-counts", "0"], "step counts must be"), (["--steps", "99"], "1 to 50")):
        assert cli.main(["update", str(small_bundle), *wrong]) == 1
        assert complaint in capsys.readouterr().err
    run = tmp_path / "appearance"
    saved = {"average": small_trained().appearance.state_dict(), "minutes": 1.0}
    save_checkpoint(run / "last.pt", 3, small_trained().appearance.config, saved)
    for given, complaint in (
        (["--appearance", str(run)], "give --calibrate FILE"),
        (["--motion", str(run)], "not a checkpoint of training.motion"),
        (["--appearance", str(tmp_path)], "last.pt"),
    ):
        assert cli.main(["update", str(small_bundle), *given]) == 1
        error = capsys.readouterr().err
        assert complaint in error
        assert error.count("\n") == 1
    assert load_engine("onnx-fp32", small_bundle, 1).spec.step_counts == (1, 2)


def test_a_model_of_a_run_takes_its_place_beside_the_others(small_bundle, tmp_path):
    appearance = small_trained().appearance
    with torch.no_grad():
        for weight in appearance.parameters():
            weight.add_(0.01)
    saved = {"average": appearance.state_dict(), "minutes": 7.0, "data": "mine"}
    save_checkpoint(tmp_path / "last.pt", 3, appearance.config, saved)
    trained = load_exported(small_bundle, None, tmp_path / "last.pt")
    assert trained.runs["appearance"] == {"step": 3, "minutes": 7.0, "data": "mine"}
    assert trained.runs["motion"]["data"] == "random"
    name = "decoder.out.conv.weight"
    assert torch.equal(trained.appearance.state_dict()[name], appearance.state_dict()[name])
    own = load_exported(small_bundle, None, None)
    assert torch.equal(
        own.appearance.state_dict()[name], small_trained().appearance.state_dict()[name].half().float()
    )
    assert torch.equal(own.motion.basis, trained.motion.basis)


def test_weights_that_lie_in_safetensors_are_not_shipped_twice(small_bundle):
    for graph, name in (("identity", "identity"), ("encode", "appearance")):
        held = onnx.load(str(small_bundle / f"{graph}.onnx"), load_external_data=False).graph.initializer
        outside = [tensor for tensor in held if tensor.data_location == onnx.TensorProto.EXTERNAL]
        assert outside
        places = {
            entry.value for tensor in outside for entry in tensor.external_data if entry.key == "location"
        }
        assert places == {f"{name}.safetensors"}
        assert max(len(tensor.raw_data) for tensor in held) < 4096, "what stays is float32, or small"


def test_check_measures_a_bundle_again(small_bundle, capsys, tmp_path, monkeypatch):
    short = load_material(chunks=4, pictures=1)
    monkeypatch.setattr(cli, "load_material", lambda *_: short)
    assert cli.main(["check", str(small_bundle), "--engine", "onnx-int8"]) == 0
    assert "onnx-int8: landmarks" in capsys.readouterr().out
    copy = tmp_path / "bundle"
    shutil.copytree(small_bundle, copy)
    shutil.copy(copy / "decode_int8.onnx", copy / "decode.onnx")  # as if the float decoder were a bad one
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"]["decode.onnx"] = manifest["files"]["decode_int8.onnx"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    limits = LIMITS | {"fp32": Parity(0.01, 64.0)}  # tiny random networks lose little in int8
    monkeypatch.setattr("export.parity.LIMITS", limits)
    assert cli.main(["check", str(copy), "--engine", "onnx-fp32"]) == 1
    assert "does not agree" in capsys.readouterr().err
    assert cli.main(["check", str(tmp_path / "nothing")]) == 1
    assert "no weights at" in capsys.readouterr().err


def test_an_impossible_export_is_one_clear_line_and_leaves_nothing(tmp_path, capsys):
    out = ["--out", str(tmp_path / "made" / "bundle")]
    runs = ["--checkpoint", str(tmp_path)]
    for arguments, complaint in (
        ([], "give --checkpoint DIR"),
        ([*runs, "--to", "tensorrt"], "--to tensorrt"),
        ([*runs, "--precision", "bf16"], "ONNX Runtime has no bf16"),
        ([*runs, "--precision", "int8"], "int8 needs --calibrate"),
        (runs, "cannot be read as a checkpoint"),
        ([*runs, "--speech", str(tmp_path / "none.wav")], "none.wav"),
    ):
        assert cli.main([*arguments, *out]) == 1
        error = capsys.readouterr().err
        assert complaint in error
        assert error.count("\n") == 1
    assert not (tmp_path / "made").exists()
    assert engines_for("openvino", "int8", True) == ["onnx-fp32", "onnx-fp16", "openvino-int8"]
    assert engines_for("tensorrt", "fp16", False)[-1] == "tensorrt"
    with pytest.raises(BadInput, match="--to openvino has no --precision fp16"):
        engines_for("openvino", "fp16", False)
    with pytest.raises(BadInput, match="parity needs"):
        load_material(chunks=100)


def test_weights_of_another_shape_are_one_clear_line(small_bundle, tmp_path):
    copy = tmp_path / "bundle"
    shutil.copytree(small_bundle, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["configs"]["appearance"]["decoder"] = 24
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(EngineFailed, match="not weights of this version's torch models"):
        load_engine("torch", copy)


def pictures_with(engine, material, tuned):
    actor = material.actor
    points = list(actor.references.points)
    latents = engine.encode_appearance(actor.references.pictures, actor.references.pictures)
    made = decode_landmarks(engine, points, latents, lip_source(actor.references), actor.layout, tuned)
    return made[:, 96:256, 40:216].astype(np.float64)


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_decodes_with_one_persons_weights(name, small_bundle, material):
    expected_of = load_engine("torch-fp32", small_bundle, 1)
    engine, tuned = loaded(name, small_bundle), tuned_decoder(small_bundle)
    engine.load_decoder(tuned)
    limit = LIMITS[name.rpartition("-")[2]].picture_db

    def agreement(ours, theirs):
        apart = pictures_with(engine, material, ours) - pictures_with(expected_of, material, theirs)
        return 10 * np.log10(255**2 / max(np.square(apart).mean(), 1e-9))

    assert agreement(tuned, tuned) >= limit
    assert agreement(None, None) >= limit, "the bundle's own decoder is still there"
    assert agreement(tuned, None) < 50, "these weights do make other pictures"  # 47 dB in float32


@pytest.mark.parametrize("name", ["onnx-fp32", "onnx-int8", "torch-fp32", "openvino-fp32"])
def test_weights_that_do_not_belong_to_the_bundle_are_refused(name, small_bundle, material):
    engine, tuned = loaded(name, small_bundle), tuned_decoder(small_bundle)
    elsewhere = TunedDecoder("another", tuned.tensors)
    with pytest.raises(EngineFailed, match="belongs to the appearance weights another"):
        pictures_with(engine, material, elsewhere)
    name, tensor = next(iter(tuned.tensors.items()))
    for wrong in ({"decoder.nothing.weight": tensor}, {name: tensor[..., :1]}):
        with pytest.raises(EngineFailed):
            engine.load_decoder(TunedDecoder(engine.spec.appearance_id, wrong))


def test_an_engine_lets_go_of_weights_that_nobody_holds(small_bundle, material):
    engine = load_engine("onnx-fp32", small_bundle, 1)
    tuned = tuned_decoder(small_bundle)
    engine.load_decoder(tuned)
    assert len(engine._runner._tuned) == 1
    del tuned
    gc.collect()
    assert len(engine._runner._tuned) == 0
