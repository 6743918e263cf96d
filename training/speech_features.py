"""Pre-trained speech features of prepared clips: ``clips/NAME.speech.npy``, float32 [2 a frame, width].

Every clip is heard within its video, moved by the clip's A/V offset, in the encoder's fixed contexts, so that
a clip's features are those that the same encoder gives when the speech streams in.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from mytalk.audio.speech_encoder import FixedContextEncoder, encode_all
from mytalk.clock import ANALYSIS_RATE, ANALYSIS_SAMPLES_PER_FRAME, FPS
from mytalk.errors import BadInput
from mytalk.models.wav2vec2 import Wav2Vec2Config, load_wav2vec2
from mytalk.types import F32
from mytalk.video.media import read_speech
from training.prepare_video import Report, write_atomically

RECORD = "speech.json"  # which model the features of a folder are of


def load_encoder(config: Wav2Vec2Config) -> FixedContextEncoder:
    """wav2vec2 in its chunks, on a GPU where there is one; raises ``BadInput`` where it cannot be had."""
    encoder = load_wav2vec2(config, device="cuda" if torch.cuda.is_available() else "cpu")
    if ANALYSIS_RATE // encoder.samples_per_frame != 2 * FPS:
        raise BadInput(
            f"{config.where}: gives {ANALYSIS_RATE / encoder.samples_per_frame:g} features a second"
        )
    return encoder


def moved(samples: F32, offset_ms: float) -> F32:
    """Sound that is late by so much, put into step: float32 [S] → [S], silence where there is none."""
    shift = round(offset_ms * ANALYSIS_RATE / 1000)
    out = np.zeros_like(samples)
    if shift >= 0:
        out[: len(samples) - shift] = samples[shift:]
    else:
        out[-shift:] = samples[:shift]
    return out


def features_of(encoder: FixedContextEncoder, samples: F32, first: int, frames: int) -> F32:
    """Features float32 [2 · frames, width] of a clip that begins at frame ``first`` of a video's sound.

    The same, bit for bit, as those of the whole sound where ``first`` falls on a chunk; silence past its end.
    """
    start = first * ANALYSIS_SAMPLES_PER_FRAME
    chunks = min(start // encoder.hop_samples, -(-encoder.left_samples // encoder.hop_samples))
    before = chunks * encoder.hop_samples
    stop = start + frames * ANALYSIS_SAMPLES_PER_FRAME + encoder.right_samples
    heard = samples[start - before : stop]
    heard = np.pad(heard, (0, stop - start + before - len(heard)))
    skip = before // encoder.samples_per_frame
    return encode_all(encoder, heard)[skip : skip + 2 * frames]


def _check_record(out: Path, config: Wav2Vec2Config, width: int) -> None:
    """Note the model of a folder's features, or refuse another one than is noted."""
    told: dict[str, Any] = {"model": config.where, "layer": config.layer, "width": width}
    told |= {"hop_frames": config.hop_frames, "left_frames": config.left_frames}
    told |= {"right_frames": config.right_frames}
    path = out / RECORD
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        write_atomically(path, lambda file: file.write(json.dumps(told, indent=1).encode()))
        return
    except ValueError as error:
        raise BadInput(f"{path} is damaged: delete it and {out}/clips/*.speech.npy") from error
    if found != told:
        raise BadInput(
            f"{out} has features of {found.get('model')}, layer {found.get('layer')}: for another model "
            f"delete {RECORD} and clips/*.speech.npy"
        )


def _clip(out: Path, name: str) -> tuple[int, int, float]:
    """First frame in its video, frames, and A/V offset in ms of a prepared clip."""
    with np.load(out / "clips" / f"{name}.npz", allow_pickle=False) as data:
        if "first_frame" not in data:
            raise BadInput(
                f"{name} was prepared by an older version, which did not note where in its video it lies: "
                f"delete {out}/done and prepare again"
            )
        return int(data["first_frame"]), len(data["opening"]), float(data.get("av_offset_ms", 0.0))


def write_features(
    out: Path, reports: Iterable[Report], encoder: FixedContextEncoder, config: Wav2Vec2Config
) -> int:
    """Write the features of every clip that was kept and has none yet; returns how many that were.

    Each file appears whole or not at all, so that a call that was stopped can be made again.
    """
    _check_record(out, config, encoder.width)
    missing = [
        r for r in reports if r.rejected is None and not (out / "clips" / f"{r.name}.speech.npy").exists()
    ]
    videos = [
        (v, list(rows)) for v, rows in groupby(sorted(missing, key=lambda r: r.video), lambda r: r.video)
    ]
    for video, rows in track(videos, description="speech features", disable=not videos):
        samples = np.concatenate(list(read_speech(Path(video), ANALYSIS_RATE))).astype(np.float32) / 32768
        for row in rows:
            first, frames, offset_ms = _clip(out, row.name)
            features = features_of(encoder, moved(samples, offset_ms), first, frames)
            path = out / "clips" / f"{row.name}.speech.npy"
            write_atomically(path, lambda file, data=features: np.save(file, data))
    return len(missing)
