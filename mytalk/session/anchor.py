"""Where on the playout timeline an utterance begins, or goes on after a pause."""

from __future__ import annotations

import math

from mytalk.audio.live import EARLY_S
from mytalk.clock import FRAME_S
from mytalk.session.plan import Anchor, Closing, Utterance
from mytalk.session.stage import Stage
from mytalk.types import F32


def set_anchor(
    utterance: Utterance, previous: Utterance | None, closing: Closing | None, stage: Stage
) -> None:
    """Fix the play positions of an utterance from its next frame on, so that it can be rendered ahead.

    previous: the one that plays before it; closing: the mouth that closes before it; None: nothing does.
    """
    assert utterance.start_at is not None
    history: list[F32] = []
    free_slot, position = stage.slot, stage.position
    if previous is not None:
        assert previous.total_frames is not None
        free_slot += previous.total_frames - previous.next_play
        position, history = previous.position_of(previous.total_frames), list(previous.history)
    elif closing is not None:
        free_slot += closing.remaining
        position, history = position + closing.remaining, closing.history
    wanted = stage.slots_until(utterance.start_at)
    # A shortest time is rounded up. A live delay is a target: it may be missed by as much as is no drift.
    early = EARLY_S / FRAME_S if utterance.live else 0.0
    slot = max(free_slot, math.ceil(wanted - early - 1e-6))
    if previous is None and closing is None and stage.mouth_open:
        # It was starved for a moment and its last picture is held: the clip goes on from there.
        utterance.anchor = Anchor(utterance.next_play, slot, position)
        return
    utterance.anchor = Anchor(utterance.next_play, slot, position + slot - free_slot)
    utterance.restart_motion(history if slot == free_slot else [])
    utterance.speech.hush_before(utterance.next_play)


def may_start(utterance: Utterance, closing: Closing | None, stage: Stage, wait_s: float) -> bool:
    """Whether an utterance starts (or resumes) with the next slice: it is time, and its pictures are there.

    wait_s: how long it waits for them at most. Its place is fixed here even if a slow job keeps the next one
    from being planned.
    """
    if utterance.anchor is None and utterance.start_at is not None:
        set_anchor(utterance, None, closing, stage)
    if utterance.anchor is None:
        return False
    waited_s = (stage.slot - utterance.anchor.slot) * FRAME_S
    if waited_s < 0 or not utterance.reached(stage.position):
        return False
    return utterance.first_pictures_settled() or waited_s >= wait_s
