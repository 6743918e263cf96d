"""The PyTorch engine: a bundle's safetensors in the modules they were trained as; on the CPU or a CUDA card.

In float32 it is what every other engine is measured against (``export/parity.py``). Its CUDA path
(channels-last bfloat16, ``torch.compile``, CUDA graphs: ``cuda.py``) has not been run yet: there was no card.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from mytalk.actors.tuned import TunedDecoder
from mytalk.engines.buckets import BucketRunner
from mytalk.engines.bundle import first_line, motion_graph, read_manifest, sizes
from mytalk.engines.cuda import CudaRunner, need_card
from mytalk.engines.graphs import Arrays, GraphEngine
from mytalk.errors import EngineFailed, MyTalkError
from mytalk.landmarks.normalise import CROP
from mytalk.landmarks.warp import fine_shape, flow_shape
from mytalk.models.half import in_half
from mytalk.models.identity import IdentityConfig, IdentityExtractor, KeyLandmarks
from mytalk.models.motion import MotionConfig, MotionModel
from mytalk.models.serving import Appearance, appearance_from, decoder_of, encoders_of, latent_shape
from mytalk.models.streaming import StreamingHop, hearing_of
from mytalk.render.compose import hidden_mask

REFERENCES = 3  # lip references of an actor
Prepare = Callable[[torch.nn.Module], Callable[..., Any]]
HOP_INPUTS = (
    "speech",
    "upper",
    "identity",
    "noise",
    "cos",
    "sin",
    "tokens",
    "keys",
    "values",
    "conv",
    "filled",
    "kept",
    "ready",
    "known_speech",
    "known_upper",
    "known_cos",
    "known_sin",
    "clean",
    "given",
    "use_given",
)
INPUTS = {
    "hear": ("log_mel", "cos", "sin", "keys", "values", "conv", "last", "filled"),
    "identity": ("landmarks",),
    "encode": ("references", "faces"),
    "decode": ("landmark_images", "latents", "references", "flows"),
}


@dataclass(frozen=True, slots=True)
class Models:
    """A bundle's models in float32. identity: a person as motion sees them; about: its extractor's sizes."""

    motion: MotionModel
    identity: torch.nn.Module
    about: IdentityConfig
    appearance: Appearance


def load_models(bundle: Path, configs: dict[str, Any]) -> Models:
    """Models of a bundle's safetensors and its manifest's configs; ``EngineFailed`` if these do not fit."""
    try:
        motion = MotionModel(MotionConfig(**configs["motion"]))
        about = IdentityConfig(**configs.get("identity", {"embedding": motion.config.identity}))
        extractor = IdentityExtractor(about.points, about.hidden, about.embedding, about.layers)
        told = extractor if motion.config.condition == "embed_cross" else KeyLandmarks(extractor)
        appearance = appearance_from(configs["appearance"], torch.from_numpy(hidden_mask()))
        for name, model in (("motion", motion), ("identity", told), ("appearance", appearance)):
            model.load_state_dict(load_file(bundle / f"{name}.safetensors"))
    except (KeyError, TypeError, OSError, RuntimeError, SafetensorError, MyTalkError) as error:
        raise EngineFailed(
            f"{bundle}: not weights of this version's torch models ({first_line(error)})"
        ) from error
    return Models(motion, told, about, appearance)


def load_modules(bundle: Path, manifest: dict[str, Any]) -> dict[str, torch.nn.Module]:
    """The bundle's graphs as torch modules, float32; ``EngineFailed`` if weights and configs differ."""
    spec, _ = sizes(manifest, bundle)
    models = load_models(bundle, manifest.get("configs", {}))
    return {
        "hear": hearing_of(models.motion),
        **{motion_graph(steps): StreamingHop(models.motion, steps) for steps in spec.step_counts},
        "identity": models.identity,
        "encode": encoders_of(models.appearance),
        "decode": decoder_of(models.appearance),
    }


class TorchRunner:
    """``GraphRunner`` on torch modules, on the CPU."""

    concurrent = True  # modules keep no state, and a call uses the threads of its own thread
    batch = 1

    def __init__(self, modules: dict[str, torch.nn.Module], prepare: Prepare) -> None:
        """prepare: makes of the decoder what runs in its place."""
        self._calls: dict[str, Callable[..., Any]] = {
            graph: module.eval().requires_grad_(requires_grad=False) for graph, module in modules.items()
        }
        self._decoder, self._prepare = modules["decode"], prepare
        self._calls["decode"] = prepare(self._decoder)
        self._tuned: WeakKeyDictionary[TunedDecoder, Callable[..., Any]] = WeakKeyDictionary()

    def load_decoder(self, tuned: TunedDecoder) -> None:
        """Take up other weights for ``decode``."""
        if tuned not in self._tuned:
            self._tuned[tuned] = self._prepare(with_weights(self._decoder, tuned))

    def run(self, graph: str, inputs: Arrays, tuned: TunedDecoder | None = None) -> list[npt.NDArray[Any]]:
        """Outputs of a graph."""
        call = self._calls[graph] if tuned is None else self._tuned[tuned]
        try:
            given = [_tensor(inputs[name]) for name in inputs_of(graph, inputs)]
            with torch.inference_mode():
                found = call(*given)
            outputs = found if isinstance(found, tuple) else (found,)
            return [output.numpy() for output in outputs]
        except Exception as error:  # torch raises many classes
            raise EngineFailed(f"{graph} failed in torch: {first_line(error)}") from error


