"""Contact sheets show the source, what is shown, and where they differ."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mytalk.errors import BadInput
from training.sheets import write_sheet


def test_rows_are_true_shown_and_difference(tmp_path):
    true = np.full((20, 256, 256, 3), 100, np.uint8)
    shown = true + 10
    sheet = np.asarray(Image.open(write_sheet(tmp_path / "new", "s1/clip", shown, true)))
    assert (tmp_path / "new" / "s1__clip.png").is_file()
    assert sheet.shape == (3 * 144, 8 * 144, 3)
    assert [int(sheet[row * 144 + 5, 5, 0]) for row in range(3)] == [100, 110, 40]
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="cannot be written"):
        write_sheet(tmp_path / "file", "x", shown, true)
