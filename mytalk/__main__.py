"""``python -m mytalk``: dub a video, make, list, check and show actors."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from mytalk.actors.actor import list_actors, load_actor
from mytalk.actors.follow import FaceChoice
from mytalk.actors.make import SYNTHETIC, ActorSource, make_actor
from mytalk.actors.sheet import contact_sheet
from mytalk.actors.tuning import make_tuner, tune_actor
from mytalk.control import Control
from mytalk.dubbing.dub import dub
from mytalk.engines.engine import Engine
from mytalk.errors import MyTalkError
from mytalk.render.renderer import Renderer

BUNDLED_ACTORS = Path(__file__).resolve().parents[1] / "actors"
EngineMaker = Callable[[argparse.Namespace], Engine]

DUB_EXAMPLE = """example:
  python -m mytalk dub --video me.mp4 --speech hello.wav --out me-says-hello.mp4

The output is as long as the speech. A video that is shorter goes back and forth.
Needs MediaPipe to find the face: run `make actors` once (and Debian's libgl1, libglib2.0-0)
"""
MAKE_EXAMPLE = """example:
  python -m mytalk actor make me.mp4 --out actors/me --title "Me" --consent "I am the person shown"

Best: 10 to 30 seconds of one person who looks at the camera, listening for some
seconds with a closed mouth, then talking for some (teeth are learnt from there).
Of a longer video, the first two minutes from --start on are looked at.
Needs MediaPipe to find the face: run `make actors` once (and Debian's libgl1, libglib2.0-0)
"""


@contextmanager
def _bar(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on stderr; what it yields takes (stage, done, in all)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), disable=quiet)
    tasks: dict[str, TaskID] = {}

    def report(stage: str, done: int, total: int) -> None:
        if not tasks:
            bar.start()  # not before there is something to show: an error at once is one line, not two
        if stage not in tasks:
            tasks[stage] = bar.add_task(stage, total=total)
        bar.update(tasks[stage], completed=done, total=total)

    try:
        yield report
    finally:
        if tasks:
            bar.stop()


@contextmanager
def _native_chatter_hidden() -> Iterator[None]:
    """Send what native libraries write to file descriptor 2 to nowhere; Python's own stderr still works.

    MediaPipe's start-up lines, which no setting silences, would bury the one line that matters.
    """
    shown, saved = sys.stderr, os.dup(2)
    with open(os.devnull, "w", encoding="utf-8") as nowhere, os.fdopen(os.dup(2), "w", buffering=1) as ours:
        if shown is sys.__stderr__:
            sys.stderr = ours
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            sys.stderr = shown


def _load_engine(args: argparse.Namespace) -> Engine:
    from mytalk.engines import default_bundle, load_engine

    return load_engine(args.engine, args.bundle or default_bundle(), threads=args.threads)


def _control(args: argparse.Namespace) -> Control:
    return Control(tuple(args.lip_reference), args.emotion)


def _dub(args: argparse.Namespace, make_engine: EngineMaker) -> None:
    engine = make_engine(args)
    begin = time.monotonic()
    with _native_chatter_hidden(), _bar(args.quiet) as progress:
        report = dub(
            args.video,
            args.speech,
            args.out,
            engine,
            face=args.face,
            control=_control(args),
            tune=make_tuner(args.video, args.bundle, progress, face=args.face) if args.tune else None,
            progress=progress,
        )
    took_s = time.monotonic() - begin
    for note in report.notes:
        _complain(note)
    print(
        f"{args.out}: {report.seconds:.1f} s, {report.frames} pictures at {float(report.fps):.5g}/s;"
        f" took {took_s:.1f} s"
    )


def _actor_make(args: argparse.Namespace, _: EngineMaker) -> None:
    name = args.name or args.out.name
    source = ActorSource(
        name=name,
        title=args.title or name,
        licence=args.licence,
        consent=SYNTHETIC if args.synthetic else args.consent,
        start_s=args.start,
        end_s=args.end,
        face=args.face,
        control=_control(args),
    )
    with _native_chatter_hidden(), _bar(args.quiet) as progress:
        part = {"start_s": args.start, "end_s": args.end}
        tune = make_tuner(args.video, args.bundle, progress, face=args.face, **part) if args.tune else None
        actor = make_actor(args.video, args.out, source, progress, tune)
    card = actor.card
    shown = f"{card.frames / card.fps:.1f} s loop" if card.frames > 1 else "a still picture"
    print(f"{args.out}: actor {card.name!r}, {shown}, {card.width}×{card.height}")
    if args.tune:
        print(f"tuned: {actor.figures}" if actor.figures else "tuning brought nothing: left untuned")


def _actor_tune(args: argparse.Namespace, _: EngineMaker) -> None:
    part = {"start_s": args.start, "end_s": args.end}
    with _native_chatter_hidden(), _bar(args.quiet) as progress:
        tuning = tune_actor(args.actor, args.video, args.bundle, progress, face=args.face, **part)
    print(f"{args.actor}: {tuning}")


def _actor_list(args: argparse.Namespace, _: EngineMaker) -> None:
    found = list_actors(args.folders, on_problem=lambda error: _complain(str(error)))
    for info in found:
        print(f"{info.name}\t{info.title}\t{info.folder}")
    if not found:
        _complain(f"no actor in {', '.join(str(folder) for folder in args.folders)}")


def _actor_check(args: argparse.Namespace, _: EngineMaker) -> None:
    for folder in args.actors:
        actor = load_actor(folder)
        count = len(actor.frames)
        print(f"{folder}: actor {actor.card.name!r}, {count} pictures, all files as they were made")
        actor.close()


def _save(picture: Image.Image, path: Path) -> None:
    """Write a PNG that appears under its name when it is complete."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        picture.save(temporary, format="PNG")
        os.replace(temporary, path)
    except OSError as error:
        raise MyTalkError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def _actor_show(args: argparse.Namespace, make_engine: EngineMaker) -> None:
    actor = load_actor(args.actor)
    renderer = None
    if not args.no_idle:
        renderer = Renderer(make_engine(args), actor, clock=time.monotonic)
        with _bar(args.quiet) as progress:
            renderer.prepare(lambda done, total: progress("encoding the actor", done, total))
    sheet = contact_sheet(actor, renderer)
    card = actor.card
    if args.out is not None:
        _save(Image.fromarray(sheet), args.out)
    print(f"{card.name}: {card.title}")
    print(f"  {card.frames} frames of {card.width}×{card.height}, {card.fps} a second, layout {card.layout}")
    print(f"  licence: {card.licence or 'not stated'}\n  consent: {card.consent or 'not stated'}")
    print(f"  tuned: {actor.figures}" if actor.figures else "  not tuned")
    if renderer is not None and renderer.note is not None:
        _complain(renderer.note)


def _add_engine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", default="auto", help="inference engine (default: auto)")
    _add_bundle_option(parser)
    parser.add_argument("--threads", type=int, help="threads of the engine (default: it decides)")


def _face_choice(text: str) -> FaceChoice:
    if text == "only":
        return "only"
    if text == "largest":
        return "largest"
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be 1, 2, … (from left to right) or largest, not {text!r}")
    return int(text)


def _add_face_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--face",
        type=_face_choice,
        default="only",
        metavar="N",
        help="whose face, if several are in view: 1 is the leftmost; or `largest` (default: there is one)",
    )


def _add_part_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--start", type=float, default=0.0, metavar="S", help="use the video from here on (seconds)"
    )
    parser.add_argument("--end", type=float, metavar="S", help="and up to here (default: its end)")


