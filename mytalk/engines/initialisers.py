"""Other numbers in an exported graph's places: initialisers of an ONNX file are found and overwritten.

A person's weights come as arrays by name, never as a graph: the graph stays the bundle's own, byte for byte
but for the numbers, whose sizes cannot change. That takes a walk over a few fields of the file's
protocol-buffer encoding (onnx.proto: ModelProto.graph = 7; GraphProto.node = 1, initializer = 5), no library.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mytalk.actors.tuned import TunedDecoder
from mytalk.engines.bundle import INT8_DECODER
from mytalk.engines.folded import told_fold
from mytalk.errors import EngineFailed
from mytalk.types import F32

GRAPH, NODE, INITIALIZER = 7, 1, 5
TENSOR_DIMS, TENSOR_TYPE, TENSOR_FLOATS, TENSOR_NAME, TENSOR_RAW = 1, 2, 4, 8, 9
NODE_INPUT, NODE_OUTPUT, NODE_OPERATOR = 1, 2, 4
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
TYPES: dict[int, np.dtype[np.generic]] = {
    1: np.dtype("<f4"),
    3: np.dtype("i1"),
    6: np.dtype("<i4"),
    10: np.dtype("<f2"),
}
HALF = "__half"  # what export appends to the names of weights that it stores as float16
FLOAT_DECODER = "decode.onnx"
PREFIX = "model."  # of the torch module's parameters in an exported graph
QUANTISED = "_quantized"
LARGEST_INT8 = 127


@dataclass(frozen=True, slots=True)
class Place:
    """Where the numbers of an initialiser lie in the file."""

    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Convolution:
    """A quantised convolution's initialisers, by name: input scale, weight, bias; each with its scale."""

    input_scale: str
    weight: str
    weight_scale: str
    bias: str
    bias_scale: str


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _packed(data: memoryview, at: int, last: int) -> Iterator[int]:
    while at < last:
        value, at = _varint(data, at)
        yield value


def _fields(data: memoryview, first: int, last: int) -> Iterator[tuple[int, int, int, int]]:
    """(field number, value, first byte, last byte) of a message; value is 0 where there are bytes instead."""
    at = first
    while at < last:
        key, at = _varint(data, at)
        kind = key & 7
        if kind == VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value, at, at
        elif kind == LENGTH:
            size, at = _varint(data, at)
            yield key >> 3, 0, at, at + size
            at += size
        else:
            size = {FIXED64: 8, FIXED32: 4}[kind]
            yield key >> 3, 0, at, at + size
            at += size


class Graph:
    """The initialisers of an ONNX file, and its quantised convolutions."""

    def __init__(self, data: bytes) -> None:
        """Raises ``EngineFailed`` if the bytes are not an ONNX file."""
        self._data = data
        self.places: dict[str, Place] = {}
        self._nodes: dict[str, tuple[str, list[str]]] = {}  # output → operator and inputs
        view = memoryview(data)
        try:
            for number, _, first, last in _fields(view, 0, len(data)):
                if number == GRAPH:
                    self._walk(view, first, last)
        except (IndexError, KeyError, UnicodeDecodeError) as error:
            raise EngineFailed("not an ONNX file") from error

    def _walk(self, view: memoryview, begin: int, end: int) -> None:
        for number, _, first, last in _fields(view, begin, end):
            if number == INITIALIZER:
                self._initializer(view, first, last)
            elif number == NODE:
                self._node(view, first, last)

    def _initializer(self, view: memoryview, begin: int, end: int) -> None:
        name, kind, shape, numbers = "", 0, [], (0, 0)
        for number, value, first, last in _fields(view, begin, end):
            if number == TENSOR_NAME:
                name = bytes(view[first:last]).decode()
            elif number == TENSOR_TYPE:
                kind = value
            elif number == TENSOR_DIMS and first == last:
                shape.append(value)
            elif number == TENSOR_DIMS:
                shape += _packed(view, first, last)
            elif number in (TENSOR_RAW, TENSOR_FLOATS):  # packed floats are stored as raw ones are
                numbers = first, last
        dtype = TYPES.get(kind)
        if dtype is not None and numbers[1] - numbers[0] == dtype.itemsize * int(np.prod(shape, dtype=int)):
            self.places[name] = Place(dtype, tuple(shape), *numbers)

    def _node(self, view: memoryview, begin: int, end: int) -> None:
        operator, inputs, outputs = "", [], []
        for number, _, first, last in _fields(view, begin, end):
            text = bytes(view[first:last])
            if number == NODE_INPUT:
                inputs.append(text.decode())
            elif number == NODE_OUTPUT:
                outputs.append(text.decode())
            elif number == NODE_OPERATOR:
                operator = text.decode()
        for output in outputs:
            self._nodes[output] = operator, inputs

    def value(self, name: str) -> npt.NDArray[np.generic]:
        """The numbers of an initialiser."""
        place = self.places[name]
        count = int(np.prod(place.shape, dtype=int))
        return np.frombuffer(self._data, place.dtype, count, place.first).reshape(place.shape)

    def stored(self, parameter: str) -> str | None:
        """Name of the initialiser that holds a parameter of the torch module, None if there is none."""
        found = [name for name in (PREFIX + parameter, PREFIX + parameter + HALF) if name in self.places]
        return found[0] if found else None

    def quantised_convolutions(self) -> list[Convolution]:
        """All of them."""
        found = []
        for operator, inputs in self._nodes.values():
            sources = [self._nodes.get(name, ("", [""])) for name in inputs]
            if operator == "Conv" and [source[0] for source in sources] == ["DequantizeLinear"] * 3:
                given, weight, bias = (source[1] for source in sources)
                names = (given[1], weight[0], weight[1], bias[0], bias[1])
                if all(name in self.places for name in names):
                    found.append(Convolution(*names))
        return found

    def with_values(self, values: Mapping[str, npt.NDArray[np.generic]]) -> bytes:
        """The file with other numbers in some initialisers; ``EngineFailed`` where a shape differs."""
        out = bytearray(self._data)
        for name, value in values.items():
            place = self.places[name]
            if value.shape != place.shape:
                raise EngineFailed(f"{name} has the shape {list(place.shape)}, not {list(value.shape)}")
            out[place.first : place.last] = np.ascontiguousarray(value, place.dtype).tobytes()
        return bytes(out)


