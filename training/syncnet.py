"""SyncNet (Chung & Zisserman 2016): lip-sync confidence and distance; the weights come from a path.

The layers have the names and shapes of the public ``syncnet_v2.model``, and the sound features are its own:
13 MFCC, 100 a second. Pictures: 224×224, BGR, 0..255, five at a time; sound: 20 MFCC frames (0.2 s).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mytalk.clock import ANALYSIS_RATE
from mytalk.errors import BadInput
from mytalk.types import F32, U8
from training.networks import load_tensors

SHIFT_FRAMES = 15  # lags tried, either way
WINDOW = 5  # pictures of one look
MFCC_PER_FRAME = 4
MFCC_WINDOW = WINDOW * MFCC_PER_FRAME
FILTERS, COEFFICIENTS, FFT, LIFTER, PRE_EMPHASIS = 26, 13, 512, 22, 0.97
FRAME_SAMPLES, STEP_SAMPLES = 400, 160


@cache
def _filters() -> F32:
    """Triangular filters float32 [26, 257], evenly spaced in mel from 0 to 8 kHz, on whole FFT bins."""
    top = 2595 * np.log10(1 + ANALYSIS_RATE / 2 / 700)
    hz = 700 * (10 ** (np.linspace(0, top, FILTERS + 2) / 2595) - 1)
    bins = np.floor((FFT + 1) * hz / ANALYSIS_RATE)
    at = np.arange(FFT // 2 + 1)
    rows = []
    for low, middle, high in zip(bins, bins[1:], bins[2:], strict=False):
        rising = (at - low) / max(middle - low, 1)
        falling = (high - at) / max(high - middle, 1)
        inside = (at >= low) & (at < high)
        rows.append(np.where(inside, np.minimum(rising, np.where(at < middle, np.inf, falling)), 0))
    return np.maximum(np.stack(rows), 0).astype(np.float32)


def mfcc(speech: F32) -> F32:
    """Mel-frequency cepstral coefficients [T, 13] of 16 kHz speech -1..1; the first is the log energy."""
    sound = speech.astype(np.float64) * 32768
    sound = np.append(sound[:1], sound[1:] - PRE_EMPHASIS * sound[:-1])
    count = 1 + max(0, -(-(len(sound) - FRAME_SAMPLES) // STEP_SAMPLES))
    sound = np.pad(sound, (0, max(0, (count - 1) * STEP_SAMPLES + FRAME_SAMPLES - len(sound))))
    frames = np.lib.stride_tricks.sliding_window_view(sound, FRAME_SAMPLES)[::STEP_SAMPLES][:count]
    power = np.square(np.abs(np.fft.rfft(frames, FFT))) / FFT
    tiny = np.finfo(np.float64).eps
    bands = np.log(np.maximum(power @ _filters().T.astype(np.float64), tiny))
    n, k = np.arange(FILTERS), np.arange(COEFFICIENTS)[:, None]
    cosines = np.cos(np.pi * k * (2 * n + 1) / (2 * FILTERS)) * np.sqrt(2 / FILTERS)
    cosines[0] /= np.sqrt(2)
    lift = 1 + LIFTER / 2 * np.sin(np.pi * np.arange(COEFFICIENTS) / LIFTER)
    out = bands @ cosines.T * lift
    out[:, 0] = np.log(np.maximum(power.sum(axis=1), tiny))
    return out.astype(np.float32)


def _sound_layers() -> nn.Sequential:
    layers: list[nn.Module] = []
    shapes = ((1, 64), (64, 192), (192, 384), (384, 256), (256, 256))
    pools = {0: nn.MaxPool2d(1, 1), 1: nn.MaxPool2d(3, (1, 2)), 4: nn.MaxPool2d(3, (2, 2))}
    for number, (into, out) in enumerate(shapes):
        layers += [nn.Conv2d(into, out, 3, 1, 1), nn.BatchNorm2d(out), nn.ReLU()]
        layers += [pools[number]] if number in pools else []
    layers += [nn.Conv2d(256, 512, (5, 4)), nn.BatchNorm2d(512), nn.ReLU()]
    return nn.Sequential(*layers)


def _lip_layers() -> nn.Sequential:
    small, edge = (1, 3, 3), (0, 1, 1)
    shapes: tuple[tuple[int, int, tuple[int, ...], tuple[int, ...], tuple[int, ...]], ...] = (
        (3, 96, (5, 7, 7), (1, 2, 2), (0, 0, 0)),
        (96, 256, (1, 5, 5), (1, 2, 2), edge),
        (256, 256, small, (1, 1, 1), edge),
        (256, 256, small, (1, 1, 1), edge),
        (256, 256, small, (1, 1, 1), edge),
        (256, 512, (1, 6, 6), (1, 1, 1), (0, 0, 0)),
    )
    pools = {0: (0, 0, 0), 1: edge, 4: (0, 0, 0)}
    layers: list[nn.Module] = []
    for number, (into, out, kernel, stride, padding) in enumerate(shapes):
        layers += [nn.Conv3d(into, out, kernel, stride, padding), nn.BatchNorm3d(out), nn.ReLU()]
        layers += [nn.MaxPool3d(small, (1, 2, 2), pools[number])] if number in pools else []
    return nn.Sequential(*layers)


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 1024))


class SyncNet(nn.Module):
    """Two towers into one space: where lips and sound belong together their vectors are near."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud, self.netfcaud = _sound_layers(), _head()
        self.netcnnlip, self.netfclip = _lip_layers(), _head()

    def sound(self, coefficients: Tensor) -> Tensor:
        """Vectors [B, 1024] of MFCC [B, 1, 13, 20]."""
        out: Tensor = self.netfcaud(self.netcnnaud(coefficients).flatten(1))
        return out

    def lips(self, pictures: Tensor) -> Tensor:
        """Vectors [B, 1024] of pictures [B, 3, 5, 224, 224], BGR, 0..255."""
        out: Tensor = self.netfclip(self.netcnnlip(pictures).flatten(1))
        return out


