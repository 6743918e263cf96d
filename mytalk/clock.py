"""The one clock: video frames, analysis samples and playout samples on the speech timeline."""


def exact_div(numerator: int, denominator: int) -> int:
    """Divide two integers that must divide exactly; raises ``ValueError`` if they do not."""
    quotient, remainder = divmod(numerator, denominator)
    if remainder:
        raise ValueError(f"{numerator} is not a multiple of {denominator}")
    return quotient


FPS = 25  # video frames per second
ANALYSIS_RATE = 16_000  # Hz, mono float32: what the models hear
PLAYOUT_RATE = 48_000  # Hz, mono int16: what leaves, at most resampled from what came in
ANALYSIS_SAMPLES_PER_FRAME = exact_div(ANALYSIS_RATE, FPS)  # 640
PLAYOUT_SAMPLES_PER_FRAME = exact_div(PLAYOUT_RATE, FPS)  # 1,920
FRAME_S = 1 / FPS  # 0.04 s


def frame_to_analysis_sample(frame: int) -> int:
    """First 16 kHz sample of a video frame."""
    return frame * ANALYSIS_SAMPLES_PER_FRAME


def frame_to_playout_sample(frame: int) -> int:
    """First 48 kHz sample of a video frame."""
    return frame * PLAYOUT_SAMPLES_PER_FRAME


def frame_to_seconds(frame: int) -> float:
    """Start of a video frame on the speech clock, in seconds."""
    return frame / FPS
