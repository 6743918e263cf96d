"""Writes what came back into an mp4, in a thread, with the times at which it arrived."""

from __future__ import annotations

import fractions
import queue
import threading
from pathlib import Path

import av

from clients.headless.errors import BadArgument

QUEUE_FRAMES = 250  # about 3 s of pictures and sound; beyond it frames are dropped and counted
SETTLE_PICTURES = 25  # 1 s; arrival times of the first frames scatter, so the start waits for this many
MOST_HELD_FRAMES = 1000  # without so many pictures after some 20 s, what there is must do
VIDEO_TIME_BASE = fractions.Fraction(1, 90_000)


class Recorder:
    """An mp4 of pictures (H.264) and sound (AAC).

    Each stream keeps its own media times, shifted by one constant: the smallest arrival − media time seen in
    the first second. So both streams stand as they arrived, without the scatter of single arrivals.
    """

    def __init__(self, path: Path) -> None:
        self.dropped = 0
        self.error: str | None = None
        try:
            self._container = av.open(str(path), "w", format="mp4")
        except OSError as error:
            raise BadArgument(f"{path}: {error.strerror or error}") from error
        self._queue: queue.Queue[tuple[av.VideoFrame | av.AudioFrame, float] | None] = queue.Queue(
            QUEUE_FRAMES
        )
        self._held: list[tuple[av.VideoFrame | av.AudioFrame, float]] = []
        self._shift_s: dict[bool, float] | None = None
        self._video: av.VideoStream | None = None
        self._audio: av.AudioStream | None = None
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def add(self, frame: av.VideoFrame | av.AudioFrame, arrived_s: float) -> None:
        """Take a decoded frame and its arrival time (monotonic seconds); never waits."""
        try:
            self._queue.put_nowait((frame, arrived_s))
        except queue.Full:
            self.dropped += 1

    def close(self, deadline_s: float = 10.0) -> None:
        """Finish the file; waits at most ``deadline_s``. Call it off the event loop."""
        try:
            self._queue.put(None, timeout=deadline_s)
        except queue.Full:
            self.error = "the recorder is stuck"
            return
        self._thread.join(deadline_s)
        if self._thread.is_alive() and self.error is None:
            self.error = "the recorder did not finish the file in time"

    def _run(self) -> None:
        try:
            while (item := self._queue.get()) is not None:
                self._take(item)
            self._flush_held()
            for stream in (self._video, self._audio):
                if stream is not None:
                    self._container.mux(stream.encode(None))
        except (OSError, ValueError, av.FFmpegError) as error:
            self.error = f"recording stopped: {error}"
        finally:
            self._container.close()
        while self.error and self._queue.get() is not None:
            self.dropped += 1

    def _take(self, item: tuple[av.VideoFrame | av.AudioFrame, float]) -> None:
        if self._shift_s is not None:
            self._write(item[0])
            return
        self._held.append(item)
        # Sound alone must not start the file: a stream cannot be added when the first picture comes later.
        pictures = sum(isinstance(frame, av.VideoFrame) for frame, _ in self._held)
        if pictures >= SETTLE_PICTURES or len(self._held) >= MOST_HELD_FRAMES:
            self._flush_held()

    def _flush_held(self) -> None:
        if not self._held:
            return
        shifts: dict[bool, float] = {}
        for frame, arrived_s in self._held:
            is_video = isinstance(frame, av.VideoFrame)
            shift = arrived_s - float(frame.pts * frame.time_base)
            shifts[is_video] = min(shift, shifts.get(is_video, shift))
        first = min(shifts[isinstance(f, av.VideoFrame)] + float(f.pts * f.time_base) for f, _ in self._held)
        self._shift_s = {kind: shift - first for kind, shift in shifts.items()}
        self._open_streams()
        held, self._held = self._held, []
        for frame, _ in held:
            self._write(frame)

    def _open_streams(self) -> None:
        # both streams must exist before the header is written; a call without pictures gets sound only
        pictures = [f for f, _ in self._held if isinstance(f, av.VideoFrame)]
        if pictures:
            self._video = self._container.add_stream("libx264", rate=25)
            self._video.width, self._video.height = pictures[0].width, pictures[0].height
            self._video.pix_fmt = "yuv420p"
            self._video.codec_context.time_base = VIDEO_TIME_BASE
            # leave the processor to the server that is being measured
            self._video.options = {"preset": "ultrafast", "crf": "20", "tune": "zerolatency"}
        if any(isinstance(f, av.AudioFrame) for f, _ in self._held):
            self._audio = self._container.add_stream("aac", rate=48_000)
            self._audio.layout = "stereo"

    def _write(self, frame: av.VideoFrame | av.AudioFrame) -> None:
        is_video = isinstance(frame, av.VideoFrame)
        stream = self._video if is_video else self._audio
        if stream is None or self._shift_s is None:
            self.dropped += 1
            return
        seconds = max(0.0, float(frame.pts * frame.time_base) + self._shift_s.get(is_video, 0.0))
        if is_video:
            frame = frame.reformat(stream.width, stream.height, "yuv420p")
            frame.pict_type = av.video.frame.PictureType.NONE
            frame.time_base = VIDEO_TIME_BASE
        frame.pts = round(seconds / frame.time_base)
        self._container.mux(stream.encode(frame))
