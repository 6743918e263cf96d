"""What encodes the outgoing pictures: H.264 with little work and no delay, or VP8 where there is no H.264.

aiortc keeps what it is good at: it answers picture loss with a forced key frame, follows the receiver's
bandwidth estimate, sends and retransmits.
"""

from __future__ import annotations

import fractions
import logging
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from aiortc.codecs.base import Encoder
from aiortc.codecs.h264 import H264Encoder as AiortcH264
from aiortc.codecs.vpx import Vp8Encoder as AiortcVp8
from aiortc.mediastreams import convert_timebase
from av.frame import Frame
from av.video.frame import PictureType

from mytalk.clock import FPS, exact_div
from mytalk.types import U8
from mytalk.video.planar import frame_of

logger = logging.getLogger(__name__)
VIDEO_RATE = 90_000  # Hz, the RTP clock of video
VIDEO_TICKS_PER_FRAME = exact_div(VIDEO_RATE, FPS)  # 3,600
VIDEO_TIME_BASE = fractions.Fraction(1, VIDEO_RATE)
KEY_EVERY = 1_000_000  # frames: a key frame costs four others, so one is made only when it is asked for
BUFFER_S = 0.5  # of the bit rate: how far a large picture may borrow from later ones
REEL_SHARE = 0.9  # of the reel's bit rate: a receiver that takes less gets pictures of its own
FITTING_SHARE = (0.85, 1.3)  # of the codec's bit rate: targets that it may go on for
SMPTE170M, MPEG_RANGE = 6, 1  # what the colour conversion makes of RGB; without a word, receivers guess

# encoder → options of FFmpeg. libx264: ultrafast with the deblocking filter, which costs a tenth of a
# millisecond at 512×512 and gains 0.5 dB; at equal quality it takes 1.8 ms of a core where VP8 takes 4.8. The
# bit rate is a ceiling (crf): beyond this quality more bits are more packets, which nobody would see.
H264_OPTIONS: dict[str, dict[str, str]] = {
    "libx264": {
        "preset": "ultrafast",
        "tune": "zerolatency",
        "crf": "24",
        "x264-params": "no-deblock=0:deblock=0,0",
    },
    "h264_nvenc": {"preset": "p1", "tune": "ull", "zerolatency": "1", "forced-idr": "1", "rc": "cbr"},
}
VP8 = "vp8"
ENCODERS = ("auto", *H264_OPTIONS, VP8)
AUTO = ("h264_nvenc", "libx264")  # best first


@dataclass(frozen=True, slots=True)
class ReelPart:
    """One picture of an encoded loop that many viewers share (``idle_reel``).

    index: place in the loop, from 0 to length - 1. key: whether it can be decoded without the one before.
    data: H.264, Annex B. bits_per_s: the bit rate of the loop.
    """

    index: int
    length: int
    key: bool
    data: bytes
    bits_per_s: int

    def follows(self, index: int) -> bool:
        """Whether it is the next one after the part at ``index``."""
        return self.index == (index + 1) % self.length


class OutPicture(Frame):
    """A picture on its way to the encoder, which wraps it in its own thread."""

    def __init__(self, picture: U8, slot: int, part: ReelPart | None = None) -> None:
        """picture: see ``mytalk.video.planar``. part: the same as it was encoded for all, where it was."""
        super().__init__()
        self.picture, self.part = picture, part
        self.pts = slot * VIDEO_TICKS_PER_FRAME
        self.time_base = VIDEO_TIME_BASE

    def as_frame(self) -> av.VideoFrame:
        """What the codec takes."""
        frame: av.VideoFrame = frame_of(self.picture)
        frame.pts, frame.time_base = self.pts, self.time_base
        return frame


def open_h264(name: str, width: int, height: int, bits_per_s: int) -> Any:
    """An encoder without delay: a picture in, its bytes out. Raises ``av.FFmpegError``, ``ValueError``."""
    codec: Any = av.CodecContext.create(name, "w")
    codec.width, codec.height, codec.pix_fmt = width, height, "yuv420p"
    codec.framerate, codec.time_base = fractions.Fraction(FPS), VIDEO_TIME_BASE
    codec.bit_rate = bits_per_s
    codec.gop_size, codec.max_b_frames = KEY_EVERY, 0
    codec.thread_count = 1  # two would wait for each other longer than one works
    codec.profile = "Baseline"
    codec.colorspace, codec.color_primaries, codec.color_trc = SMPTE170M, SMPTE170M, SMPTE170M
    codec.color_range = MPEG_RANGE
    bounds = {"maxrate": str(bits_per_s), "bufsize": str(int(bits_per_s * BUFFER_S))}
    codec.options = {**H264_OPTIONS[name], **bounds}
    codec.open()
    return codec


