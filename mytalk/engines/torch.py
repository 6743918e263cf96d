"""The PyTorch engine: a bundle's safetensors in the modules they were trained as; on the CPU or a CUDA card.

In float32 it is what every other engine is measured against (``export/parity.py``). Its CUDA path
(channels-last bfloat16, ``torch.compile`` with CUDA graphs) has not been run yet: there was no card at hand.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file

from mytalk.compose import hidden_mask
from mytalk.engines.bundle import first_line, read_manifest, sizes
from mytalk.engines.graphs import Arrays, GraphEngine
from mytalk.errors import EngineFailed, MyTalkError
from mytalk.models.appearance import AppearanceConfig, AppearanceModel
from mytalk.models.identity import IdentityConfig, IdentityExtractor, KeyLandmarks
from mytalk.models.motion import MotionConfig, MotionModel
from mytalk.models.streaming import AppearanceDecoder, AppearanceEncoders, StreamingHop
from mytalk.tuned import TunedDecoder

CUDA_BATCH = 8  # pictures of one call; a card is hardly busier with eight than with one
HOP_INPUTS = (
    "log_mel",
    "upper",
    "identity",
    "noise",
    "cos",
    "sin",
    "keys",
    "values",
    "conv",
    "known",
    "tokens",
    "hop",
    "given",
    "use_given",
)
INPUTS = {
    "motion": HOP_INPUTS,
    "identity": ("landmarks",),
    "encode": ("references", "faces"),
    "decode": ("landmark_images", "latents", "references", "flows"),
}


def load_modules(bundle: Path, manifest: dict[str, Any]) -> dict[str, torch.nn.Module]:
    """The bundle's four graphs as torch modules, float32; ``EngineFailed`` if weights and configs differ."""
    try:
        configs = manifest["configs"]
        motion = MotionModel(MotionConfig(**configs["motion"]))
        about = IdentityConfig(**configs.get("identity", {"embedding": motion.config.identity}))
        extractor = IdentityExtractor(about.points, about.hidden, about.embedding, about.layers)
        told = extractor if motion.config.condition == "embed_cross" else KeyLandmarks(extractor)
        hidden = torch.from_numpy(hidden_mask())
        appearance = AppearanceModel(AppearanceConfig(**configs["appearance"]), hidden)
        for name, model in (("motion", motion), ("identity", told), ("appearance", appearance)):
            model.load_state_dict(load_file(bundle / f"{name}.safetensors"))
        steps = int(manifest["spec"]["steps"])
    except (KeyError, TypeError, OSError, RuntimeError, MyTalkError) as error:
        raise EngineFailed(
            f"{bundle}: not weights of this version's torch models ({first_line(error)})"
        ) from error
    return {
        "motion": StreamingHop(motion, steps),
        "identity": told,
        "encode": AppearanceEncoders(appearance),
        "decode": AppearanceDecoder(appearance),
    }


class TorchRunner:
    """``GraphRunner`` on torch modules."""

    concurrent = False  # a recorded CUDA graph has one set of buffers

    def __init__(self, modules: dict[str, torch.nn.Module], device: str, *, bf16: bool) -> None:
        """bf16: the per-frame decoder's convolutions in bfloat16 (channels-last); all else stays float32."""
        self._device, self._bf16 = torch.device(device), bf16
        self.batch = CUDA_BATCH if self._device.type == "cuda" else 1
        self._calls: dict[str, Callable[..., Any]] = {}
        for graph, module in modules.items():
            module.eval().requires_grad_(requires_grad=False).to(self._device)
            self._calls[graph] = module
        self._decoder = modules["decode"]
        self._calls["decode"] = self._ready_decoder(self._decoder)
        self._tuned: WeakKeyDictionary[TunedDecoder, Callable[..., Any]] = WeakKeyDictionary()

    def _ready_decoder(self, module: torch.nn.Module) -> Callable[..., Any]:
        for weights in module.parameters():
            if weights.ndim == 4:
                weights.data = weights.data.contiguous(memory_format=torch.channels_last)
        if self._device.type != "cuda":
            return module
        # One CUDA graph is recorded for each batch size that is met.
        return torch.compile(module, mode="reduce-overhead", dynamic=False)

    def load_decoder(self, tuned: TunedDecoder) -> None:
        """Take up other weights for ``decode``."""
        if tuned in self._tuned:
            return
        module = copy.deepcopy(self._decoder)
        places = dict(module.named_parameters())
        for name, tensor in tuned.tensors.items():
            place = places.get(f"model.{name}")
            if place is None or place.shape != tensor.shape:
                raise EngineFailed(f"the decoder has no weights {name} of shape {list(tensor.shape)}")
            place.copy_(torch.from_numpy(tensor.astype(np.float32)))
        self._tuned[tuned] = self._ready_decoder(module)

    def run(self, graph: str, inputs: Arrays, tuned: TunedDecoder | None = None) -> list[npt.NDArray[Any]]:
        """Outputs of a graph."""
        call = self._calls[graph] if tuned is None else self._tuned[tuned]
        try:
            given = [self._tensor(inputs[name]) for name in INPUTS[graph]]
            half = self._bf16 and graph == "decode"
            with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=half):
                found = call(*given)
            outputs = found if isinstance(found, tuple) else (found,)
            return [output.cpu().numpy() for output in outputs]
        except Exception as error:  # torch raises many classes, a compiled module more
            raise EngineFailed(f"{graph} failed in torch: {first_line(error)}") from error

    def _tensor(self, array: npt.NDArray[Any]) -> torch.Tensor:
        tensor = torch.from_numpy(np.require(array, requirements=["C", "W"]))
        if self._device.type == "cuda":
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor


def _load(bundle: Path, threads: int | None, device: str, *, bf16: bool) -> GraphEngine:
    manifest = read_manifest(bundle)
    spec, memory = sizes(manifest, bundle)
    if threads is not None:
        torch.set_num_threads(threads)  # the library has one setting for the whole process
    runner = TorchRunner(load_modules(bundle, manifest), device, bf16=bf16)
    where = "" if device == "cpu" else f"-{device}"
    return GraphEngine(f"torch{where}-{'bf16' if bf16 else 'fp32'}", spec, memory, runner)


def load(bundle: Path, threads: int | None) -> GraphEngine:
    """bfloat16 on a CUDA card, else float32 on the CPU; see ``mytalk.engines.load_engine``."""
    cuda = torch.cuda.is_available()
    return _load(bundle, threads, "cuda" if cuda else "cpu", bf16=cuda)


def load_fp32(bundle: Path, threads: int | None) -> GraphEngine:
    """Load the bundle in float32 on the CPU: the reference of every parity figure."""
    return _load(bundle, threads, "cpu", bf16=False)


def load_bf16(bundle: Path, threads: int | None) -> GraphEngine:
    """Load the bundle with its decoder in bfloat16 on the CPU (emulated and slow where it has none)."""
    return _load(bundle, threads, "cpu", bf16=True)
