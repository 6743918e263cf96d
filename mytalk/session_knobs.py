"""The latency/quality knob of a session: which hop, lookahead and step count go with an engine."""

from __future__ import annotations

from mytalk.clock import ANALYSIS_RATE
from mytalk.config import SessionConfig
from mytalk.engines.engine import EngineSpec
from mytalk.errors import BadInput
from mytalk.motion import analysis_samples_needed


def check_knobs(config: SessionConfig, spec: EngineSpec) -> None:
    """Raise ``BadInput`` unless the engine can run a session like this."""
    tokens = config.hop_frames + config.lookahead_frames
    if tokens > spec.tokens or config.known_frames > spec.tokens:
        raise BadInput(
            f"hop + lookahead ({tokens}) and known_frames ({config.known_frames}) must not exceed"
            f" the engine's {spec.tokens} tokens",
            "bad_config",
        )
    if config.steps and config.steps not in spec.step_counts:
        known = ", ".join(map(str, spec.step_counts))
        raise BadInput(f"steps must be one of {known} (0: the default), not {config.steps}", "bad_config")


def needed_delay_s(config: SessionConfig, spec: EngineSpec) -> float:
    """What hop and lookahead need before they can start."""
    tokens = config.hop_frames + config.lookahead_frames
    return analysis_samples_needed(tokens, spec) / ANALYSIS_RATE


def hop_start(border: int, frame: int, hop: int) -> int:
    """First frame of the hop that holds ``frame``; hops of ``hop`` frames are counted from ``border``."""
    return border + (frame - border) // hop * hop


def hops_end(border: int, frames: int, hop: int) -> int:
    """End of the whole hops from ``border`` on that hold all of ``frames``."""
    return border - (border - frames) // hop * hop
