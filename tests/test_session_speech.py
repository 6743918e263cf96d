from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mytalk.config import SessionConfig
from mytalk.session.rest import Hush
from mytalk.session.speech import SampleQueue, UtteranceSpeech
from tests.fakes import FAKE_SPEC, voice


@given(st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 9000)), max_size=30))
def test_the_queue_is_a_window_on_the_whole(steps: list[tuple[int, int]]) -> None:
    queue, whole, forgotten = SampleQueue(), np.zeros(0, np.int16), 0
    for add, forget in steps:
        fresh = (np.arange(len(whole), len(whole) + add) % 30_000).astype(np.int16)
        queue.append(fresh)
        whole = np.concatenate([whole, fresh])
        forgotten = min(len(whole), forgotten + forget)
        queue.forget_before(forgotten)
        assert queue.end == len(whole)
        assert queue.start <= forgotten
        expected = np.concatenate([whole[forgotten:], np.zeros(7, np.int16)])
        assert np.array_equal(queue.read(forgotten, len(expected)), expected)


def test_a_hop_can_be_planned_when_its_right_context_is_here() -> None:
    speech = UtteranceSpeech(16_000, FAKE_SPEC, Hush(SessionConfig()))
    needed = (2 + 2) * 640 + 2 * 160
    samples = voice(1.0, 16_000)
    speech.push(samples[: needed - 1])
    assert not speech.can_plan(0, 2, 2)
    speech.push(samples[needed - 1 : needed])
    assert speech.can_plan(0, 2, 2)
    assert not speech.can_plan(2, 2, 2)
    speech.end()
    assert speech.can_plan(2, 2, 2)
    assert speech.speech_frames == 5  # 2,880 samples are four and a half frames


def test_frames_after_the_end_are_silent() -> None:
    speech = UtteranceSpeech(48_000, FAKE_SPEC, Hush(SessionConfig()))
    samples = np.full(2000, 16_384, np.int16)
    speech.push(samples)
    speech.end()
    speech.end()
    assert speech.samples == 2000
    assert np.array_equal(speech.frame_samples(1)[:80], samples[:80])
    assert not speech.frame_samples(1)[80:].any()
    assert [speech.peak(frame) for frame in range(3)] == [0.5, 0.5, 0.0]


def test_a_hush_silences_what_came_before_only() -> None:
    loud, hushed = (UtteranceSpeech(16_000, FAKE_SPEC, Hush(SessionConfig())) for _ in range(2))
    for speech in (loud, hushed):
        speech.push(voice(1.0, 16_000))
        speech.context(0, 4)
    hushed.hush_before(2)
    one, two = loud.context(2, 4), hushed.context(2, 4)
    assert np.array_equal(one[92:], two[92:]), "the hop itself"
    assert (two[:92] < one[:92]).any()
    assert len(np.unique(two[:92])) == 1


def test_a_skip_hears_the_same_from_there_on() -> None:
    whole, skipped = (UtteranceSpeech(16_000, FAKE_SPEC, Hush(SessionConfig())) for _ in range(2))
    for speech in (whole, skipped):
        speech.push(voice(2.0, 16_000))
    skipped.skip_analysis(20)
    # Two log-mel frames at the seam still miss the samples before it.
    assert np.array_equal(whole.context(20, 4)[94:], skipped.context(20, 4)[94:])
