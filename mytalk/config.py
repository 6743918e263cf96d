"""Settings of a talking session: frozen, documented, unknown keys and bad ranges are errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from mytalk.errors import BadInput


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """How a ``TalkSession`` trades delay against smoothness; frames are 40 ms.

    hop_frames: frames that one motion job finishes; lookahead_frames: provisional frames after them.
    live_hop_frames: hop_frames of live speech, which waits for a hop to be spoken; pushed speech does not.
    steps: diffusion steps of a hop, one of the engine's; 0 = its default.
    live_delay_s: a live microphone's sample leaves at least this long after it came in. More where hop and
        lookahead need more, with what jitter and compute were measured to take.
    live_drift_s: deviation from it from which live speech is resampled, by 0.5 % at most, to come back.
    live_slack_s: backlog above it from which quiet pieces of live speech are dropped, and after a second
        without any, pitch periods cut out.
    live_backlog_s: backlog from which live speech is dropped even where it is loud.
    quiet_peak: largest absolute sample (0..1) that counts as quiet.
    steady_peak: so does a steady noise, such as a fan's, up to this peak (0..1); 0 = none does.
    rest_after_frames: after so much quiet a closed mouth rests: the idle face is shown, and nothing is
        computed until something is heard; 0 = never.
    rest_opening: a mouth is closed when no landmark is further from the rest face (inter-ocular distance 1).
    pushed_start_s: shortest time from the moment that pushed speech can be planned to its first slice.
    start_wait_s: longest that a start waits for its first pictures before the voice starts without them.
    push_buffer_s: most unplayed speech a session holds; a push beyond it is refused (``Overloaded``).
    push_stall_s: pushed speech that has run dry for so long gives way to a live microphone.
    max_utterances: most utterances that may be queued, the current one included.
    tail_frames: silence appended to an utterance so that the mouth closes by itself.
    close_frames: length of the forced closing, at the end of the tail and after an interrupt.
    hold_frames: how long a starved utterance keeps its last picture before the mouth closes.
    known_frames: displacements already shown that the first motion job of an utterance continues from.
    ahead_frames: pictures of future frames that may be computed ahead of the playing one.
    max_late_frames: after so many late pictures in a row, motion that is behind the playing frame skips.
    skip_lead_frames: how far ahead of the playing frame it skips, so that its next pictures are in time.
    max_burst_slots: most slots that one call of ``slices_due`` makes up for; a longer stall moves the clock.
    """

    hop_frames: int = 2
    live_hop_frames: int = 1
    lookahead_frames: int = 1
    steps: int = 0
    live_delay_s: float = 0.1
    live_drift_s: float = 0.031  # a start is rounded to a slot, at most 30 ms after its target
    live_slack_s: float = 0.06
    live_backlog_s: float = 1.0
    quiet_peak: float = 0.01
    steady_peak: float = 0.15
    rest_after_frames: int = 10
    rest_opening: float = 0.03
    pushed_start_s: float = 0.03
    start_wait_s: float = 1.0
    push_buffer_s: float = 120.0
    push_stall_s: float = 1.0
    max_utterances: int = 16
    tail_frames: int = 8
    close_frames: int = 4
    hold_frames: int = 3
    known_frames: int = 4
    ahead_frames: int = 12
    max_late_frames: int = 5
    skip_lead_frames: int = 8
    max_burst_slots: int = 5

    def __post_init__(self) -> None:
        """Check types and ranges."""
        for field in fields(self):
            low, high = _RANGES[field.name]
            value: object = getattr(self, field.name)
            _check_number(field.name, value, low, high, whole=field.type == "int")
        if self.tail_frames < self.close_frames:
            raise BadInput("tail_frames must not be less than close_frames", "bad_config")
        if self.ahead_frames < 2 * max(self.hop_frames, self.live_hop_frames):
            raise BadInput("ahead_frames must be at least twice hop_frames and live_hop_frames", "bad_config")
        if self.live_backlog_s < self.live_delay_s + self.live_slack_s:
            raise BadInput("live_backlog_s must be at least live_delay_s + live_slack_s", "bad_config")

    @property
    def for_live(self) -> SessionConfig:
        """The same with the hop of live speech."""
        return replace(self, hop_frames=self.live_hop_frames)

    def turned(self, hop: int | None, lookahead: int | None, steps: int | None) -> SessionConfig:
        """With what is not None. A hop that is asked for is that of live and of pushed speech."""
        return replace(
            self,
            hop_frames=self.hop_frames if hop is None else hop,
            live_hop_frames=self.live_hop_frames if hop is None else hop,
            lookahead_frames=self.lookahead_frames if lookahead is None else lookahead,
            steps=self.steps if steps is None else steps,
        )

    def with_hop(self, factor: int, most_tokens: int) -> SessionConfig:
        """The same with ``factor`` times the hop, unless the engine or ``ahead_frames`` cannot take it."""
        hop = self.hop_frames * factor
        fits = hop + self.lookahead_frames <= most_tokens and 2 * hop <= self.ahead_frames
        return replace(self, hop_frames=hop) if fits else self

    @classmethod
    def from_mapping(cls, values: Mapping[str, object]) -> SessionConfig:
        """Settings from a parsed table (TOML, JSON); what is not named keeps its default."""
        unknown = sorted(set(values) - set(_RANGES))
        if unknown:
            known = ", ".join(sorted(_RANGES))
            raise BadInput(f"unknown session setting {unknown[0]!r}; known are {known}", "bad_config")
        return cls(**values)  # type: ignore[arg-type]  # every value is checked in __post_init__


_RANGES: dict[str, tuple[float, float]] = {
    "hop_frames": (1, 250),
    "live_hop_frames": (1, 250),
    "lookahead_frames": (0, 250),
    "steps": (0, 50),
    "live_delay_s": (0.04, 5.0),
    "live_drift_s": (0.021, 1.0),
    "live_slack_s": (0.02, 5.0),
    "live_backlog_s": (0.5, 30.0),
    "quiet_peak": (0.0, 1.0),
    "steady_peak": (0.0, 1.0),
    "rest_after_frames": (0, 1000),
    "rest_opening": (0.0, 1.0),
    "pushed_start_s": (0.0, 5.0),
    "start_wait_s": (0.0, 30.0),
    "push_buffer_s": (1.0, 3600.0),
    "push_stall_s": (0.0, 60.0),
    "max_utterances": (1, 1000),
    "tail_frames": (1, 250),
    "close_frames": (1, 5),  # at most 200 ms: an interrupted mouth must not go on talking
    "hold_frames": (1, 250),
    "known_frames": (0, 240),
    "ahead_frames": (2, 1000),
    "max_late_frames": (1, 1000),
    "skip_lead_frames": (0, 100),
    "max_burst_slots": (1, 250),
}


def _check_number(name: str, value: object, low: float, high: float, *, whole: bool) -> None:
    allowed = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, allowed):
        kind = "a whole number" if whole else "a number"
        raise BadInput(f"{name} must be {kind}, not {value!r}", "bad_config")
    if not low <= value <= high:
        raise BadInput(f"{name} must be in {low:g}..{high:g}, not {value!r}", "bad_config")
