"""``python benchmarks/robustness.py --speech DIR``: the mouths that other voices, noises and time make.

A ``TalkSession`` hears each sound as a microphone gives it, 20 ms at a time, in simulated time; its resting
included, everything that leaves it is looked at but the pixels. Mouth openings are between the inner lips,
above the rest face's, in % of the distance between the eyes.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that the file can be run as it stands
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the server does

import numpy as np  # noqa: E402 - after the path
import numpy.typing as npt  # noqa: E402

from benchmarks import sounds  # noqa: E402
from benchmarks.machine import commit, machine, versions  # noqa: E402
from benchmarks.spoken import asked_opening, heard_later_ms, loudness, opening  # noqa: E402
from mytalk.actors.actor import load_actor  # noqa: E402
from mytalk.audio.speech import LogMelState, log_mel  # noqa: E402
from mytalk.clock import FPS, PLAYOUT_RATE  # noqa: E402
from mytalk.config import SessionConfig  # noqa: E402
from mytalk.engines import default_bundle, load_engine  # noqa: E402
from mytalk.engines.engine import Engine  # noqa: E402
from mytalk.errors import BadInput, MyTalkError  # noqa: E402
from mytalk.landmarks.layout import load_layout  # noqa: E402
from mytalk.session import TalkSession  # noqa: E402
from mytalk.types import F32, I16, U8, ActorView, AvSlice, MotionJob, PictureJob, PictureResult  # noqa: E402

PACKET_S = 0.02
HEARD_RATE = 16_000
SETTLED_S = 1.0  # a sound that is no speech has been heard for so long before its mouth is judged
CLOSED_PCT = 1.0  # an opening below it looks closed
IDENTITY_EVERY = 25  # frames between two looks at whose face it is


@dataclass(frozen=True, slots=True)
class Seen:
    """What left a session, slot by slot: sound int16 [1920 S]; displacement float32 [S, Kc, 3] of the face.

    resting: bool [S], the idle face was shown.
    """

    sound: I16
    displacement: F32
    resting: npt.NDArray[np.bool_]

    def part(self, begin_s: float, end_s: float) -> Seen:
        """From one time to another."""
        slots = slice(round(begin_s * FPS), round(end_s * FPS))
        samples = slice(slots.start * PLAYOUT_RATE // FPS, slots.stop * PLAYOUT_RATE // FPS)
        return Seen(self.sound[samples], self.displacement[slots], self.resting[slots])


class Mouth:
    """One actor's mouth, driven by sounds."""

    def __init__(self, engine: Engine, actor: Path) -> None:
        given = load_actor(actor)
        self.engine, self.rest = engine, given.motion.rest
        identity = engine.identity(np.ascontiguousarray(self.rest[:, :2]))
        self.view = ActorView(given.card.name, given.motion.order, given.upper, identity)

    def says(self, sound: I16, progress: Callable[[float], None] = lambda _: None) -> Seen:
        """What is seen and heard of a microphone's sound, 48 kHz mono."""
        engine, config = self.engine, SessionConfig()
        session = TalkSession(self.view, engine.spec, engine.initial_state(), config, seed=7, now=0.0)
        shown: list[F32] = []
        slices: list[AvSlice] = []
        packet = round(PACKET_S * sounds.RATE_HZ)
        for number, first in enumerate(range(0, len(sound), packet), 1):
            now = number * PACKET_S
            session.receive_speech(sound[first : first + packet], sounds.RATE_HZ, now=now, live=True)
            while (job := session.next_job()) is not None:
                if isinstance(job, MotionJob):
                    session.complete(job, engine.motion([job])[0], now)
                else:
                    session.complete(job, self._noted(job, shown), now)
            slices += session.slices_due(now)
            progress(now)
        session.close()
        rest = np.zeros((engine.spec.compact, 3), np.float32)
        seen = [rest if s.picture is None else shown[_number(s.picture)] for s in slices]
        idle = np.array([s.picture is None for s in slices])
        return Seen(np.concatenate([s.samples for s in slices]), np.stack(seen), idle)

    def _noted(self, job: PictureJob, shown: list[F32]) -> PictureResult:
        """Pictures that are nothing but the number of what they would show."""
        rest, pictures = np.zeros((self.engine.spec.compact, 3), np.float32), []
        for frame in job.frames:
            shown.append(rest if frame.displacement is None else frame.displacement)
            number = np.frombuffer(np.uint32(len(shown) - 1).tobytes(), np.uint8)
            pictures.append(number.reshape(1, 1, 4).copy())
        return PictureResult(tuple(pictures))

    def opening_pct(self, displacement: F32) -> F32:
        """Openings float32 [S] above the rest face's."""
        closed = opening(np.zeros_like(displacement[:1]), self.rest)[0]
        above: F32 = 100 * (opening(displacement, self.rest) - closed)
        return above

    def likeness(self, displacement: F32) -> float:
        """Cosine of the moved face's identity embedding with the actor's own, mean over some frames."""
        compact, found = load_layout().compact, []
        for moved in displacement[::IDENTITY_EVERY]:
            face = self.rest[:, :2].copy()
            face[compact] += moved[:, :2]
            found.append(float(self.engine.identity(face) @ self.view.identity))
        return float(np.mean(found))


