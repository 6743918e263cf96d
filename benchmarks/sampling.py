"""``python benchmarks/sampling.py DATA``: samplers × steps of the motion model, streamed over unseen clips.

In torch, so that samplers can be tried that no bundle holds; hop by hop as it serves, every row from the same
noise. For each: distance to the reference (DDIM, the most steps) in % of the inter-ocular distance, the mouth
against the true one, lips at p, b and m, jerk, and the CPU milliseconds of a hop of one session.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that the file can be run as it stands

import numpy as np  # noqa: E402 - after the path
import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks.machine import commit, machine, versions  # noqa: E402
from benchmarks.samplers import SAMPLERS, Sampler, amplitudes, resumed  # noqa: E402
from benchmarks.spoken import Spoken, against_truth, of_clips  # noqa: E402
from benchmarks.windows import jerk, truth  # noqa: E402
from mytalk.audio.speech import SILENCE  # noqa: E402
from mytalk.engines import default_bundle, load_engine  # noqa: E402
from mytalk.errors import BadInput  # noqa: E402
from mytalk.models.conformer import rotary_tables  # noqa: E402
from mytalk.models.motion import MotionConfig, MotionModel  # noqa: E402
from mytalk.models.rollout import Memory, kept  # noqa: E402
from mytalk.motion import hop_noise  # noqa: E402
from mytalk.types import F32  # noqa: E402

MOST_STEPS = 50
STEPS = (1, 2, 4, 8, MOST_STEPS)
WARM_STARTS = (0.5, 0.75)  # levels to which the provisional frames are noised
TIMED_HOPS = 12


@dataclass(frozen=True, slots=True)
class Conditions:
    """What B utterances of F frames are made from: noise [B, F, C], speech, upper, identity [B, E]."""

    noise: Tensor
    speech: Tensor
    upper: Tensor
    identity: Tensor

    def first(self, frames: int) -> Conditions:
        """The beginning of the first utterance alone."""
        noise, speech, upper = (part[:1, :frames] for part in (self.noise, self.speech, self.upper))
        return Conditions(noise, speech, upper, self.identity[:1])


@dataclass(frozen=True, slots=True)
class Hops:
    """Frames per hop and provisional ones; warm: the level from which a hop goes on from those, 1 = noise."""

    hop: int
    lookahead: int
    warm: float = 1.0


def load_motion(bundle: Path) -> MotionModel:
    """The motion model of a bundle, in torch."""
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    model = MotionModel(MotionConfig(**manifest["configs"]["motion"]))
    model.load_state_dict(load_file(bundle / "motion.safetensors"))
    return model.eval()


@torch.no_grad()
def conditions(
    model: MotionModel, said: Sequence[Spoken], identities: Sequence[F32], lookahead: int, seed: int
) -> Conditions:
    """Of utterances of one length; the last ``lookahead`` frames are there to be provisional only."""
    config, frames = model.config, min(one.frames for one in said) + lookahead

    def heard(mel: F32) -> F32:
        left = 2 * config.left_audio_frames
        spoken = np.full((left + 4 * frames + 2, config.mels), SILENCE, np.float32)
        part = mel[: 4 * frames + 2]
        spoken[left : left + len(part)] = part
        return spoken

    def seen(upper: F32) -> F32:
        return np.pad(upper, ((0, frames), (0, 0)), mode="edge")[:frames]

    return Conditions(
        torch.from_numpy(
            np.stack([hop_noise(seed, k, 0, frames, config.coefficients) for k in range(len(said))])
        ),
        model.audio(torch.from_numpy(np.stack([heard(one.log_mel) for one in said]))),
        torch.from_numpy(np.stack([seen(one.upper) for one in said])),
        torch.from_numpy(np.stack(identities)),
    )


class Rollout:
    """A model that hears B utterances and goes on from what it made itself, hop by hop."""

    def __init__(
        self, model: MotionModel, given: Conditions, sampler: Sampler, steps: int, hops: Hops
    ) -> None:
        self.model, self.given, self.sampler, self.steps, self.hops = model, given, sampler, steps, hops
        self._memory: Memory | None = None
        self._provisional: Tensor | None = None

    def _ask(self, x: Tensor, level: float, start: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The denoiser's answer for the frames from ``start`` on, which all see each other and the past."""
        given, config, count = self.given, self.model.config, x.shape[1]
        known = 0 if self._memory is None else self._memory[0].shape[-2]
        rotary = rotary_tables(torch.arange(start, start + count)[None], config.dim // config.heads)
        mask = torch.ones(1, 1, count, known + count, dtype=torch.bool)
        own = slice(start, start + count)
        seen = (given.speech[:, own], given.upper[:, own], given.identity)
        answer: tuple[Tensor, Tensor, Tensor, Tensor]
        answer = self.model.denoiser(x, torch.full((1, 1), level), *seen, rotary, mask, self._memory)
        return answer

    def next_hop(self, start: int, hop: int) -> Tensor:
        """Coefficients [B, hop, C] of the frames from ``start`` on, which become known."""
        noise, warm = self.given.noise[:, start : start + hop + self.hops.lookahead], self.hops.warm

        def denoise(x: Tensor, level: float) -> Tensor:
            return self._ask(x, level, start)[0]

        if self._provisional is None or warm >= 1:
            clean = self.sampler(denoise, noise, self.steps)
        else:  # what was provisional stays as a guess, and the frames behind it stand still
            last = self._provisional[:, -1:].expand(-1, noise.shape[1], -1)
            guess = torch.cat([self._provisional, last], dim=1)[:, : noise.shape[1]]
            alpha, sigma = amplitudes(warm)
            clean = resumed(denoise, alpha * guess + sigma * noise, self.steps, warm)
        known = clean[:, :hop]
        _, keys, values, gates = self._ask(known, 0.0, start)
        config = self.model.config
        self._memory = kept(self._memory, (keys, values, gates), config.window, config.kernel - 1)
        self._provisional = clean[:, hop:] if self.hops.lookahead else None
        return known


@torch.no_grad()
def streamed(
    model: MotionModel, given: Conditions, sampler: Sampler, steps: int, hops: Hops
) -> tuple[Tensor, list[float]]:
    """Displacements [B, F - lookahead, Kc·x] hop by hop, and the CPU seconds of each hop."""
    rollout, frames = Rollout(model, given, sampler, steps, hops), given.noise.shape[1] - hops.lookahead
    made, times = [], []
    for start in range(0, frames, hops.hop):
        begin = time.thread_time()
        made.append(rollout.next_hop(start, min(hops.hop, frames - start)))
        times.append(time.thread_time() - begin)
    return model.to_displacement(torch.cat(made, dim=1)), times


def distance_pct(made: Sequence[F32], reference: Sequence[F32]) -> float:
    """Mean distance of points in % of the inter-ocular distance."""
    apart = [np.linalg.norm(a - b, axis=-1).mean() for a, b in zip(made, reference, strict=True)]
    return round(float(100 * np.mean(apart)), 3)


def measure(
    model: MotionModel, said: Sequence[Spoken], identities: Sequence[F32], hops: Hops
) -> list[dict[str, Any]]:
    """A row for each sampler and step count, for warm starts, and for other noise at the most steps."""
    given = conditions(model, said, identities, hops.lookahead, 0)
    frames = given.noise.shape[1] - hops.lookahead
    rows: list[dict[str, Any]] = []
    cut = [
        Spoken(one.name, one.log_mel, one.upper[:frames], one.rest, one.true[:frames], one.spans)
        for one in said
        if one.true is not None
    ]

    def run(name: str, steps: int, how: Hops, using: Conditions) -> list[F32]:
        sampler = SAMPLERS.get(name, SAMPLERS["ddim"])
        made, _ = streamed(model, using, sampler, steps, how)
        _, times = streamed(model, given.first(TIMED_HOPS * how.hop + how.lookahead), sampler, steps, how)
        shape = (frames, model.config.compact, model.config.coordinates)
        found = [one.reshape(shape).numpy() for one in made]
        rows.append(
            {
                "sampler": name,
                "steps": steps,
                "distance_pct": distance_pct(found, reference or found),
                **against_truth(cut, found),
                "jerk": round(jerk(found), 5),
                "torch_ms_per_hop": round(1e3 * float(np.median(times)), 2),
            }
        )
        print(json.dumps(rows[-1]), file=sys.stderr)
        return found

    reference: list[F32] = []
    reference = run("ddim", MOST_STEPS, hops, given)
    run("other_noise", MOST_STEPS, hops, conditions(model, said, identities, hops.lookahead, 1))
    for name in SAMPLERS:
        for steps in STEPS:
            if (name, steps) != ("ddim", MOST_STEPS):
                run(name, steps, hops, given)
    for level in WARM_STARTS if hops.lookahead else ():
        for steps in (1, 2):
            run(f"warm_{level}", steps, Hops(hops.hop, hops.lookahead, level), given)
    return rows


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("data", type=Path, help="prepared folder (training.prepare): its unseen clips")
    p.add_argument("--videos", type=Path, help="what it was prepared from: phoneme times lie beside videos")
    p.add_argument("--clips", type=int, default=9, help="of each source (default %(default)s)")
    p.add_argument("--frames", type=int, default=75, help="of each clip, at most (default %(default)s)")
    p.add_argument("--hop", type=int, default=2, help="frames made at once (default %(default)s)")
    p.add_argument("--lookahead", type=int, default=1, help="provisional frames (default %(default)s)")
    p.add_argument("--json", type=Path, help="write the report here")
    args = p.parse_args(argv)
    torch.set_num_threads(1)
    try:
        if args.hop < 1 or args.lookahead < 0:
            raise BadInput("--hop must be at least 1, --lookahead at least 0")
        said = of_clips(args.data, args.videos, args.clips, args.frames)
        engine = load_engine("onnx-fp32", default_bundle(), 1)
        identities = [engine.identity(np.ascontiguousarray(one.rest[:, :2])) for one in said]
        rows = measure(load_motion(default_bundle()), said, identities, Hops(args.hop, args.lookahead))
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    report = {
        "machine": machine(),
        "versions": versions(),
        "commit": commit(),
        "settings": {"hop": args.hop, "lookahead": args.lookahead, "frames": args.frames},
        "clips": [one.name for one in said],
        "truth": truth(said),
        "rows": rows,
    }
    if args.json is not None:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
