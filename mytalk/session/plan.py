"""What is computed for an utterance (or for closing the mouth), frame by frame, and what is ready of it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from mytalk.audio.speech import MELS, SILENCE
from mytalk.clock import PLAYOUT_SAMPLES_PER_FRAME
from mytalk.config import SessionConfig
from mytalk.engines.engine import EngineSpec
from mytalk.motion import hop_noise
from mytalk.session.knobs import hop_start, hops_end
from mytalk.session.rest import Hush, Rest, closing_weights
from mytalk.session.speech import UtteranceSpeech
from mytalk.types import F32, U8, ActorView, FrameSpec, Job, MotionJob, MotionResult, MotionState


@dataclass(frozen=True, slots=True)
class ReadyPicture:
    """A finished picture, uint8 RGB [H, W, 3], what it shows, and when it was ready (monotonic seconds)."""

    picture: U8
    shows: FrameSpec
    ready_at: float


class Resting:
    """Stands for the idle face where a frame's picture is asked for."""


RESTING = Resting()


@dataclass(frozen=True, slots=True)
class Repeating:
    """In place of a picture: the frame shows the one before it once more, as was decided."""


REPEATING = Repeating()
Settled = ReadyPicture | Resting | Repeating


class PictureTrack:
    """Frames on their way to pictures: wanted → (in flight) → ready or broken → taken, each frame once.

    Frames that show the idle face are ready at once.
    """

    def __init__(self) -> None:
        self._wanted: dict[int, FrameSpec] = {}
        self._ready: dict[int, Settled] = {}
        self._broken: set[int] = set()
        self._overdue: ReadyPicture | None = None  # the newest that came after its slot

    def want(self, frame: int, shows: FrameSpec) -> None:
        """Ask for a frame's picture."""
        self._wanted[frame] = shows

    def rest(self, frame: int) -> None:
        """The frame shows the idle face."""
        self._ready[frame] = RESTING

    def repeat(self, frame: int) -> None:
        """The frame shows the picture of the one before it."""
        self._ready[frame] = REPEATING

    def next_wanted(self, count: int) -> tuple[int, ...]:
        """The earliest wanted frames, at most ``count``."""
        return tuple(sorted(self._wanted)[:count])

    def shows(self, frames: tuple[int, ...]) -> tuple[FrameSpec, ...]:
        """What wanted frames show."""
        return tuple(self._wanted[frame] for frame in frames)

    def done(
        self, frames: tuple[int, ...], specs: tuple[FrameSpec, ...], pictures: tuple[U8, ...], now: float
    ) -> None:
        """Pictures have been finished; of frames that were passed meanwhile only the newest is kept."""
        for frame, shows, picture in zip(frames, specs, pictures, strict=True):
            ready = ReadyPicture(picture, shows, now)
            if self._wanted.pop(frame, None) is not None:
                self._ready[frame] = ready
            else:
                self._overdue = ready

    def broke(self, frames: tuple[int, ...]) -> None:
        """Frames whose picture will never come."""
        for frame in frames:
            self._wanted.pop(frame, None)
            self._broken.add(frame)

    def settled(self, frame: int) -> bool:
        """Whether there is nothing to wait for."""
        return frame in self._ready or frame in self._broken

    def settled_run(self, first: int) -> int:
        """How many frames from ``first`` on there is nothing to wait for."""
        frame = first
        while self.settled(frame):
            frame += 1
        return frame - first

    def take(self, frame: int) -> Settled | None:
        """The picture of the frame that is played now, None if it is late; forgets it and earlier ones."""
        taken = self._ready.get(frame)
        for passed in [f for f in self._wanted if f <= frame]:
            del self._wanted[passed]
        for passed in [f for f in self._ready if f <= frame]:
            del self._ready[passed]
        self._broken = {f for f in self._broken if f > frame}
        return taken

    def take_overdue(self) -> ReadyPicture | None:
        """The newest picture that came after its slot, once; a lagging face beats a frozen one."""
        overdue, self._overdue = self._overdue, None
        return overdue

    @property
    def held(self) -> int:
        """Frames that are kept here in any state (a bound for tests)."""
        return len(self._wanted) + len(self._ready) + len(self._broken)


class Closing:
    """The mouth closes from a displacement that was shown, in a fixed number of frames."""

    def __init__(self, shown: F32, position: int, actor: ActorView, frames: int) -> None:
        self.track = PictureTrack()
        self.next_play = 0
        self.frames = frames
        self.history: list[F32] = [(shown * weight).astype(np.float32) for weight in closing_weights(frames)]
        for i, displacement in enumerate(self.history):
            self.track.want(i, FrameSpec(actor.clip_index(position + i), displacement))

    @property
    def remaining(self) -> int:
        """Frames still to be played."""
        return self.frames - self.next_play


