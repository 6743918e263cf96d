"""wav2vec2 features (paper 3.3) through transformers, a local folder or a hub id, in the one chunker."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import nn

from mytalk.audio.speech_encoder import FixedContextEncoder
from mytalk.clock import ANALYSIS_RATE
from mytalk.errors import BadInput
from mytalk.models.feature_audio import FeatureAudioEncoder
from mytalk.models.motion_config import AUDIO_PER_FRAME
from mytalk.types import F32

SAMPLES_PER_FRAME = 320  # 50 Hz


@dataclass(frozen=True, slots=True)
class Wav2Vec2Config:
    """How wav2vec2 is run.

    where: a folder that ``save_pretrained`` wrote, or a hub id such as ``facebook/wav2vec2-base-960h``.
    layer: hidden layer that is read, 0 = what enters the transformer, -1 = its last layer.
    hop_frames: 20 ms frames per chunk. left_frames, right_frames: context; the right one is waited for.

    With these defaults the delay is 0.78 s: wav2vec2 hears both ways; live microphones want log-mel.
    """

    where: str
    layer: int = -1
    hop_frames: int = 20
    left_frames: int = 80
    right_frames: int = 20


def _load(where: str) -> nn.Module:
    try:
        from transformers import AutoConfig, Wav2Vec2Model
    except ImportError as error:
        raise BadInput("wav2vec2 needs transformers, which the train extra installs") from error
    try:
        config = AutoConfig.from_pretrained(where)
        if config.model_type != "wav2vec2":
            raise BadInput(f"{where}: is a {config.model_type} model, not wav2vec2")
        model: nn.Module = Wav2Vec2Model.from_pretrained(where)
    except BadInput:
        raise
    except (
        Exception
    ) as error:  # transformers raises nearly anything for a folder that is not one, or no network
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(f"{where}: wav2vec2 cannot be had from there ({reason})") from error
    return model


class _Run:
    """One stretch of sound → features of its middle; holds the networks, changes nothing."""

    def __init__(
        self, model: Any, config: Wav2Vec2Config, audio: FeatureAudioEncoder | None, device: torch.device
    ) -> None:
        self.model = model.eval().requires_grad_(False).to(device)
        self.audio = None if audio is None else audio.eval().to(device)
        self.config, self.device = config, device

    @torch.inference_mode()
    def __call__(self, stretch: F32) -> F32:
        """Float32 [S] → [hop, width]; the stretch is normalised as the model was trained, by itself alone."""
        normal = (stretch - stretch.mean()) / np.sqrt(stretch.var() + 1e-7)
        given = torch.from_numpy(normal.astype(np.float32))[None].to(self.device)
        hidden = self.model(given, output_hidden_states=True).hidden_states[self.config.layer][0]
        first, count = self.config.left_frames, self.config.hop_frames
        if self.audio is not None:
            frames = self.config.left_frames + self.config.hop_frames + self.config.right_frames
            hidden = self.audio(hidden[None, : frames // 2 * 2])[0]
            first, count = first // 2, count // 2
        features: F32 = hidden[first : first + count].float().cpu().numpy()
        return features


def _check_audio(audio: FeatureAudioEncoder, config: Wav2Vec2Config, width: int) -> None:
    if audio.config.audio_band:
        raise BadInput("an audio encoder with a finite band needs no chunks; give it the features")
    if audio.config.speech_width != width:
        raise BadInput(f"{config.where}: gives {width} features, not {audio.config.speech_width}")
    if config.hop_frames % AUDIO_PER_FRAME or config.left_frames % AUDIO_PER_FRAME:
        raise BadInput("hop and left context must be whole video frames: even numbers of features")


def load_wav2vec2(
    config: Wav2Vec2Config,
    audio: FeatureAudioEncoder | None = None,
    device: torch.device | str = "cpu",
) -> FixedContextEncoder:
    """The encoder: features float32 [n, width] at 50 Hz; ``width`` is the model's (768 for base).

    With ``audio``, a motion model's encoder with ``audio_band`` 0 (the paper's, which hears all it is given),
    its features at 25 Hz, from the same stretch of sound: what the denoiser takes, streamed.

    Raises ``BadInput``, in one line, where transformers or the model cannot be had, or where it is none that
    works at 16 kHz and 50 Hz.
    """
    model = _load(config.where)
    shape: Any = model.config
    if prod(shape.conv_stride) != SAMPLES_PER_FRAME:
        rate = ANALYSIS_RATE / prod(shape.conv_stride)
        raise BadInput(f"{config.where}: gives {rate:g} features a second, not 50")
    if not -shape.num_hidden_layers - 1 <= config.layer <= shape.num_hidden_layers:
        raise BadInput(f"{config.where}: has {shape.num_hidden_layers} layers, not {config.layer}")
    if config.right_frames < 1:
        raise BadInput("wav2vec2 needs a right context of at least one frame")
    together = 1 if audio is None else AUDIO_PER_FRAME
    if audio is not None:
        _check_audio(audio, config, int(shape.hidden_size))
    return FixedContextEncoder(
        run=_Run(model, config, audio, torch.device(device)),
        width=int(shape.hidden_size) if audio is None else audio.config.audio_dim,
        samples_per_frame=SAMPLES_PER_FRAME * together,
        hop_frames=config.hop_frames // together,
        left_samples=config.left_frames * SAMPLES_PER_FRAME,
        right_samples=config.right_frames * SAMPLES_PER_FRAME,
    )
