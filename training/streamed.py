"""The motion model run hop by hop, as it serves, over a clip's speech; mouth opening of the result."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mytalk.audio.speech import MELS
from mytalk.engines.engine import Engine
from mytalk.landmarks.layout import load_layout
from mytalk.motion import hop_noise, mel_context
from mytalk.types import F32, MotionJob

PREFIX_FRAMES = 4  # idle frames that an utterance starts from


@dataclass(frozen=True, slots=True)
class Stream:
    """How the motion model is run: frames per hop and provisional frames behind it."""

    hop: int = 2
    lookahead: int = 1


def stream_motion(
    engine: Engine, log_mel: F32, upper: F32, identity: F32, stream: Stream, seed: int = 0
) -> F32:
    """Displacements float32 [F, Kc, 3] of one utterance, hop by hop, from the idle face.

    log_mel: float32 [4 F, 80]. upper: float32 [F, U]. identity: float32 [E].
    """
    spec, state, out = engine.spec, engine.initial_state(), []
    frames = len(upper)
    padded = np.concatenate([upper, np.repeat(upper[-1:], spec.tokens, axis=0)])
    for first in range(0, frames, stream.hop):
        tokens = stream.hop + stream.lookahead
        heard = log_mel[: 4 * (first + tokens) + spec.mel_right]
        idle = first == 0
        job = MotionJob(
            generation=0,
            state=state,
            log_mel=mel_context(heard, 0, first, spec),
            upper=padded[first : first + spec.tokens],
            identity=identity,
            noise=hop_noise(seed, 0, first, spec.tokens, spec.coefficients),
            position=PREFIX_FRAMES + first,
            hop=stream.hop,
            tokens=tokens,
            known=np.zeros((PREFIX_FRAMES, spec.compact, 3), np.float32) if idle else None,
            known_upper=np.repeat(upper[:1], PREFIX_FRAMES, axis=0) if idle else None,
            known_log_mel=mel_context(np.zeros((0, MELS), np.float32), 0, 0, spec) if idle else None,
        )
        result = engine.motion([job])[0]
        state = result.state
        out.append(result.displacement)
    return np.concatenate(out)[:frames]


def opening(displacement: F32, rest: F32) -> F32:
    """Inner-lip gap float32 [F] of displacements [F, Kc, 3] on a rest face [478, 3], canonical units."""
    layout = load_layout()
    faces = np.repeat(rest[None], len(displacement), axis=0)
    faces[:, layout.compact] += displacement
    top, bottom = layout.mouth_gap
    return np.linalg.norm(faces[:, bottom] - faces[:, top], axis=-1).mean(axis=-1).astype(np.float32)


def predicted_opening(engine: Engine, log_mel: F32, frames: int) -> F32:
    """Mouth opening float32 [frames] that the speech alone asks for: mean face, still upper face.

    No person's own face or identity goes in, so nothing but the sound can tell the model when to open.
    """
    rest, tokens = load_layout().template, engine.spec.tokens
    stream = Stream(tokens // 2, tokens - tokens // 2)
    identity = engine.identity(np.ascontiguousarray(rest[:, :2]))
    upper = np.zeros((frames, engine.spec.upper), np.float32)
    return opening(stream_motion(engine, log_mel, upper, identity, stream), rest)
