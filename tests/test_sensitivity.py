"""Which convolutions int8 harms: each is compared, and as many stay float32 as a wanted closeness takes."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test installs it)")
onnx = pytest.importorskip("onnx", reason="onnx is not installed (make test installs it)")

from export import __main__ as cli  # noqa: E402
from export import sensitivity  # noqa: E402
from export.sensitivity import Layer, layers_of, quantise_within  # noqa: E402
from mytalk.errors import BadInput, MyTalkError  # noqa: E402
from tests.small_bundle import small_trained, write_calibration  # noqa: E402

TWO = ["decoder.out.conv.weight", "landmark_encoder.layers.1.0.weight"]


@pytest.fixture(scope="module")
def calibration(tmp_path_factory):
    return write_calibration(tmp_path_factory.mktemp("calibration") / "frames.npz")


def quantised(path) -> set[str]:
    """Parameters of an int8 decoder's quantised convolutions."""
    found = {i.name for i in onnx.load(str(path)).graph.initializer if i.name.endswith("weight_quantized")}
    return found | {i.name for i in onnx.load(str(path)).graph.initializer if "__folded_" in i.name}


def test_every_convolution_of_the_decoder_is_known(small_bundle):
    names = layers_of(small_bundle / "decode.onnx")
    assert len(names) == 23
    assert set(TWO) < set(names)
    parameters = dict(small_trained().appearance.named_parameters())
    assert set(names) < set(parameters)


def test_the_table_says_what_each_brings(small_bundle, calibration, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sensitivity, "layers_of", lambda _: TWO)
    out = tmp_path / "table.json"
    given = ["sensitivity", str(small_bundle), "--calibrate", str(calibration), "--json", str(out)]
    assert cli.main(given) == 0
    table = json.loads(out.read_text())
    assert {layer["name"] for layer in table["layers"]} == set(TWO)
    gains = [layer["gain_db"] for layer in table["layers"]]
    assert gains == sorted(gains, reverse=True)
    assert all(np.isfinite(list(layer.values())[1:]).all() for layer in table["layers"])
    assert table["int8_picture_db"] > 36
    assert TWO[0] in capsys.readouterr().out


def test_the_most_sensitive_stay_float_until_it_is_close_enough(
    small_bundle, calibration, tmp_path, monkeypatch
):
    model, source = small_trained().appearance, small_bundle / "decode.onnx"
    ranked = [Layer(name, 1.0, 0.0) for name in reversed(layers_of(source)[-4:])]
    monkeypatch.setattr(sensitivity, "compare_layers", lambda *_: (0.0, ranked))
    target = tmp_path / "int8.onnx"
    reached, kept = quantise_within(model, source, target, calibration, 0.0)
    assert not kept
    wanted = reached + 0.01
    closer, kept = quantise_within(model, source, target, calibration, wanted)
    assert closer >= wanted
    assert list(kept) == [layer.name for layer in ranked[: len(kept)]]
    assert not any(name in held for name in kept for held in quantised(target))
    with pytest.raises(MyTalkError, match="int8 cannot come within"):
        quantise_within(model, source, target, calibration, 1000.0)


def test_what_is_no_calibration_is_one_line(small_bundle, tmp_path, capsys):
    given = ["sensitivity", str(small_bundle), "--calibrate", str(tmp_path / "nothing.npz")]
    assert cli.main(given) == 1
    assert "not a file of training.calibration" in capsys.readouterr().err
    assert cli.main([*given[:1], str(tmp_path), *given[2:]]) == 1
    assert "no weights at" in capsys.readouterr().err
    with pytest.raises(BadInput):
        quantise_within(small_trained().appearance, small_bundle / "decode.onnx", tmp_path / "x", tmp_path, 1)