def load_syncnet(path: Path) -> SyncNet:
    """SyncNet with weights in the layout of ``syncnet_v2.model``; raises ``BadInput`` for anything else."""
    net = SyncNet()
    try:
        net.load_state_dict(load_tensors(path, "SyncNet"))
    except RuntimeError as error:
        raise BadInput(f"{path}: not weights of SyncNet ({str(error).splitlines()[0]})") from error
    return net.eval().requires_grad_(False)


def agreement(lips: Tensor, sound: Tensor, reach: int = SHIFT_FRAMES) -> tuple[float, float]:
    """Confidence and distance from vectors [N, D] each, one a frame.

    At every lag, the mean distance of lips and sound; distance is the smallest, confidence how far the median
    of all lags lies above it.
    """
    padded = nn.functional.pad(sound, (0, 0, reach, reach))
    means = torch.stack(
        [(lips - padded[lag : lag + len(lips)] + 1e-6).norm(dim=1).mean() for lag in range(2 * reach + 1)]
    )
    # torch's median of an odd count is the middle one
    return float(means.median() - means.min()), float(means.min())


def sync_scores(net: SyncNet, pictures: U8, speech: F32, batch: int = 8) -> tuple[float, float] | None:
    """Confidence and distance of a clip; None when it is too short.

    pictures: uint8 RGB [F, 224, 224, 3] at 25 frames/s. speech: float32 [S], 16 kHz, in step with them.
    """
    heard = torch.from_numpy(mfcc(speech).T.copy())
    count = min(len(pictures) - WINDOW, (heard.shape[1] - MFCC_WINDOW) // MFCC_PER_FRAME)
    if count < 1:
        return None
    lips, sound = [], []
    for start in range(0, count, batch):
        rows = range(start, min(start + batch, count))
        looks = np.stack([pictures[i : i + WINDOW, :, :, ::-1] for i in rows])
        lips.append(net.lips(torch.from_numpy(looks.transpose(0, 4, 1, 2, 3).astype(np.float32))))
        pieces = [heard[:, i * MFCC_PER_FRAME : i * MFCC_PER_FRAME + MFCC_WINDOW] for i in rows]
        sound.append(net.sound(torch.stack(pieces)[:, None]))
    return agreement(torch.cat(lips), torch.cat(sound))
