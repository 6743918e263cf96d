"""Measure a bundle on prepared clips: ``python -m training.evaluate --bundle DIR --data DATA --json OUT``.

Motion: correlation of the generated with the true mouth opening when speech alone drives it, streamed hop by
hop through the engine that serves; the upper face comes from another clip, since a person's own would give
the mouth away. Beside it, shuffled speech and the loudness envelope. Appearance: from true landmarks, inside
the mask.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import track

from mytalk.compose import hidden_mask
from mytalk.engines import default_bundle, load_engine
from mytalk.engines.engine import Engine
from mytalk.errors import BadInput, MyTalkError
from mytalk.landmarks.draw import draw_landmarks
from mytalk.landmarks.layout import load_layout
from mytalk.motion import hop_noise, mel_context
from mytalk.renderer import decode_landmarks
from mytalk.types import F32, U8, LipReferences, MotionJob
from training.data import HELD_OUT_TAIL, Clip, crop_points, is_validation, list_clips
from training.motion_data import MotionClip, load_motion_clip

LIPS_BOX = (slice(112, 216), slice(64, 192))  # rows and columns of the crop around the mouth


@dataclass(frozen=True, slots=True)
class Stream:
    """How the motion model is run: frames per hop and provisional frames behind it."""

    hop: int = 2
    lookahead: int = 1


def stream_motion(
    engine: Engine, log_mel: F32, upper: F32, identity: F32, stream: Stream, seed: int = 0
) -> F32:
    """Displacements float32 [F, Kc, 3] of one utterance, hop by hop, from the idle face; upper [F, U]."""
    spec, state, out = engine.spec, engine.initial_state(), []
    frames = len(upper)
    padded = np.concatenate([upper, np.repeat(upper[-1:], spec.tokens, axis=0)])
    for first in range(0, frames, stream.hop):
        tokens = stream.hop + stream.lookahead
        start = {}
        if first == 0:
            start = {
                "known": np.zeros((4, spec.compact, 3), np.float32),
                "known_upper": np.repeat(upper[:1], 4, axis=0),
                "known_log_mel": mel_context(np.zeros((0, 80), np.float32), 0, 0, spec),
            }
        heard = log_mel[: 4 * (first + tokens) + spec.mel_right]
        job = MotionJob(
            generation=0,
            state=state,
            log_mel=mel_context(heard, 0, first, spec),
            upper=padded[first : first + spec.tokens],
            identity=identity,
            noise=hop_noise(seed, 0, first, spec.tokens, spec.coefficients),
            position=4 + first,
            hop=stream.hop,
            tokens=tokens,
            **start,
        )
        result = engine.motion([job])[0]
        state = result.state
        out.append(result.displacement)
    return np.concatenate(out)[:frames]


def opening(displacement: F32, rest: F32) -> F32:
    """Inner-lip gap float32 [F] of displacements [F, Kc, 3] on a rest face."""
    layout = load_layout()
    faces = np.repeat(rest[None], len(displacement), axis=0)
    faces[:, layout.compact] += displacement
    top, bottom = layout.mouth_gap
    return np.linalg.norm(faces[:, bottom] - faces[:, top], axis=-1).mean(axis=-1).astype(np.float32)


def _correlation(a: F32, b: F32) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 1e-6 and b.std() > 1e-6 else 0.0


def best_offset_frames(generated: F32, true: F32, reach: int = 5) -> int:
    """Lag in frames (positive: generated is late) at which the two agree best."""
    lags = range(-reach, reach + 1)
    scores = [
        _correlation(
            generated[max(0, lag) : len(true) + min(0, lag)], true[max(0, -lag) : len(true) - max(0, lag)]
        )
        for lag in lags
    ]
    return lags[int(np.argmax(scores))]


def evaluate_motion(engine: Engine, clips: list[MotionClip], stream: Stream) -> dict[str, float]:
    """Means over clips; every clip's upper face and shuffled speech come from the next clip of the list."""
    rows = []
    for index, clip in enumerate(track(clips, description="motion")):
        other = clips[(index + 1) % len(clips)]
        frames = len(clip.displacement)
        upper = np.resize(other.upper, (frames, other.upper.shape[1]))
        identity = engine.identity(clip.rest[:, :2])
        true = opening(clip.displacement.reshape(frames, -1, 3), clip.rest)
        wrong_speech = np.resize(other.log_mel, clip.log_mel.shape)
        ours = opening(stream_motion(engine, clip.log_mel, upper, identity, stream), clip.rest)
        shuffled = opening(stream_motion(engine, wrong_speech, upper, identity, stream), clip.rest)
        loudness = clip.log_mel[: 4 * frames].mean(axis=1).reshape(-1, 4).mean(axis=1)
        rows.append(
            {
                "mouth_correlation": _correlation(ours, true),
                "mouth_correlation_shuffled": _correlation(shuffled, true),
                "mouth_correlation_loudness": _correlation(loudness, true[: len(loudness)]),
                "opening_ratio": float(ours.std() / max(true.std(), 1e-6)),
                "offset_frames": best_offset_frames(ours, true),
            }
        )
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]} | {"clips": len(rows)}


