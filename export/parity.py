"""Every engine against torch in float32, on speech and pictures: a bundle that fails is not written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mytalk.actors.actor import Actor, load_actor
from mytalk.audio.speech import LogMelState, log_mel
from mytalk.engines.engine import Engine
from mytalk.errors import BadInput, MyTalkError
from mytalk.landmarks.normalise import CROP, CROP_SIDE
from mytalk.motion import hop_noise, mel_context
from mytalk.render.compose import crop, paste_box
from mytalk.render.renderer import crop_landmarks, decode_landmarks, lip_source
from mytalk.types import F32, MotionJob
from mytalk.video.media import read_speech

ROOT = Path(__file__).resolve().parents[1]
SPEECH = ROOT / "tests" / "data" / "silence_then_speech.wav"
ACTOR = ROOT / "actors" / "ada"
HOP, TOKENS = 2, 4  # frames of a chunk, and with its lookahead
OTHER_CHUNKS = 20  # streamed with each step count that is not the default
REFERENCE = "torch-fp32"


@dataclass(frozen=True, slots=True)
class Parity:
    """How far an engine is from the reference: landmarks in crop pixels (most), pictures in dB (PSNR)."""

    landmark_px: float
    picture_db: float


# precision → the most that landmarks may differ, the least that pictures must agree
LIMITS = {
    "fp32": Parity(0.01, 60.0),
    "fp16": Parity(0.3, 40.0),
    "bf16": Parity(0.3, 40.0),
    "int8": Parity(0.5, 36.0),
}


@dataclass(frozen=True, slots=True)
class Material:
    """What parity is measured on. log_mel: float32 [n, 80] of the speech; chunks: streamed, 80 ms each."""

    actor: Actor
    log_mel: F32
    chunks: int
    pictures: int


def load_material(
    speech: Path = SPEECH, actor: Path = ACTOR, *, chunks: int = 60, pictures: int = 8
) -> Material:
    """Read it; raises ``BadInput`` in one line. The last ``chunks`` of the speech are taken."""
    blocks = list(read_speech(speech, 16_000))
    samples = np.concatenate(blocks).astype(np.float32) / 32768
    _, mel = log_mel(LogMelState.initial(), samples)
    if len(mel) < 4 * HOP * chunks:
        raise BadInput(f"{speech}: {len(mel) / 100:.1f} s of speech; parity needs {0.08 * chunks:.1f} s")
    return Material(load_actor(actor), mel[-4 * HOP * chunks :], chunks, pictures)


def stream(engine: Engine, material: Material, steps: int | None = None) -> F32:
    """Displacements float32 [2 chunks, Kc, 3], each chunk on the memory that this engine left.

    steps: diffusion steps per chunk, None: the bundle's default.
    """
    motion, spec = material.actor.motion, engine.spec
    identity = engine.identity(np.ascontiguousarray(motion.rest[:, :2]))
    state, made = engine.initial_state(), []
    for first in range(0, HOP * material.chunks, HOP):
        shown = motion.order[np.arange(first, first + spec.tokens) % len(motion.order)]
        job = MotionJob(
            generation=0,
            state=state,
            log_mel=mel_context(material.log_mel, 0, first, spec),
            upper=material.actor.upper[shown],
            identity=identity,
            noise=hop_noise(0, 0, first, spec.tokens, spec.coefficients),
            position=first,
            hop=HOP,
            tokens=TOKENS,
            steps=steps,
        )
        result = engine.motion([job])[0]
        state = result.state
        made.append(result.displacement)
    return np.concatenate(made)


def lip_pictures(engine: Engine, material: Material, displacement: F32) -> F32:
    """Lip pictures float32 [n, h, w, 3] (0..255) of frames spread over the displacements."""
    actor, motion = material.actor, material.actor.motion
    frames = np.linspace(0, len(displacement) - 1, material.pictures).astype(int)
    clip = motion.order[frames % len(motion.order)]
    points = [
        crop_landmarks(
            motion.rest,
            motion.canonical[index],
            displacement[frame],
            pose=motion.poses.select(slice(index, index + 1)),
            matrix=actor.matrices[index],
            layout=actor.layout,
        )
        for frame, index in zip(frames, clip, strict=True)
    ]
    faces = np.stack([crop(actor.frames[index], actor.matrices[index]) for index in clip])
    latents = engine.encode_appearance(actor.references.pictures, faces).astype(np.float16)
    lips = lip_source(actor.references)
    pictures = decode_landmarks(engine, points, latents.astype(np.float32), lips, actor.layout)
    return pictures[(slice(None), *paste_box())].astype(np.float32)


@dataclass(frozen=True, slots=True)
class Reference:
    """What the reference engine made of the material; displacement: with the default number of steps.

    few: displacements of the first chunks with each of the other step counts.
    """

    displacement: F32
    pictures: F32
    few: dict[int, F32]


def refer(engine: Engine, material: Material) -> Reference:
    """Run the reference once; ``compare`` then takes any number of engines."""
    displacement = stream(engine, material)
    pictures = lip_pictures(engine, material, displacement)
    return Reference(displacement, pictures, _other_steps(engine, material))


def _other_steps(engine: Engine, material: Material) -> dict[int, F32]:
    short = replace(material, chunks=min(material.chunks, OTHER_CHUNKS))
    spec = engine.spec
    return {steps: stream(engine, short, steps) for steps in spec.step_counts if steps != spec.steps}


def compare(engine: Engine, material: Material, reference: Reference) -> Parity:
    """An engine's landmarks on its own memory, and its pictures of the reference's landmarks."""
    apart = np.abs(stream(engine, material) - reference.displacement).max()
    for steps, made in _other_steps(engine, material).items():
        apart = np.maximum(apart, np.abs(made - reference.few[steps]).max())  # NaN stays NaN
    pictures = lip_pictures(engine, material, reference.displacement)
    error = np.square(pictures.astype(np.float64) - reference.pictures).mean()
    return Parity(float(apart) * CROP / CROP_SIDE, float(10 * np.log10(255**2 / max(error, 1e-9))))


def precision_of(engine: Engine) -> str:
    """The precision that an engine's name ends with."""
    return engine.name.rpartition("-")[2]


def enforce(engine: Engine, found: Parity) -> None:
    """Raise ``MyTalkError`` if an engine is outside its precision's limits (NaN is outside too)."""
    limit = LIMITS[precision_of(engine)]
    if not (found.landmark_px <= limit.landmark_px and found.picture_db >= limit.picture_db):
        raise MyTalkError(
            f"{engine.name} does not agree with {REFERENCE}: landmarks {found.landmark_px:.4f} px (at most"
            f" {limit.landmark_px}), pictures {found.picture_db:.1f} dB (at least {limit.picture_db})"
        )
