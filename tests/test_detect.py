from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from mytalk.landmarks.detect import FaceBox, _interrupts_wait


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Ctrl-C as a terminal has it; what a shell starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_an_interrupt_waits_until_the_import_is_over() -> None:
    done = False
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), _interrupts_wait():  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        done = True
    assert done
    assert signal.getsignal(signal.SIGINT) is handler


def test_boxes_meet_only_where_they_overlap() -> None:
    box = FaceBox(10, 10, 30, 40, 0.9)
    assert box.height == 30
    assert box.centre == (20, 25)
    assert box.meets(FaceBox(25, 35, 50, 60, 0.5))
    assert not box.meets(FaceBox(30, 10, 50, 40, 0.5))