def _add_tune_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tune", action="store_true", help="adapt the decoder to the person: minutes of work; needs PyTorch"
    )


def _add_bundle_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", type=Path, help="folder with the weights (default: the bundled ones)")


def _add_control_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lip-reference",
        type=Path,
        nargs="+",
        default=(),
        metavar="PICTURE",
        help="take lips and teeth from these pictures (or videos) instead of the video",
    )
    parser.add_argument(
        "--emotion",
        type=Path,
        metavar="FILE",
        help="picture or video of a face (best: the same person's) whose expression the mouth takes on",
    )


def _add_common_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_tune_command(actors: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    one = actors.add_parser(
        "tune",
        help="adapt the decoder to an actor",
        description="Adapt the decoder to an actor, in place: minutes of work; needs PyTorch.",
    )
    one.add_argument("actor", type=Path, metavar="DIR", help="the actor's folder")
    one.add_argument(
        "--video", type=Path, help="of the same person, talking (default: the actor's own, often quiet, loop)"
    )
    _add_part_options(one)
    _add_face_option(one)
    _add_bundle_option(one)
    _add_common_options(one)
    one.set_defaults(run=_actor_tune)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mytalk", description="Lip sync: speech in, a talking video out.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    raw = argparse.RawDescriptionHelpFormatter

    one = commands.add_parser(
        "dub",
        help="video + speech → video",
        epilog=DUB_EXAMPLE,
        formatter_class=raw,
        description="Make the person in a video say something else.",
    )
    one.add_argument("--video", type=Path, required=True, help="any video that shows a face")
    one.add_argument(
        "--speech", type=Path, required=True, help="audio file (WAV, FLAC, MP3, …), or a video's sound"
    )
    one.add_argument("--out", type=Path, required=True, help="MP4 to write (replaced if it exists)")
    _add_face_option(one)
    _add_control_options(one)
    _add_tune_option(one)
    _add_engine_options(one)
    _add_common_options(one)
    one.set_defaults(run=_dub)

    actors = commands.add_parser("actor", help="make, list, check and show actors").add_subparsers(
        required=True, metavar="ACTION"
    )
    one = actors.add_parser(
        "make",
        help="make an actor from a video or a picture",
        epilog=MAKE_EXAMPLE,
        formatter_class=raw,
        description="Make an actor (a folder) from a video, or a still picture, of a person.",
    )
    one.add_argument("video", type=Path, help="video or picture of the person")
    one.add_argument("--out", type=Path, required=True, help="folder to make; must not exist")
    one.add_argument("--name", help="what the actor is chosen by (default: the folder's name)")
    one.add_argument("--title", help="name for people to read (default: the name)")
    one.add_argument("--licence", default="", help="under what terms the pictures may be used")
    who = one.add_mutually_exclusive_group(required=True)
    who.add_argument("--consent", metavar="TEXT", help="who agreed to being shown saying other words")
    who.add_argument("--synthetic", action="store_true", help="the person does not exist: nobody's likeness")
    _add_part_options(one)
    _add_face_option(one)
    _add_control_options(one)
    _add_tune_option(one)
    _add_bundle_option(one)
    _add_common_options(one)
    one.set_defaults(run=_actor_make)

    _add_tune_command(actors)

    one = actors.add_parser("list", help="list actors", description="Actors in the given folders.")
    one.add_argument("folders", type=Path, nargs="*", default=[BUNDLED_ACTORS], help="default: the bundled")
    one.set_defaults(run=_actor_list)

    one = actors.add_parser(
        "check",
        help="check that actors are whole and unaltered",
        description="Check actors: every file, its hash, and the pictures of the clip.",
    )
    one.add_argument("actors", type=Path, nargs="+", metavar="DIR", help="an actor's folder")
    one.set_defaults(run=_actor_check)

    one = actors.add_parser(
        "show", help="check an actor, and look at it", description="Check an actor; show it."
    )
    one.add_argument("actor", type=Path, metavar="DIR", help="the actor's folder")
    one.add_argument("--out", type=Path, help="contact sheet to write (PNG)")
    one.add_argument(
        "--no-idle", action="store_true", help="leave out the rendered idle pictures (needs no weights)"
    )
    _add_engine_options(one)
    _add_common_options(one)
    one.set_defaults(run=_actor_show)
    return parser


def _complain(line: str) -> None:
    print(f"mytalk: {line}", file=sys.stderr)


def main(argv: list[str] | None = None, make_engine: EngineMaker = _load_engine) -> int:
    """Command line; returns the exit status: 0, 1 for an error told in one line, 2 for wrong usage."""
    args = _parser().parse_args(argv)
    try:
        args.run(args, make_engine)
    except (MyTalkError, OSError) as error:  # OSError: a full disk, a folder that may not be written
        _complain(str(error))
        return 1
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    # A terminal that is closed, or a polite kill, must leave as little behind as Ctrl-C.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    sys.exit(main())
