"""Mix weights of one network: ``python -m training.mix RUN=0.5 OTHER=0.3 FILE.safetensors=0.2 --out RUN``.

Runs that began with the same weights can be averaged, weight by weight: the mixture keeps most of what each
has learned (rest beside noise from one, lips from the other) and costs nothing more to serve. The first is a
run's folder, whose settings the result carries; the others are folders or safetensors. Export it like a run.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mytalk.errors import BadInput, MyTalkError
from mytalk.models.checkpoint import load_checkpoint, write_checkpoint
from training.checkpoints import LAST, read_weights

# Of a motion model's linear code: the same coefficients mean another mouth in another code.
CODE = ("basis", "inverse", "scale")


def parts_of(texts: Sequence[str]) -> list[tuple[Path, float]]:
    """``PATH=SHARE`` each; raises ``BadInput`` unless shares are numbers that sum up to 1."""
    parts = []
    for text in texts:
        path, _, share = text.rpartition("=")
        try:
            parts.append((Path(path), float(share)))
        except ValueError as error:
            raise BadInput(f"{text}: PATH=SHARE is wanted, such as runs/motion=0.5") from error
    total = sum(share for _, share in parts)
    if not math.isclose(total, 1, abs_tol=1e-3):
        raise BadInput(f"the shares have to sum up to 1, not {total:g}")
    return parts


def file_of(path: Path) -> Path:
    """The checkpoint of a run's folder, or the file itself."""
    return path / LAST if path.is_dir() else path


def mixed(parts: Sequence[tuple[dict[str, Tensor], float]]) -> dict[str, Tensor]:
    """Weighted mean of weights, float32 by name; raises ``BadInput`` if they are not of one network."""
    (first, _), *others = parts
    for weights, _ in others:
        apart = [n for n, v in first.items() if n not in weights or weights[n].shape != v.shape]
        if apart or len(weights) != len(first):
            raise BadInput(f"these are not weights of one network ({apart[0] if apart else 'more of them'})")
        if any(n in first and not torch.allclose(first[n], weights[n].float(), 1e-2, 1e-3) for n in CODE):
            raise BadInput(
                "these motion models work in different codes: they did not begin with the same weights"
            )
    return {
        name: sum((share * weights[name].float() for weights, share in parts), start=0 * value.float())
        for name, value in first.items()
    }


def mix(parts: Sequence[tuple[Path, float]], out: Path) -> None:
    """Write the mixture as a checkpoint of its own: the first run's, without optimisers."""
    if not parts or not parts[0][0].is_dir():
        raise BadInput("the first part has to be a run's folder: the result carries its settings")
    saved: dict[str, Any] = load_checkpoint(file_of(parts[0][0]))
    saved["average"] = mixed([(read_weights(file_of(path)), share) for path, share in parts])
    saved.pop("optimisers", None)
    saved["mixed"] = [f"{path}={share:g}" for path, share in parts]
    write_checkpoint(out / LAST, saved)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "parts", nargs="+", metavar="PATH=SHARE", help="run's folder or safetensors, and share"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the result")
    args = parser.parse_args(argv)
    try:
        mix(parts_of(args.parts), args.out)
    except MyTalkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.out / LAST}: export it with python -m export update DIR --motion {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
