"""What runs for every frame of a size, up a ladder of levers from float32 to fp8; weights are random."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mytalk.landmarks.warp import fine_shape, flow_shape
from mytalk.models.autoencoder import AutoencoderConfig
from mytalk.models.serving import Appearance, PaperDecoder, decoder_of, latent_shape, picture_side
from mytalk.models.sizes import build_appearance, load_size
from mytalk.models.warping import REFERENCES
from mytalk.render.compose import hidden_mask

PEAK_SIDE = 8192
WARM, CALLS = 5, 30
SMALL = AutoencoderConfig(picture=64, width=32, blocks=1, fusion_width=32, fusion_blocks=1)
CROP_MARGIN = 4  # latent pixels around the mask's window: what the convolutions near its edge see
Decoder = Callable[..., Tensor]


@dataclass(frozen=True)
class Lever:
    """One step of the ladder: makes of a decoder in float32 what runs. make: (decoder, inputs) → call."""

    name: str
    make: Callable[[nn.Module, tuple[Tensor, ...]], Decoder]


def _plain(decoder: nn.Module, _: tuple[Tensor, ...]) -> Decoder:
    return decoder


class _Autocast(nn.Module):
    """For a decoder that mixes in float32 on purpose (``tiny``: positions)."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        made: Any = copy.deepcopy(decoder)
        self.decoder = made.to(memory_format=torch.channels_last)

    def forward(self, *given: Tensor) -> Tensor:
        """The decoder's own."""
        with torch.autocast(given[0].device.type, torch.bfloat16):
            picture: Tensor = self.decoder(*given)
        return picture


def in_bf16(decoder: nn.Module) -> nn.Module:
    """The decoder in bfloat16, channels-last: all of a paper-shaped one, the tiny one where it bears it."""
    if isinstance(decoder, PaperDecoder | CropOnly):
        made: Any = copy.deepcopy(decoder)
        half: nn.Module = made.to(dtype=torch.bfloat16, memory_format=torch.channels_last).eval()
        return half
    return _Autocast(decoder).eval()


def _bf16(decoder: nn.Module, _: tuple[Tensor, ...]) -> Decoder:
    return in_bf16(decoder)


def _compiled(decoder: nn.Module, _: tuple[Tensor, ...]) -> Decoder:
    """``torch.compile`` fuses GroupNorm and SiLU (and the casts around them) into one kernel each."""
    compiled: Decoder = torch.compile(in_bf16(decoder), mode="max-autotune-no-cudagraphs", dynamic=False)
    return compiled


def _recorded(decoder: nn.Module, given: tuple[Tensor, ...]) -> Decoder:
    """The compiled decoder as one CUDA graph."""
    call = _compiled(decoder, given)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call(*given)
    stream.synchronize()
    graph: Any = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        made = call(*given)

    def replay(*_: Tensor) -> Tensor:
        graph.replay()
        return made

    return replay


def _tensorrt(decoder: nn.Module, given: tuple[Tensor, ...]) -> Decoder:
    import torch_tensorrt  # noqa: PLC0415 - optional

    module = in_bf16(decoder)
    program = torch.export.export(module, given, strict=False)
    compiled: Decoder = torch_tensorrt.dynamo.compile(program, arg_inputs=list(given), truncate_double=True)
    return compiled


def _fp8(decoder: nn.Module, given: tuple[Tensor, ...]) -> Decoder:
    """Convolutions and products in fp8 (E4M3) by ModelOpt and TensorRT; scales from these very inputs."""
    import torch_tensorrt  # noqa: PLC0415 - optional
    from modelopt.torch import quantization  # noqa: PLC0415 - optional
    from modelopt.torch.quantization.utils import export_torch_mode  # noqa: PLC0415 - optional

    module = copy.deepcopy(decoder).half().eval()
    half = tuple(one.half() if one.is_floating_point() else one for one in given)
    quantization.quantize(module, quantization.FP8_DEFAULT_CFG, forward_loop=lambda model: model(*half))
    with export_torch_mode():
        program = torch.export.export(module, half, strict=False)
        compiled: Decoder = torch_tensorrt.dynamo.compile(
            program, arg_inputs=list(half), truncate_double=True
        )
    return lambda *_: compiled(*half)


LADDER = (
    Lever("fp32", _plain),
    Lever("bf16 channels-last", _bf16),
    Lever("bf16 compiled (GroupNorm+SiLU fused)", _compiled),
    Lever("bf16 compiled, CUDA graph", _recorded),
    Lever("bf16 TensorRT", _tensorrt),
    Lever("fp8 TensorRT", _fp8),
)


class CropOnly(nn.Module):
    """A paper-shaped decoder on the mask's window and a margin alone: what is outside is never shown.

    Not the same picture: norms and attention see less of it; ``agreement_db`` says how far apart they are.
    """

    def __init__(self, model: nn.Module, rows: slice, columns: slice) -> None:
        super().__init__()
        self.model, self.rows, self.columns = model, rows, columns

    def forward(
        self, landmark_images: Tensor, latents: Tensor, _references: Tensor, _flows: Tensor
    ) -> Tensor:
        """The window's pixels [B, rows, columns, 3]."""
        model: Any = self.model
        stride = model.config.stride
        rows, columns = (slice(s.start * stride, s.stop * stride) for s in (self.rows, self.columns))
        drawn, seen = landmark_images[..., rows, columns], latents[..., self.rows, self.columns]
        dtype = model.post_quant.weight.dtype
        pictures: Tensor = model.decode(drawn.to(dtype), seen.to(dtype))
        return (pictures.clamp(0, 1) * 255 + 0.5).to(torch.uint8).permute(0, 2, 3, 1)


