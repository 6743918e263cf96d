"""Speech features of prepared clips: where they lie in the sound, going on, and another model or offset."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test installs it)")
pytest.importorskip("transformers", reason="transformers is not installed (the train extra)")

from mytalk.audio.speech_encoder import encode_all  # noqa: E402
from mytalk.clock import ANALYSIS_RATE  # noqa: E402
from mytalk.errors import BadInput  # noqa: E402
from mytalk.models.wav2vec2 import Wav2Vec2Config  # noqa: E402
from mytalk.video.media import read_speech  # noqa: E402
from tests.small_wav2vec2 import save_small  # noqa: E402
from training.prepare_video import Report  # noqa: E402
from training.speech_features import features_of, load_encoder, moved, write_features  # noqa: E402

FIXTURE = Path(__file__).parent / "data" / "talking_face.mp4"
REPORTS = [Report("me__clip", str(FIXTURE), 20), Report("me__bad", str(FIXTURE), 0, "no_face", "…")]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = save_small(tmp_path_factory.mktemp("wav2vec2"))
    return Wav2Vec2Config(folder, hop_frames=4, left_frames=6, right_frames=2)


@pytest.fixture(scope="module")
def encoder(config):
    return load_encoder(config)


def speech():
    return np.concatenate(list(read_speech(FIXTURE, ANALYSIS_RATE))).astype(np.float32) / 32768


def prepared(out, first=0, frames=20, **more):
    (out / "clips").mkdir(parents=True, exist_ok=True)
    np.savez(out / "clips" / "me__clip.npz", opening=np.zeros(frames), first_frame=first, **more)
    return out


def test_a_clip_inside_a_video_is_heard_as_the_whole_is(encoder):
    whole = encode_all(encoder, speech())
    np.testing.assert_array_equal(features_of(encoder, speech(), 10, 20), whole[20:60])
    past_the_end = features_of(encoder, speech(), 40, 20)
    assert past_the_end.shape == (40, 16)
    np.testing.assert_array_equal(past_the_end[:16], whole[80:96])


def test_late_sound_is_taken_from_later(encoder, config, tmp_path):
    write_features(prepared(tmp_path, first=4, av_offset_ms=80.0), REPORTS, encoder, config)
    found = np.load(tmp_path / "clips" / "me__clip.speech.npy")
    assert (found.shape, found.dtype) == ((40, 16), np.float32)
    np.testing.assert_array_equal(found, features_of(encoder, moved(speech(), 80.0), 4, 20))
    np.testing.assert_allclose(found[:30], encode_all(encoder, speech())[12:42], atol=1e-5)


@pytest.mark.parametrize(
    ("offset_ms", "kept"), [(10.0, slice(160, None)), (-10.0, slice(0, -160)), (0.0, slice(None))]
)
def test_moved_sound_keeps_its_length(offset_ms, kept):
    samples = np.arange(1, 1001, dtype=np.float32)
    out = moved(samples, offset_ms)
    assert len(out) == 1000
    np.testing.assert_array_equal(out[out > 0], samples[kept])


def test_what_is_there_is_kept_and_another_model_refused(encoder, config, tmp_path):
    assert write_features(prepared(tmp_path), REPORTS, encoder, config) == 1
    path = tmp_path / "clips" / "me__clip.speech.npy"
    stamp = path.stat().st_mtime_ns
    assert write_features(tmp_path, REPORTS, encoder, config) == 0
    assert path.stat().st_mtime_ns == stamp
    other = Wav2Vec2Config(config.where, 1, config.hop_frames, config.left_frames, config.right_frames)
    with pytest.raises(BadInput, match=r"layer -1: for another model delete speech\.json"):
        write_features(tmp_path, REPORTS, encoder, other)


def test_a_stopped_call_leaves_no_half_file(encoder, config, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space left"):
        write_features(prepared(tmp_path), REPORTS, encoder, config)
    monkeypatch.undo()
    assert [p.name for p in (tmp_path / "clips").iterdir()] == ["me__clip.npz"]
    assert write_features(tmp_path, REPORTS, encoder, config) == 1


def test_clips_of_older_versions_and_models_that_cannot_be_had_are_one_line(
    encoder, config, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    prepared(tmp_path)
    shutil.move(tmp_path / "clips" / "me__clip.npz", tmp_path / "old.npz")
    np.savez(tmp_path / "clips" / "me__clip.npz", opening=np.zeros(20))
    with pytest.raises(BadInput, match="older version"):
        write_features(tmp_path, REPORTS, encoder, config)
    with pytest.raises(BadInput, match="cannot be had from there"):
        load_encoder(Wav2Vec2Config(str(tmp_path / "none")))
