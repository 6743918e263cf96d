"""Folders of talking videos → training clips: landmarks, poses, log-mel and face crops.

``python -m training.prepare VIDEO_DIR --out DATA`` takes any nesting, rate and size, works in parallel, goes
on where it was stopped, measures how far each person's sound is off and moves it into place, and ends with a
report of what was rejected and why (report.json, report.png) and with lists of identity-disjoint splits
(splits/). For the paper's motion model: ``--layout dense669`` takes landmarks from NAME.npz beside each video
(rendered heads), ``--speech-model`` adds wav2vec2 features of every clip.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

from rich.progress import track

from mytalk.engines import default_bundle
from mytalk.errors import BadInput, MyTalkError
from mytalk.landmarks.layout import LAYOUTS
from training.prepare_report import print_report, write_report
from training.prepare_sync import SyncLimits, measure_and_correct
from training.prepare_video import DETECTED, PrepareConfig, Report, prepare_video, write_atomically
from training.splits import Shares, write_default_splits

VIDEO_ENDINGS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg")
LAYOUT_RECORD = "layout.txt"
FLAT = "videos"  # source of videos that lie in the given folder itself


def _plain(part: str) -> str:
    return re.sub(r"_{2,}|[^\w.+-]+", "_", part)


def clip_name(video: Path, root: Path, person: str | None = None) -> str:
    """SOURCE__PERSON[__REST] of a video below ``root``: folders joined by ``__``, the first is the source.

    person: regular expression over the path below root; its first group that matches, or all of it, is who is
    seen. Without it the second part of the path says so: ``grid/s1/bbaf2n.mp4`` and
    ``hdtf/WDA_BarackObama.mp4`` both work. Raises ``BadInput`` where the expression does not match.
    """
    below = video.relative_to(root)
    parts = [_plain(part) for part in below.with_suffix("").parts]
    if len(parts) == 1:
        parts = [FLAT, *parts]
    if person is None:
        return "__".join(parts)
    found = re.search(person, below.as_posix())
    if found is None:
        raise BadInput(f"--person {person!r} does not match {below}")
    who = _plain(next(filter(None, found.groups()), found.group(0)))
    rest = [part for part in parts[1:] if part != who]
    return "__".join([parts[0], who, *rest])


def find_videos(root: Path, person: str | None, include: Iterable[str]) -> dict[str, Path]:
    """Videos below ``root`` by clip name; ``BadInput`` when there are none."""
    if not root.is_dir():
        raise BadInput(f"{root}: no such folder")
    named: dict[str, Path] = {}
    for video in sorted(p for p in root.rglob("*") if p.suffix.lower() in VIDEO_ENDINGS and p.is_file()):
        name = clip_name(video, root, person)
        if not name.startswith(tuple(include)):
            continue
        if name in named:  # two endings, or names that differ in odd characters only
            name += "_" + hashlib.sha256(str(video.relative_to(root)).encode()).hexdigest()[:8]
        named[name] = video
    if not named:
        raise BadInput(f"no video under {root} ({', '.join(VIDEO_ENDINGS)})")
    return named


def prepare_all(videos: dict[str, Path], out: Path, config: PrepareConfig, workers: int) -> list[Report]:
    """Prepare every video in worker processes; raises ``BadInput`` when a worker dies or the disk is full."""
    reports: list[Report] = []
    # Forked workers would inherit the locks of threads that video and audio libraries started here.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(prepare_video, path, name, out, config) for name, path in videos.items()]
        try:
            for job in track(as_completed(jobs), total=len(jobs), description="videos"):
                reports += job.result()
        except BrokenProcessPool as error:
            raise BadInput("a worker process died (out of memory?); run again to go on") from error
        except OSError as error:
            raise BadInput(f"{out}: cannot be written ({error.strerror}); run again to go on") from error
        finally:
            pool.shutdown(cancel_futures=True)
    return sorted(reports, key=lambda report: report.name)


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("videos", type=Path, help="folder that is searched for videos with sound")
    p.add_argument("--out", type=Path, required=True, help="where clips, lists and the report go")
    p.add_argument("--include", nargs="*", action="extend", help="only names that start with one of these")
    p.add_argument("--person", help="regular expression over a video's path: its first group is who is seen")
    p.add_argument(
        "--face", choices=["only", "largest"], default="only", help="which of several faces (default: reject)"
    )
    p.add_argument(
        "--layout",
        choices=LAYOUTS,
        default=DETECTED,
        help="landmarks: detected (default), or read from NAME.npz beside each video",
    )
    p.add_argument(
        "--speech-model",
        metavar="FOLDER_OR_HUB_ID",
        help="also write wav2vec2 features of every clip (facebook/wav2vec2-base-960h, or a local folder)",
    )
    p.add_argument("--speech-layer", type=int, default=-1, help="its hidden layer (default: the last)")
    p.add_argument("--every", type=int, default=2, help="keep every n-th face crop (default %(default)s)")
    p.add_argument(
        "--part-seconds", type=float, default=20.0, help="cut longer clips into parts (default %(default)s)"
    )
    p.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    p.add_argument(
        "--probe",
        default=str(default_bundle()),
        help="weights whose motion model tells the A/V offset, or 'loudness' (default: those that ship)",
    )
    p.add_argument(
        "--max-offset-ms", type=float, default=200.0, help="reject clips further off (default %(default)s)"
    )
    p.add_argument(
        "--min-correlation",
        type=float,
        default=0.15,
        help="reject clips whose lips follow the sound less than this (default %(default)s)",
    )
    p.add_argument(
        "--keep-unaligned", action="store_true", help="keep what is out of step, for the appearance model"
    )
    p.add_argument(
        "--test-share", type=float, default=0.0, help="share of new identities for the test list (default 0)"
    )
    p.add_argument(
        "--validation-share",
        type=float,
        default=0.05,
        help="share of new identities for the validation list (default %(default)s)",
    )
    return p


def check_layout(out: Path, layout: str) -> None:
    """Note a folder's landmark layout, or refuse another one than its clips have."""
    path = out / LAYOUT_RECORD
    known = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    if not known and (out / "done").is_dir():
        known = DETECTED  # prepared before there was a choice
    if known and known != layout:
        raise BadInput(f"{out} holds clips of layout {known}: give another --out for {layout}")
    if not path.is_file():
        write_atomically(path, lambda file: file.write(f"{layout}\n".encode()))