def shown_window(side: int) -> tuple[slice, slice]:
    """Latent rows and columns of the mask and its margin, of latents that are ``side`` wide."""
    mask = (
        torch.nn.functional.interpolate(torch.from_numpy(hidden_mask())[None, None], (side, side))[0, 0] > 0
    )
    found = []
    for axis in (1, 0):
        places = mask.any(dim=axis).nonzero().flatten()
        first, last = int(places[0]) - CROP_MARGIN, int(places[-1]) + 1 + CROP_MARGIN
        found.append(slice(max(0, first // 4 * 4), min(side, -(-last // 4) * 4)))
    return found[0], found[1]


def make_inputs(model: Appearance, batch: int, device: str) -> tuple[Tensor, ...]:
    """Random inputs of the decoder."""
    torch.manual_seed(0)
    side = picture_side(model)
    given = (
        torch.rand(batch, 3, side, side),
        torch.randn(batch, *latent_shape(model)),
        torch.randint(0, 256, (batch, REFERENCES, *fine_shape()), dtype=torch.uint8),
        torch.zeros(batch, REFERENCES, 2, *flow_shape()),
    )
    return tuple(one.to(device) for one in given)


def time_ms(call: Callable[[], Any], device: str, calls: int = CALLS) -> float:
    """Median milliseconds of a call: card time between two events, or wall time on a CPU."""
    took = []
    for number in range(WARM + calls if device == "cuda" else 1 + calls):
        if device == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            end.synchronize()
            took.append(begin.elapsed_time(end))
        else:
            start = time.perf_counter()
            call()
            took.append(1e3 * (time.perf_counter() - start))
        if number + 1 == (WARM if device == "cuda" else 1):
            took.clear()
    return median(took)


def peak_flops(device: str) -> dict[str, float]:
    """Operations in a second of the largest matrix product, by precision; what cannot run is left out."""
    side, rates = PEAK_SIDE if device == "cuda" else 512, {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        one = torch.randn(side, side, device=device, dtype=dtype)
        rates[name] = 2e3 * side**3 / time_ms(partial(torch.matmul, one, one), device, 10)
    if device == "cuda" and torch.cuda.get_device_capability() >= (8, 9):
        one = torch.randn(side, side, device=device).to(torch.float8_e4m3fn)
        scale = torch.ones((), device=device)
        rates["fp8"] = (
            2e3
            * side**3
            / time_ms(
                lambda: torch._scaled_mm(one, one.t(), scale, scale, out_dtype=torch.bfloat16), device, 10
            )
        )
    return rates


def count_flops(decoder: nn.Module, given: tuple[Tensor, ...]) -> int:
    """Operations of one call, counted by torch."""
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        decoder(*given)
    return int(counted.get_total_flops())


def build(size: str, device: str) -> Appearance:
    """The appearance model of a size, random; on a CPU paper-shaped ones are small."""
    described = load_size(size)
    if device == "cpu" and isinstance(described.appearance, AutoencoderConfig):
        described = replace(described, appearance=SMALL)
    torch.manual_seed(0)
    return (
        build_appearance(described, torch.from_numpy(hidden_mask())).eval().requires_grad_(False).to(device)
    )


def climb(
    size: str, batches: tuple[int, ...], device: str, peak: dict[str, float], console: Console
) -> list[dict[str, Any]]:
    """Rows of a size: every lever × batch, and the best of them on the shown crop alone."""
    model = build(size, device)
    decoders: dict[str, nn.Module] = {"whole": decoder_of(model)}
    if isinstance(model.config, AutoencoderConfig):
        decoders["shown crop"] = CropOnly(model, *shown_window(latent_shape(model)[-1]))
    rows = []
    for part, decoder in decoders.items():
        for batch in batches:
            given = make_inputs(model, batch, device)
            flops = count_flops(decoder, given) / batch
            for lever in LADDER:
                row = {
                    "size": size,
                    "part": part,
                    "lever": lever.name,
                    "batch": batch,
                    "tflop_per_frame": flops / 1e12,
                }
                rows.append(row | _one(lever, decoder, given, device, flops, peak))
                console.print(json.dumps(rows[-1]), highlight=False, soft_wrap=True)
    return rows


def _one(
    lever: Lever,
    decoder: nn.Module,
    given: tuple[Tensor, ...],
    device: str,
    flops: float,
    peak: dict[str, float],
) -> dict[str, Any]:
    batch, precision = len(given[0]), lever.name.split()[0]
    try:
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with torch.no_grad():
            call = lever.make(decoder, given)
            agreement = agreement_db(decoder(*given), call(*given))
            ms = time_ms(lambda: call(*given), device, CALLS if device == "cuda" else 2) / batch
    except Exception as error:  # a library that is missing, or memory that is not enough
        return {
            "not_run": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
        }
    floor = 1e3 * flops / peak[precision] if precision in peak else None
    return {
        "ms_per_frame": ms,
        "fps": 1e3 / ms,
        "floor_ms": floor,
        "of_floor": None if floor is None else ms / floor,
        "agreement_db": agreement,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None,
    }


def agreement_db(expected: Tensor, found: Tensor) -> float:
    """PSNR of two uint8 pictures."""
    error = (expected.float() - found.float()).square().mean().clamp(min=1e-9)
    return float(10 * torch.log10(255**2 / error))
