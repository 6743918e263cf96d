"""100,000 random calls on sessions, against a small model of what may come out."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pytest

from mytalk.config import SessionConfig
from mytalk.errors import EngineFailed, Overloaded, SessionClosed
from mytalk.session import TalkSession
from mytalk.types import I16, U8, AvSlice, Job, JobResult, PictureJob, PictureResult
from tests.fakes import FakeEngine, fake_actor, run_job, voice

SAMPLES = 1920


@cache
def babble() -> I16:
    """Ten seconds to cut pieces from."""
    return voice(10.0)


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
        length, first = round(self.rng.uniform(480, 40_000)), self.rng.randrange(400_000)
        samples = babble()[first : first + length]
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


class MicrophoneFuzz(Fuzz):
    """The same with a live microphone and pauses; live speech may be stretched or dropped, but never stale.

    All speech of a generation is positive, all of the next one negative: nothing of the wrong sign may come.
    """

    def sign(self) -> int:
        return 1 if self.model.generation % 2 == 0 else -1

    def loud(self, length: int) -> I16:
        level = 0 if self.rng.random() < 0.3 else self.rng.randrange(4_000, 7_000)
        return np.full(length, self.sign() * level, np.int16)

    def push(self) -> None:
        if self.rng.random() < 0.3:
            try:
                self.session.receive_speech(self.loud(9_600), 24_000, now=self.now, live=False)
            except Overloaded:
                return
            if self.rng.random() < 0.5:
                self.session.end_of_speech(self.now)
        else:
            for _ in range(self.rng.randrange(1, 20)):
                self.session.receive_speech(self.loud(960), 48_000, now=self.now, live=True)

    def end(self) -> None:
        self.session.end_of_speech(self.now)

    def interrupt(self) -> None:
        assert self.session.interrupt(self.now) >= 0
        self.model.generation += 1

    def check(self, piece: AvSlice) -> None:
        assert piece.slot == self.slot
        self.slot += 1
        assert piece.generation == self.model.generation
        assert (piece.samples.astype(np.int32) * self.sign()).min() > -2_000, (
            "stale sound"
        )  # steps ring when resampled
        if piece.picture is not None and piece.picture is not self.shown:
            assert self.pictures[id(piece.picture)] == self.model.generation, "a stale picture"
        self.shown = piece.picture
        assert piece.speech_sample is not None or not piece.samples.any()

    def drain(self) -> None:
        self.end()
        for _ in range(600):
            self.work()
            self.work()
            self.advance(0.02)
        stats = self.session.stats()
        assert (stats.state, stats.buffered_s, self.shown) == ("idle", 0, None)


@pytest.mark.parametrize("kind", [Fuzz, MicrophoneFuzz])
@pytest.mark.parametrize("seed", range(10))
def test_100_000_random_steps(kind: type[Fuzz], seed: int) -> None:
    fuzz = kind(seed)
    for step in range(5_000):
        fuzz.step()
        if step % 500 == 499:
            bound_s = fuzz.config.push_buffer_s + fuzz.config.live_backlog_s + 1
            assert fuzz.session.stats().buffered_s <= bound_s
    fuzz.drain()
    counts = fuzz.session.stats()
    assert counts.slices == counts.talking + counts.closing + counts.held + counts.idle == fuzz.slot
    assert counts.failed_jobs > 0
    fuzz.push()
    fuzz.session.next_job()
    fuzz.session.close()
    fuzz.session.close()
    assert fuzz.session.next_job() is None
    assert fuzz.session.slices_due(fuzz.now + 1) == []
    assert fuzz.session.interrupt(fuzz.now) == 0
    with pytest.raises(SessionClosed):
        fuzz.push()
