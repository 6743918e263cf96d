"""Where the speech comes from: a file or a click train, played as a microphone at real-time pace."""

from __future__ import annotations

import asyncio
import fractions
import time

import av
import numpy as np
from aiortc import MediaStreamTrack

from clients.headless.errors import BadArgument
from clients.headless.testcard import I16, RATE

BLOCK = 960  # samples of one 20 ms block
MAX_FILE_S = 1_800.0


def load_speech(path: str) -> I16:
    """Any audio file as int16 [n], 48 kHz mono; raises ``BadArgument`` when it cannot be read or is empty."""
    try:
        with av.open(path) as container:
            if not container.streams.audio:
                raise BadArgument(f"{path}: there is no sound in it")
            resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
            blocks, total = [], 0
            for frame in container.decode(container.streams.audio[0]):
                frame.pts = None
                for out in resampler.resample(frame):
                    blocks.append(out.to_ndarray()[0])
                    total += len(blocks[-1])
                if total > MAX_FILE_S * RATE:
                    raise BadArgument(f"{path}: longer than {MAX_FILE_S / 60:.0f} minutes")
            blocks += [out.to_ndarray()[0] for out in resampler.resample(None)]
    except OSError as error:  # what av raises for a missing or unreadable file derives from it
        raise BadArgument(f"{path}: {error.strerror or error}") from error
    except av.FFmpegError as error:
        raise BadArgument(f"{path}: {error}") from error
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.int16)
    if not len(samples):
        raise BadArgument(f"{path}: no sound could be decoded")
    return np.ascontiguousarray(samples, dtype=np.int16)


class Microphone(MediaStreamTrack):  # type: ignore[misc]
    """Plays int16 [n] 48 kHz mono samples at real-time pace, then silence for ever.

    A block is handed over when its last sample has been "captured", as a sound card does.
    """

    kind = "audio"

    def __init__(self, samples: I16) -> None:
        super().__init__()
        self._samples = samples
        self._position = 0
        self.started_s: float | None = None  # monotonic time of the first sample

    def captured_s(self, sample: int) -> float | None:
        """Monotonic time at which a sample was captured; None before the microphone runs."""
        return None if self.started_s is None else self.started_s + sample / RATE

    async def recv(self) -> av.AudioFrame:
        """The next 20 ms."""
        if self.started_s is None:
            self.started_s = time.monotonic()
        due_s = self.started_s + (self._position + BLOCK) / RATE
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        block = np.zeros(BLOCK, np.int16)
        piece = self._samples[self._position : self._position + BLOCK]
        block[: len(piece)] = piece
        frame = av.AudioFrame.from_ndarray(block.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = RATE
        frame.pts = self._position
        frame.time_base = fractions.Fraction(1, RATE)
        self._position += BLOCK
        return frame
