"""Face crop, the mask of what speech moves, and pasting a rendered crop back into its frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from mytalk.errors import BadInput
from mytalk.landmarks.normalise import CROP, CROP_CENTRE, CROP_SIDE, Real
from mytalk.types import F32, U8
from mytalk.video.picture import Box, Picture
from mytalk.video.planar import full_planes, planes_of

# Outline of the mask in canonical units (x, y): from just below the nose to the neck under a fully dropped
# jaw. It hangs on the rigid upper face and never on the mouth that it must hide (design section 5).
MASK_OUTLINE = (
    (-0.30, 0.77),
    (0.30, 0.77),
    (0.62, 0.86),
    (0.80, 1.08),
    (0.80, 1.42),
    (0.70, 1.80),
    (0.50, 2.08),
    (0.20, 2.17),
    (-0.20, 2.17),
    (-0.50, 2.08),
    (-0.70, 1.80),
    (-0.80, 1.42),
    (-0.80, 1.08),
    (-0.62, 0.86),
)
FEATHER_PX = 5.0  # crop pixels, inside the mask
# Beside and below the face speech moves nothing: there a rendered crop could only get hair, collars and
# neck wrong. So the mask ends where the face does, and falls to nothing within so many crop pixels of it.
EDGE_PX = 6.0
_DOUBLED = [min(255, 2 * value) for value in range(256)]
PART_MARGIN_PX = 4  # around the crop, for interpolation
# A rendered crop loses contrast at edges, in the decoder and on the way to the frame's pixels: unsharp
# masking by a Gaussian of one pixel gives a part of it back (what it costs and brings: docs/models.md).
CRISPNESS = 0.85


@cache
def hidden_mask() -> F32:
    """What the encoders may not see of the current frame: float32 [256, 256], 1 inside the outline."""
    scale, oversample = CROP / CROP_SIDE, 4
    image = Image.new("L", (CROP * oversample, CROP * oversample))
    outline = [
        (
            ((x - CROP_CENTRE[0]) * scale + CROP / 2) * oversample,
            ((y - CROP_CENTRE[1]) * scale + CROP / 2) * oversample,
        )
        for x, y in MASK_OUTLINE
    ]
    ImageDraw.Draw(image).polygon(outline, fill=255)
    small = np.asarray(image.resize((CROP, CROP), Image.Resampling.BOX), np.float32) / 255
    return (small > 0).astype(np.float32)


@cache
def paste_mask() -> U8:
    """Blend weight of the rendered crop: uint8 [256, 256], 0 outside the outline, feathered inside it."""
    inside = Image.fromarray((hidden_mask() * 255).astype(np.uint8))
    margin = 2 * round(FEATHER_PX) + 1
    # Eroding first keeps the blurred edge wholly inside the hidden region.
    soft = inside.filter(ImageFilter.MinFilter(margin)).filter(ImageFilter.GaussianBlur(FEATHER_PX / 2))
    weight = np.asarray(soft, np.uint8).copy()
    weight[hidden_mask() == 0] = 0
    return weight


@cache
def paste_box() -> tuple[slice, slice]:
    """Rows and columns of a rendered crop that ``paste`` looks at."""
    rows, columns = np.nonzero(paste_mask())
    margin = 2  # bilinear sampling reaches one pixel beyond the mask
    return (
        slice(max(0, int(rows.min()) - margin), int(rows.max()) + 1 + margin),
        slice(max(0, int(columns.min()) - margin), int(columns.max()) + 1 + margin),
    )


@cache
def _crisper() -> ImageFilter.Kernel:
    """Unsharp masking of crop pixels: 3 × 3, of sum 1."""
    across = np.exp(-0.5 * np.arange(-1, 2) ** 2)
    blurred = np.outer(across, across) / across.sum() ** 2
    kernel = -CRISPNESS * blurred
    kernel[1, 1] += 1 + CRISPNESS
    return ImageFilter.Kernel((3, 3), kernel.ravel().tolist(), scale=1)


def _check_picture(picture: U8, name: str) -> None:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise BadInput(f"{name} must be uint8 [H, W, 3], not {picture.dtype} {picture.shape}")


def crop(frame: U8, matrix: F32) -> U8:
    """Cut the face crop uint8 [256, 256, 3] out of a frame uint8 [H, W, 3].

    matrix: float32 [2, 3], crop pixel → frame pixel (``landmarks.normalise.crop_matrices``). Where the frame
    is finer than the crop it is sampled more densely and averaged, so that detail does not alias. Beyond the
    frame its edge goes on: black there would be taken for something dark under the chin.
    """
    _check_picture(frame, "frame")
    density = max(1, min(8, int(np.ceil(float(np.hypot(matrix[0, 0], matrix[1, 0])) - 0.1))))
    frame, place = _extended(frame, matrix.astype(np.float64))
    fine = place @ np.diag([1 / density, 1 / density, 1.0])
    size = (CROP * density, CROP * density)
    image = Image.fromarray(frame).transform(
        size, Image.Transform.AFFINE, tuple(fine.ravel()), Image.Resampling.BICUBIC
    )
    return np.asarray(image.reduce(density) if density > 1 else image, np.uint8)


def _extended(frame: U8, matrix: Real) -> tuple[U8, Real]:
    """The frame with its edges repeated as far as the crop reaches, and the crop's matrix in it."""
    corners = np.array([(x, y, 1) for x in (0, CROP) for y in (0, CROP)]) @ matrix.T
    size = np.array((frame.shape[1], frame.shape[0]))
    # No further than a crop is wide: one that lies quite outside the frame shows nothing anyway.
    reach = np.ceil(np.ptp(corners, axis=0)).astype(int) + PART_MARGIN_PX
    before = np.clip(np.ceil(-corners.min(axis=0)).astype(int) + PART_MARGIN_PX, 0, reach)
    after = np.clip(np.ceil(corners.max(axis=0) - size).astype(int) + PART_MARGIN_PX, 0, reach)
    if not before.any() and not after.any():
        return frame, matrix
    moved = matrix.copy()
    moved[:, 2] += before
    margins = ((before[1], after[1]), (before[0], after[0]), (0, 0))
    return np.pad(frame, margins, mode="edge"), moved