def _number(picture: U8) -> int:
    return int(np.frombuffer(picture.tobytes(), np.uint32)[0])


@dataclass(frozen=True, slots=True)
class Figures:
    """One sound's mouth. offset_ms, agreement: sound after mouth, against what the sound asks for, offline.

    loudness_ms, loudness_agreement: the same against the bare loudness, which no model had a part in.
    mean_pct, spread_pct, wide_pct: opening, its standard deviation and 95th percentile. closed, resting:
    share of slots with closed lips, with the idle face. jitter_pct: standard deviation of the opening's
    change of change.
    """

    seconds: float
    offset_ms: float | None
    agreement: float | None
    loudness_ms: float | None
    loudness_agreement: float | None
    mean_pct: float
    spread_pct: float
    wide_pct: float
    closed: float
    jitter_pct: float
    resting: float


def figures(mouth: Mouth, seen: Seen, speech: bool) -> Figures:
    """Figures of what left a session; timing only where somebody speaks."""
    opened = mouth.opening_pct(seen.displacement)
    timing: tuple[float | None, ...] = (None, None, None, None)
    if speech:
        heard = sounds.resampled(seen.sound, PLAYOUT_RATE, HEARD_RATE).astype(np.float32) / 32768
        mel = log_mel(LogMelState.initial(), heard)[1]
        asked = asked_opening(mouth.engine, mel, len(opened))
        timing = heard_later_ms(asked, opened) + heard_later_ms(loudness(mel, len(opened)), opened)
    told = [None if value is None else round(value, 3) for value in timing]
    return Figures(
        seconds=round(len(opened) / FPS, 1),
        offset_ms=told[0],
        agreement=told[1],
        loudness_ms=told[2],
        loudness_agreement=told[3],
        mean_pct=round(float(opened.mean()), 3),
        spread_pct=round(float(opened.std()), 3),
        wide_pct=round(float(np.quantile(opened, 0.95)), 3),
        closed=round(float((opened < CLOSED_PCT).mean()), 3),
        jitter_pct=round(float(np.diff(opened, n=2).std()), 3),
        resting=round(float(seen.resting.mean()), 3),
    )


def voices(speech: Path, also: Sequence[str], seconds: float) -> dict[str, I16]:
    """Files of a folder, those named on the command line, and voices made of the first LJSpeech one."""
    files = [p for p in sorted(speech.iterdir()) if p.suffix.lower() in sounds.SPEECH_SUFFIXES]
    if not files:
        raise BadInput(f"{speech}: no sound in it")
    found = {path.stem: sounds.speech_file(path, seconds) for path in files}
    for text in also:
        name, _, path = text.partition("=")
        found[name] = sounds.speech_file(Path(path), seconds)
    base = next((found[name] for name in found if "_lj" in name), next(iter(found.values())))
    made = {"as a child": sounds.as_child(base), "by telephone": sounds.by_telephone(base)}
    noisy = {f"in noise, {snr} dB": sounds.with_noise(base, snr) for snr in (20, 10)}
    return found | made | noisy


def others(seconds: float) -> dict[str, I16]:
    """What is no speech: the mouth should stay closed."""
    noises = {f"noise, {level} dBFS": sounds.noise(seconds, level) for level in (-60, -40, -30)}
    return {
        "silence": np.zeros(round(seconds * sounds.RATE_HZ), np.int16),
        **noises,
        "music": sounds.music(seconds),
    }