def _speech_writer(args: argparse.Namespace) -> Callable[[list[Report]], object]:
    """What adds speech features to clips; the model is loaded first, so that a wrong one costs no time."""
    if args.speech_model is None:
        return lambda _: None
    from mytalk.models.wav2vec2 import Wav2Vec2Config  # torch and transformers, for those who ask for it
    from training.speech_features import load_encoder, write_features

    config = Wav2Vec2Config(args.speech_model, layer=args.speech_layer)
    encoder = load_encoder(config)
    return lambda reports: write_features(args.out, reports, encoder, config)


def _run(args: argparse.Namespace) -> None:
    if args.every < 1 or args.workers < 1 or args.part_seconds < 2:
        raise BadInput("--every and --workers must be 1 or more, --part-seconds 2 or more")
    probe = "" if args.probe == "loudness" else args.probe
    if probe and not (Path(probe) / "manifest.json").is_file():
        raise BadInput(f"--probe {probe}: no weights there; give a bundle, or 'loudness'")
    config = PrepareConfig(args.every, round(25 * args.part_seconds), args.face, probe, args.layout)
    write_speech = _speech_writer(args)
    videos = find_videos(args.videos, args.person, args.include or [""])
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{args.out}: cannot be written ({error.strerror})") from error
    check_layout(args.out, args.layout)
    reports = prepare_all(videos, args.out, config, min(args.workers, len(videos)))
    limits = SyncLimits(args.max_offset_ms, args.min_correlation, args.keep_unaligned)
    reports, people = measure_and_correct(args.out, reports, limits)
    write_speech(reports)
    write_report(args.out, reports, people)
    print_report(reports, people)
    if any(report.rejected is None for report in reports):
        write_default_splits(args.out, Shares(args.validation_share, args.test_share))


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        _run(args)
    except MyTalkError as error:
        print(f"training.prepare: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"training.prepare: cannot be written ({error}); run again to go on", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("training.prepare: stopped; run again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