def with_weights(module: torch.nn.Module, tuned: TunedDecoder) -> torch.nn.Module:
    """A copy of the decoder with one person's weights; raises ``EngineFailed`` if they are another's."""
    made = copy.deepcopy(module)
    places = dict(made.named_parameters())
    for name, tensor in tuned.tensors.items():
        place = places.get(f"model.{name}")
        if place is None or place.shape != tensor.shape:
            raise EngineFailed(f"the decoder has no weights {name} of shape {list(tensor.shape)}")
        place.copy_(torch.from_numpy(tensor.astype(np.float32)))
    return made


def _tensor(array: npt.NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def inputs_of(graph: str, given: Container[str]) -> list[str]:
    """Names of a graph's inputs, in order; a speech encoder without memory takes fewer than another."""
    return [name for name in INPUTS.get(graph, HOP_INPUTS) if name in given]


def _load(bundle: Path, threads: int | None, *, bf16: bool) -> GraphEngine:
    manifest = read_manifest(bundle)
    spec, memory = sizes(manifest, bundle)
    if threads is not None:
        torch.set_num_threads(threads)  # the library has one setting for the whole process
    runner = TorchRunner(load_modules(bundle, manifest), halving(torch.bfloat16 if bf16 else None))
    return GraphEngine(f"torch-{'bf16' if bf16 else 'fp32'}", spec, memory, runner)


def halving(dtype: torch.dtype | None) -> Prepare:
    """What puts a decoder's convolutions into 16 bits; None: nothing does."""
    return lambda module: module if dtype is None else in_half(module, dtype)


def _load_cuda(bundle: Path, *, bf16: bool) -> GraphEngine:
    need_card()
    manifest = read_manifest(bundle)
    spec, memory = sizes(manifest, bundle)
    modules = modules_on_card(bundle, manifest)
    halve = halving(torch.bfloat16 if bf16 else None)

    def compiled(tuned: TunedDecoder | None) -> Any:
        module = modules["decode"] if tuned is None else with_weights(modules["decode"], tuned)
        # CudaRunner records the graphs: torch.compile's own are tied to the thread that made them, and a
        # server warms up in another thread than it serves from.
        return torch.compile(halve(module), mode="max-autotune-no-cudagraphs", dynamic=False)

    runner = BucketRunner(CudaRunner(modules, inputs_of, compiled))
    return GraphEngine(f"torch-cuda-{'bf16' if bf16 else 'fp32'}", spec, memory, runner)


def modules_on_card(bundle: Path, manifest: dict[str, Any]) -> dict[str, torch.nn.Module]:
    """``load_modules`` on the card, exact in float32: TF32 would take motion out of its limits."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = True  # shapes are few and fixed
    return {
        graph: module.eval().requires_grad_(requires_grad=False).to("cuda")
        for graph, module in load_modules(bundle, manifest).items()
    }


def decoder_example(module: torch.nn.Module, batch: int) -> tuple[torch.Tensor, ...]:
    """Inputs of the decoder, of so many pictures, where its weights are."""
    device = next(module.parameters()).device
    model: Any = module.get_submodule("model")
    return (
        torch.zeros(batch, 3, CROP, CROP, device=device),
        torch.zeros(batch, *latent_shape(model), device=device),
        torch.zeros(batch, REFERENCES, *fine_shape(), dtype=torch.uint8, device=device),
        torch.zeros(batch, REFERENCES, 2, *flow_shape(), device=device),
    )


def load(bundle: Path, threads: int | None) -> GraphEngine:
    """bfloat16 on a CUDA card, else float32 on the CPU; see ``mytalk.engines.load_engine``."""
    return load_cuda(bundle, threads) if torch.cuda.is_available() else load_fp32(bundle, threads)


def load_fp32(bundle: Path, threads: int | None) -> GraphEngine:
    """Load the bundle in float32 on the CPU: the reference of every parity figure."""
    return _load(bundle, threads, bf16=False)


def load_bf16(bundle: Path, threads: int | None) -> GraphEngine:
    """Load the bundle with its decoder in bfloat16 on the CPU (emulated and slow where it has none)."""
    return _load(bundle, threads, bf16=True)


def load_cuda(bundle: Path, _threads: int | None) -> GraphEngine:
    """Load the bundle on the card, its decoder in bfloat16; ``EngineFailed`` where there is no card."""
    return _load_cuda(bundle, bf16=True)


def load_cuda_fp32(bundle: Path, _threads: int | None) -> GraphEngine:
    """Load the bundle on the card in float32."""
    return _load_cuda(bundle, bf16=False)
