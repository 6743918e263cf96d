"""Sizes and variants of the motion model; frozen, and what an impossible combination raises."""

from __future__ import annotations

from dataclasses import dataclass

from mytalk.errors import BadInput

MEL_PER_AUDIO_FRAME = 2  # 100 Hz log-mel → 50 Hz
AUDIO_PER_FRAME = 2  # 50 Hz → 25 frames/s
RIGHT_AUDIO_FRAMES = 1  # right context of the log-mel encoder's last convolution: 20 ms, counted as delay

CROSS = ("embed_cross", "key_cross")  # conditions that come in by cross-attention
CONDITIONS = (*CROSS, "key_concat", "key_add")
SPEECH = ("log_mel", "wav2vec2")
CODES = ("components", "raw")


@dataclass(frozen=True, slots=True)
class MotionConfig:
    """Sizes of the motion model; the defaults are ``tiny``, which ships.

    coefficients: C, width of what is generated: principal components of the compact landmarks' displacement
        (code ``components``), or compact · coordinates (code ``raw``, the paper's).
    compact, coordinates: points that are generated, and numbers per point (3 in space, 2 in the picture).
    upper: U, numbers of the upper-face prefix. identity: E, width of the identity embedding.
    condition: how identity comes in (paper Table 5): ``embed_cross`` (ours), or the key frame's landmarks
        (``key_points`` points, x and y) by ``key_concat``, ``key_add`` or ``key_cross``.
    identity_tokens, identity_per_block: tokens that cross-attention sees, and whether each block has its own
        MLP to make them. mlp_hidden: width inside the condition MLPs, 0 = dim.
    dim, layers, heads, hidden, kernel, dropout: of the Conformer backbone (hidden: macaron feed-forward).
    causal: convolutions hear the past alone (what serves); False: centred, the paper's.
    time_width: width of the sinusoidal encoding of the noise level.
    speech: ``log_mel`` [80 at 100 Hz] or ``wav2vec2`` [speech_width at 50 Hz].
    audio_*: the audio encoder's Conformer. audio_band: 50 Hz frames an audio layer looks back (and, where not
        audio_causal, ahead); 0: all it is given, as the paper does with a whole clip.
    window: W, known frames kept. tokens: T, most frames of one streamed call.
    recompute: recompute activations of a block in the backward pass, which saves memory.
    """

    coefficients: int = 32
    compact: int = 178
    upper: int = 124
    identity: int = 64
    identity_tokens: int = 4
    dim: int = 160
    layers: int = 4
    heads: int = 4
    hidden: int = 320
    kernel: int = 5
    audio_dim: int = 128
    audio_layers: int = 2
    audio_heads: int = 4
    audio_hidden: int = 256
    audio_kernel: int = 5
    audio_band: int = 16
    mels: int = 80
    window: int = 240
    tokens: int = 8
    dropout: float = 0.1
    coordinates: int = 3
    code: str = "components"
    condition: str = "embed_cross"
    key_points: int = 478
    identity_per_block: bool = False
    mlp_hidden: int = 0
    causal: bool = True
    time_width: int = 64
    speech: str = "log_mel"
    speech_width: int = 768
    audio_causal: bool = True
    recompute: bool = False

    def __post_init__(self) -> None:
        """Raise ``BadInput`` for names that do not exist and widths that do not fit together."""
        for name, value, known in (
            ("condition", self.condition, CONDITIONS),
            ("speech", self.speech, SPEECH),
            ("code", self.code, CODES),
        ):
            if value not in known:
                raise BadInput(f"motion {name} must be one of {', '.join(known)}, not {value!r}")
        if self.code == "raw" and self.coefficients != self.compact * self.coordinates:
            raise BadInput(
                f"with code 'raw', coefficients must be compact · coordinates = "
                f"{self.compact * self.coordinates}, not {self.coefficients}"
            )
        if self.dim % (2 * self.heads) or self.audio_dim % (2 * self.audio_heads):
            raise BadInput("dim and audio_dim must be multiples of twice their heads (rotary positions)")
        if self.speech == "log_mel" and not (self.audio_causal and self.audio_band > 0):
            raise BadInput("the log-mel encoder is causal with a finite band; a free one needs wav2vec2")

    @property
    def hidden_of_mlp(self) -> int:
        """Width inside the speech and identity MLPs."""
        return self.mlp_hidden or self.dim

    @property
    def condition_width(self) -> int:
        """Numbers of the identity condition: E, or x and y of the key frame's landmarks."""
        return self.identity if self.condition == "embed_cross" else 2 * self.key_points

    @property
    def left_audio_frames(self) -> int:
        """50 Hz frames before the first token that its feature can depend on (log-mel: two more to align)."""
        if self.audio_band == 0:
            return 0
        if self.speech == "wav2vec2":
            heard = self.audio_kernel - 1 if self.audio_causal else (self.audio_kernel - 1) // 2
            return self.audio_layers * (self.audio_band - 1 + heard) + 1
        reach = self.audio_layers * (self.audio_band - 1 + self.audio_kernel - 1) + 3
        return reach + reach % 2 + 2

    @property
    def right_audio_frames(self) -> int:
        """50 Hz frames after the last token that its feature depends on; counted as delay."""
        if self.speech == "log_mel":
            return RIGHT_AUDIO_FRAMES
        if self.audio_causal or self.audio_band == 0:
            return 0
        return self.audio_layers * (self.audio_band - 1 + self.audio_kernel // 2)

    def speech_frames(self, tokens: int) -> int:
        """Frames of speech features that ``tokens`` video frames need, contexts included."""
        audio = self.left_audio_frames + AUDIO_PER_FRAME * tokens + self.right_audio_frames
        return audio * (MEL_PER_AUDIO_FRAME if self.speech == "log_mel" else 1)

    @property
    def mel_frames(self) -> int:
        """M, frames of speech features (log-mel at 100 Hz, wav2vec2 at 50 Hz) of one streamed call."""
        return self.speech_frames(self.tokens)

    @property
    def mel_right(self) -> int:
        """Frames of speech features after the end of the last token."""
        return self.right_audio_frames * (MEL_PER_AUDIO_FRAME if self.speech == "log_mel" else 1)
