"""The decoder's graph in the shapes that int8 kernels are fast at; exact, but for sums in another order."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from export.graph import GraphEditor
from mytalk.engines.folded import Fold
from mytalk.errors import MyTalkError

CIN, COUT = 4, 16  # what the kernels want channels to be multiples of
PADDING_COST = 1.6  # channels have to be added or cut off then, which costs as much as more products
TAKEN, GIVEN = (1, 2, 4), (1, 2, 4)  # pixels that may be made one
LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)  # orders of axes that put the channels last, and back


@dataclass(frozen=True, slots=True)
class Convolution:
    """What is looked at: sizes of a convolution and of its pictures."""

    cin: int
    cout: int
    kernel: tuple[int, int]
    stride: int
    left: int
    width_in: int
    width_out: int


def choose_fold(found: Convolution, rows: int) -> Fold:
    """The fold that costs the fewest products; a tie goes to the least folding."""
    best, least = Fold(1, 1, found.stride, found.left, rows, found.cin, found.cout), float("inf")
    for taken in TAKEN:
        for given in GIVEN:
            if found.width_in % taken or found.width_out % given or given * found.stride % taken:
                continue
            cin, cout = (-(-n // of) * of for n, of in ((taken * found.cin, CIN), (given * found.cout, COUT)))
            fold = Fold(taken, given, found.stride, found.left, rows, cin, cout)
            padded = cout > given * found.cout or cin > taken * found.cin
            cost = cout * cin * fold.taps(found.kernel[1]) / given * (PADDING_COST if padded else 1.0)
            if cost < least:
                best, least = fold, cost
    return best


def fold_convolutions(model: onnx.ModelProto, names: Collection[str]) -> None:
    """Fold those of the named convolutions whose channels are not what int8 kernels want, in place."""
    editor = GraphEditor(model)
    for node in [node for node in editor.nodes if node.name in names]:
        cout, cin, *kernel = editor.value(node.input[1]).shape
        if cin % CIN == 0 and cout % COUT == 0:
            continue
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        found = Convolution(
            cin,
            cout,
            (kernel[0], kernel[1]),
            attributes["strides"][1],
            attributes["pads"][1],
            editor.shapes[node.input[0]][3],
            editor.shapes[node.output[0]][3],
        )
        spread = _spread_after(editor, node)
        fold = choose_fold(found, 1 if spread is None else int(editor.value(spread.input[1])[3]))
        _apply(editor, node, found, fold, attributes, spread)
    editor.finish()


def _spread_after(editor: GraphEditor, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """The reshape of a ``SpreadConv`` that takes a convolution's channels apart, if there is one."""
    after = editor.users(node.output[0])
    if [user.op_type for user in after] != ["Transpose"]:
        return None
    after = editor.users(after[0].output[0])
    apart = len(after) == 1 and after[0].op_type == "Reshape" and len(editor.value(after[0].input[1])) == 5
    return after[0] if apart else None


def _apply(
    editor: GraphEditor,
    node: onnx.NodeProto,
    found: Convolution,
    fold: Fold,
    attributes: dict[str, Any],
    spread: onnx.NodeProto | None,
) -> None:
    height, width = editor.shapes[node.input[0]][2:]
    weight, bias = (editor.value(name) for name in node.input[1:3])
    node.input[1] = editor.constant(fold.weight(weight), fold.marked(node.input[1]))
    node.input[2] = editor.constant(fold.bias(bias), fold.marked(node.input[2]))
    if fold.taken > 1:
        node.input[0] = _viewed(
            editor, node.input[0], node, (height, width // fold.taken, fold.taken * found.cin)
        )
    elif fold.cin > found.cin:
        _widen(editor, node, fold.cin - found.cin)
    top, _, bottom, _ = attributes["pads"]
    taps = fold.taps(found.kernel[1])
    step = fold.given * fold.stride // fold.taken
    right = (found.width_out // fold.given - 1) * step + taps + fold.first() - width // fold.taken
    changed = {
        "kernel_shape": [found.kernel[0], taps],
        "strides": [attributes["strides"][0], step],
        "pads": [top, -fold.first(), bottom, right],
    }
    del node.attribute[:]
    node.attribute.extend(
        helper.make_attribute(k, v) for k, v in (attributes | changed).items() if k != "auto_pad"
    )
    _unfold(editor, node, found, fold, spread)


def _viewed(editor: GraphEditor, name: str, before: onnx.NodeProto, shape: tuple[int, int, int]) -> str:
    """A tensor whose rows and channels lie otherwise in the same memory, channels last."""
    last = editor.add("Transpose", [name], before, perm=LAST)
    whole = editor.constant(np.array([-1, *shape], np.int64))
    return editor.add("Transpose", [editor.add("Reshape", [last, whole], before)], before, perm=FIRST)


def _widen(editor: GraphEditor, node: onnx.NodeProto, spare: int) -> None:
    """Give a convolution's input more channels, of zeros; in the least of the parts it is put together of."""
    maker = editor.maker(node.input[0])
    alone = maker is not None and maker.op_type == "Concat" and len(editor.users(node.input[0])) == 1
    holder, place = (maker, len(maker.input) - 1) if maker is not None and alone else (node, 0)
    sizes = editor.constant(np.array([0, 0, 0, 0, 0, spare, 0, 0], np.int64))
    holder.input[place] = editor.add("Pad", [holder.input[place], sizes], holder)


def _unfold(
    editor: GraphEditor,
    node: onnx.NodeProto,
    found: Convolution,
    fold: Fold,
    spread: onnx.NodeProto | None,
) -> None:
    """Give what comes after a folded convolution the shape that it expects."""
    height = editor.shapes[node.output[0]][2]
    if spread is not None and fold.cout == fold.given * found.cout:
        # Whole rows of the folded pixels are moved, in place of single ones.
        sizes = editor.value(spread.input[1]).tolist()
        per_row = found.cout // fold.rows * fold.given
        spread.input[1] = editor.constant(
            np.array([*sizes[:2], found.width_out // fold.given, fold.rows, per_row], np.int64)
        )
        return
    users = editor.users(node.output[0])
    last = node
    if [user.op_type for user in users] == ["Relu"]:
        last, users = users[0], editor.users(users[0].output[0])
    if not users:
        raise MyTalkError(f"{node.name} is what the graph gives out: it cannot be folded")
    name, first = last.output[0], min(users, key=editor.nodes.index)
    made = name
    if fold.cout > fold.given * found.cout:
        limits = [editor.constant(np.array([n], np.int64)) for n in (0, fold.given * found.cout, 1)]
        made = editor.add("Slice", [made, *limits], first)
    if fold.given > 1:
        made = _viewed(editor, made, first, (height, found.width_out, found.cout))
    for user in users:
        for place, given in enumerate(user.input):
            if given == name:
                user.input[place] = made
    editor.shapes[made] = editor.shapes[name]
