"""Lanes and threads by cores; batches through the cast."""

from __future__ import annotations

from typing import Any

import pytest

from mytalk.types import PictureJob
from server.compute.device import Device, cores, lanes_and_threads
from tests.server_fakes import FakeCast


@pytest.mark.parametrize(
    ("lanes", "threads", "available", "expected"),
    [
        (None, None, 1, (1, 1)),
        (None, None, 2, (2, 1)),
        (None, None, 64, (16, 4)),
        (None, 2, 8, (4, 2)),
        (None, 8, 2, (1, 8)),
        (1, None, 4, (1, 4)),
        (3, 2, 1, (3, 2)),
    ],
)
def test_every_core_has_a_lane_unless_told_otherwise(
    lanes: int | None, threads: int | None, available: int, expected: tuple[int, int]
) -> None:
    assert lanes_and_threads(lanes, threads, available) == expected


def test_there_are_cores() -> None:
    assert cores() >= 1


class Sitter:
    def __init__(self, renderer: Any) -> None:
        self.renderer = renderer


def test_batches_go_to_the_cast_with_threads_of_their_own() -> None:
    cast = FakeCast()
    plain = Device(cast, 2)
    assert (plain.plan.lanes, plain.plan.batch) == (2, 1)
    plain.close()
    cast.batch = 8
    device = Device(cast, 2)
    assert device.plan.batch == 8
    assert device.plan.together is not None
    sitters: Any = [Sitter(cast.read(name)) for name in ("ada", "bob")]
    results = device.plan.together([(sitter, PictureJob(0, ())) for sitter in sitters])
    assert len(results) == 2
    device.close()
    device.close()
