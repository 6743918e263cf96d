"""Video and audio files in, by PyAV: pictures as they were coded or as RGB, speech as mono int16."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import av

from mytalk.errors import BadInput
from mytalk.types import I16, U8
from mytalk.video.picture import BT709, CHROMA, JPEG, MPEG, Picture, evened, kept_format

DEFAULT_FPS = Fraction(25)
SEEK_MARGIN_S = 1.0  # reading starts so much earlier, to have the picture that is shown at the start
PROBED_PICTURES = 8  # that many are looked at for interlacing
HDR_CURVES = {16: "HDR (PQ)", 18: "HDR (HLG)"}  # transfer characteristics, ISO/IEC 23091-2
EXACT_LENGTH = ("mp4", "matroska")  # containers whose header tells the length reliably
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")
STREAMED_RIFF = 0x7FFF0000  # a length from which on it is a stand-in for an unknown one
CUT_OFF_S, CUT_OFF_SHARE = 1.0, 0.05  # that much missing at the end, by both, is a file that was cut off


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a video holds.

    width, height: of the upright picture in square pixels; coded: (width, height) as coded, upright. aspect:
    of a coded pixel. fps: nominal rate. duration_s: None when unknown. turns: quarter turns counter-clockwise
    that make it upright. format: pixel format in which it is worked on. colour: (matrix, primaries, transfer,
    range) as tagged. hdr: what kind, "" for ordinary video.
    """

    width: int
    height: int
    fps: Fraction
    duration_s: float | None
    has_sound: bool
    coded: tuple[int, int]
    aspect: Fraction
    turns: int
    interlaced: bool
    format: str
    colour: tuple[int, int, int, int]

    @property
    def hdr(self) -> str:
        """Name of the kind of high dynamic range, "" for ordinary video."""
        return HDR_CURVES.get(self.colour[2], "")


class RgbPicture(NamedTuple):
    """One picture: seconds since its stream began, and uint8 RGB [H, W, 3], upright, square pixels."""

    time_s: float
    rgb: U8


class _Timed(Protocol):
    @property
    def time_s(self) -> float: ...


T = TypeVar("T", bound=_Timed)


def check_file(path: Path, what: str) -> None:
    """Raise ``BadInput`` with one clear line unless ``path`` is a file with something in it."""
    if not path.exists():
        raise BadInput(f"{path}: no such {what} file")
    if not path.is_file():
        raise BadInput(f"{path}: not a file")
    if path.stat().st_size == 0:
        raise BadInput(f"{path}: the file is empty")


def _check_riff(path: Path) -> None:
    """Raise ``BadInput`` for a WAV or AVI file that is shorter than it says; FFmpeg would not mind."""
    with path.open("rb") as file:
        head = file.read(8)
    size = int.from_bytes(head[4:8], "little")
    # Programs that write to a pipe cannot know the size, and say the largest one instead.
    if head[:4] == b"RIFF" and path.stat().st_size < size + 7 and size < STREAMED_RIFF:
        raise BadInput(
            f"{path}: the file is cut off or damaged: {path.stat().st_size} of {size + 8} bytes", "cut_off"
        )


def _check_heic(path: Path) -> None:
    """Raise ``BadInput`` for a phone's HEIC picture: FFmpeg would give one of the tiles it is made of."""
    with path.open("rb") as file:
        head = file.read(64)
    brands = [head[at : at + 4] for at in (8, *range(16, min(64, int.from_bytes(head[:4], "big")), 4))]
    if head[4:8] == b"ftyp" and (
        brands[0] in HEIC_BRANDS or (brands[0] in (b"mif1", b"msf1") and set(brands) & set(HEIC_BRANDS))
    ):
        raise BadInput(f"{path}: HEIC pictures cannot be read; save it as JPEG or PNG, and use that", "heic")


@contextmanager
def _opened(path: Path, what: str) -> Iterator[Any]:
    check_file(path, what)
    try:
        _check_riff(path)
        _check_heic(path)
        with av.open(str(path)) as container:
            yield container
    except (av.FFmpegError, PermissionError) as error:
        reason = error.strerror or type(error).__name__
        raise BadInput(f"{path}: not a readable {what} file ({reason})") from error


def _video_stream(container: Any, path: Path) -> Any:
    if not container.streams.video:
        raise BadInput(f"{path}: there is no picture in this file")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    return stream


def scaled_size(width: int, height: int, short_side_px: int | None) -> tuple[int, int]:
    """Even width and height whose shorter side is at most ``short_side_px``; never enlarged."""
    factor = min(1.0, short_side_px / min(width, height)) if short_side_px else 1.0
    if factor == 1.0:
        return width, height
    return max(2, 2 * round(width * factor / 2)), max(2, 2 * round(height * factor / 2))


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """Frames of a stream; a damaged packet is skipped."""
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.InvalidDataError:
            continue
        yield from frames


