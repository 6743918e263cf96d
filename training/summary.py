"""How large every model is: ``python -m training.summary --size tiny|base|paper|FILE.toml [--json]``.

Parameters by the components of the paper's Table 9, counted on the meta device.
"""

from __future__ import annotations

import argparse
import json
import sys

from rich.console import Console
from rich.table import Table

from mytalk.errors import BadInput
from mytalk.models.sizes import SIZES, count_parameters, load_size

# Table 9 as printed; the discriminator's and the three encoders' figures are one number each there.
PUBLISHED = {
    "audio_encoder": "24.6M",
    "audio_downsample": "786K",
    "identity_extractor": "4.3M",
    "conformer_backbone": "188M",
    "lip_encoder": "237M",
    "non_lip_encoder": "237M",
    "landmark_encoder": "237M",
    "fusion_net": "4.8M",
    "appearance_quant": "42",
    "landmark_quant": "42",
    "joint_quant": "21",
    "post_quant": "12",
    "decoder": "280M",
    "discriminator": "17.5M",
    "total": "1.23B",
}


def table(name: str, counts: dict[str, int]) -> Table:
    """The counts beside the published ones."""
    shown = Table(title=f"parameters, size {name}")
    shown.add_column("component")
    shown.add_column("here", justify="right")
    shown.add_column("paper, Table 9 (published)", justify="right")
    for component, count in counts.items():
        shown.add_row(component, f"{count:,}", PUBLISHED[component])
    return shown


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--size",
        default="tiny",
        help=f"{', '.join(SIZES)}, or a TOML file that starts from one of them (default: tiny)",
    )
    parser.add_argument("--json", action="store_true", help="print {component: parameters} and nothing else")
    args = parser.parse_args(argv)
    try:
        counts = count_parameters(load_size(args.size))
    except BadInput as error:
        print(f"training.summary: {error}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(counts, indent=2))
    else:
        Console().print(table(args.size, counts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
