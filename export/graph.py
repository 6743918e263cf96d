"""Changing an exported graph: finding nodes by what they make, and what every decoder's graph is freed of."""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

SHAPING = ("Reshape", "Unsqueeze", "Expand")  # what an index goes through on its way to a gather


class GraphEditor:
    """A graph in which nodes are found by what they make and use; inputs and outputs keep their names."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Shapes are inferred once, before anything changes."""
        inferred = onnx.shape_inference.infer_shapes(model).graph
        values = (*inferred.value_info, *inferred.input, *inferred.output)
        self.graph = model.graph
        self.shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
        self.nodes = list(model.graph.node)
        self._constants = {i.name: i for i in model.graph.initializer}
        self._taken = {*self._constants, *(name for node in self.nodes for name in (node.name, *node.output))}

    def maker(self, name: str) -> onnx.NodeProto | None:
        """The node that makes a tensor; None for inputs and constants."""
        return next((node for node in self.nodes if name in node.output), None)

    def users(self, name: str) -> list[onnx.NodeProto]:
        """The nodes that take a tensor."""
        return [node for node in self.nodes if name in node.input]

    def value(self, name: str) -> npt.NDArray[Any]:
        """A constant's numbers."""
        return numpy_helper.to_array(self._constants[name])

    def constant(self, value: npt.NDArray[Any], name: str | None = None) -> str:
        """Add a constant; returns its name."""
        made = numpy_helper.from_array(value, name or self._fresh("constant"))
        self._constants[made.name] = made
        return str(made.name)

    def add(self, operator: str, inputs: list[str], before: onnx.NodeProto, **attributes: Any) -> str:
        """Put a node before another; returns the name of its output. A node that is there is used again."""
        made = helper.make_node(operator, inputs, [""], **attributes)
        for node in self.nodes[: self.nodes.index(before)]:
            if (node.op_type, list(node.input), list(node.attribute)) == (
                operator,
                inputs,
                list(made.attribute),
            ):
                return str(node.output[0])
        made.name, made.output[0] = self._fresh(operator), self._fresh("made")
        self.nodes.insert(self.nodes.index(before), made)
        return str(made.output[0])

    def _fresh(self, start: str) -> str:
        """A name that nothing has yet."""
        name = next(name for name in (f"{start}_{n}" for n in count()) if name not in self._taken)
        self._taken.add(name)
        return name

    def replace(self, old: str, new: str) -> None:
        """Let everything that takes one tensor take another."""
        for node in self.users(old):
            for place, name in enumerate(node.input):
                if name == old:
                    node.input[place] = new

    def finish(self) -> None:
        """Write the nodes back, in order, without those that nothing uses."""
        outputs = {output.name for output in self.graph.output}
        while True:
            used = outputs | {name for node in self.nodes for name in node.input}
            kept = [node for node in self.nodes if used.intersection(node.output)]
            if len(kept) == len(self.nodes):
                break
            self.nodes = kept
        del self.graph.node[:], self.graph.initializer[:], self.graph.value_info[:]
        self.graph.node.extend(self.nodes)
        self.graph.initializer.extend(i for name, i in self._constants.items() if name in used)


def tidy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Spare a graph copies that the exporter writes and no runtime takes out; returns it, changed."""
    editor = GraphEditor(model)
    for node in list(editor.nodes):
        if node.op_type == "Slice":
            _join_slices(editor, node)
        elif node.op_type == "GatherElements":
            _narrow_index(editor, node)
    editor.finish()
    return model


def _join_slices(editor: GraphEditor, node: onnx.NodeProto) -> None:
    """Cut along all axes at once, in place of one after the other."""
    before = editor.maker(node.input[0])
    if before is None or before.op_type != "Slice" or len(editor.users(before.output[0])) > 1:
        return
    try:
        parts = [[editor.value(name) for name in one.input[1:5]] for one in (before, node)]
    except KeyError:  # limits that are computed
        return
    if len(parts[0]) == len(parts[1]) == 4 and not set(parts[0][2].tolist()) & set(parts[1][2].tolist()):
        joined = [editor.constant(np.concatenate(both)) for both in zip(*parts, strict=True)]
        node.input[:] = [before.input[0], *joined]


def _narrow_index(editor: GraphEditor, node: onnx.NodeProto) -> None:
    """Count in int32 where things are gathered: half of the memory, and torch knows int64 alone."""
    maker = editor.maker(node.input[1])
    while maker is not None and maker.op_type in SHAPING and len(editor.users(maker.output[0])) == 1:
        maker = editor.maker(maker.input[0])
    if maker is not None and maker.op_type == "Cast" and len(editor.users(maker.output[0])) == 1:
        to = next(a for a in maker.attribute if a.name == "to")
        to.i = onnx.TensorProto.INT32
