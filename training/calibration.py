"""Real frames to calibrate and check int8 with: ``python -m training.calibration --data DATA --out FILE``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from mytalk.actors.faces import REFERENCE_QUANTILES
from mytalk.errors import BadInput, MyTalkError
from training.data import Clip, crop_points, is_validation, list_clips

PARTS = ("references", "reference_points", "faces", "face_points")
CALIBRATION_CLIPS, CHECK_CLIPS, FRAMES_PER_CLIP = 24, 8, 3


def _rows(clip: Clip, random: np.random.Generator) -> tuple[np.ndarray, ...]:
    arrays, crops = clip.arrays(), clip.crops()
    picked = arrays["picked"]
    order = np.argsort(arrays["opening"][picked])
    chosen = order[[int(rank * (len(order) - 1)) for rank in REFERENCE_QUANTILES]]
    index = random.choice(len(picked), FRAMES_PER_CLIP, replace=False)
    return crops[chosen], crop_points(arrays, chosen), crops[index], crop_points(arrays, index)


def write_calibration(data: Path, out: Path) -> int:
    """Write references uint8 [N, 3, 256, 256, 3], faces uint8 [N, F, 256, 256, 3] and their crop landmarks.

    Those are reference_points and face_points, float32 [N, 3 or F, K, 2]; held_out is bool [N].

    Returns N, the number of clips. Raises ``BadInput`` without clips to train on or held-out ones.
    """
    clips, random = list_clips(data), np.random.default_rng(0)
    unseen = [clip for clip in clips if is_validation(clip, clips)]
    seen = [clip for clip in clips if clip not in unseen]
    if not seen or not unseen:
        raise BadInput(f"{data} needs clips to calibrate with and held-out ones to check with")
    actors = [clip for clip in seen if clip.source == "actors"]
    calibrate = actors + [seen[i] for i in random.permutation(len(seen))[:CALIBRATION_CLIPS]]
    check = [unseen[i] for i in random.permutation(len(unseen))[:CHECK_CLIPS]]
    rows = [_rows(clip, random) for clip in calibrate + check]
    parts = dict(zip(PARTS, (np.stack(part) for part in zip(*rows, strict=True)), strict=True))
    held_out = np.arange(len(rows)) >= len(calibrate)
    np.savez_compressed(out, **parts, held_out=held_out)
    return len(rows)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that training.prepare wrote")
    parser.add_argument("--out", type=Path, required=True, help="file to write (.npz)")
    args = parser.parse_args(argv)
    try:
        count = write_calibration(args.data, args.out)
    except MyTalkError as error:
        print(f"training.calibration: {error}", file=sys.stderr)
        return 1
    print(f"{args.out}: frames of {count} clips")
    return 0


if __name__ == "__main__":
    sys.exit(main())
