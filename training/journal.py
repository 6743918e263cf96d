"""What a run tells: a progress bar or lines for a person, TensorBoard and picture files for later."""

from __future__ import annotations

import io
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import FileWriter
from torch.utils.tensorboard.summary import scalar

from mytalk.clock import FPS
from mytalk.types import U8


def animate(frames: U8) -> bytes:
    """A looping GIF of uint8 pictures [F, H, W, 3] at the video's rate."""
    pictures = [Image.fromarray(frame) for frame in frames]
    memory = io.BytesIO()
    pictures[0].save(
        memory, "GIF", save_all=True, append_images=pictures[1:], duration=round(1000 / FPS), loop=0
    )
    return memory.getvalue()


def grid(pictures: U8, columns: int) -> U8:
    """Pictures [N, H, W, 3] side by side, ``columns`` a row, padded with black: [H', W', 3]."""
    count, height, width, _ = pictures.shape
    rows = -(-count // columns)
    padded = np.zeros((rows * columns, height, width, 3), np.uint8)
    padded[:count] = pictures
    return padded.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, -1, 3)


class Journal:
    """Writes into ``out`` on the first process; ``active=False`` (the others) writes nothing at all.

    A context manager. Times come in as ``now`` seconds, and TensorBoard's stamps are the wall clock's.
    """

    def __init__(self, out: Path, title: str, active: bool, first_step: int = 0) -> None:
        self.out, self.active, self.title = out, active, title
        self.console = Console()
        self.bar: Progress | None = None
        self.writer: FileWriter | None = None
        if not active:
            return
        self.writer = FileWriter(str(out / "events"))
        # A run that was killed may have written more than its last checkpoint knows: that is hidden.
        start = Event(step=first_step, session_log=SessionLog(status=SessionLog.START))
        start.wall_time = time.time()
        self.writer.add_event(start)
        if self.console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}"),
                console=self.console,
            )
            self.task = self.bar.add_task(title, total=1.0, figures="")

    def __enter__(self) -> Self:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()
        if self.writer is not None:
            self.writer.close()

    def advance(self, share: float) -> None:
        """Move the bar to ``share`` of the run (0..1)."""
        if self.bar is not None:
            self.bar.update(self.task, completed=share)

    def say(self, line: str) -> None:
        """One line for a person."""
        if self.active:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def report(self, step: int, minutes: float, figures: dict[str, float]) -> None:
        """Scalars of one step: to TensorBoard, and to the bar or as a line."""
        if self.writer is None:
            return
        for name, value in figures.items():
            self.writer.add_summary(scalar(name, value), step)
        text = " ".join(f"{name} {value:.4g}" for name, value in figures.items())
        if self.bar is not None:
            self.bar.update(self.task, description=f"{self.title} step {step}", figures=text)
        else:
            self.say(f"step {step} {minutes:.1f} min {text}")

    def _show(self, step: int, name: str, suffix: str, data: bytes, size: tuple[int, int]) -> None:
        assert self.writer is not None
        image = Summary.Image(width=size[0], height=size[1], colorspace=3, encoded_image_string=data)
        self.writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)
        (self.out / f"{name}.{suffix}").write_bytes(data)

    def picture(self, step: int, name: str, picture: U8) -> None:
        """An image grid uint8 [H, W, 3]: to TensorBoard and as NAME.png, the newest."""
        if self.writer is None:
            return
        memory = io.BytesIO()
        Image.fromarray(picture).save(memory, "PNG")
        self._show(step, name, "png", memory.getvalue(), (picture.shape[1], picture.shape[0]))

    def video(self, step: int, name: str, frames: U8) -> None:
        """A video uint8 [F, H, W, 3], as a GIF: to TensorBoard's images, where it plays, and as NAME.gif."""
        if self.writer is not None:
            self._show(step, name, "gif", animate(frames), (frames.shape[2], frames.shape[1]))
