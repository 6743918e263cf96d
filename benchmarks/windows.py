"""``python benchmarks/windows.py``: hop × lookahead × steps of the motion model, streamed over real speech.

For each: algorithmic delay, CPU per frame (of the calling thread, so other processes do not count), the mouth
against the true one and the lips at p, b and m (with ``--data``), distance to many steps and a long
lookahead, correlation of the mouth's opening with it, jerk, and how much larger steps across hop borders are
than steps within hops.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that the file can be run as it stands

import numpy as np  # noqa: E402 - after the path

from benchmarks.machine import commit, machine, versions  # noqa: E402 - after the path
from benchmarks.spoken import Spoken, against_truth, of_clips, of_sound  # noqa: E402
from mytalk.engines import default_bundle, load_engine  # noqa: E402
from mytalk.engines.engine import Engine  # noqa: E402
from mytalk.errors import BadInput  # noqa: E402
from mytalk.motion import hop_noise, mel_context  # noqa: E402
from mytalk.types import F32, MotionJob  # noqa: E402

SPEECH = ROOT / "tests" / "data" / "silence_then_speech.wav"
ORDERS = {"position": 1, "velocity": 2, "acceleration": 3}


@dataclass(frozen=True, slots=True)
class Window:
    """Frames that become known at once, provisional frames behind them, diffusion steps."""

    hop: int
    lookahead: int
    steps: int


def stream(engine: Engine, said: Spoken, window: Window) -> tuple[F32, list[float]]:
    """Displacements float32 [frames, Kc, 3] as they stream, and the CPU seconds of every hop."""
    spec, state = engine.spec, engine.initial_state()
    identity = engine.identity(np.ascontiguousarray(said.rest[:, :2]))
    upper = np.concatenate([said.upper, np.repeat(said.upper[-1:], spec.tokens, axis=0)])
    made, times = [], []
    for first in range(0, said.frames, window.hop):
        heard = said.log_mel[: 4 * (first + window.hop + window.lookahead) + spec.mel_right]
        job = MotionJob(
            generation=0,
            state=state,
            log_mel=mel_context(heard, 0, first, spec),
            upper=upper[first : first + spec.tokens],
            identity=identity,
            noise=hop_noise(0, 0, first, spec.tokens, spec.coefficients),
            position=first,
            hop=window.hop,
            tokens=window.hop + window.lookahead,
            steps=window.steps,
        )
        begin = time.thread_time()
        result = engine.motion([job])[0]
        times.append(time.thread_time() - begin)
        state = result.state
        made.append(result.displacement)
    return np.concatenate(made)[: said.frames], times


def border_ratio(made: Sequence[F32], hop: int, order: int) -> float | None:
    """Mean size of differences of an order that cross a hop border, over those within hops, of [F, Kc, 3]s.

    None where every difference crosses one (or none does), so that there is nothing to compare with.
    """
    crossing: list[F32] = []
    within: list[F32] = []
    for displacement in made:
        steps = np.diff(displacement.reshape(len(displacement), -1), n=order, axis=0)
        sizes = np.sqrt(np.square(steps).mean(axis=1))
        crosses = np.array(
            [any((k + i) % hop == 0 for i in range(1, order + 1)) for k in range(len(sizes))], np.bool_
        )
        crossing.append(sizes[crosses])
        within.append(sizes[~crosses])
    over, inside = np.concatenate(crossing), np.concatenate(within)
    return round(float(over.mean() / inside.mean()), 3) if len(over) and len(inside) else None


def jerk(made: Sequence[F32]) -> float:
    """Root mean square of the third differences of displacements [F, Kc, 3]."""
    return float(np.sqrt(np.mean([np.square(np.diff(one, n=3, axis=0)).mean() for one in made])))


def measure(engine: Engine, windows: list[Window], said: Sequence[Spoken]) -> list[dict[str, Any]]:
    """A row for each window; ``best`` is the most steps with the longest lookahead at hop 1."""
    spec = engine.spec
    best = Window(1, spec.tokens - 1, spec.step_counts[-1])
    reference = [stream(engine, one, best)[0] for one in said]
    rows = []
    for window in windows:
        made, times = zip(*(stream(engine, one, window) for one in said), strict=True)
        hop_ms = 1e3 * float(np.median([t for some in times for t in some]))
        apart = [np.square(a - b).mean() for a, b in zip(made, reference, strict=True)]
        alike = [one.alike(a, b) for one, a, b in zip(said, made, reference, strict=True)]
        rows.append(
            {
                "hop": window.hop,
                "lookahead": window.lookahead,
                "steps": window.steps,
                "delay_ms": 40 * (window.hop + window.lookahead) + 10 * spec.mel_right,
                "cpu_ms_per_frame": round(hop_ms / window.hop, 2),
                "distance": round(float(np.sqrt(np.mean(apart))), 5),
                "opening_correlation": round(float(np.mean(alike)), 4),
                **against_truth(said, made),
                "jerk": round(jerk(made), 5),
                "border_ratio": {name: border_ratio(made, window.hop, o) for name, o in ORDERS.items()},
            }
        )
        print(json.dumps(rows[-1]), file=sys.stderr)
    return rows


def truth(said: Sequence[Spoken]) -> dict[str, float | None] | None:
    """What the filmed mouths themselves have of each figure; None where nobody was filmed."""
    filmed = [one.true for one in said]
    true = [one for one in filmed if one is not None]
    if len(true) < len(said):
        return None
    return {"closure_rate": against_truth(said, true)["closure_rate"], "jerk": round(jerk(true), 5)}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--hops", type=int, nargs="+", default=[1, 2, 3, 4])
    p.add_argument("--lookaheads", type=int, nargs="+", default=[0, 1, 2, 3])
    p.add_argument("--steps", type=int, nargs="+", help="of the bundle's step counts (default: all)")
    p.add_argument("--data", type=Path, help="prepared folder: its unseen clips, against their true mouths")
    p.add_argument("--videos", type=Path, help="what it was prepared from: phoneme times lie beside videos")
    p.add_argument("--clips", type=int, default=6, help="of each source of --data (default %(default)s)")
    p.add_argument("--speech", type=Path, default=SPEECH, help="without --data: a sound file")
    p.add_argument("--frames", type=int, default=250, help="of each clip, at most (default %(default)s)")
    p.add_argument("--engine", default="onnx-fp32")
    p.add_argument("--json", type=Path, help="write the report here")
    p.add_argument("--plot", type=Path, help="and a PNG of it here (needs matplotlib)")
    return p


def sweep(args: argparse.Namespace) -> dict[str, Any]:
    """The report; raises ``BadInput`` for data, or a bundle, that does not fit."""
    engine = load_engine(args.engine, default_bundle(), 1)
    if args.data is not None:
        said = of_clips(args.data, args.videos, args.clips, args.frames)
    else:
        said = [of_sound(args.speech, args.frames)]
    windows = [
        Window(hop, lookahead, steps)
        for hop in args.hops
        for lookahead in args.lookaheads
        for steps in args.steps or engine.spec.step_counts
        if hop >= 1 and lookahead >= 0 and hop + lookahead <= engine.spec.tokens
    ]
    unknown = sorted({window.steps for window in windows} - set(engine.spec.step_counts))
    if unknown or not windows:
        raise BadInput(f"no window to measure: steps of this bundle are {engine.spec.step_counts}")
    return {
        "machine": machine(),
        "versions": versions(),
        "commit": commit(),
        "engine": args.engine,
        "clips": [one.name for one in said],
        "truth": truth(said),
        "rows": measure(engine, windows, said),
    }


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = parser().parse_args(argv)
    try:
        report = sweep(args)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.json is not None:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if args.plot is not None:
        from benchmarks.windows_plot import plot  # noqa: PLC0415 - matplotlib is optional

        plot(report, args.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
