"""Adapt the appearance decoder to one person: some thousand pictures of a clip, minutes on two cores.

The decoder and the landmark encoder, which run for every picture, start from the bundle's weights and learn
from the person's own pictures at a small rate; the encoders stay as they are, so that cached latents stay
valid. The lip references are the person's own part of the time, others of the clip else, and always away from
the picture that is asked for, so that mouths which the clip does not show are not lost. The clip's tail is
held out: the best state on it is kept, and training stops when it no longer gets better. How wide the person
opens the mouth is measured on the clip's own speech (``training.tune_motion``).

``python -m mytalk actor make --tune``, ``actor tune``, ``dub --tune`` and ``training.evaluate --tune`` come
here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from export.parity import LIMITS, REFERENCE
from mytalk.actors.actor import Actor
from mytalk.actors.follow import FaceChoice
from mytalk.actors.make import LONGEST_PART_S
from mytalk.actors.tuned import TunedDecoder, Tuner, Tuning, TuningFigures
from mytalk.engines import ENGINES, load_engine
from mytalk.engines.bundle import appearance_id, read_manifest
from mytalk.engines.engine import Engine
from mytalk.engines.initialisers import FLOAT_DECODER, Graph
from mytalk.engines.torch import load_modules
from mytalk.errors import EngineFailed, MyTalkError
from mytalk.landmarks.layout import load_layout
from mytalk.models.appearance import AppearanceModel
from mytalk.models.streaming import AppearanceDecoder
from mytalk.render.renderer import Drawn, draw, lip_source
from mytalk.types import F32, U8, LipReferences
from training.appearance import reconstruction_loss
from training.appearance_data import AppearanceBatch, AppearanceDraw
from training.average import Average
from training.feed import Feed
from training.looks import Looks
from training.metrics_picture import composite, lip_mask, psnr_db
from training.runner import computes_in_bf16
from training.settings import Runner, learning_rate
from training.texture import texture_loss
from training.tune_data import OwnBatches, Person, person_of_actor, person_of_video
from training.tune_motion import opening_share

Progress = Callable[[str, int, int], None]  # (stage, done, in all)
STAGE = "tuning to the person"
PARTS = ("decoder.", "landmark_encoder.")  # of the model, what is tuned
DECODED_AT_ONCE = 8
LOOKED_AT = 24  # pictures of the tail while training; the figures in the end take all of them


@dataclass(frozen=True, slots=True)
class TuneRun:
    """Settings of tuning.

    own_share: of the sets of references, the person's own. minutes: at most, whatever the machine.
    check_steps: how often the tail is looked at; patience: looks without a gain of ``least_gain_db`` in a row
    after which training stops. A whole gain below that is thrown away.
    """

    data: AppearanceDraw = field(
        default_factory=lambda: AppearanceDraw(
            clips=2, targets=4, flip=False, crop_jitter_px=0, looks=Looks(0.2, 0.0, 0.0, 0.0)
        )
    )
    runner: Runner = field(
        default_factory=lambda: Runner(
            steps=1200,
            learning_rate=3e-4,
            schedule="cosine",
            final_learning_rate=3e-5,
            warmup_steps=20,
            weight_decay=0.0,
            average_decay=0.98,
        )
    )
    gradient_weight: float = 0.3
    texture_weight: float = 1.0
    own_share: float = 0.7
    minutes: float = 8.0
    check_steps: int = 50
    patience: int = 6
    least_gain_db: float = 0.02


class Tail:
    """Held-out pictures as the product would make them, from the person's own references."""

    def __init__(self, encode: nn.Module, person: Person) -> None:
        """encode: the bundle's graph of that name."""
        rows = person.split()[1]
        self.true: U8 = person.crops[rows]
        self.drawn: Drawn = draw(list(person.points[rows]), lip_source(person.references), load_layout())
        with torch.no_grad():
            latents = encode(torch.from_numpy(person.references.pictures), torch.from_numpy(self.true))
        self.latents: F32 = latents.numpy()

    def painted(self, decoder: Callable[[F32, F32, U8, F32], U8], every: int = 1) -> tuple[U8, U8]:
        """Every so many of the pictures: what a decoder makes of them, and the true ones."""
        rows = np.arange(0, len(self.true), every)
        made = []
        for first in range(0, len(rows), DECODED_AT_ONCE):
            some = rows[first : first + DECODED_AT_ONCE]
            drawn = self.drawn
            made.append(
                decoder(drawn.images[some], self.latents[some], drawn.references[some], drawn.flows[some])
            )
        return composite(np.concatenate(made), self.true[rows]), self.true[rows]

    def lip_psnr(self, model: AppearanceModel, *, quick: bool = False) -> float:
        """dB under the mask; quick: of some pictures, and in bf16 where the CPU has it."""
        graph = AppearanceDecoder(model)

        def decoder(*inputs: F32 | U8) -> U8:
            with torch.no_grad(), _fast(quick):
                pictures: U8 = graph(*(torch.from_numpy(x) for x in inputs)).numpy()
            return pictures

        every = -(-len(self.true) // LOOKED_AT) if quick else 1
        return psnr_db(*self.painted(decoder, every), lip_mask())


def _fast(wanted: bool = True) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=wanted and computes_in_bf16("cpu"))


