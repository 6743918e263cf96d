"""Changing an exported graph: what is taken out changes nothing that comes out."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="onnx is not installed (make test installs it)")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from export.graph import GraphEditor, tidy  # noqa: E402

TABLE = np.arange(2 * 3 * 40, dtype=np.float32).reshape(2, 3, 40)
PLACES = np.random.default_rng(0).uniform(0, 10, (2, 5, 6)).astype(np.float32)


def model(nodes, inputs, constants):
    made = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 3)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(made, inputs):
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def gather():
    nodes = [
        helper.make_node("Slice", ["places", "one", "four", "last", "one"], ["a"]),
        helper.make_node("Slice", ["a", "one", "five", "first", "one"], ["b"]),
        helper.make_node("Cast", ["b"], ["c"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["c", "flat"], ["d"]),
        helper.make_node("Expand", ["d", "wide"], ["e"]),
        helper.make_node("GatherElements", ["table", "e"], ["y"], axis=2),
    ]
    constants = {"one": [1], "four": [4], "five": [5], "last": [2], "first": [1], "flat": [2, 1, -1]}
    return model(nodes, {"table": TABLE, "places": PLACES}, constants | {"wide": [2, 3, 12]})


def test_a_tidy_graph_gives_the_same_with_fewer_copies():
    made, inputs = gather(), {"table": TABLE, "places": PLACES}
    expected = run(made, inputs)
    tidy(made)
    onnx.checker.check_model(made)
    np.testing.assert_array_equal(run(made, inputs), expected)
    assert [node.op_type for node in made.graph.node].count("Slice") == 1
    cast = next(node for node in made.graph.node if node.op_type == "Cast")
    assert cast.attribute[0].i == TensorProto.INT32


def test_slices_of_one_axis_and_shared_ones_stay():
    nodes = [
        helper.make_node("Slice", ["x", "one", "four", "axis", "one"], ["a"]),
        helper.make_node("Slice", ["a", "one", "four", "axis", "one"], ["y"]),
    ]
    made = model(nodes, {"x": PLACES}, {"one": [1], "four": [4], "axis": [1]})
    expected = run(made, {"x": PLACES})
    np.testing.assert_array_equal(run(tidy(made), {"x": PLACES}), expected)
    assert len(made.graph.node) == 2


def test_an_editor_gives_new_names_and_drops_what_nothing_uses():
    made = gather()
    for _ in range(2):  # names of one editor are not those of the next
        editor = GraphEditor(made)
        kept = editor.nodes[0]
        editor.add("Neg", [editor.constant(np.ones(1, np.float32))], kept)
        same = [editor.add("Abs", ["places"], kept) for _ in range(2)]
        assert same[0] == same[1]
        editor.replace("places", same[0])
        editor.maker(same[0]).input[0] = "places"
        editor.finish()
    onnx.checker.check_model(made)
    operators = [node.op_type for node in made.graph.node]
    assert "Neg" not in operators
    assert operators.count("Abs") >= 1
