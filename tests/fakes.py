"""Fakes for time and devices: a numpy engine, a clock, an actor, and a pump that runs a session."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from mytalk.actors.tuned import TunedDecoder
from mytalk.audio.speech import MEL_FRAMES_PER_FRAME, SILENCE
from mytalk.clock import FRAME_S
from mytalk.config import SessionConfig
from mytalk.engines.engine import EngineSpec
from mytalk.landmarks.warp import flow_shape
from mytalk.motion import left_mel_frames
from mytalk.session import TalkSession
from mytalk.types import (
    F32,
    I16,
    U8,
    ActorView,
    AvSlice,
    FrameSpec,
    Job,
    JobResult,
    MotionJob,
    MotionResult,
    MotionState,
    PictureJob,
    PictureResult,
)

FAKE_SPEC = EngineSpec(
    tokens=8,
    mel_frames=126,
    mel_right=2,
    coefficients=16,
    compact=20,
    upper=12,
    identity=8,
    window=240,
    steps=2,
    step_counts=(1, 2, 4),
    weights_id="fake",
    appearance_id="fake-faces",
)


class FakeEngine:
    """Implements ``Engine``: the mouth opens smoothly with loudness, landmark images tint the crop."""

    concurrent = True
    batch = 1

    def __init__(self, spec: EngineSpec = FAKE_SPEC) -> None:
        self.name = "fake"
        self.spec = spec
        self.motion_calls = 0
        self.decode_calls = 0
        self.decoders_loaded: list[str] = []

    def initial_state(self) -> MotionState:
        empty = np.zeros((1, self.spec.window, 4), np.float32)
        return MotionState(empty, empty.copy(), np.zeros((1, 4, 4), np.float32), 0)

    def identity(self, rest_xy: F32) -> F32:
        return np.resize(rest_xy.mean(axis=0), self.spec.identity).astype(np.float32)

    def motion(self, jobs: Sequence[MotionJob]) -> list[MotionResult]:
        self.motion_calls += 1
        return [self._one(job) for job in jobs]

    def _one(self, job: MotionJob) -> MotionResult:
        check_motion_job(job, self.spec)
        displacement = np.zeros((job.hop, self.spec.compact, 3), np.float32)
        for i in range(job.hop):
            displacement[i] = self._openness(job.log_mel, i) * _profile(self.spec.compact)
        shown = job.hop + (0 if job.known is None else len(job.known))
        known = min(self.spec.window, job.state.known + shown)
        return MotionResult(
            displacement, MotionState(job.state.keys, job.state.values, job.state.conv, known)
        )

    def _openness(self, log_mel: F32, token: int) -> float:
        """0 in silence, about 0.3 in loud speech; a mean over the last 200 ms, so that it moves smoothly."""
        end = left_mel_frames(self.spec) + (token + 1) * MEL_FRAMES_PER_FRAME
        heard = log_mel[max(0, end - 20) : end]
        return float(np.mean(heard - SILENCE)) / 30.0 if len(heard) else 0.0

    def encode_appearance(self, references: U8, faces: U8) -> F32:
        assert references.shape == (3, 256, 256, 3)
        small = faces.reshape(len(faces), 64, 4, 64, 4, 3).mean(axis=(2, 4)) / 255.0
        return np.ascontiguousarray(small.transpose(0, 3, 1, 2), dtype=np.float32)

    def load_decoder(self, tuned: TunedDecoder) -> None:
        assert tuned.appearance_id == self.spec.appearance_id
        self.decoders_loaded.append(tuned.digest)

    def decode(
        self,
        landmark_images: F32,
        latents: F32,
        references: U8,
        flows: F32,
        tuned: TunedDecoder | None = None,
    ) -> U8:
        self.decode_calls += 1
        assert landmark_images.shape[1:] == (3, 256, 256)
        assert latents.shape == (len(landmark_images), 3, 64, 64)
        assert references.shape == (len(landmark_images), 3, 3, 480, 528)
        assert flows.shape == (len(landmark_images), 3, 2, *flow_shape())
        face = latents.astype(np.float32).repeat(4, axis=2).repeat(4, axis=3)
        mixed = np.clip(0.6 * face + 0.4 * landmark_images, 0.0, 1.0) * 255.0
        if tuned is not None:
            mixed = 255.0 - mixed
        return np.ascontiguousarray(mixed.transpose(0, 2, 3, 1).round().astype(np.uint8))


def _profile(compact: int) -> F32:
    """How far each landmark moves when the mouth is fully open: float32 [Kc, 3]."""
    weights = np.zeros((compact, 3), np.float32)
    weights[:, 1] = np.linspace(0.1, 1.0, compact)
    return weights


def check_motion_job(job: MotionJob, spec: EngineSpec) -> None:
    """Assert that every array of a job has the shape and dtype that ``MotionJob`` promises."""
    assert job.log_mel.shape == (spec.mel_frames, 80)
    assert job.upper.shape == (spec.tokens, spec.upper)
    assert job.identity.shape == (spec.identity,)
    assert job.noise.shape == (spec.tokens, spec.coefficients)
    assert 1 <= job.hop <= job.tokens <= spec.tokens
    arrays = [job.log_mel, job.upper, job.identity, job.noise]
    if job.known is not None:
        assert job.known_upper is not None
        assert job.known_log_mel is not None
        assert job.known.shape[1:] == (spec.compact, 3)
        assert 1 <= len(job.known) <= spec.tokens
        assert job.known_upper.shape == (len(job.known), spec.upper)
        assert job.known_log_mel.shape == (spec.mel_frames, 80)
        assert job.position >= len(job.known)
        arrays += [job.known, job.known_upper, job.known_log_mel]
    assert all(array.dtype == np.float32 and np.isfinite(array).all() for array in arrays)


def fake_actor(frames: int = 10, spec: EngineSpec = FAKE_SPEC) -> ActorView:
    """An actor of ``frames`` clip frames, played back and forth."""
    order = np.concatenate([np.arange(frames), np.arange(frames - 2, 0, -1)]).astype(np.int32)
    upper = np.linspace(0.0, 1.0, frames * spec.upper, dtype=np.float32).reshape(frames, spec.upper)
    return ActorView("fake", order, upper, np.ones(spec.identity, np.float32))


def fake_picture(frame: FrameSpec) -> U8:
    """A uint8 [2, 2, 3] picture that tells what it shows (clip frame, openness) without a renderer."""
    openness = 0.0 if frame.displacement is None else float(np.abs(frame.displacement).max())
    picture = np.zeros((2, 2, 3), np.uint8)
    picture[..., 0] = frame.clip_index % 256
    picture[..., 1] = int(np.clip(openness * 500.0, 0, 255))
    picture[..., 2] = int(np.clip(frame.audio_peak * 255.0, 0, 255))
    return picture


def run_job(engine: FakeEngine, job: Job) -> JobResult:
    """Do what a worker does, with a stand-in for the renderer."""
    if isinstance(job, PictureJob):
        return PictureResult(tuple(fake_picture(frame) for frame in job.frames))
    return engine.motion([job])[0]


def voice(seconds: float, rate_hz: int = 48_000, seed: int = 0, level: float = 0.3) -> I16:
    """Speech-like int16: a buzzing tone with syllables four times a second."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    rng = np.random.default_rng(seed)
    buzz = np.sign(np.sin(2 * np.pi * 120 * t)) * 0.5 + 0.1 * rng.standard_normal(len(t))
    envelope = 0.5 * (1 - np.cos(2 * np.pi * 4 * t))
    return np.clip(buzz * envelope * level * 32768, -32768, 32767).astype(np.int16)


