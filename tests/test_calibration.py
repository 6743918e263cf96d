"""Calibration frames: what training writes is what the export's quantiser reads."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test installs it)")

from export.quantise import decoder_samples  # noqa: E402
from mytalk.landmarks.warp import flow_shape  # noqa: E402
from mytalk.models.appearance import AppearanceConfig, AppearanceModel  # noqa: E402
from tests.prepared_data import write_data  # noqa: E402
from training.calibration import FRAMES_PER_CLIP, main  # noqa: E402


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


def test_the_quantiser_reads_what_is_written_and_keeps_people_apart(data, tmp_path):
    out = tmp_path / "frames.npz"
    assert main(["--data", str(data), "--out", str(out)]) == 0
    with np.load(out) as written:
        held_out = written["held_out"]
        assert written["references"].shape == (len(held_out), 3, 256, 256, 3)
        assert written["face_points"].shape[:2] == (len(held_out), FRAMES_PER_CLIP)
    assert set(held_out) == {False, True}
    model = AppearanceModel(AppearanceConfig(), torch.ones(256, 256))
    for which in (False, True):
        samples = decoder_samples(model, out, held_out=which)
        assert len(samples) == FRAMES_PER_CLIP * int((held_out == which).sum())
        assert samples[0]["flows"].shape == (1, 3, 2, *flow_shape())
        assert samples[0]["references"].dtype == np.uint8


def test_a_folder_without_clips_is_one_line(tmp_path, capsys):
    assert main(["--data", str(tmp_path), "--out", str(tmp_path / "x.npz")]) == 1
    assert capsys.readouterr().err.startswith("training.calibration: ")
    assert not (tmp_path / "x.npz").exists()
