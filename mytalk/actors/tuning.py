"""The way from the command line to ``training.tune``, which needs PyTorch; nothing else imports it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mytalk.actors.actor import Actor, add_decoder, load_actor
from mytalk.actors.follow import FaceChoice
from mytalk.actors.make import Progress
from mytalk.actors.tuned import Tuner, Tuning
from mytalk.engines import default_bundle
from mytalk.errors import EngineFailed

NEED = "tuning needs PyTorch: pip install -c constraints.txt -e '.[actors,train]'"


def make_tuner(
    video: Path,
    bundle: Path | None,
    progress: Progress | None,
    *,
    start_s: float = 0.0,
    end_s: float | None = None,
    face: FaceChoice = "only",
) -> Tuner:
    """Tunes to the person in a part of a video; ``EngineFailed`` at once where PyTorch is not installed."""
    try:
        from training.tune import tuner
    except ImportError as error:  # of torch, or what else the trainers need
        raise EngineFailed(f"{NEED} ({error})") from error
    limit = np.inf if end_s is None else end_s
    return tuner(
        bundle or default_bundle(), video, start_s=start_s, end_s=limit, face=face, progress=progress
    )


def _own_tuner(actor: Actor, bundle: Path | None, progress: Progress | None) -> Tuner:
    try:
        from training.tune import actor_tuner
    except ImportError as error:
        raise EngineFailed(f"{NEED} ({error})") from error
    return actor_tuner(bundle or default_bundle(), actor, progress=progress)


def tune_actor(
    folder: Path,
    video: Path | None,
    bundle: Path | None,
    progress: Progress | None,
    *,
    start_s: float = 0.0,
    end_s: float | None = None,
    face: FaceChoice = "only",
) -> Tuning:
    """Tune an actor package, in place, to a video of the person (None: to its own loop).

    It is whole at every moment: a run that is cut short leaves it as it was.
    """
    actor = load_actor(folder)
    if video is not None:
        tune = make_tuner(video, bundle, progress, start_s=start_s, end_s=end_s, face=face)
    else:
        tune = _own_tuner(actor, bundle, progress)
    tuning = tune(actor.references)
    if tuning.decoder is not None:
        add_decoder(folder, tuning.decoder, tuning.figures)
    return tuning
