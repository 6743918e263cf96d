from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from mytalk.errors import BadInput
from mytalk.video_out import VideoWriter
from tests.small_actor import small_pictures


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_behind_when_writing_is_broken_off(
    tmp_path: Path, error: type[BaseException]
) -> None:
    out = tmp_path / "a.mp4"
    out.write_bytes(b"what was there before")

    def break_off() -> None:
        with VideoWriter(out, width=64, height=48, fps=Fraction(25), crf=20) as writer:
            writer.add_picture(small_pictures(1, 64, 48)[0])
            raise error

    with pytest.raises(error):
        break_off()
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    assert out.read_bytes() == b"what was there before"


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such folder"):
        VideoWriter(tmp_path / "none" / "a.mp4", width=64, height=48, fps=Fraction(25), crf=20)
    with pytest.raises(BadInput, match="is a folder"):
        VideoWriter(tmp_path, width=64, height=48, fps=Fraction(25), crf=20)