def encode_h264(codec: Any, frame: av.VideoFrame, *, key: bool) -> bytes:
    """One picture as Annex B bytes; ``key``: decodable without any before it."""
    frame.pict_type = PictureType.I if key else PictureType.NONE
    return b"".join(bytes(packet) for packet in codec.encode(frame))


class H264Encoder(AiortcH264):  # type: ignore[misc]
    """H.264 of one viewer: pictures of its own, or the parts of a shared reel while they follow each other.

    A reel is joined at one of its key pictures; who leaves it goes on with a key picture of its own.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self._codec: Any = None
        self._bits_per_s = 0
        self._reel_index: int | None = None  # of the part sent last; None: the last picture was its own

    def encode(self, frame: Frame, force_keyframe: bool = False) -> tuple[list[bytes], int]:
        """RTP payloads and RTP time of one ``OutPicture``."""
        assert isinstance(frame, OutPicture)
        part = frame.part
        if part is not None and self._takes(part, force_keyframe):
            self._reel_index = part.index
            data = part.data
        else:
            data = self._own(frame, force_keyframe or self._reel_index is not None)
            self._reel_index = None
        timestamp = convert_timebase(frame.pts, frame.time_base, VIDEO_TIME_BASE)
        return self._packetize(self._split_bitstream(data)), timestamp

    def _takes(self, part: ReelPart, force_keyframe: bool) -> bool:
        if self.target_bitrate < REEL_SHARE * part.bits_per_s:
            return False
        if part.key:
            return True
        return not force_keyframe and self._reel_index is not None and part.follows(self._reel_index)

    def _own(self, frame: OutPicture, key: bool) -> bytes:
        picture = frame.as_frame()
        if not self._fits(picture.width, picture.height):
            self._codec = self._open(picture.width, picture.height)
        return encode_h264(self._codec, picture, key=key)

    def _fits(self, width: int, height: int) -> bool:
        """Whether the codec may go on; another begins with a key picture, so small steps are ignored."""
        codec = self._codec
        if codec is None or (codec.width, codec.height) != (width, height):
            return False
        low, high = FITTING_SHARE
        return bool(low * self._bits_per_s <= self.target_bitrate <= high * self._bits_per_s)

    def _open(self, width: int, height: int) -> Any:
        self._bits_per_s = self.target_bitrate
        try:
            return open_h264(self._name, width, height, self.target_bitrate)
        except (av.FFmpegError, ValueError) as error:
            if self._name == "libx264":
                raise
            # a card encodes a few streams at once and refuses the next
            logger.warning("%s cannot be used (%s); this viewer gets libx264", self._name, error)
            self._name = "libx264"
            return open_h264(self._name, width, height, self.target_bitrate)


class Vp8Encoder(AiortcVp8):  # type: ignore[misc]
    """aiortc's VP8, fed with ``OutPicture``."""

    def encode(self, frame: Frame, force_keyframe: bool = False) -> tuple[list[bytes], int]:
        """RTP payloads and RTP time of one ``OutPicture``."""
        assert isinstance(frame, OutPicture)
        encoded: tuple[list[bytes], int] = super().encode(frame.as_frame(), force_keyframe)
        return encoded


def encoder_for(mime_type: str, encoder: str) -> Encoder:
    """A new encoder for an agreed codec, ``video/H264`` or ``video/VP8``.

    encoder: one of ``H264_OPTIONS``, or ``VP8``: then a client that knows only H.264 gets libx264.
    """
    if mime_type.lower() == "video/vp8":
        return Vp8Encoder()
    return H264Encoder("libx264" if encoder == VP8 else encoder)


def preferred_codecs(encoder: str) -> tuple[str, str]:
    """MIME types of video to agree on, the best first."""
    codecs = ("video/H264", "video/VP8")
    return codecs[::-1] if encoder == VP8 else codecs


def works(name: str) -> bool:
    """Whether an H.264 encoder is there and encodes one small picture."""
    try:
        codec = open_h264(name, 256, 256, 500_000)
        picture = OutPicture(np.zeros((384, 256), np.uint8), 0).as_frame()
        return bool(encode_h264(codec, picture, key=True))
    except (av.FFmpegError, ValueError) as error:
        logger.debug("%s does not work here: %s", name, error)
        return False


def choose(wanted: str) -> str:
    """The encoder for ``wanted`` (one of ``ENCODERS``): itself, or for ``auto`` the best that works."""
    if wanted != "auto":
        return wanted
    return next((name for name in AUTO if works(name)), VP8)
