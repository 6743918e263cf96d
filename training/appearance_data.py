"""Pictures for the appearance model: targets, lip references away from them, landmark images, flows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from mytalk.errors import BadInput
from mytalk.landmarks.draw import draw_landmarks
from mytalk.landmarks.layout import Layout
from mytalk.landmarks.normalise import CROP
from mytalk.landmarks.warp import FLOW_STRIDE as STRIDE
from mytalk.landmarks.warp import WINDOW_COLUMNS, WINDOW_ROWS, flow_shape, reference_flows
from mytalk.models.warping import REFERENCES
from mytalk.render.compose import hidden_mask
from mytalk.types import F32
from training.data import HELD_OUT_TAIL, Clip, crop_points
from training.looks import Looks, look
from training.occluders import occluded
from training.sources import SourceDraw

REFERENCE_RANKS = ((0.0, 0.2), (0.6, 0.85), (0.9, 1.0))  # closed, half open, open: ranks by mouth opening
MOUTH_ROWS, MOUTH_COLUMNS = 24, 30  # spread of the mouth's weight, crop pixels


@dataclass(frozen=True, slots=True)
class Box:
    """The part of the 256×256 crop that a model works on, in pixels."""

    top: int
    bottom: int
    left: int
    right: int


WINDOW = Box(*(row * STRIDE for row in WINDOW_ROWS), *(column * STRIDE for column in WINDOW_COLUMNS))
WHOLE = Box(0, CROP, 0, CROP)


@dataclass(frozen=True, slots=True)
class AppearanceDraw:
    """How batches are drawn (TOML table ``[data]``).

    clips, targets: clips of one batch and process, and pictures of each.
    sources, other_sources: how often each source is drawn (``training.sources``); empty: every clip alike.
    neighbour_frames: references are further than this from every target.
    by_opening_share: share of targets that are drawn the oftener the wider the mouth is open.
    posed_references_share: share of references picked by mouth opening, as for an actor; the rest at random.
    landmark_shift_px, landmark_noise_px: how unsure landmarks are, of a whole face and of each point.
    crop_jitter_px: most that a picture lies off its crop, across and down. flip: mirror half. looks: what the
    camera did. occluded_share: of pictures that something is held in front of (``training.occluders``); what
    it hides of a target does not count. outside_weight, mouth_weight, inside_weight: of the L1 outside the
    mask, and beyond 1 around and between the lips.
    """

    clips: int = 3
    targets: int = 3
    sources: dict[str, float] = field(default_factory=dict)
    other_sources: float = 1.0
    neighbour_frames: int = 5
    by_opening_share: float = 0.5
    posed_references_share: float = 0.6
    landmark_shift_px: float = 0.4
    landmark_noise_px: float = 0.25
    crop_jitter_px: int = 4
    flip: bool = True
    looks: Looks = field(default_factory=Looks)
    occluded_share: float = 0.0
    outside_weight: float = 0.1
    mouth_weight: float = 4.0
    inside_weight: float = 4.0

    def __post_init__(self) -> None:
        """Refuse a share that is none."""
        if not 0 <= self.occluded_share <= 1:
            raise BadInput(f"data.occluded_share must be between 0 and 1, not {self.occluded_share}")


Rows = tuple[np.ndarray, ...]


class AppearanceBatch(NamedTuple):
    """K pictures of each of C clips, float32 in 0..1; H×W is the model's part of the crop.

    references [C, 3, 3, H, W]; targets, images [C·K, 3, H, W]; flows [C·K, 3, 2, 36, 36], crop pixels;
    weights [C·K, 1, H, W]; mouths int [C·K, 2] (x, y).
    """

    references: Tensor
    targets: Tensor
    images: Tensor
    flows: Tensor
    weights: Tensor
    mouths: Tensor


class AppearanceBatches:
    """Draws batches; one clip gives one set of references and several targets."""

    def __init__(self, clips: list[Clip], settings: AppearanceDraw, layout: Layout, box: Box) -> None:
        self.settings, self.layout, self.box = settings, layout, box
        self.needs_flow = box == WINDOW
        self.arrays = {clip.name: _small_arrays(clip) for clip in clips}
        self.crops = {clip.name: clip.crops() for clip in clips}
        self.lip_centre = layout.mouth_gap.reshape(-1)
        self.inner_lips = next(c.points for c in layout.contours if c.name == "inner lips")
        kept = [c for c in clips if len(self._usable(c)) > REFERENCES]
        if not kept:
            raise BadInput(f"no clip to train on has more than {REFERENCES} pictures")
        self.draws = SourceDraw(kept, settings.sources, settings.other_sources)

    def _usable(self, clip: Clip) -> np.ndarray:
        """Indices into the clip's crops that are not held out."""
        picked, opening = self.arrays[clip.name]["picked"], self.arrays[clip.name]["opening"]
        usable = np.arange(len(picked))
        return usable[picked < len(opening) - HELD_OUT_TAIL] if clip.source == "actors" else usable

    def pick(self, clip: Clip, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Indices into the crops: targets [K], references [3] away from the targets' neighbours."""
        settings, usable = self.settings, self._usable(clip)
        picked, opening = self.arrays[clip.name]["picked"], self.arrays[clip.name]["opening"]
        # Open mouths are rarer than closed ones and harder.
        weight = 0.02 + np.clip(opening[picked[usable]], 0, 0.3)
        by_opening = random.choice(usable, settings.targets, p=weight / weight.sum())
        uniform = random.choice(usable, settings.targets)
        targets = np.where(random.random(settings.targets) < settings.by_opening_share, by_opening, uniform)
        distance = np.abs(picked[usable][:, None] - picked[targets][None]).min(axis=1)
        far = usable[distance > settings.neighbour_frames]
        if len(far) < REFERENCES:
            far = usable
        if random.random() > settings.posed_references_share:
            return targets, random.choice(far, REFERENCES, replace=False)
        ordered = far[np.argsort(opening[picked[far]])]
        ranks = [random.uniform(low, high) * (len(far) - 1) for low, high in REFERENCE_RANKS]
        return targets, ordered[np.round(ranks).astype(int)]

    def _windows(
        self, clip: Clip, index: np.ndarray, points: F32, random: np.random.Generator
    ) -> tuple[F32, F32]:
        """The model's part of some crops, float32 [n, 3, H, W] in 0..1, and their landmarks, off by a jitter.

        The demo actors stay as they are, since their look must be exact.
        """
        box, most, exact = self.box, self.settings.crop_jitter_px, clip.source == "actors"
        across, down = random.integers(-most, most + 1, (2, len(index))) * (not exact)
        # What would lie beyond the crop is not there: a jitter ends at its edges.
        across = np.clip(across, -box.left, CROP - box.right)
        down = np.clip(down, -box.top, CROP - box.bottom)
        crops = self.crops[clip.name]
        pictures = np.stack(
            [
                crops[i, box.top + y : box.bottom + y, box.left + x : box.right + x]
                for i, x, y in zip(index, across, down, strict=True)
            ]
        )
        pictures = pictures.transpose(0, 3, 1, 2).astype(np.float32) / 255
        moved = points - np.stack([across, down], axis=-1)[:, None].astype(np.float32)
        return pictures if exact else look(pictures, self.settings.looks, random), moved

    def _landmarks(self, clip: Clip, picked: np.ndarray, random: np.random.Generator) -> F32:
        """Crop landmarks float32 [n, K, 2] of some crops, disturbed as much as a detector is unsure."""
        points = crop_points(self.arrays[clip.name], picked)
        whole = random.normal(0, self.settings.landmark_shift_px, (len(points), 1, 2))
        each = random.normal(0, self.settings.landmark_noise_px, points.shape)
        return (points + whole + each).astype(np.float32)

    def draw(self, random: np.random.Generator) -> AppearanceBatch:
        """One batch."""
        clips = [self.draws.pick(random) for _ in range(self.settings.clips)]
        return self.batch_of([self.rows_of(clip, *self.pick(clip, random), random) for clip in clips])

    def batch_of(self, parts: list[Rows]) -> AppearanceBatch:
        """What ``rows_of`` some clips gave, as tensors."""
        references, *rest, mouths = zip(*parts, strict=True)
        return AppearanceBatch(
            torch.from_numpy(np.ascontiguousarray(np.stack(references))),
            *(torch.from_numpy(np.ascontiguousarray(np.concatenate(x))) for x in rest),
            torch.from_numpy(np.concatenate(mouths)).long(),
        )

    def rows_of(
        self, clip: Clip, target_index: np.ndarray, reference_index: np.ndarray, random: np.random.Generator
    ) -> Rows:
        """What one clip gives to a batch: the fields of ``AppearanceBatch``, in order."""
        box = self.box
        rows, columns = slice(box.top, box.bottom), slice(box.left, box.right)
        index = np.concatenate([reference_index, target_index])
        pictures, points = self._windows(clip, index, self._landmarks(clip, index, random), random)
        given, wanted = points[:REFERENCES], points[REFERENCES:]
        drawn = np.stack([draw_landmarks(p, self.layout) for p in wanted])[:, :, rows, columns]
        flows = np.zeros((len(wanted), REFERENCES, 2, *flow_shape()), np.float32)
        if self.needs_flow:
            flows = np.stack([reference_flows(p, given, self.layout) for p in wanted])
        mouths = wanted[:, self.lip_centre].mean(axis=1)
        weight = self._weight(mouths, wanted)
        if self.settings.occluded_share > 0:
            pictures, seen = occluded(pictures, self.settings.occluded_share, random)
            weight = weight * seen[REFERENCES:, None]
        mouths -= (box.left, box.top)
        if self.settings.flip and clip.source != "actors" and random.random() < 0.5:
            pictures, drawn, weight, flows = (x[..., ::-1] for x in (pictures, drawn, weight, flows))
            flows = flows * np.array([-1, 1], np.float32)[:, None, None]
            mouths[:, 0] = box.right - box.left - mouths[:, 0]
        return pictures[:REFERENCES], pictures[REFERENCES:], drawn, flows, weight, mouths

    def _weight(self, mouths: F32, points: F32) -> F32:
        """Weight of every pixel, float32 [n, 1, H, W]; mouths: centres [n, 2] of landmarks ``points``."""
        box, settings = self.box, self.settings
        rows, columns = np.mgrid[box.top : box.bottom, box.left : box.right] + 0.5
        squares = [((columns - x) / MOUTH_COLUMNS) ** 2 + ((rows - y) / MOUTH_ROWS) ** 2 for x, y in mouths]
        near = np.exp(-0.5 * np.stack(squares))
        hidden = hidden_mask()[box.top : box.bottom, box.left : box.right]
        inside = settings.outside_weight + (1 - settings.outside_weight) * hidden
        between = np.stack([self._between_lips(face) for face in points])
        raised = 1 + settings.mouth_weight * near + settings.inside_weight * between
        weight: F32 = (inside * raised).astype(np.float32)[:, None]
        return weight

    def _between_lips(self, points: F32) -> F32:
        """1 where teeth and tongue show, float32 [H, W]."""
        box = self.box
        image = Image.new("L", (box.right - box.left, box.bottom - box.top))
        outline = points[list(self.inner_lips)] - (box.left, box.top)
        ImageDraw.Draw(image).polygon([(float(x), float(y)) for x, y in outline], fill=1)
        return np.asarray(image, np.float32)


def _small_arrays(clip: Clip) -> dict[str, np.ndarray]:
    """What drawing needs of a clip's arrays; raises ``BadInput`` for a damaged clip."""
    try:
        arrays = clip.arrays()
        return {name: arrays[name] for name in ("points", "matrices", "picked", "opening")}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        line = f"{clip.name} is damaged: delete it and run training.prepare again ({error})"
        raise BadInput(line) from error