def evaluate_silence(engine: Engine, rest: F32, stream: Stream, frames: int = 50) -> dict[str, float]:
    """Mouth opening and jitter in the second of two seconds of silence, % of the inter-ocular distance."""
    rng = np.random.default_rng(0)
    mel = (-9.0 + 0.3 * rng.standard_normal((frames * 4, 80))).astype(np.float32)
    upper = np.zeros((frames, engine.spec.upper), np.float32)
    gap = opening(stream_motion(engine, mel, upper, engine.identity(rest[:, :2]), stream), rest)[
        frames // 2 :
    ]
    closed = opening(np.zeros((1, engine.spec.compact, 3), np.float32), rest)[0]
    return {"opening_pct": float(100 * (gap.mean() - closed)), "jitter_pct": float(100 * gap.std())}


def _db(error: F32) -> float:
    return float(10 * np.log10(1 / max(float(np.mean(error)), 1e-9)))


def evaluate_appearance(engine: Engine, clips: list[Clip], per_clip: int = 8) -> tuple[dict[str, float], U8]:
    """PSNR in the mask and at the mouth, true landmarks; a contact sheet (reference, drawn, ours, true)."""
    inside = hidden_mask() > 0
    figures, rows = [], []
    for clip in track(clips, description="appearance"):
        arrays, crops = clip.arrays(), clip.crops()
        picked = arrays["picked"]
        # References come from the part before the targets; of the demo actors only the tail is unseen.
        border = (
            len(arrays["opening"]) - HELD_OUT_TAIL if clip.source == "actors" else len(arrays["opening"]) // 2
        )
        usable, far = np.nonzero(picked >= border)[0], np.nonzero(picked < border)[0]
        index = usable[np.linspace(0, len(usable) - 1, per_clip).astype(int)]
        gap = arrays["opening"][picked[far]]
        # The ranks that an actor's references have (``mytalk.faces.pick_references``).
        chosen = far[np.argsort(gap)[[int(rank * (len(gap) - 1)) for rank in (0.03, 0.75, 0.97)]]]
        references = LipReferences(np.ascontiguousarray(crops[chosen]), crop_points(arrays, chosen))
        points, true = crop_points(arrays, index), np.ascontiguousarray(crops[index])
        latents = engine.encode_appearance(references.pictures, true)
        made = decode_landmarks(engine, list(points), latents, references, load_layout())
        drawn = np.stack([draw_landmarks(p, load_layout()) for p in points[:4]])
        error = np.square((made.astype(np.float32) - true) / 255).mean(axis=-1)
        lips = np.zeros_like(inside)
        lips[LIPS_BOX] = True
        sharp = [
            np.abs(np.diff(x.astype(np.float32), axis=2))[:, LIPS_BOX[0], LIPS_BOX[1]].mean()
            for x in (made, true)
        ]
        outside = np.where(inside, error, 0.0)
        figures.append(
            {
                "mask_psnr": _db(error[:, inside]),
                "lip_psnr": _db(error[:, inside & lips]),
                "crop_psnr": _db(outside),
                "lip_sharpness_ratio": float(sharp[0] / sharp[1]),
            }
        )
        pasted = np.where(inside[..., None], made, true)
        reference = np.concatenate([references.pictures[i % 3] for i in range(4)], axis=1)
        lines = (drawn[:4].transpose(0, 2, 3, 1) * 255).astype(np.uint8)
        rows.append(
            np.concatenate(
                [reference, *(np.concatenate(list(x[:4]), axis=1) for x in (lines, pasted, true))], axis=0
            )
        )
    means = {key: float(np.mean([f[key] for f in figures])) for key in figures[0]} | {"clips": len(figures)}
    return means, np.concatenate(rows[:4], axis=1)


def evaluate(engine: Engine, data: Path, sheets: Path | None, stream: Stream, most: int) -> dict[str, object]:
    """All figures, by group of clips."""
    clips = list_clips(data)
    validation = [c for c in clips if is_validation(c, clips)]
    groups = {
        "synthetic_unseen": [c for c in validation if c.source == "synthetic"],
        "grid_s32_unseen": [c for c in validation if c.identity == "grid/s32"],
    }
    report: dict[str, object] = {
        "engine": engine.name,
        "weights": engine.spec.weights_id,
        "hop": stream.hop,
        "lookahead": stream.lookahead,
    }
    groups = {name: group for name, group in groups.items() if group}
    if not groups:
        raise BadInput(f"{data} holds no clips to evaluate on")
    for name, group in groups.items():
        loaded = [load_motion_clip(c) for c in group[:most]]
        report[f"motion/{name}"] = evaluate_motion(engine, loaded, stream)
        report[f"silence/{name}"] = evaluate_silence(engine, loaded[0].rest, stream)
    if actors := [c for c in clips if c.source == "actors"]:
        groups["demo_actors_held_out"] = actors
    for name, group in groups.items():
        figures, sheet = evaluate_appearance(engine, group[:most])
        report[f"appearance/{name}"] = figures
        if sheets is not None:
            sheets.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(sheet)).save(sheets / f"{name}.png")
    return report


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=default_bundle(), help="exported bundle")
    parser.add_argument("--data", type=Path, required=True, help="folder that training.prepare wrote")
    parser.add_argument("--engine", default="auto", help="engine by name (default auto)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--sheets", type=Path, help="write contact sheets into this folder")
    parser.add_argument("--hop", type=int, default=2)
    parser.add_argument("--lookahead", type=int, default=1)
    parser.add_argument("--clips", type=int, default=10, help="most clips per group (default 10)")
    args = parser.parse_args(argv)
    try:
        engine = load_engine(args.engine, args.bundle)
        report = evaluate(engine, args.data, args.sheets, Stream(args.hop, args.lookahead), args.clips)
    except MyTalkError as error:
        print(f"training.evaluate: {error}", file=sys.stderr)
        return 1
    text = json.dumps(report, indent=1)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
