"""Identity-disjoint splits of a prepared folder, as lists; paired and unpaired test lists of videos.

``python -m training.splits DATA`` writes DATA/splits/{train,validation,seen_validation,test}.txt, one clip
name a line. The trainers and the calibration read them; edit or replace them to train on a split of your own.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mytalk.clock import FPS
from mytalk.errors import BadInput, MyTalkError
from mytalk.video.media import probe_video
from training.data import SPLITS, Clip, default_split, list_clips
from training.prepare_video import write_atomically


def share_of(identity: str, seed: int = 0) -> float:
    """A number in 0..1 by the identity alone, so that a growing data set never moves a person."""
    digest = hashlib.sha256(f"{seed}/{identity}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


@dataclass(frozen=True, slots=True)
class Shares:
    """How much is held out, of the identities that no house rule places.

    validation, test: shares of the identities. validation_hours: instead of a share, identities drawn
    at random until they cover so many hours (paper 4.1.1: two).
    """

    validation: float = 0.05
    test: float = 0.0
    validation_hours: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.validation < 0 or self.test < 0 or self.validation + self.test >= 1:
            raise BadInput("the shares of validation and test must be 0 or more, and below 1 together")


def _frames(clip: Clip) -> int:
    with np.load(clip.folder / f"{clip.name}.npz", allow_pickle=False) as data:
        return len(data["opening"])


def held_out(clips: list[Clip], shares: Shares) -> dict[str, str]:
    """The list of each identity that no house rule places: train, validation or test."""
    free: dict[str, list[Clip]] = {}
    for clip in clips:
        if default_split(clip, clips) is None:
            free.setdefault(clip.identity, []).append(clip)
    placed, hours = {}, 0.0
    for identity in sorted(free, key=lambda who: share_of(who, shares.seed)):
        place = share_of(identity, shares.seed)
        if place < shares.test:
            placed[identity] = "test"
        elif shares.validation_hours is None:
            placed[identity] = "validation" if place < shares.test + shares.validation else "train"
        else:
            placed[identity] = "validation" if hours < shares.validation_hours else "train"
            hours += sum(_frames(clip) for clip in free[identity]) / FPS / 3600
    return placed


def check_disjoint(lists: dict[str, list[Clip]]) -> None:
    """Raise ``BadInput`` if an identity of the training list is in validation or test."""
    trained = {clip.identity for clip in lists["train"]}
    for name in ("validation", "test"):
        both = trained & {clip.identity for clip in lists[name]}
        if both:
            raise BadInput(f"identities in train and {name}: {', '.join(sorted(both)[:5])}")


def write_default_splits(data: Path, shares: Shares) -> dict[str, int]:
    """Write the lists of a prepared folder; returns how many clips each has."""
    clips = list_clips(data)
    placed = held_out(clips, shares)
    lists: dict[str, list[Clip]] = {name: [] for name in SPLITS}
    for clip in clips:
        lists[default_split(clip, clips) or placed[clip.identity]].append(clip)
    check_disjoint(lists)
    for name, members in lists.items():
        text = "".join(f"{clip.name}\n" for clip in members).encode()
        write_atomically(data / "splits" / f"{name}.txt", lambda file, text=text: file.write(text))
    return {name: len(members) for name, members in lists.items()}


def pair_lists(videos: list[str], people: list[str], seed: int = 0) -> tuple[list[str], list[str]]:
    """Lines of a paired and an unpaired test list.

    videos: paths; people: who is seen in each. Paired: the video alone. Unpaired: the video, a tab, and the
    video whose speech it is to say: every speech is used once, and never by the person who spoke it, unless
    one person has more than half of the videos.
    """
    shuffled = [int(i) for i in np.random.default_rng(seed).permutation(len(videos))]
    by_person = sorted(shuffled, key=lambda i: people[i])
    # With everybody's clips side by side, a turn by the largest group leaves nobody at their own.
    turn = min(max(Counter(people).values()), len(videos) - 1)
    speech_of = {a: by_person[(place + turn) % len(videos)] for place, a in enumerate(by_person)}
    return list(videos), [f"{video}\t{videos[speech_of[i]]}" for i, video in enumerate(videos)]


def sampled(folder: Path, frames: int | None, seed: int) -> list[Path]:
    """The .mp4 files below a folder, or a random sample that reaches so many frames at 25 frames/s."""
    videos = sorted(folder.rglob("*.mp4"))
    if frames is None:
        return videos
    chosen, total = [], 0.0
    for place in np.random.default_rng(seed).permutation(len(videos)):
        if total >= frames:
            break
        chosen.append(videos[place])
        total += (probe_video(videos[place]).duration_s or 0.0) * FPS
    return sorted(chosen)


def write_pair_lists(folder: Path, frames: int | None, seed: int) -> dict[str, int]:
    """Write paired.txt and unpaired.txt for the .mp4 files below a folder; their folder says who is seen."""
    videos = [p.relative_to(folder) for p in sampled(folder, frames, seed)]
    if len(videos) < 2:
        raise BadInput(f"{folder}: an unpaired list needs two .mp4 files or more")
    people = [v.parts[0] if len(v.parts) > 1 else v.stem for v in videos]
    paired, unpaired = pair_lists([v.as_posix() for v in videos], people, seed)
    for name, lines in (("paired", paired), ("unpaired", unpaired)):
        text = "".join(f"{line}\n" for line in lines).encode()
        write_atomically(folder / f"{name}.txt", lambda file, text=text: file.write(text))
    return {"paired": len(paired), "unpaired": len(unpaired)}


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("data", type=Path, help="folder that training.prepare wrote, or test videos with --videos")
    p.add_argument("--validation-share", type=float, default=0.05, help="of identities (default %(default)s)")
    p.add_argument(
        "--validation-hours", type=float, help="instead: identities that cover so many hours (the paper: 2)"
    )
    p.add_argument("--test-share", type=float, default=0.0, help="of identities (default %(default)s)")
    p.add_argument("--seed", type=int, default=0, help="of the draw (default %(default)s)")
    p.add_argument(
        "--videos",
        action="store_true",
        help="DATA is a folder of test videos: write its paired.txt and unpaired.txt",
    )
    p.add_argument(
        "--frames", type=int, help="with --videos: a random sample of so many frames (the paper: 74000)"
    )
    return p


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        if args.videos:
            counts = write_pair_lists(args.data, args.frames, args.seed)
        else:
            shares = Shares(args.validation_share, args.test_share, args.validation_hours, args.seed)
            counts = write_default_splits(args.data, shares)
    except MyTalkError as error:
        print(f"training.splits: {error}", file=sys.stderr)
        return 1
    print(", ".join(f"{name} {count}" for name, count in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