def face_part(picture: Picture, matrix: F32) -> tuple[Box, U8, F32] | None:
    """The part of a picture that the face crop needs: its box, RGB of it, and the crop's matrix within it.

    matrix: float32 [2, 3], crop pixel → pixel as coded. None where the crop lies outside the picture.
    """
    corners = np.array([(x, y, 1) for x in (0, CROP) for y in (0, CROP)]) @ matrix.T
    low, high = corners.min(axis=0) - PART_MARGIN_PX, corners.max(axis=0) + PART_MARGIN_PX
    box = picture.aligned((float(low[0]), float(low[1]), float(high[0]), float(high[1])))
    if box[2] <= box[0] or box[3] <= box[1]:
        return None
    inner = matrix.copy()
    inner[:, 2] -= box[:2]
    return box, picture.rgb(box), inner


@cache
def _directions() -> F32:
    """Unit vectors all around, float32 [2, 64]."""
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False, dtype=np.float32)
    return np.stack([np.cos(angle), np.sin(angle)])


def face_outline(points: F32) -> F32:
    """Where a face ends: the polygon [64, 2] of the outermost of its landmarks [K, 2], crop pixels.

    Of a face turned to the camera that is the jaw; of one turned away the far cheek, behind which the jaw is.
    """
    outline: F32 = points[(points @ _directions()).argmax(axis=0)]
    return outline


def lowest(points: F32) -> float:
    """How far down a face reaches: of landmarks [n, 2], crop pixels."""
    return float(points[:, 1].max())


def _within(size: tuple[int, int], outlines: Sequence[Real], edge_px: float) -> Image.Image:
    """255 inside any of the polygons [n, 2], pixels; 0 further than ``edge_px`` outside of all of them."""
    image = Image.new("L", size)
    draw = ImageDraw.Draw(image)
    for outline in outlines:
        draw.polygon(outline.ravel().tolist(), fill=255)
    # A box blur is half at an edge and nothing its radius away.
    return image.filter(ImageFilter.BoxBlur(edge_px)).point(_DOUBLED)