@dataclass(frozen=True, slots=True)
class Anchor:
    """Ties an utterance to playout: ``frame`` leaves at ``slot`` or later, at play position ``position``."""

    frame: int
    slot: int
    position: int


class Utterance:
    """One utterance: its speech, its place on the playout timeline, its motion so far and its pictures."""

    def __init__(
        self,
        number: int,
        rate_hz: int,
        *,
        live: bool,
        now: float,
        actor: ActorView,
        spec: EngineSpec,
        initial_state: MotionState,
        config: SessionConfig,
    ) -> None:
        self.number = number
        self.live = live
        self._hush, self._rest = Hush(config), Rest(config)
        self.speech = UtteranceSpeech(rate_hz, spec, self._hush)
        self.track = PictureTrack()
        self.first_arrival = now
        self.last_arrival = now
        self.start_at: float | None = None  # when it may start or resume; None until it can be planned
        self.anchor: Anchor | None = None
        self.next_motion = 0
        self.next_play = 0
        self.started = False
        self.history: deque[F32] = deque(maxlen=max(1, config.known_frames))
        self._actor = actor
        self._spec = spec
        self._config = config
        self._initial_state = initial_state
        self._state = initial_state
        self._restart = True
        self._motion_position = 0
        self._wanted: SessionConfig | None = None  # hop and lookahead to come
        self._border = 0  # the frame from which hops are counted

    def configure(self, config: SessionConfig) -> None:
        """Other hop and lookahead from the next hop on; not once its end is known."""
        self._wanted = config

    def take_knobs(self) -> None:
        """A new hop may begin: what ``configure`` asked for holds from here on."""
        wanted, self._wanted = self._wanted, None
        if wanted is not None and not self.speech.ended:
            self._config, self._border = wanted, self.next_motion
            self._rest.configure(wanted)

    @property
    def hop_frames(self) -> int:
        """Frames of the next hop."""
        return self._config.hop_frames

    @property
    def total_frames(self) -> int | None:
        """Frames with the tail, whole hops (so that hops never depend on arrival); None while open."""
        if not self.speech.ended:
            return None
        config = self._config
        return hops_end(self._border, self.speech.speech_frames + config.tail_frames, config.hop_frames)

    @property
    def all_planned(self) -> bool:
        """Whether every frame has its motion."""
        return self.total_frames is not None and self.next_motion >= self.total_frames

    @property
    def finished(self) -> bool:
        """Whether every frame has been played."""
        return self.total_frames is not None and self.next_play >= self.total_frames

    @property
    def pending_frames(self) -> int:
        """Frames with motion that have not been played."""
        return max(0, self.next_motion - self.next_play)

    @property
    def unplayed_samples(self) -> int:
        """48 kHz samples that have come in and not left."""
        return max(0, self.speech.samples - self.next_play * PLAYOUT_SAMPLES_PER_FRAME)

    @property
    def played_samples(self) -> int:
        """48 kHz samples that have left."""
        return self.speech.samples - self.unplayed_samples

    def can_plan(self, frame: int) -> bool:
        """Whether the speech that the hop of a frame depends on is here."""
        hop = self._config.hop_frames
        if frame < self._border:
            return True  # it was planned, by hops that may have been of another size
        return self.speech.can_plan(hop_start(self._border, frame, hop), hop, self._config.lookahead_frames)

    def position_of(self, frame: int) -> int:
        """Play position of a frame; the utterance must be anchored."""
        assert self.anchor is not None
        return self.anchor.position + frame - self.anchor.frame

    def reached(self, position: int) -> bool:
        """Whether it is anchored, and the clip stands where it begins."""
        return self.anchor is not None and position >= self.anchor.position

    def restart_motion(self, history: list[F32] | None = None) -> None:
        """Let the next hop continue from displacements that were shown (None: the last planned ones)."""
        self._restart = True
        if history is not None:
            self.history.clear()
            self.history.extend(history)

    def settled_slots(self, slot: int) -> int:
        """How many slots from ``slot`` on (the next one) go by before a picture of it is missing."""
        wait = 0 if self.anchor is None else self.anchor.slot + self.next_play - self.anchor.frame - slot
        return max(0, wait) + self.track.settled_run(self.next_play)

    def first_pictures_settled(self) -> bool:
        """Whether nothing stands in the way of playing the next hop."""
        total = self.total_frames
        end = self.next_play + self._config.hop_frames
        frames = range(self.next_play, end if total is None else min(end, total))
        return all(self.track.settled(frame) for frame in frames)

    def skip_motion(self) -> int:
        """If motion is behind the playing frame, jump ahead of it; returns the frames skipped.

        The caller has seen many late frames in a row; computing what has been passed makes more of them.
        """
        if self.next_motion > self.next_play:
            return 0
        hop = self._config.hop_frames
        target = hops_end(self._border, self.next_play + self._config.skip_lead_frames, hop)
        if self.total_frames is not None:
            target = min(target, self.total_frames)
        skipped = target - self.next_motion
        self.track.broke(tuple(range(self.next_play, target)))
        self.next_motion = target
        self.speech.skip_analysis(target)
        self.restart_motion()
        return skipped

    def rest_hop(self) -> bool:
        """Let the face rest for the next hop, if it may (see ``Rest``); the caller has checked that it can be
        planned. Nothing is computed then.
        """
        config, first = self._config, self.next_motion
        self.speech.context(first, config.hop_frames + config.lookahead_frames)
        last = self.history[-1] if self.history else None
        resting = self._rest.hop(self._hush.frames, last)
        if resting is None:
            return False
        for frame, shown in enumerate(resting, first):
            self.history.append(np.zeros((self._spec.compact, 3), np.float32) if shown is None else shown)
            self._show(frame, shown)
        self.next_motion += config.hop_frames
        self.restart_motion()
        return True

    def _show(self, frame: int, displacement: F32 | None, picture_every: int = 1) -> None:
        """Ask for the picture of a planned frame, None = the idle face, unless it has been passed."""
        if frame < self.next_play:
            return
        if displacement is None:
            self.track.rest(frame)
        elif frame % picture_every:
            self.track.repeat(frame)
        else:
            clip_index = self._actor.clip_index(self.position_of(frame))
            self.track.want(frame, FrameSpec(clip_index, displacement, self.speech.peak(frame)))

    def motion_job(self, generation: int, seed: int, steps: int) -> MotionJob:
        """The next hop; the caller has checked that it can be planned and that the utterance is anchored."""
        spec, config = self._spec, self._config
        first, tokens = self.next_motion, config.hop_frames + config.lookahead_frames
        known: F32 | None = None
        if self._restart:
            self._state = self._initial_state
            self._motion_position = config.known_frames
            if config.known_frames:
                known = self._known()
        silence = np.full((spec.mel_frames, MELS), SILENCE, np.float32)
        return MotionJob(
            generation=generation,
            state=self._state,
            log_mel=self.speech.context(first, tokens),
            upper=self._upper(first, tokens, spec.tokens),
            identity=self._actor.identity,
            noise=hop_noise(seed, self.number, first, spec.tokens, spec.coefficients),
            position=self._motion_position,
            hop=config.hop_frames,
            tokens=tokens,
            steps=steps,
            known=known,
            known_upper=None if known is None else self._upper(first - len(known), len(known), len(known)),
            known_log_mel=None if known is None else silence,
        )

    def _known(self) -> F32:
        """The last displacements before the hop, float32 [P, Kc, 3]; the idle face where there are none."""
        known = np.zeros((self._config.known_frames, self._spec.compact, 3), np.float32)
        if self.history:
            known[-len(self.history) :] = np.stack(list(self.history))
        return known

    def _upper(self, first: int, count: int, rows: int) -> F32:
        """Upper-face rows float32 [rows, U] of ``count`` frames, the last one repeated up to ``rows``."""
        positions = [max(0, self.position_of(first + min(i, count - 1))) for i in range(rows)]
        return self._actor.upper[[self._actor.clip_index(position) for position in positions]]

    def motion_done(self, result: MotionResult, picture_every: int = 1) -> None:
        """Take a hop's displacements; frames that have been played meanwhile need no picture.

        picture_every: one picture of so many frames is made, the others repeat it.
        """
        total, close = self.total_frames, self._config.close_frames
        weights = closing_weights(close)
        for i, displacement in enumerate(result.displacement):
            frame = self.next_motion + i
            fade = -1 if total is None else frame - (total - close)
            # The frame that follows the last one is the idle face: no jump may be left.
            shown = displacement if fade < 0 else (displacement * weights[fade]).astype(np.float32)
            self.history.append(shown)
            self._show(frame, shown, picture_every)
        self._state = result.state
        self._restart = False
        self._motion_position += len(result.displacement)
        self.next_motion += len(result.displacement)

    def motion_failed(self) -> None:
        """The hop has no motion; the next one starts again from what was shown last."""
        hop = self._config.hop_frames
        self.track.broke(tuple(range(max(self.next_play, self.next_motion), self.next_motion + hop)))
        self.next_motion += hop
        self.restart_motion()


@dataclass(frozen=True, slots=True)
class Flight:
    """The job that is being run: motion of an utterance, or pictures of some frames of an owner."""

    job: Job
    owner: Utterance | Closing
    frames: tuple[int, ...]
