"""``python benchmarks/windows.py``: hop × lookahead × steps of the motion model, streamed over real speech.

For each: algorithmic delay, CPU per frame (of the calling thread, so other processes do not count), distance
to many steps and a long lookahead, correlation of the mouth's opening with it, jerk, and how much larger
steps across hop borders are than steps within hops.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that the file can be run as it stands

import numpy as np  # noqa: E402 - after the path

from benchmarks.machine import commit, machine, versions  # noqa: E402
from mytalk.actor import Actor, load_actor  # noqa: E402
from mytalk.engines import default_bundle, load_engine  # noqa: E402
from mytalk.engines.engine import Engine  # noqa: E402
from mytalk.landmarks.normalise import mouth_opening  # noqa: E402
from mytalk.media import read_speech  # noqa: E402
from mytalk.motion import hop_noise, mel_context  # noqa: E402
from mytalk.speech import LogMelState, log_mel  # noqa: E402
from mytalk.types import F32, MotionJob  # noqa: E402

SPEECH = ROOT / "tests" / "data" / "silence_then_speech.wav"
ORDERS = {"position": 1, "velocity": 2, "acceleration": 3}


@dataclass(frozen=True, slots=True)
class Window:
    """Frames that become known at once, provisional frames behind them, diffusion steps."""

    hop: int
    lookahead: int
    steps: int


def stream(engine: Engine, actor: Actor, mel: F32, window: Window, frames: int) -> tuple[F32, float]:
    """Displacements float32 [frames, Kc, 3] as they stream, and the median CPU milliseconds of a hop."""
    spec, motion = engine.spec, actor.motion
    state, identity = engine.initial_state(), engine.identity(np.ascontiguousarray(motion.rest[:, :2]))
    made, times = [], []
    for first in range(0, frames, window.hop):
        shown = motion.order[np.arange(first, first + spec.tokens) % len(motion.order)]
        heard = mel[: 4 * (first + window.hop + window.lookahead) + spec.mel_right]
        job = MotionJob(
            generation=0,
            state=state,
            log_mel=mel_context(heard, 0, first, spec),
            upper=actor.upper[shown],
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
    return np.concatenate(made)[:frames], 1e3 * float(np.median(times))


def border_ratio(displacement: F32, hop: int, order: int) -> float | None:
    """Mean size of differences of an order that cross a hop border, over those within hops.

    None where every difference crosses one (or none does), so that there is nothing to compare with.
    """
    steps = np.diff(displacement.reshape(len(displacement), -1), n=order, axis=0)
    sizes = np.sqrt(np.square(steps).mean(axis=1))
    crosses = np.array(
        [any((k + i) % hop == 0 for i in range(1, order + 1)) for k in range(len(sizes))], np.bool_
    )
    if crosses.all() or not crosses.any():
        return None
    return round(float(sizes[crosses].mean() / sizes[~crosses].mean()), 3)


def measure(engine: Engine, windows: list[Window], speech: Path, frames: int) -> list[dict[str, Any]]:
    """A row for each window; the reference is the most steps with the longest lookahead at hop 1."""
    actor = load_actor(ROOT / "actors" / "ada")
    samples = np.concatenate(list(read_speech(speech, 16_000))).astype(np.float32) / 32768
    _, mel = log_mel(LogMelState.initial(), samples)
    frames = min(frames, len(mel) // 4)
    spec, rest = engine.spec, actor.motion.rest
    best = Window(1, spec.tokens - 1, spec.step_counts[-1])
    reference, _ = stream(engine, actor, mel, best, frames)

    def opening(displacement: F32) -> F32:
        faces = np.repeat(rest[None], len(displacement), axis=0)
        faces[:, actor.layout.compact] += displacement
        return mouth_opening(faces, actor.layout)

    rows = []
    for window in windows:
        made, hop_ms = stream(engine, actor, mel, window, frames)
        jerk = np.diff(made, n=3, axis=0)
        rows.append(
            {
                "hop": window.hop,
                "lookahead": window.lookahead,
                "steps": window.steps,
                "delay_ms": 40 * (window.hop + window.lookahead) + 10 * spec.mel_right,
                "cpu_ms_per_frame": round(hop_ms / window.hop, 2),
                "distance": round(float(np.sqrt(np.square(made - reference).mean())), 5),
                "opening_correlation": round(float(np.corrcoef(opening(made), opening(reference))[0, 1]), 4),
                "jerk": round(float(np.sqrt(np.square(jerk).mean())), 5),
                "border_ratio": {name: border_ratio(made, window.hop, o) for name, o in ORDERS.items()},
            }
        )
        print(json.dumps(rows[-1]), file=sys.stderr)
    return rows


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hops", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--lookaheads", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--speech", type=Path, default=SPEECH)
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--engine", default="onnx-fp32")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    engine = load_engine(args.engine, default_bundle(), 1)
    windows = [
        Window(hop, lookahead, steps)
        for hop in args.hops
        for lookahead in args.lookaheads
        for steps in engine.spec.step_counts
        if hop >= 1 and lookahead >= 0 and hop + lookahead <= engine.spec.tokens
    ]
    rows = measure(engine, windows, args.speech, args.frames)
    report = {"machine": machine(), "versions": versions(), "commit": commit(), "rows": rows}
    if args.json is not None:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