class DecoderObjective(nn.Module):
    """A batch → its loss. What is not tuned runs without gradients, on posterior means, as in the product."""

    def __init__(self, model: AppearanceModel, run: TuneRun) -> None:
        super().__init__()
        self.model, self.run = model, run

    def forward(self, batch: AppearanceBatch) -> Tensor:
        """The trainer's losses (``training.appearance``), without the penalty of the latents."""
        model, repeat = self.model, len(batch.targets) // len(batch.references)
        references = batch.references.repeat_interleave(repeat, 0)
        images, targets = (
            x.contiguous(memory_format=torch.channels_last) for x in (batch.images, batch.targets)
        )
        with torch.no_grad():
            lips = model.encode_lips(batch.references)[0].repeat_interleave(repeat, 0)
            latents = model.latent(lips, model.encode_face(targets)[0], references)
        taken, painted = (
            part.float() for part in model.decode_parts(images, latents, references, batch.flows)
        )
        out, rewarded = taken + painted, taken + painted.detach()
        loss = reconstruction_loss(out, batch, self.run.gradient_weight)
        texture = texture_loss(out, rewarded, targets, batch.weights)
        return loss + self.run.texture_weight * texture


class _Adaptation:
    """The model that learns, its average, and the best average that was met."""

    def __init__(self, model: AppearanceModel, names: set[str], tail: Tail, run: TuneRun) -> None:
        """names: of the parameters that learn."""
        self.model, self._tail, self._run = model, tail, run
        self.learnt = {name: p for name, p in model.named_parameters() if name in names}
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for parameter in self.learnt.values():
            parameter.requires_grad_(True)
        model.to(memory_format=torch.channels_last)
        rate = run.runner.learning_rate
        self.optimiser = torch.optim.AdamW(
            self.learnt.values(), lr=rate, betas=(0.9, 0.98), weight_decay=run.runner.weight_decay, fused=True
        )
        self._average = Average(model, run.runner.average_decay)
        self._objective = DecoderObjective(model, run)
        self.best, self.best_step, self.missed = tail.lip_psnr(model, quick=True), 0, 0
        self.best_weights = self._copy(model.state_dict())

    def _copy(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: weights[name].detach().clone() for name in self.learnt}

    def step(self, number: int, batch: AppearanceBatch) -> None:
        """Learn from a batch; raises ``MyTalkError`` for a loss that is not finite."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self._run.runner, number, 0.0)
        with _fast():
            loss = self._objective(batch)
        self.optimiser.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(list(self.learnt.values()), self._run.runner.clip_norm)
        if not torch.isfinite(loss + norm):
            raise MyTalkError("tuning failed: the loss is not finite; nothing was written")
        self.optimiser.step()
        self._average.update(number)

    def look(self, steps: int) -> None:
        """Compare the average with the best one, on the tail."""
        kept = self._copy(self.model.state_dict())
        averaged = {name: self._average.weights[name] for name in self.learnt}
        self.model.load_state_dict(averaged, strict=False)
        found = self._tail.lip_psnr(self.model, quick=True)
        self.model.load_state_dict(kept, strict=False)
        self.missed += 1
        if found > self.best + self._run.least_gain_db:
            self.best, self.best_step, self.missed = found, steps, 0
            self.best_weights = self._copy(averaged)


def _tunable(bundle: Path, model: AppearanceModel) -> set[str]:
    """Parameters of what runs for every picture that have a place of their own in the exported decoder."""
    graph = Graph((bundle / FLOAT_DECODER).read_bytes())
    names = [name for name, _ in model.named_parameters() if name.startswith(PARTS)]
    return {name for name in names if graph.stored(name) is not None}


def adapt(
    bundle: Path, person: Person, run: TuneRun | None = None, progress: Progress | None = None
) -> Tuning:
    """Tune the bundle's decoder to a person; the decoder is None where nothing was gained.

    Raises ``BadInput`` for a clip that is too short, ``MyTalkError`` if an engine that runs here does not
    agree with what was tuned.
    """
    run = run or TuneRun()
    person.check()
    manifest = read_manifest(bundle)
    # First, since it takes seconds and what fails here should not cost minutes.
    opening = round(opening_share(load_engine("onnx-fp32", bundle), person.talk), 2)
    torch.manual_seed(run.runner.seed)
    modules = load_modules(bundle, manifest)
    model = modules["decode"].model
    assert isinstance(model, AppearanceModel)
    tail = Tail(modules["encode"], person)
    before = tail.lip_psnr(model)
    adaptation, steps = _Adaptation(model, _tunable(bundle, model), tail, run), run.runner.steps
    batches, begin = OwnBatches(person, run.data, run.own_share, load_layout()), time.monotonic()
    with Feed(batches.draw, run.runner.seed, 0, 0, 1) as feed:
        for number in range(steps):
            adaptation.step(number, feed.take())
            done = number + 1
            if progress is not None:
                progress(STAGE, done, steps)
            out_of_time = time.monotonic() - begin > 60 * run.minutes
            if done % run.check_steps == 0 or done == steps or out_of_time:
                adaptation.look(done)
            if out_of_time or adaptation.missed >= run.patience:
                break
    rounded = {name: weights.half() for name, weights in adaptation.best_weights.items()}
    model.load_state_dict(rounded, strict=False)
    after = tail.lip_psnr(model)
    figures = TuningFigures(adaptation.best_step, round(before, 2), round(after, 2), opening)
    if after < before + run.least_gain_db:
        return Tuning(None, replace(figures, opening=1.0))
    tensors = {name: weights.contiguous().numpy() for name, weights in rounded.items()}
    tuned = TunedDecoder(appearance_id(manifest), tensors)
    prove(bundle, tuned, tail)
    return Tuning(tuned, figures)


def tuner(
    bundle: Path,
    video: Path,
    *,
    start_s: float = 0.0,
    end_s: float = np.inf,
    face: FaceChoice = "only",
    progress: Progress | None = None,
) -> Tuner:
    """What tunes to the person in a part of a video, once the lip references are known."""

    def tune(references: LipReferences) -> Tuning:
        part_end_s = min(end_s, start_s + LONGEST_PART_S)
        person = person_of_video(video, references, start_s=start_s, end_s=part_end_s, face=face)
        return adapt(bundle, person, progress=progress)

    return tune


def actor_tuner(bundle: Path, actor: Actor, *, progress: Progress | None = None) -> Tuner:
    """What tunes to an actor's own loop, which needs no face detector and says nothing.

    How wide the person opens the mouth stays as an earlier tuning has found it.
    """

    def tune(references: LipReferences) -> Tuning:
        found = adapt(bundle, replace(person_of_actor(actor), references=references), progress=progress)
        if found.decoder is None or actor.figures is None:
            return found
        return replace(found, figures=replace(found.figures, opening=actor.figures.opening))

    return tune


def prove(bundle: Path, tuned: TunedDecoder, tail: Tail) -> dict[str, float]:
    """Agreement in dB with torch in float32 of every engine that runs here, with the tuned weights.

    Raises ``MyTalkError`` for the first that is outside its precision's limits (``export.parity``).
    """
    every = -(-len(tail.true) // DECODED_AT_ONCE)

    def pictures(engine: Engine) -> U8:
        return tail.painted(lambda *inputs: engine.decode(*inputs, tuned), every)[0]

    found, expected = {}, pictures(load_engine(REFERENCE, bundle))
    for name in ENGINES:
        precision = name.rpartition("-")[2]
        if precision not in LIMITS or name == REFERENCE:
            continue
        try:
            engine = load_engine(name, bundle)
        except EngineFailed:  # not installed, or not of this bundle or CPU
            continue
        found[engine.name] = psnr_db(pictures(engine), expected, lip_mask())
        limit = LIMITS[precision].picture_db
        if not found[engine.name] >= limit:
            raise MyTalkError(
                f"the tuned decoder does not hold in {name}: {found[engine.name]:.1f} dB from float32"
                f" (at least {limit})"
            )
    return found