def paste(
    frame: U8,
    rendered: U8,
    matrix: F32,
    strength: float = 1.0,
    outline: F32 | None = None,
    drop_px: float = 0.0,
) -> U8:
    """A copy of ``frame`` uint8 [H, W, 3], the rendered crop uint8 [256, 256, 3] blended in under the mask.

    strength: 0..1, how much of the rendered crop shows. outline: of the filmed face (``face_outline``), with
    which the mask ends; None: all of it. drop_px: crop pixels by which the rendered jaw hangs lower than the
    filmed one; the mask reaches down as far. Pixels outside are the frame's own, exactly.
    """
    _check_picture(frame, "frame")
    _check_picture(rendered, "rendered")
    height, width = frame.shape[:2]
    out = frame.copy()
    box = _target_box(matrix, (width, height), 1)
    if box is None:
        return out
    left, top, right, bottom = box
    weight = _paste_weight(strength)
    if outline is not None:
        ends = [outline.astype(np.float64), outline + np.array((0.0, max(0.0, drop_px)))]
        weight = ImageChops.multiply(weight, _within(weight.size, ends, EDGE_PX))
    layer = Image.fromarray(rendered).filter(_crisper())
    layer.putalpha(weight)
    layer = _warped(layer, (right - left, bottom - top), _back(matrix, (left, top)))
    region = Image.fromarray(np.ascontiguousarray(out[top:bottom, left:right]))
    region.paste(layer.convert("RGB"), (0, 0), layer.getchannel("A"))
    out[top:bottom, left:right] = np.asarray(region)
    return out


