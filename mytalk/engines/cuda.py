"""Modules on a CUDA card: each shape is recorded once as a CUDA graph and then replayed with one launch.

Not run yet: there was no card at hand. ``benchmarks/gpu.py`` runs it, with parity and figures.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mytalk.actors.tuned import TunedDecoder
from mytalk.engines.buckets import CARD_BATCH
from mytalk.engines.bundle import first_line
from mytalk.errors import EngineFailed

logger = logging.getLogger(__name__)
WARM_CALLS = 3  # before recording: libraries choose kernels and allocate in their first calls
Call = Callable[..., Any]
Array = npt.NDArray[Any]


class Recorded(Protocol):
    """One shape of a call, ready to be made again."""

    def __call__(self, given: Sequence[Array]) -> list[Array]:
        """Outputs, the caller's own."""
        ...


class Recording:
    """One shape: pinned memory on both sides, and a graph that reads and writes fixed addresses."""

    def __init__(self, call: Call, given: Sequence[Array]) -> None:
        tensors = [torch.from_numpy(np.require(array, requirements=["C", "W"])) for array in given]
        self._host = [torch.empty_like(tensor).pin_memory() for tensor in tensors]
        self._device = [torch.empty_like(tensor, device="cuda") for tensor in tensors]
        self._stream = torch.cuda.Stream()
        self._graph: Any = torch.cuda.CUDAGraph()
        with torch.no_grad():
            with torch.cuda.stream(self._stream):
                self._fill(given)
                for _ in range(WARM_CALLS):
                    call(*self._device)
            self._stream.synchronize()
            with torch.cuda.graph(self._graph, stream=self._stream):
                made = call(*self._device)
        self._made: tuple[Tensor, ...] = made if isinstance(made, tuple) else (made,)
        self._back = [torch.empty(one.shape, dtype=one.dtype, pin_memory=True) for one in self._made]

    def _fill(self, given: Sequence[Array]) -> None:
        for array, host, device in zip(given, self._host, self._device, strict=True):
            host.numpy()[...] = array
            device.copy_(host, non_blocking=True)

    def __call__(self, given: Sequence[Array]) -> list[Array]:
        """Copy in, replay, copy out."""
        with torch.cuda.stream(self._stream):
            self._fill(given)
            self._graph.replay()
            for back, made in zip(self._back, self._made, strict=True):
                back.copy_(made, non_blocking=True)
        self._stream.synchronize()
        return [back.numpy().copy() for back in self._back]


class Unrecorded:
    """The same without a graph: for shapes that vary, and for what cannot be recorded."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def __call__(self, given: Sequence[Array]) -> list[Array]:
        """Call the module."""
        tensors = [torch.from_numpy(np.require(array, requirements=["C", "W"])) for array in given]
        with torch.no_grad():
            made = self._call(*(tensor.pin_memory().to("cuda", non_blocking=True) for tensor in tensors))
        return [one.cpu().numpy() for one in (made if isinstance(made, tuple) else (made,))]


class RecordedCalls:
    """A module's calls, recorded by shape; a shape that cannot be recorded is called plainly."""

    def __init__(
        self,
        call: Call,
        record: Callable[[Call, Sequence[Array]], Recorded] = Recording,
        plain: Callable[[Call], Recorded] = Unrecorded,
    ) -> None:
        """record, plain: how one shape is recorded, or not."""
        self._call, self._record, self._plain = call, record, plain
        self._ready: dict[tuple[tuple[int, ...], ...], Recorded] = {}

    def __call__(self, given: Sequence[Array]) -> list[Array]:
        """Outputs of the call."""
        key = tuple(array.shape for array in given)
        if key not in self._ready:
            try:
                self._ready[key] = self._record(self._call, given)
            except Exception as error:  # torch raises many classes here
                logger.warning("no CUDA graph for %s: %s", key[0], first_line(error))
                self._ready[key] = self._plain(self._call)
        return self._ready[key](given)


class CudaRunner:
    """``GraphRunner`` on a CUDA card; give it batches of bucket sizes (``buckets.BucketRunner``)."""

    concurrent = False  # a recorded CUDA graph has one set of buffers
    batch = CARD_BATCH

    def __init__(
        self,
        modules: dict[str, torch.nn.Module],
        inputs: Callable[[str, Container[str]], Sequence[str]],
        decoder: Callable[[TunedDecoder | None], Call],
    ) -> None:
        """modules: graphs by name, on the card. inputs: names of a graph's inputs, in order.

        decoder: what runs in the place of the decoder's module (compiled, or TensorRT engines), with the
        bundle's weights or one person's; it is recorded with a CUDA graph like motion. Encoders meet every
        batch size and are not recorded.
        """
        self._inputs, self._decoder = inputs, decoder
        self._tuned: WeakKeyDictionary[TunedDecoder, Recorded] = WeakKeyDictionary()
        self._calls: dict[str, Recorded] = {"decode": RecordedCalls(decoder(None))}
        for graph, module in modules.items():
            if graph != "decode":
                recorded = graph == "hear" or graph.startswith("motion")
                self._calls[graph] = RecordedCalls(module) if recorded else Unrecorded(module)

    def load_decoder(self, tuned: TunedDecoder) -> None:
        """Take up other weights for ``decode``."""
        if tuned not in self._tuned:
            self._tuned[tuned] = RecordedCalls(self._decoder(tuned))

    def run(self, graph: str, inputs: dict[str, Array], tuned: TunedDecoder | None = None) -> list[Array]:
        """Outputs of a graph."""
        call = self._calls[graph] if tuned is None else self._tuned[tuned]
        try:
            return call([inputs[name] for name in self._inputs(graph, inputs)])
        except Exception as error:  # torch raises many classes, a compiled module more
            raise EngineFailed(f"{graph} failed on the card: {first_line(error)}") from error


def need_card() -> str:
    """The card's name and compute capability; raises ``EngineFailed`` when torch sees none."""
    if not torch.cuda.is_available():
        built = "" if torch.version.cuda else " (this torch is built for CPUs: pip install torch==2.13.0)"
        raise EngineFailed(f"torch sees no CUDA card{built}")
    major, minor = torch.cuda.get_device_capability()
    return f"{torch.cuda.get_device_name()} sm{major}{minor}"