def endless(
    mouth: Mouth, once: Sequence[I16], minutes: int, progress: Callable[[float], None]
) -> dict[str, Any]:
    """The same minute of speech again and again: figures of the first and of the last one."""
    minute = sounds.joined(once, 60)
    seen = mouth.says(np.tile(minute, minutes), progress)
    parts = {"first": seen.part(2, 60), "last": seen.part(60 * minutes - 58, 60 * minutes)}
    told: dict[str, Any] = {
        name: asdict(figures(mouth, part, speech=True))
        | {"likeness": round(mouth.likeness(part.displacement), 4)}
        for name, part in parts.items()
    }
    change = {
        key: round(100 * (told["last"][key] / told["first"][key] - 1), 2)
        for key in ("mean_pct", "spread_pct", "wide_pct", "likeness")
    }
    return told | {"minutes": minutes, "change_percent": change}


def markdown(report: dict[str, Any]) -> str:
    """The report as tables."""
    timing = ("sound after mouth, ms (agreement)", "by loudness, ms (agreement)")
    heads = ("voice", *timing, "opening, mean / 95 %", "closed", "jitter")
    lines = [f"| {' | '.join(heads)} |", "|---|---|---|---|---|---|"]
    for name, row in report["voices"].items():
        lines.append(
            f"| {name} | {row['offset_ms']:+.0f} ({row['agreement']:.2f}) "
            f"| {row['loudness_ms']:+.0f} ({row['loudness_agreement']:.2f}) "
            f"| {row['mean_pct']:.1f} / {row['wide_pct']:.1f} | {100 * row['closed']:.0f} % "
            f"| {row['jitter_pct']:.2f} |"
        )
    lines += ["", "| no speech | opening, mean | 95 % | jitter | idle face shown |", "|---|---|---|---|---|"]
    for name, row in report["others"].items():
        lines.append(
            f"| {name} | {row['mean_pct']:.2f} | {row['wide_pct']:.2f} | {row['jitter_pct']:.2f} "
            f"| {100 * row['resting']:.0f} % |"
        )
    if "endless" in report:
        said = report["endless"]
        lines += ["", "| endless speech | first minute | last minute | change |", "|---|---|---|---|"]
        for key, change in said["change_percent"].items():
            lines.append(f"| {key} | {said['first'][key]:.2f} | {said['last'][key]:.2f} | {change:+.1f} % |")
    return "\n".join(lines) + "\n"


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All sounds."""
    mouth = Mouth(load_engine(args.engine, args.model), args.actor)

    def tell(name: str) -> None:
        print(name, file=sys.stderr, flush=True)

    report: dict[str, Any] = {"voices": {}, "others": {}}
    spoken = voices(args.speech, args.also, args.seconds)
    for name, sound in spoken.items():
        tell(name)
        report["voices"][name] = asdict(figures(mouth, mouth.says(sound), speech=True))
    for name, sound in others(args.seconds).items():
        tell(name)
        seen = mouth.says(sound)
        part = seen.part(SETTLED_S, len(seen.displacement) / FPS)
        report["others"][name] = asdict(figures(mouth, part, speech=False))
    if args.minutes:
        tell(f"{args.minutes} minutes")
        report["endless"] = endless(mouth, list(spoken.values()), args.minutes, lambda _: None)
    about = {"engine": mouth.engine.name, "weights": mouth.engine.spec.weights_id, "actor": mouth.view.name}
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    told = {"machine": machine(), "versions": versions(), "commit": commit(), "date": date}
    return report | {"settings": about | {"seconds": args.seconds}} | told


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--speech", type=Path, required=True, help="folder of sound files, a voice each")
    p.add_argument(
        "--also", action="append", default=[], metavar="NAME=PATH", help="a file, or a folder to join"
    )
    p.add_argument("--seconds", type=float, default=15.0, help="of each, at most (default: 15)")
    p.add_argument("--minutes", type=int, default=10, help="of endless speech; 0: none (default: 10)")
    p.add_argument("--actor", type=Path, default=ROOT / "actors" / "ada", help="(default: ada)")
    p.add_argument(
        "--model", type=Path, default=default_bundle(), help="exported bundle (default: the shipped one)"
    )
    p.add_argument("--engine", default="onnx", help="engine by name (default: onnx)")
    p.add_argument("--json", type=Path, help="write the report here")
    args = p.parse_args(argv)
    try:
        report = measure(args)
        if args.json:
            args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    except (MyTalkError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(markdown(report), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
