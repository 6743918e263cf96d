"""All figures that need a graphics card, in one run: ``python -m benchmarks.gpu --json OUT``.

1. Parity of every card engine with torch in float32 (``python -m export check``).
2. Every card engine × batch on the shipped bundle (``python -m benchmarks.engines``).
3. Sizes ``tiny``, ``base`` and ``paper`` with random weights, which serve for speed: what runs for every
   frame (landmark encoder and decoder), card time alone, up a ladder of levers, against the arithmetic floor
   (multiply-adds counted by torch, over the fastest matrix product measured in this run).

What does not run says why in the report; nothing is left out silently. Not run on a card by its authors yet.
``--device cpu`` goes through part 3 with small networks, to try the script itself.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import ROOT, commit, machine, versions
from mytalk.engines import default_bundle
from mytalk.models.autoencoder import AutoencoderConfig
from mytalk.models.serving import Appearance, PaperDecoder, decoder_of, latent_shape, picture_side
from mytalk.models.sizes import build_appearance, load_size
from mytalk.render.compose import hidden_mask

ENGINES = (
    "onnx-cuda",
    "onnx-cuda-fp32",
    "onnx-tensorrt",
    "torch-cuda",
    "torch-cuda-fp32",
    "tensorrt",
    "tensorrt-bf16",
)
BATCHES = (1, 2, 4, 8, 16)
GOALS_FPS = {"paper": 40, "base": 800, "tiny": 5000}  # issue 7, on one H200; paper with fp8: 62
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
    from mytalk.landmarks.warp import flow_shape  # noqa: PLC0415 - beside its use

    torch.manual_seed(0)
    side = picture_side(model)
    given = (
        torch.rand(batch, 3, side, side),
        torch.randn(batch, *latent_shape(model)),
        torch.randint(0, 256, (batch, 3, side, side, 3), dtype=torch.uint8),
        torch.zeros(batch, 3, 2, *flow_shape()),
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


def parity(bundle: Path) -> dict[str, str]:
    """What ``export check`` says of every card engine."""
    told = {}
    for name in ENGINES:
        command = [sys.executable, "-m", "export", "check", str(bundle), "--engine", name]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        told[name] = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()[-1:] or [""]
    return {name: lines[0] for name, lines in told.items()}


def shipped(bundle: Path) -> Any:
    """The report of benchmarks/engines.py on the card's engines."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "engines.json"
        command = [sys.executable, "-m", "benchmarks.engines", "--bundle", str(bundle), "--json", str(out)]
        done = subprocess.run(
            [*command, "--engines", *ENGINES], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            return {"not_run": (done.stderr.strip().splitlines() or ["no reason given"])[-1]}
        return json.loads(out.read_text())


def table(rows: list[dict[str, Any]]) -> Table:
    """The sizes for a person."""
    shown = Table(title="landmark encoder and decoder, per frame")
    for name in ("size", "part", "lever", "batch", "ms", "fps", "× floor", "dB"):
        shown.add_column(name, justify="left" if name in ("size", "part", "lever") else "right")
    for row in rows:
        about = [row["size"], row["part"], row["lever"], str(row["batch"])]
        if "not_run" in row:
            shown.add_row(*about, "–", "–", "–", row["not_run"][:40])
            continue
        ratio = "–" if row["of_floor"] is None else f"{row['of_floor']:.2f}"
        shown.add_row(
            *about, f"{row['ms_per_frame']:.2f}", f"{row['fps']:.0f}", ratio, f"{row['agreement_db']:.0f}"
        )
    return shown


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=default_bundle(), help="default: the shipped weights")
    parser.add_argument("--sizes", nargs="+", choices=sorted(GOALS_FPS), default=["tiny", "base", "paper"])
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES), help="default: 1 2 4 8 16")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu: try the script itself"
    )
    parser.add_argument("--skip", nargs="+", choices=("parity", "engines", "sizes"), default=[])
    parser.add_argument("--json", type=Path, help="write the report here")
    args = parser.parse_args(argv)
    console = Console(stderr=True)
    if args.device == "cuda" and not torch.cuda.is_available():
        print("error: torch sees no CUDA card here", file=sys.stderr)
        return 1
    card = torch.cuda.get_device_name() if args.device == "cuda" else None
    report: dict[str, Any] = {"machine": machine(), "versions": versions(), "commit": commit(), "card": card}
    if "parity" not in args.skip:
        report["parity"] = parity(args.bundle)
    if "engines" not in args.skip:
        report["engines"] = shipped(args.bundle)
    if "sizes" not in args.skip:
        peak = peak_flops(args.device)
        rows = [
            row for size in args.sizes for row in climb(size, tuple(args.batches), args.device, peak, console)
        ]
        report |= {"peak_flops": peak, "rows": rows, "goals_fps": GOALS_FPS}
        Console().print(table(rows))
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
