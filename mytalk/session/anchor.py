"""Where on the playout timeline an utterance begins, or goes on after a pause."""

from __future__ import annotations

import math

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
    # A live delay is a target, so it is rounded to the nearest slot; a shortest time is rounded up.
    slot = max(free_slot, round(wanted) if utterance.live else math.ceil(wanted - 1e-6))
    if previous is None and closing is None and stage.mouth_open:
        # It was starved for a moment and its last picture is held: the clip goes on from there.
        utterance.anchor = Anchor(utterance.next_play, slot, position)
        return
    utterance.anchor = Anchor(utterance.next_play, slot, position + slot - free_slot)
    utterance.restart_motion(history if slot == free_slot else [])
    utterance.speech.hush_before(utterance.next_play)