def with_tuned(graph: Graph, tuned: TunedDecoder) -> bytes:
    """A float decoder's file with the weights of one person; ``EngineFailed`` if they do not fit it."""
    values: dict[str, npt.NDArray[np.generic]] = {}
    for name, tensor in tuned.tensors.items():
        stored = graph.stored(name)
        if stored is None:
            raise EngineFailed(f"the decoder has no weights {name}")
        values[stored] = tensor
    return graph.with_values(values)


def with_tuned_int8(graph: Graph, base: Graph, tuned: TunedDecoder) -> bytes:
    """The int8 decoder's file with the weights of one person, rounded as the quantiser did.

    What the quantiser measured of activations stays. base: the float decoder that ``graph`` was made from.
    Raises ``EngineFailed`` if the weights do not fit it.
    """
    with_tuned(base, tuned)  # names and shapes
    left = dict(tuned.tensors)
    values: dict[str, npt.NDArray[np.generic]] = {}
    for convolution in graph.quantised_convolutions():
        held, fold = told_fold(convolution.weight.removesuffix(QUANTISED))
        ends = {name for name in left if held.endswith(PREFIX + name)}
        if not ends:
            continue
        weight = ends.pop()
        bias = weight.removesuffix("weight") + "bias"
        old = (_float(base, weight), _float(base, bias))
        new = left.pop(weight).astype(np.float32), left.pop(bias, old[1]).astype(np.float32)
        if fold is not None:
            old, new = ((fold.weight(kernel), fold.bias(offset)) for kernel, offset in (old, new))
        values |= _requantised(graph, convolution, old, new)
    for name, tensor in left.items():  # of convolutions that stayed float
        stored = graph.stored(name)
        if stored is None:
            raise EngineFailed(f"the int8 decoder has no weights {name}; use an engine of another precision")
        values[stored] = tensor
    return graph.with_values(values)


def tuned_file(decoder: Path, tuned: TunedDecoder) -> bytes:
    """A decoder's file (float, or int8 beside its float twin) with the weights of one person, checked."""
    try:
        graph = Graph(decoder.read_bytes())
        if decoder.name != INT8_DECODER:
            return with_tuned(graph, tuned)
        return with_tuned_int8(graph, Graph(decoder.with_name(FLOAT_DECODER).read_bytes()), tuned)
    except OSError as error:
        raise EngineFailed(f"{decoder} cannot be read: {error.strerror}") from error


def _float(graph: Graph, parameter: str) -> F32:
    stored = graph.stored(parameter)
    if stored is None:
        raise EngineFailed(f"the decoder has no weights {parameter}")
    return graph.value(stored).astype(np.float32)


def _requantised(
    graph: Graph, convolution: Convolution, old: tuple[F32, F32], new: tuple[F32, F32]
) -> dict[str, npt.NDArray[np.generic]]:
    """New numbers of a quantised convolution; old, new: weight and bias of its parameters.

    The quantiser's graph may hold a multiple of a parameter, by channel, and a bias plus a constant (products
    and sums that were folded in): both are found by comparing it with the old parameters, and kept.
    """
    quantised, scale = (
        graph.value(name).astype(np.float32) for name in (convolution.weight, convolution.weight_scale)
    )
    rows = old[0].reshape(len(scale), -1)
    held = quantised.reshape(rows.shape) * scale[:, None]
    energy, largest = np.square(rows).sum(axis=1), np.abs(rows).max(axis=1)
    blank = energy == 0
    fitted = np.where(blank, 1, (held * rows).sum(axis=1) / np.where(blank, 1, energy))
    exact = np.where(blank, 1, scale * LARGEST_INT8 / np.where(blank, 1, largest))
    gain = np.where(np.abs(exact - fitted) < 0.01 * np.abs(fitted), exact, fitted)
    wanted = new[0].reshape(rows.shape) * gain[:, None]
    limit = np.abs(wanted).max(axis=1)
    finer = np.where(limit > 0, limit / LARGEST_INT8, scale).astype(np.float32)
    rounded = np.clip(np.rint(wanted / finer[:, None]), -LARGEST_INT8, LARGEST_INT8)
    old_bias = graph.value(convolution.bias) * graph.value(convolution.bias_scale).astype(np.float64)
    bias_scale = graph.value(convolution.input_scale).astype(np.float32) * finer
    bias = old_bias + gain * (new[1].astype(np.float64) - old[1])
    return {
        convolution.weight: rounded.reshape(quantised.shape),
        convolution.weight_scale: finer,
        convolution.bias: np.clip(np.rint(bias / bias_scale), -(2**31), 2**31 - 1),
        convolution.bias_scale: bias_scale,
    }