def _duration_s(container: Any, stream: Any) -> float | None:
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / av.time_base


def _check_whole(path: Path, container: Any, stream: Any, end_s: float) -> None:
    """Raise ``BadInput`` when a file ends long before its header says."""
    promised_s = _duration_s(container, stream)
    if promised_s is None or not any(name in container.format.name for name in EXACT_LENGTH):
        return
    if promised_s < 86400 and promised_s - end_s > max(CUT_OFF_S, CUT_OFF_SHARE * promised_s):
        raise BadInput(
            f"{path}: the file is cut off or damaged: it ends after {end_s:.1f} of {promised_s:.1f} s",
            "cut_off",
        )


def _probed(container: Any, path: Path) -> VideoInfo:
    stream = _video_stream(container, path)
    some = list(islice(_decoded(container, stream), PROBED_PICTURES))
    if not some:
        raise BadInput(f"{path}: there is no picture in this file")
    frame = some[0]
    turns = round(frame.rotation / 90) % 4
    name = kept_format(frame.format.name)
    colour = (frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range)
    if frame.format.is_rgb:
        colour = (1, 1, 1, 1)
    if len(some) == 1 and name in ("yuv444p", "yuvj444p", "yuv422p", "yuvj422p"):
        name = "yuvj420p" if "j" in name else "yuv420p"  # a film made of a photograph is to play anywhere
    across, down = CHROMA[name]
    size, aspect = (frame.width, frame.height), Fraction(stream.sample_aspect_ratio or 1)
    if turns % 2:
        size, aspect = size[::-1], 1 / aspect
    coded = (size[0] + size[0] % across, size[1] + size[1] % down)
    return VideoInfo(
        width=max(1, round(coded[0] * float(aspect))),
        height=coded[1],
        fps=Fraction(stream.average_rate or stream.guessed_rate or DEFAULT_FPS),
        duration_s=_duration_s(container, stream),
        has_sound=bool(container.streams.audio),
        coded=coded,
        aspect=aspect,
        turns=turns,
        interlaced=any(f.interlaced_frame for f in some),
        format=name,
        colour=(int(colour[0]), int(colour[1]), int(colour[2]), int(colour[3])),
    )


def probe_video(path: Path) -> VideoInfo:
    """Size, rate, length, colours of a video; raises ``BadInput`` for anything that is not one."""
    with _opened(path, "video") as container:
        return _probed(container, path)


def _filters(info: VideoInfo) -> list[tuple[str, str]]:
    """What makes a frame progressive and upright: filters with their arguments."""
    chain = []
    if info.interlaced:
        chain.append(("bwdif", "mode=send_frame:deint=interlaced"))
    if info.turns == 2:
        chain += [("hflip", ""), ("vflip", "")]
    elif info.turns:
        chain.append(("transpose", "cclock" if info.turns == 1 else "clock"))
    return chain


def _converted(frame: Any, info: VideoInfo) -> Any:
    """A frame in the format that is kept; from RGB it becomes BT.709."""
    if frame.format.name == info.format:
        return frame
    full = frame.format.name.startswith("yuvj") or int(frame.color_range) == JPEG
    out = frame.reformat(
        format=info.format,
        src_color_range=JPEG if full else MPEG,
        dst_color_range=info.colour[3] or MPEG,
        dst_colorspace=BT709 if frame.format.is_rgb else None,
        interpolation="BICUBIC",
    )
    out.colorspace, _, _, out.color_range = info.colour
    return out


class _Preparation:
    """Makes decoded frames progressive, upright, even in size and of a format that is kept."""

    def __init__(self, info: VideoInfo, stream: Any) -> None:
        self._info, self._stream = info, stream
        self._size: tuple[int, int] | None = None
        self._graph: Any = None

    def _build(self, frame: Any) -> None:
        self._size, self._graph = (frame.width, frame.height), None
        chain = _filters(self._info)
        if not chain:
            return
        graph = av.filter.Graph()
        nodes = [
            graph.add_buffer(
                width=frame.width,
                height=frame.height,
                format=self._info.format,
                time_base=self._stream.time_base,
            )
        ]
        nodes += [graph.add(name, arguments) for name, arguments in chain]
        graph.link_nodes(*nodes, graph.add("buffersink")).configure()
        self._graph = graph

    def _pulled(self) -> Iterator[Any]:
        while True:
            try:
                yield self._graph.vpull()
            except (av.BlockingIOError, av.EOFError):
                return

    def run(self, frames: Iterable[Any]) -> Iterator[Any]:
        """Prepared frames, in order."""
        for raw in frames:
            if self._size != (raw.width, raw.height):
                if self._graph is not None:
                    self._graph.vpush(None)
                    yield from map(self._fitted, self._pulled())
                self._build(raw)
            pts, base = raw.pts, raw.time_base
            frame = _converted(raw, self._info)
            frame.pts, frame.time_base = pts, base
            if self._graph is None:
                yield self._fitted(frame)
                continue
            self._graph.vpush(frame)
            yield from map(self._fitted, self._pulled())
        if self._graph is not None:
            self._graph.vpush(None)
            yield from map(self._fitted, self._pulled())

    def _fitted(self, frame: Any) -> Any:
        """An odd size becomes even. A stream may change its size on the way, too; then the first one
        holds.
        """
        width, height = self._info.coded
        if (frame.width, frame.height) == (width, height):
            return frame
        pts, base = frame.pts, frame.time_base
        if 0 <= width - frame.width <= 1 and 0 <= height - frame.height <= 1:
            frame = evened(frame, width, height)
        else:
            frame = frame.reformat(width, height, interpolation="BICUBIC")
        frame.pts, frame.time_base = pts, base
        return frame


