"""What the mouth does when nobody speaks: opening and jitter in silence."""

from __future__ import annotations

import numpy as np

from mytalk.engines.engine import Engine
from mytalk.types import F32
from training.streamed import Stream, opening, stream_motion

ROOM, ROOM_NOISE = -9.0, 0.3  # log-mel of a quiet room


def silence_figures(engine: Engine, rest: F32, stream: Stream, frames: int = 50) -> dict[str, float]:
    """Mouth opening and jitter in the second half of a silence, % of the inter-ocular distance."""
    random = np.random.default_rng(0)
    mel = (ROOM + ROOM_NOISE * random.standard_normal((frames * 4, 80))).astype(np.float32)
    upper = np.zeros((frames, engine.spec.upper), np.float32)
    gap = opening(
        stream_motion(engine, mel, upper, engine.identity(np.ascontiguousarray(rest[:, :2])), stream), rest
    )
    closed = opening(np.zeros((1, engine.spec.compact, 3), np.float32), rest)[0]
    settled = gap[frames // 2 :]
    return {"opening_pct": float(100 * (settled.mean() - closed)), "jitter_pct": float(100 * settled.std())}
