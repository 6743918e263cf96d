"""The latency/quality knob of a session: which hop, lookahead and step count go with an engine."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mytalk.clock import ANALYSIS_RATE
from mytalk.config import SessionConfig
from mytalk.engines.engine import EngineSpec
from mytalk.errors import BadInput
from mytalk.motion import analysis_samples_needed


def check_knobs(config: SessionConfig, spec: EngineSpec) -> None:
    """Raise ``BadInput`` unless the engine can run a session like this."""
    tokens = max(config.hop_frames, config.live_hop_frames) + config.lookahead_frames
    if tokens > spec.tokens or config.known_frames > spec.tokens:
        raise BadInput(
            f"hop + lookahead ({tokens}) and known_frames ({config.known_frames}) must not exceed"
            f" the engine's {spec.tokens} tokens",
            "bad_config",
        )
    if config.steps and config.steps not in spec.step_counts:
        known = ", ".join(map(str, spec.step_counts))
        raise BadInput(f"steps must be one of {known} (0: the default), not {config.steps}", "bad_config")


@dataclass(frozen=True, slots=True)
class Knobs:
    """A session's settings as they stand, and what overload takes away from them.

    asked: the settings as asked for. hop_factor: motion is made for so many times more frames at once, if the
    engine can: of pushed utterances that begin later, and of live ones once their delay has room for it.
    picture_every: one picture of so many frames is made. fewest_steps: of those that the engine has.
    """

    asked: SessionConfig
    spec: EngineSpec
    hop_factor: int = 1
    picture_every: int = 1
    fewest_steps: bool = False

    def __post_init__(self) -> None:
        """Raise ``BadInput`` for what the engine cannot run."""
        check_knobs(self.asked, self.spec)
        if min(self.hop_factor, self.picture_every) < 1:
            raise BadInput("hop_factor and picture_every must be at least 1", "bad_config")

    @property
    def live(self) -> SessionConfig:
        """Settings of live utterances."""
        return self.asked.for_live.with_hop(self.hop_factor, self.spec.tokens)

    @property
    def pushed(self) -> SessionConfig:
        """Settings of pushed utterances that begin now."""
        return self.asked.with_hop(self.hop_factor, self.spec.tokens)

    @property
    def steps(self) -> int:
        """Diffusion steps of the next hop."""
        return self.spec.step_counts[0] if self.fewest_steps else self.asked.steps or self.spec.steps

    def turned(self, hop: int | None, lookahead: int | None, steps: int | None) -> Knobs:
        """With other settings, where they are not None (steps 0: the engine's default)."""
        return replace(self, asked=self.asked.turned(hop, lookahead, steps))

    def as_dict(self) -> dict[str, int]:
        """What was asked for live speech, whose delay it is."""
        live = self.asked.for_live
        return {
            "hop": live.hop_frames,
            "lookahead": live.lookahead_frames,
            "steps": live.steps or self.spec.steps,
        }


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