def read_frames(path: Path, *, start_s: float = 0.0, info: VideoInfo | None = None) -> Iterator[Picture]:
    """Pictures of a video as coded, upright and progressive, from ``start_s`` on, one at a time.

    info: what ``probe_video`` told, if known. Raises ``BadInput`` when the file is not a video, has no
    picture at all or is cut off; damaged packets are skipped.
    """
    known = info or probe_video(path)
    with _opened(path, "video") as container:
        stream = _video_stream(container, path)
        begin, step_s = stream.start_time or 0, 1 / float(known.fps)
        if start_s > 0:
            container.seek(begin + int(start_s / stream.time_base), stream=stream, backward=True)
        time_s, some = -step_s, False
        for frame in _Preparation(known, stream).run(_decoded(container, stream)):
            stamped = frame.pts is not None
            time_s = (
                float(frame.pts * frame.time_base - begin * stream.time_base) if stamped else time_s + step_s
            )
            some = True
            if time_s > start_s - step_s / 2:
                yield Picture(time_s, frame, float(known.aspect))
        if not some and start_s <= 0:
            raise BadInput(f"{path}: there is no picture in this file")
        if some:
            _check_whole(path, container, stream, time_s + step_s)


def read_pictures(
    path: Path, *, start_s: float = 0.0, short_side_px: int | None = None
) -> Iterator[RgbPicture]:
    """Pictures of a video from ``start_s`` on as RGB, in square pixels; raises what ``read_frames`` does."""
    info = probe_video(path)
    size = scaled_size(info.width, info.height, short_side_px)
    for picture in read_frames(path, start_s=start_s, info=info):
        yield RgbPicture(picture.time_s, picture.rgb(size=size))


def at_rate(pictures: Iterable[T], fps: Fraction, *, first: int = 0) -> Iterator[T]:
    """Pictures first, first+1, … of a video at a fixed rate: at k / fps the one with the nearest time stamp.

    Ends with the last picture's own time.
    """
    index: int = first
    before: T | None = None
    for picture in pictures:
        if before is not None:
            # A hair earlier, so that rounding cannot decide ties: the later picture has them all.
            middle_s = (before.time_s + picture.time_s) / 2 - 1e-6
            while index / fps < middle_s:
                yield before
                index += 1
        before = picture
    while before is not None and index / fps <= before.time_s + float(1 / fps) / 2:
        yield before
        index += 1


def frames_at_rate(
    path: Path, fps: Fraction, *, first: int = 0, info: VideoInfo | None = None
) -> Iterator[Picture]:
    """Pictures first, first+1, … of a video file at a fixed rate; the same wherever reading starts."""
    start_s = max(0.0, float(first / fps) - SEEK_MARGIN_S)
    return at_rate(read_frames(path, start_s=start_s, info=info), fps, first=first)


def read_at_rate(
    path: Path, fps: Fraction, *, first: int = 0, short_side_px: int | None = None
) -> Iterator[U8]:
    """``frames_at_rate`` as uint8 RGB [H, W, 3] in square pixels."""
    info = probe_video(path)
    size = scaled_size(info.width, info.height, short_side_px)
    for picture in frames_at_rate(path, fps, first=first, info=info):
        yield picture.rgb(size=size)


def read_speech(path: Path, rate_hz: int) -> Iterator[I16]:
    """The sound of an audio or video file: blocks of int16 [S], mono, at ``rate_hz``.

    Raises ``BadInput`` when there is none or the file is cut off; damaged packets are skipped.
    """
    with _opened(path, "audio") as container:
        if not container.streams.audio:
            raise BadInput(f"{path}: there is no sound in this file")
        stream = container.streams.audio[0]
        resampler = av.AudioResampler(format="s16", layout="mono", rate=rate_hz)
        samples = 0
        for frame in _decoded(container, stream):
            for out in resampler.resample(frame):
                samples += out.samples
                yield out.to_ndarray()[0]
        if not samples:
            raise BadInput(f"{path}: there is no sound in this file")
        _check_whole(path, container, stream, samples / rate_hz)
        for out in resampler.resample(None):
            yield out.to_ndarray()[0]