@dataclass
class FakeClock:
    """Monotonic seconds that move only when told."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> float:
        self.now += seconds
        return self.now


@dataclass
class SessionPump:
    """Runs a session in fake time: one job at a time, each taking ``job_s``; collects the slices.

    ``before_slot`` is called with the time just before each slot, for live pushes and the like.
    """

    session: TalkSession
    engine: FakeEngine
    clock: FakeClock
    job_s: float = 0.0
    slices: list[AvSlice] = field(default_factory=list)
    frames: list[FrameSpec] = field(default_factory=list)
    before_slot: Callable[[float], None] | None = None
    _job: Job | None = None
    _ready: float = 0.0

    def work(self, until: float) -> None:
        """Take and finish jobs up to a time."""
        while True:
            if self._job is None:
                self._job = self.session.next_job()
                self._ready = self.clock.now + self.job_s
                if self._job is None:
                    return
            if self._ready > until:
                return
            self.clock.now = max(self.clock.now, self._ready)
            job, self._job = self._job, None
            if isinstance(job, PictureJob):
                self.frames.extend(job.frames)
            self.session.complete(job, run_job(self.engine, job), self.clock.now)

    def step(self) -> list[AvSlice]:
        """Go to the next slot; returns its slices."""
        due = max(self.session.next_due(), self.clock.now)
        if self.before_slot is not None:
            self.before_slot(due)
        self.work(due)
        self.clock.now = due
        got = self.session.slices_due(due)
        self.slices.extend(got)
        return got

    def run(self, slots: int) -> list[AvSlice]:
        """Go on by a number of slots; returns their slices."""
        got: list[AvSlice] = []
        for _ in range(slots):
            got.extend(self.step())
        return got

    def seconds(self, seconds: float) -> list[AvSlice]:
        """Go on by a time."""
        return self.run(round(seconds / FRAME_S))


def make_pump(
    config: SessionConfig | None = None, *, job_s: float = 0.0, seed: int = 7, clip_frames: int = 10
) -> SessionPump:
    """A fresh session on a fake engine, actor and clock."""
    engine, clock = FakeEngine(), FakeClock()
    session = TalkSession(
        fake_actor(clip_frames),
        engine.spec,
        engine.initial_state(),
        config or SessionConfig(),
        seed=seed,
        now=clock.now,
    )
    return SessionPump(session, engine, clock, job_s)
