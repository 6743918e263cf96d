"""Weights in the places of an exported decoder: found without a library, checked with one."""

from __future__ import annotations

import numpy as np
import pytest

from mytalk.actors.tuned import TunedDecoder
from mytalk.engines import default_bundle
from mytalk.engines.bundle import INT8_DECODER
from mytalk.engines.folded import told_fold
from mytalk.engines.initialisers import HALF, PREFIX, Graph, tuned_file, with_tuned, with_tuned_int8
from mytalk.errors import EngineFailed

FLOAT, INT8 = (default_bundle() / name for name in ("decode.onnx", INT8_DECODER))


@pytest.fixture(scope="module")
def graph() -> Graph:
    return Graph(FLOAT.read_bytes())


@pytest.fixture(scope="module")
def int8() -> Graph:
    return Graph(INT8.read_bytes())


def parameters(graph: Graph) -> dict[str, np.ndarray]:
    """The decoder's own weights, float16."""
    names = [name.removeprefix(PREFIX).removesuffix(HALF) for name in graph.places if name.startswith(PREFIX)]
    return {
        name: graph.value(graph.stored(name)).astype(np.float16)
        for name in names
        if name.endswith((".weight", ".bias"))
    }


def changed(graph: Graph) -> TunedDecoder:
    random = np.random.default_rng(0)
    return TunedDecoder(
        "any",
        {
            name: (tensor * (1 + 0.1 * random.standard_normal(tensor.shape))).astype(np.float16)
            for name, tensor in parameters(graph).items()
        },
    )


@pytest.mark.parametrize("path", [FLOAT, INT8])
def test_every_initialiser_is_found_as_the_library_finds_it(path) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed (make test installs it)")
    found = Graph(path.read_bytes())
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8)
    for tensor in onnx.load(str(path)).graph.initializer:
        raw = tensor.HasField("raw_data") or len(tensor.float_data) > 0
        if tensor.data_type in floats and raw:
            np.testing.assert_array_equal(found.value(tensor.name), onnx.numpy_helper.to_array(tensor))


def test_the_same_weights_give_the_same_file(graph: Graph, int8: Graph) -> None:
    same = TunedDecoder("any", parameters(graph))
    assert with_tuned(graph, same) == FLOAT.read_bytes()
    again, before = with_tuned_int8(int8, graph, same), INT8.read_bytes()
    # the last bit of a few scales may be rounded otherwise
    assert sum(a != b for a, b in zip(again, before, strict=True)) < 100
    quantised = [name for name in int8.places if name.endswith("_quantized")]
    assert len(quantised) > 40
    for name in quantised:
        np.testing.assert_array_equal(Graph(again).value(name), int8.value(name))


def test_other_weights_change_their_places_alone(graph: Graph) -> None:
    tuned = changed(graph)
    after = Graph(with_tuned(graph, tuned))
    for name in graph.places:
        parameter = name.removeprefix(PREFIX).removesuffix(HALF)
        if name.startswith(PREFIX) and parameter in tuned.tensors:
            np.testing.assert_array_equal(after.value(name), tuned.tensors[parameter])
        else:
            np.testing.assert_array_equal(after.value(name), graph.value(name))


def test_int8_weights_are_rounded_by_channel(graph: Graph, int8: Graph) -> None:
    tuned = changed(graph)
    after = Graph(with_tuned_int8(int8, graph, tuned))
    seen = 0
    for one in after.quantised_convolutions():
        name, fold = told_fold(one.weight.removesuffix("_quantized"))
        parameter = next(known for known in tuned.tensors if name.endswith(PREFIX + known))
        scale = after.value(one.weight_scale)
        held = after.value(one.weight) * scale[:, None, None, None]
        wanted = tuned.tensors[parameter].astype(np.float32)
        wanted = wanted if fold is None else fold.weight(wanted)
        gain = np.round(np.abs(held).max() / np.abs(wanted).max())  # of a product that was folded in
        assert np.abs(held - gain * wanted).max() <= 0.51 * scale.max()
        seen += 1
    assert seen == len(int8.quantised_convolutions()) > 10


def test_a_bias_keeps_the_product_that_was_folded_into_it(graph: Graph, int8: Graph) -> None:
    own = parameters(graph)
    name = "decoder.warp.by_flow.1"
    if f"{name}.bias" not in own:
        pytest.skip("this decoder has no such convolution")
    tuned = TunedDecoder("any", own | {f"{name}.bias": own[f"{name}.bias"] + np.float16(0.25)})
    after = Graph(with_tuned_int8(int8, graph, tuned))
    one = next(c for c in int8.quantised_convolutions() if f"{name}.weight" in c.weight)
    _, fold = told_fold(one.weight.removesuffix("_quantized"))
    assert fold is not None
    shape = own[f"{name}.bias"].shape
    scale, added = (
        int8.value(one.bias_scale),
        fold.bias(np.full(shape, 0.25, np.float32)),
    )  # the spare ones: 0
    moved = after.value(one.bias) * scale - int8.value(one.bias) * scale
    gain = np.abs(int8.value(one.weight) * int8.value(one.weight_scale)[:, None, None, None]).max() / np.abs(
        own[f"{name}.weight"]
    ).max().astype(np.float32)
    np.testing.assert_allclose(moved, gain * added, rtol=0.02, atol=1e-6)
    assert np.count_nonzero(moved) >= shape[0]


@pytest.mark.parametrize("path", [FLOAT, INT8])
def test_weights_that_do_not_fit_are_refused(graph: Graph, path) -> None:
    name, tensor = next(iter(parameters(graph).items()))
    for tensors, says in (
        ({"decoder.other.weight": tensor}, "has no weights"),
        ({name: tensor[:1]}, "has the shape"),
    ):
        with pytest.raises(EngineFailed, match=says):
            tuned_file(path, TunedDecoder("any", tensors))


@pytest.mark.parametrize("data", [b"\x3a\xff\xff\xff", b"no graph at all", b"\x3a\x02\x2a\x7f"])
def test_what_is_no_graph_is_refused(data: bytes) -> None:
    with pytest.raises(EngineFailed, match="not an ONNX file"):
        Graph(data)


def test_an_empty_file_has_no_places() -> None:
    assert Graph(b"").places == {}