@dataclass(frozen=True, eq=False, slots=True)
class Patch:
    """Where a rendered crop goes in a planar picture, and how much of it shows; made once per clip frame.

    box: even, inside the picture. back: float64 [2, 3], pixel of the box → pixel of the crop's ``paste_box``.
    down: pixels of the box, float64 [2], of one crop pixel down. luma, chroma: the mask, uint8 [h, w] and
    [h/2, w/2] of the box. within: the filmed face, as large as they are; None: the mask does not end with it.
    """

    box: Box
    back: Real
    down: Real
    luma: U8
    chroma: U8
    within: tuple[U8, U8] | None

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return sum(weight.nbytes for weight in (self.luma, self.chroma, *(self.within or ())))

    def weights(self, drop_px: float) -> tuple[U8, U8]:
        """The mask of luma and chroma, as far as the face reaches; drop_px: as for ``paste``."""
        if self.within is None:
            return self.luma, self.chroma
        # Even numbers of pixels, so that colours go along.
        limits = np.array(self.luma.shape[::-1]) // 2 * 2
        moved = 2 * np.rint(max(0.0, drop_px) * self.down / 2)
        across, down = (int(v) for v in np.clip(moved, -limits, limits))
        return (
            np.minimum(self.luma, _reaching(self.within[0], across, down)),
            np.minimum(self.chroma, _reaching(self.within[1], across // 2, down // 2)),
        )


def _reaching(within: U8, across: int, down: int) -> U8:
    """What is inside [h, w], and what would be if it lay so many pixels further right and down."""
    if across == 0 and down == 0:
        return within
    (there_y, here_y), (there_x, here_x) = (
        (slice(max(0, by), size + min(0, by)), slice(max(0, -by), size - max(0, by)))
        for by, size in zip((down, across), within.shape, strict=True)
    )
    out = within.copy()
    np.maximum(out[there_y, there_x], within[here_y, here_x], out=out[there_y, there_x])
    return out


def patch(size: tuple[int, int], matrix: F32, outline: F32 | None = None) -> Patch | None:
    """What ``overlay`` needs for a picture of this even width and height; None: the mask is outside of it.

    matrix, outline: as for ``paste``.
    """
    box = _target_box(matrix, size, 2)
    if box is None:
        return None
    left, top, right, bottom = box
    back, shape = _back(matrix, (left, top)), (right - left, bottom - top)
    luma = _warped(_paste_weight(1.0), shape, back)
    inside = None
    if outline is not None:
        placed: Real = outline @ matrix[:, :2].T.astype(np.float64) + matrix[:, 2] - np.array((left, top))
        inside = _within(shape, [placed], EDGE_PX * float(np.hypot(matrix[0, 0], matrix[1, 0])))
    rows, columns = paste_box()
    back[:, 2] -= (columns.start, rows.start)
    return Patch(
        box,
        back,
        matrix[:, 1].astype(np.float64),
        np.asarray(luma, np.uint8),
        np.asarray(luma.reduce(2), np.uint8),
        None if inside is None else (np.asarray(inside, np.uint8), np.asarray(inside.reduce(2), np.uint8)),
    )


def overlay(picture: U8, rendered: U8, place: Patch, drop_px: float = 0.0) -> U8:
    """``paste`` for planar pictures (``video.planar``): a copy with the rendered crop blended in.

    rendered: uint8 RGB [256, 256, 3]. drop_px: as for ``paste``. Samples without weight are the picture's
    own, exactly.
    """
    _check_picture(rendered, "rendered")
    out = picture.copy()
    left, top, right, bottom = place.box
    luma, chroma = place.weights(drop_px)
    made = full_planes(rendered[paste_box()])
    halved = place.back * np.array((2.0, 2.0, 1.0))
    for index, (plane, source) in enumerate(zip(planes_of(out), made, strict=True)):
        step, back, weight = (2, halved, chroma) if index else (1, place.back, luma)
        target = plane[top // step : bottom // step, left // step : right // step]
        image = Image.fromarray(source)
        image = image if index else image.filter(_crisper())
        layer = _warped(image, (target.shape[1], target.shape[0]), back)
        target[:] = _mixed(target, np.asarray(layer, np.uint8), weight)
    return out


def _mixed(below: U8, above: U8, weight: U8) -> npt.NDArray[np.uint16]:
    """(above · weight + below · (255 − weight)) ÷ 255, within one; exact for weights 0 and 255."""
    mixed = np.multiply(above, weight, dtype=np.uint16)
    mixed += np.multiply(below, 255 - weight, dtype=np.uint16)
    mixed += 255  # and ÷ 256: a division by 255 would take as long as all the rest
    mixed >>= 8
    return mixed


def _target_box(matrix: F32, size: tuple[int, int], step: int) -> Box | None:
    """What pasting changes of a picture of this width and height, in multiples of ``step``; None: nothing."""
    spread = _paste_corners() @ matrix.T.astype(np.float64)
    left, top = (max(0, int(np.floor(v / step)) * step) for v in spread.min(axis=0))
    right, bottom = (
        min(int(np.ceil(v / step)) * step, end) for v, end in zip(spread.max(axis=0), size, strict=True)
    )
    return None if right <= left or bottom <= top else (left, top, right, bottom)


def _back(matrix: F32, corner: tuple[int, int]) -> Real:
    """Pixel of a box with this left and top → crop pixel, float64 [2, 3]."""
    back = np.linalg.inv(np.vstack([matrix.astype(np.float64), (0.0, 0.0, 1.0)]))[:2]
    back[:, 2] += back[:, :2] @ np.array(corner, np.float64)
    return back


def _warped(image: Image.Image, size: tuple[int, int], back: Real) -> Image.Image:
    return image.transform(size, Image.Transform.AFFINE, tuple(back.ravel()), Image.Resampling.BILINEAR)


@cache
def _paste_corners() -> Real:
    """Corners of what ``paste`` changes, float64 [4, 3]: (x, y, 1) in crop pixels."""
    rows, columns = np.nonzero(paste_mask())
    return np.array(
        [
            (x, y, 1.0)
            for x in (columns.min() - 1, columns.max() + 2)
            for y in (rows.min() - 1, rows.max() + 2)
        ]
    )


@lru_cache(maxsize=8)
def _paste_weight(strength: float) -> Image.Image:
    """``paste_mask`` times a strength, as an image; never written to."""
    return Image.fromarray(paste_mask() if strength >= 1 else (paste_mask() * strength).astype(np.uint8))
