"""The decoder's graph in other shapes makes the same pictures; what is folded is what pays."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="onnx is not installed (make test installs it)")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from export.fold import Convolution, choose_fold, fold_convolutions  # noqa: E402
from mytalk.engines.folded import Fold, told_fold  # noqa: E402


def run(model, x):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def graph(cin: int, cout: int, *, spread: bool):
    """A convolution and ReLU of pictures 8 × 24; spread: as ``SpreadConv`` has it."""
    random = np.random.default_rng(0)
    constants = {
        "model.a.weight": random.normal(size=(cout, cin, 3, 3)).astype(np.float32),
        "model.a.bias": random.normal(size=cout).astype(np.float32),
        "apart": np.array([-1, 8, 24, 2, cout // 2]),
        "whole": np.array([-1, 16, 48, cout // 4]),
    }
    nodes = [
        helper.make_node(
            "Conv", ["x", "model.a.weight", "model.a.bias"], ["c"], "a", pads=[1, 1, 1, 1], strides=[1, 1]
        )
    ]
    if spread:
        nodes += [
            helper.make_node("Transpose", ["c"], ["t"], perm=[0, 2, 3, 1]),
            helper.make_node("Reshape", ["t", "apart"], ["r"]),
            helper.make_node("Transpose", ["r"], ["s"], perm=[0, 1, 3, 2, 4]),
            helper.make_node("Reshape", ["s", "whole"], ["y"]),
        ]
    else:
        nodes += [helper.make_node("Relu", ["c"], ["r"]), helper.make_node("Neg", ["r"], ["y"])]
    made = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", cin, 8, 24])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(
    ("cin", "cout", "spread"),
    [(3, 24, False), (24, 12, False), (24, 24, False), (70, 32, False), (64, 10, False), (24, 12, True)],
)
def test_a_folded_graph_computes_the_same(cin, cout, spread):
    model, x = (
        graph(cin, cout, spread=spread),
        np.random.default_rng(1).normal(size=(2, cin, 8, 24)).astype(np.float32),
    )
    expected = run(model, x)
    fold_convolutions(model, ["a"])
    onnx.checker.check_model(model)
    names = [node.input[1] for node in model.graph.node if node.op_type == "Conv"]
    fold = told_fold(names[0])[1]
    assert fold is not None
    assert fold.cin % 4 == 0
    assert fold.cout % 16 == 0
    np.testing.assert_allclose(run(model, x), expected, rtol=1e-4, atol=1e-4)


def test_what_kernels_like_is_left_alone():
    model = graph(64, 32, spread=False)
    fold_convolutions(model, ["a"])
    assert [n.input[1] for n in model.graph.node if n.op_type == "Conv"] == ["model.a.weight"]
    model = graph(3, 24, spread=False)
    fold_convolutions(model, [])
    assert "folded" not in str(model)


def test_the_cheapest_fold_is_chosen():
    painted = Convolution(cin=24, cout=12, kernel=(3, 3), stride=1, left=1, width_in=88, width_out=88)
    assert choose_fold(painted, 2) == Fold(1, 4, 1, 1, 2, 24, 48)
    picture = Convolution(cin=3, cout=24, kernel=(6, 6), stride=2, left=2, width_in=176, width_out=88)
    assert choose_fold(picture, 1) == Fold(4, 2, 2, 2, 1, 12, 48)
    head = Convolution(cin=64, cout=10, kernel=(3, 3), stride=1, left=0, width_in=38, width_out=36)
    assert choose_fold(head, 1) == Fold(1, 1, 1, 0, 1, 64, 16)
