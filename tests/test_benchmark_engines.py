"""The engine benchmark: what it counts, what it divides, and one short real run with its plot."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

torch = pytest.importorskip("torch", reason="torch is not installed (make test installs it)")

from benchmarks import engines as cli  # noqa: E402
from benchmarks.engine_process import CannotMeasure, Target  # noqa: E402
from benchmarks.engine_report import Series, floor_ms  # noqa: E402
from benchmarks.floor import count_macs, hop_macs, quantise, write_convolutions, write_products  # noqa: E402
from benchmarks.rival import INPUTS, build_rival  # noqa: E402
from mytalk.engines import default_bundle  # noqa: E402


def test_multiply_adds_are_counted_by_precision(tmp_path):
    path, small = tmp_path / "conv.onnx", tmp_path / "conv_int8.onnx"
    macs = write_convolutions(path, 8, 16)
    assert macs == 6 * 8 * 8 * 9 * 16 * 16
    assert count_macs(path) == {"int8": 0, "float": macs}
    quantise(path, small, [{"x": np.ones((1, 8, 16, 16), np.float32)}])
    assert count_macs(small) == {"int8": macs, "float": 0}
    assert write_products(tmp_path / "m.onnx", 32) == count_macs(tmp_path / "m.onnx")["float"] == 6 * 32**3


def test_other_kinds_of_layers_are_counted(tmp_path):
    weights = {"t": (4, 6, 3, 3), "g": (10, 7)}
    graph = helper.make_graph(
        [
            helper.make_node("ConvTranspose", ["x", "t"], ["y"], strides=[2, 2]),
            helper.make_node("Gemm", ["a", "g"], ["b"], transA=1),
        ],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 5, 5]),
            helper.make_tensor_value_info("a", TensorProto.FLOAT, [10, 2]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("b", TensorProto.FLOAT, None),
        ],
        [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), tmp_path / "g.onnx")
    assert count_macs(tmp_path / "g.onnx")["float"] == 4 * 25 * 6 * 9 + 2 * 7 * 10


def test_the_shipped_decoder_is_counted_and_its_int8_twin_the_same():
    bundle = default_bundle()
    plain, small = (count_macs(bundle / name) for name in ("decode.onnx", "decode_int8.onnx"))
    assert plain["int8"] == 0
    assert 0.5e9 < plain["float"] < 1.5e9
    assert plain["float"] <= sum(small.values()) < 1.25 * plain["float"], (
        "folding adds some products with zero"
    )
    assert small["int8"] > 0.9 * plain["float"]
    hop, longer = (hop_macs(bundle, tokens)["float"] for tokens in (3, 8))
    assert 2e7 < hop < longer < 3 * hop


def test_the_network_to_compare_with_has_the_stated_size():
    network = build_rival()
    parameters = sum(weight.numel() for weight in network.parameters())
    assert parameters == pytest.approx(36e6, rel=0.02)
    from torch.utils.flop_counter import FlopCounterMode

    given = [torch.rand(1, *shape) for shape in INPUTS.values()]
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        made = network(*given)
    assert counted.get_total_flops() / 2 == pytest.approx(4.0e9, rel=0.02)
    assert made.shape == (1, 3, 96, 96)


def test_the_floor_adds_the_precisions():
    macs = {"int8": 900, "float": 100}
    assert floor_ms(macs, "int8", {"int8": 1e6, "fp32": 1e5}) == pytest.approx(0.9 + 1.0)
    assert floor_ms({"int8": 0, "float": 100}, "bf16", {"bf16": 1e5}) == pytest.approx(1.0)
    assert floor_ms(macs, "int8", {"fp32": 1e5}) is None


def test_times_are_medians_of_turns_and_ratios_are_within_a_turn():
    series, one, other = Series(), ("a", "decode", 1), ("b", "run", 1)
    for slow, seconds in ((1, 0.1), (10, 0.1), (1, 0.3)):  # the machine is slow in the second turn
        series.add(one, [slow * seconds, slow * seconds, 99.0])
        series.add(other, [slow * 0.2])
    assert series.ms(one) == pytest.approx(300)
    assert series.ratio(one, other) == pytest.approx(0.5)


def test_what_cannot_run_is_one_line():
    with pytest.raises(CannotMeasure, match="no weights at"):
        Target("x", {"engine": "onnx-fp32", "bundle": "nothing", "threads": 1})
    with pytest.raises(CannotMeasure, match="unknown engine"):
        Target("x", {"engine": "tpu", "bundle": "nothing", "threads": 1})
    with pytest.raises(SystemExit):
        cli.main(["--batches", "17"])


def test_a_short_run_writes_a_whole_report(small_bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "RUNTIMES", ("onnx",))
    monkeypatch.setattr(cli, "CONVOLUTIONS", ((16, 16),))
    monkeypatch.setattr(cli, "MATRIX", 64)
    monkeypatch.setattr("benchmarks.rival.INPUTS", {"x": (16, 16, 16)})  # exporting the real one takes 20 s
    monkeypatch.setattr("benchmarks.rival.export_rival", lambda path: write_convolutions(path, 16, 16))
    out, png = tmp_path / "made" / "engines.json", tmp_path / "engines.png"
    arguments = [
        "--bundle",
        str(small_bundle),
        "--threads",
        "1",
        "--engines",
        "onnx-fp32",
        "onnx-int8",
        "tpu",
    ]
    assert (
        cli.main([*arguments, "--batches", "1", "--rounds", "1", "--json", str(out), "--plot", str(png)]) == 0
    )
    report = json.loads(out.read_text())
    assert [(row["engine"], row["batch"]) for row in report["rows"]] == [
        ("onnx-fp32", 1),
        ("onnx-int8", 1),
    ]
    for row in report["rows"]:
        assert row["frames_per_s"] == pytest.approx(1e3 / row["ms_per_frame"])
        spent = row["ms_per_frame"] + row["motion_ms_per_frame"]
        assert row["sessions_at_25_fps"] == pytest.approx(40 / spent)
        assert row["of_floor"] > 0
        assert row["of_rival"] > 0
        assert row["memory_mib"]["peak"] > 20
    assert set(report["peak"]) == {"fp32", "int8"}
    assert {"machine", "versions", "commit", "rival", "macs"} <= set(report)
    assert "unknown engine" in report["not_run"]["tpu"]
    assert png.read_bytes()[:4] == b"\x89PNG"
    assert "onnx-int8" in capsys.readouterr().out
