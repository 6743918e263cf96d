"""What tests of the page do with it: begin a call, wait, and look at how much of the picture moves."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean, median

PATIENCE_S = 40.0  # the machine may be busy with other tests
# Looks at every shown picture: how much mouth and brow change, and how loud the sound with it is.
WATCH = """
() => {
  const video = document.getElementById('video');
  const canvas = Object.assign(document.createElement('canvas'), { width: 128, height: 128 });
  const context = canvas.getContext('2d', { willReadFrequently: true });
  const audio = new AudioContext();
  const analyser = Object.assign(audio.createAnalyser(), { fftSize: 2048 });
  audio.createMediaStreamSource(video.srcObject).connect(analyser);
  const sound = new Float32Array(2048);
  window.samples = [];
  let before = null;
  const moved = (a, b) => a.reduce((sum, x, i) => sum + Math.abs(x - b[i]), 0) / a.length;
  const look = () => {
    context.drawImage(video, 0, 0, 128, 128);
    const mouth = context.getImageData(40, 68, 48, 38).data;
    const brow = context.getImageData(40, 22, 48, 38).data;
    analyser.getFloatTimeDomainData(sound);
    const level = Math.sqrt(sound.reduce((sum, x) => sum + x * x, 0) / sound.length);
    if (before) {
      const t = performance.now() / 1000;
      window.samples.push({ t, level, mouth: moved(mouth, before.mouth), brow: moved(brow, before.brow) });
    }
    before = { mouth, brow };
    video.requestVideoFrameCallback(look);
  };
  video.requestVideoFrameCallback(look);
}
"""


def until(condition: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.2)


def decoded(page) -> int:
    return int(page.evaluate("document.getElementById('video').getVideoPlaybackQuality().totalVideoFrames"))


def wait_for_25_fps(page) -> None:
    def smooth() -> bool:
        first, at = decoded(page), time.monotonic()
        time.sleep(2.0)
        return 22.5 <= (decoded(page) - first) / (time.monotonic() - at) <= 27.5

    until(smooth, "25 decoded pictures a second")


def status(page) -> str:
    return str(page.inner_text("#status"))


def begin(page, url: str) -> None:
    page.goto(url)
    page.wait_for_selector(".actor")
    page.click("#start")
    until(lambda: page.get_attribute("#frame", "data-on") == "true", "a picture")


@dataclass(frozen=True)
class Motion:
    """How much a region changes from picture to picture (mean absolute difference of 0..255)."""

    mouth: float
    brow: float


def motion(page, seconds: float) -> tuple[Motion, Motion]:
    """Watch for some time: motion (while speech plays, in silence)."""
    page.evaluate(WATCH)
    page.wait_for_timeout(seconds * 1000)
    samples = page.evaluate("window.samples")
    loud = [s["t"] for s in samples if s["level"] > 0.01]
    speaking = [s for s in samples if s["level"] > 0.01]
    # the mouth takes a moment to close, and sound and picture may be apart a little
    silent = [s for s in samples if not any(-0.2 < s["t"] - t < 0.8 for t in loud)]
    assert len(speaking) > 25, "hardly any speech was heard"
    assert len(silent) > 10, "hardly any silence was heard"
    moving = Motion(fmean(s["mouth"] for s in speaking), fmean(s["brow"] for s in speaking))
    # the median: a picture that comes late after the end of the speech is no motion in silence
    return moving, Motion(median(s["mouth"] for s in silent), median(s["brow"] for s in silent))
