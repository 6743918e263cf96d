"""What must hold for any input: splits, arrival times, and a fuzz of every call against a small model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mytalk.clock import FRAME_S
from mytalk.config import SessionConfig
from mytalk.errors import EngineFailed, Overloaded
from mytalk.session import TalkSession
from mytalk.types import I16, U8, AvSlice, FrameSpec, Job, JobResult, PictureJob, PictureResult
from tests.fakes import FakeEngine, SessionPump, fake_actor, make_pump, run_job, voice

SAMPLES = 1920


def same_slices(one: Sequence[AvSlice], two: Sequence[AvSlice]) -> bool:
    def key(s: AvSlice) -> tuple[object, ...]:
        picture = None if s.picture is None else s.picture.tobytes()
        return s.slot, s.samples.tobytes(), picture, s.clip_index, s.speech_sample, s.late

    return [key(s) for s in one] == [key(s) for s in two]


def same_motion(one: Sequence[FrameSpec], two: Sequence[FrameSpec]) -> bool:
    pairs = list(zip(one, two, strict=True))
    return all(
        np.array_equal(a.displacement, b.displacement) and a.audio_peak == b.audio_peak for a, b in pairs
    )


def pushed(samples: I16, rate_hz: int, cuts: Sequence[int], job_s: float = 0.0) -> SessionPump:
    """All at one moment, in pieces, then played to the end."""
    pump = make_pump(job_s=job_s)
    for piece in np.split(samples, sorted(cuts)):
        pump.session.receive_speech(piece, rate_hz, now=pump.clock.now, live=False)
    pump.session.end_of_speech(pump.clock.now)
    pump.run(round(len(samples) / rate_hz / FRAME_S) + 25)
    assert pump.session.stats().state == "idle"
    return pump


@given(
    rate_hz=st.sampled_from([8_000, 22_050, 24_000, 48_000]),
    seconds=st.floats(0.01, 1.2),
    cuts=st.lists(st.integers(0, 10_000), max_size=8),
)
def test_any_split_gives_identical_slices(rate_hz: int, seconds: float, cuts: list[int]) -> None:
    samples = voice(max(0.001, seconds), rate_hz, level=0.8)
    whole = pushed(samples, rate_hz, [])
    split = pushed(samples, rate_hz, [min(cut, len(samples)) for cut in cuts])
    assert same_slices(whole.slices, split.slices)
    assert same_motion(whole.frames, split.frames)


@given(
    seconds=st.floats(0.2, 1.5),
    pieces=st.lists(st.integers(400, 12_000), min_size=1),
    job_s=st.floats(0, 0.015),
)
def test_streamed_is_all_at_once(seconds: float, pieces: list[int], job_s: float) -> None:
    """Speech that trickles in (in time or not) and slower jobs give the same sound and the same motion."""
    samples = voice(seconds, level=0.8)
    whole = pushed(samples, 48_000, [])
    pump = make_pump(SessionConfig(hold_frames=250), job_s=job_s)
    sent, step = 0, 0
    while sent < len(samples):
        piece = samples[sent : sent + pieces[step % len(pieces)]]
        pump.session.receive_speech(piece, 48_000, now=pump.clock.now, live=False)
        sent, step = sent + len(piece), step + 1
        pump.step()
    pump.session.end_of_speech(pump.clock.now)
    pump.run(60)
    sound = [s.samples for s in pump.slices if s.speech_sample is not None]
    assert np.array_equal(sound, [s.samples for s in whole.slices if s.speech_sample is not None])
    assert same_motion(whole.frames, pump.frames)
    assert pump.session.stats().late == 0


@given(level=st.floats(0.0, 1.0), seconds=st.floats(0.05, 1.5), cut=st.one_of(st.none(), st.integers(1, 50)))
def test_displacement_never_jumps(level: float, seconds: float, cut: int | None) -> None:
    """Idle → speech → idle, interrupted or not; the closing of an interrupt is the fastest move there is."""
    pump = make_pump()
    pump.run(2)
    pump.session.receive_speech(voice(seconds, level=level), 48_000, now=pump.clock.now, live=False)
    pump.session.end_of_speech(pump.clock.now)
    for slot in range(80):
        if slot == cut:
            pump.session.interrupt(pump.clock.now)
        pump.step()
    shown = [0.0 if s.picture is None else float(s.picture[0, 0, 1]) / 500.0 for s in pump.slices]
    assert shown[-1] == 0.0
    assert max(abs(np.diff(shown))) < 0.12
    assert pump.session.stats().late == 0


def state_bytes(root: object) -> int:
    """Bytes of all arrays that an object of ours holds, found through attributes and containers."""
    seen: set[int] = set()
    total, stack = 0, [root]
    while stack:
        item = stack.pop()
        if id(item) in seen or isinstance(item, (str, bytes, int, float, type)):
            continue
        seen.add(id(item))
        if isinstance(item, np.ndarray):
            total += item.nbytes
        elif isinstance(item, dict):
            stack += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple, set)) or type(item).__name__ == "deque":
            stack += list(item)  # type: ignore[call-overload]
        elif type(item).__module__.startswith("mytalk"):
            names = [*getattr(item, "__dict__", {}), *getattr(type(item), "__slots__", ())]
            stack += [getattr(item, name) for name in names]
    return total


def test_a_long_session_stays_small() -> None:
    pump = make_pump(job_s=0.002)
    minute = voice(60.0)
    sizes = []
    for second in range(40):
        piece = minute[second * 48_000 : (second + 1) * 48_000]
        for half in np.split(piece, 2):
            pump.session.receive_speech(half, 48_000, now=pump.clock.now, live=False)
            pump.run(12 + (second % 2))
        sizes.append(state_bytes(pump.session))
    assert max(sizes[20:]) <= 1.5 * max(sizes[:10])
    assert max(sizes) < 4_000_000


@dataclass
class Model:
    """What a listener may expect: the speech of every utterance, and who was interrupted."""

    utterances: list[list[I16]] = field(default_factory=list)
    open: bool = False
    generation: int = 0
    expected_from: int = 0  # first utterance that has not been cut off before it was heard

    def push(self, samples: I16) -> None:
        if not self.open:
            self.utterances.append([])
            self.open = True
        self.utterances[-1].append(samples)

    def speech(self, index: int) -> I16:
        return np.concatenate(self.utterances[index])


class Fuzz:
    """Random calls on a session; every slice is checked when it comes out."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.config = SessionConfig(push_buffer_s=3.0, max_utterances=3, start_wait_s=0.3)
        self.engine, self.now = FakeEngine(), 50.0
        state = self.engine.initial_state()
        self.session = TalkSession(
            fake_actor(), self.engine.spec, state, self.config, seed=seed, now=self.now
        )
        self.model, self.slot = Model(), 0
        self.current = -1  # utterance that is being heard
        self.heard = 0  # its 48 kHz samples so far, padding included
        self.shown: U8 | None = None
        self.pictures: dict[int, int] = {}  # id of a picture → its generation
        self.kept: list[U8] = []  # so that no id is used twice
        self.finished: set[int] = set()
        self.job: Job | None = None

    def result(self, job: Job) -> JobResult:
        result = run_job(self.engine, job)
        if isinstance(job, PictureJob):
            assert isinstance(result, PictureResult)
            for picture in result.pictures:
                self.pictures[id(picture)] = job.generation
                self.kept.append(picture)
        return result

    def push(self) -> None:
        samples = voice(self.rng.uniform(0.01, 0.8), seed=self.rng.randrange(1000))
        try:
            self.session.receive_speech(samples, 48_000, now=self.now, live=False)
        except Overloaded:
            return
        self.model.push(samples)

    def end(self) -> None:
        self.session.end_of_speech(self.now)
        self.model.open = False

    def interrupt(self) -> None:
        played = self.session.interrupt(self.now)
        waiting = [i for i in range(self.model.expected_from, len(self.model.utterances))]
        live = self.current if self.current in waiting and self.current not in self.finished else None
        expected = 0 if live is None else min(self.heard, len(self.model.speech(live)))
        assert played == expected
        self.model.generation += 1
        self.model.open = False
        self.model.expected_from = len(self.model.utterances)

    def work(self) -> None:
        if self.job is None:
            self.job = self.session.next_job()
            if self.job is not None:
                assert self.job.generation == self.model.generation
                assert self.session.next_job() is None
        elif self.rng.random() < 0.05:
            job, self.job = self.job, None
            self.session.fail(job, EngineFailed("boom"), self.now)
        else:
            job, self.job = self.job, None
            self.session.complete(job, self.result(job), self.now)

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for piece in self.session.slices_due(self.now):
            self.check(piece)

    def check(self, piece: AvSlice) -> None:
        assert piece.slot == self.slot
        self.slot += 1
        assert piece.generation == self.model.generation
        assert piece.samples.shape == (SAMPLES,)
        if piece.picture is not None and piece.picture is not self.shown:
            assert self.pictures[id(piece.picture)] == self.model.generation, "a stale picture"
        self.shown = piece.picture
        if piece.speech_sample is None:
            assert not piece.samples.any()
            return
        if piece.speech_sample == 0:
            assert self.current < self.model.expected_from or self.current in self.finished
            self.current = max(self.current + 1, self.model.expected_from)
            self.heard = 0
        assert piece.speech_sample == self.heard
        speech = self.model.speech(self.current)
        expected = np.zeros(SAMPLES, np.int16)
        part = speech[self.heard : self.heard + SAMPLES]
        expected[: len(part)] = part
        assert np.array_equal(piece.samples, expected), "not the speech that came in"
        self.heard += SAMPLES
        ended = self.current < len(self.model.utterances) - 1 or not self.model.open
        frames = -(-len(speech) // SAMPLES) + self.config.tail_frames
        if ended and self.heard >= SAMPLES * (frames + frames % self.config.hop_frames):
            self.finished.add(self.current)

    def step(self) -> None:
        choice = self.rng.random()
        if choice < 0.05:
            self.push()
        elif choice < 0.07:
            self.end()
        elif choice < 0.075:
            self.interrupt()
        elif choice < 0.6:
            self.work()
        else:
            self.advance(self.rng.choice([0.0, 0.005, 0.02, 0.04, 0.09]))

    def drain(self) -> None:
        self.end()
        for _ in range(600):
            self.work()
            self.work()
            self.advance(0.02)
        assert self.session.stats().state == "idle"
        assert self.session.stats().buffered_s == 0
        kept = range(self.model.expected_from, len(self.model.utterances))
        assert set(kept) <= self.finished, "something was never said"
        assert self.shown is None


@settings(max_examples=25)
@given(st.integers(0, 2**32))
def test_fuzz_against_the_model(seed: int) -> None:
    fuzz = Fuzz(seed)
    for _ in range(800):
        fuzz.step()
    fuzz.drain()
    counts = fuzz.session.stats()
    assert counts.slices == counts.talking + counts.closing + counts.held + counts.idle == fuzz.slot
    fuzz.session.close()
    assert fuzz.session.next_job() is None
    assert fuzz.session.slices_due(fuzz.now + 1) == []
