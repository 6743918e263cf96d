"""The loop that all trainers share: exact resume after SIGKILL, several processes, and what stops it."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test installs it)")
pytest.importorskip("lightning_fabric", reason="lightning-fabric is not installed (make test installs it)")

from mytalk.errors import BadInput, MyTalkError  # noqa: E402
from mytalk.models.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from tests.prepared_data import write_data  # noqa: E402
from training import identity, motion  # noqa: E402
from training.feed import Feed  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
MOTION = """
[data]
batch = 1
frames = 24
[loss]
self_generated_share = 0.3
[runner]
steps = {steps}
schedule = "inverse_sqrt"
warmup_steps = 4
accumulate = 2
checkpoint_steps = {every}
report_steps = 4
picture_steps = {pictures}
"""
IDENTITY = "batch = 8\n[runner]\nsteps = {steps}\nprecision = '32-true'\ncheckpoint_steps = 2\n{more}\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def people(data, tmp_path_factory):
    """A short run of the identity trainer."""
    return train_identity(data, tmp_path_factory.mktemp("identity"))


def train_identity(data: Path, out: Path, steps: int = 3, more: str = "") -> Path:
    (out / "run.toml").write_text(IDENTITY.format(steps=steps, more=more))
    assert identity.main(identity_arguments(data, out)) == 0
    return out


def identity_arguments(data: Path, out: Path) -> list[str]:
    return ["--data", str(data), "--out", str(out), "--config", str(out / "run.toml"), "--threads", "1"]


def motion_arguments(data: Path, people: Path, out: Path, **settings: int) -> list[str]:
    out.mkdir(parents=True, exist_ok=True)
    (out / "run.toml").write_text(MOTION.format(**{"steps": 8, "every": 2, "pictures": 0} | settings))
    return [*identity_arguments(data, out), "--identity", str(people)]


def same(a: object, b: object, path: str = "") -> None:
    """Bit for bit, however deep."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple):
        for number, pair in enumerate(zip(a, b, strict=True)):
            same(*pair, f"{path}.{number}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    else:
        assert a == b, path


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_a_killed_run_goes_on_bit_for_bit(data, people, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert motion.main(motion_arguments(data, people, whole)) == 0
    command = [sys.executable, "-m", "training.motion", *motion_arguments(data, people, cut)]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (cut / "last.pt").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "it was over before it could be killed"
    assert load_checkpoint(cut / "last.pt")["step"] < 8
    assert motion.main(motion_arguments(data, people, cut)) == 0
    ours, theirs = load_checkpoint(cut / "last.pt"), load_checkpoint(whole / "last.pt")
    for moving in ("minutes", "commit"):
        ours.pop(moving), theirs.pop(moving)
    same(ours, theirs)


def test_checkpoints_describe_themselves_and_pictures_are_written(data, people, tmp_path):
    out = tmp_path / "run"
    assert motion.main(motion_arguments(data, people, out, steps=2, pictures=2)) == 0
    saved = load_checkpoint(out / "last.pt")
    assert (saved["kind"], saved["step"], saved["world"]) == ("motion", 2, 1)
    assert json.loads(saved["config"])["coefficients"] == 32
    assert json.loads(saved["run"])["runner"]["accumulate"] == 2
    assert len(saved["data"]) == 16
    assert saved["commit"]
    assert (out / "motion.gif").stat().st_size > 1000
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "events")).Reload()
    assert "loss/model" in events.Tags()["scalars"]
    assert events.Tags()["images"] == ["motion"]


@pytest.mark.parametrize(("strategy", "noising"), [("ddp", "levels"), ("fsdp", "two_copy")])
def test_two_processes_train_as_one(data, people, tmp_path, strategy, noising):
    """Both split the same work: what they save can be gone on with alone."""
    out = tmp_path / strategy
    arguments = motion_arguments(data, people, out, steps=2)
    config = out / "run.toml"
    noised = config.read_text().replace("[loss]", f"[loss]\nnoising = '{noising}'")
    config.write_text(noised + f"strategy = '{strategy}'\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-endpoint"]
    command += ["localhost:0", "--rdzv-backend", "c10d", "-m", "training.motion", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    saved = load_checkpoint(out / "last.pt")
    assert (saved["step"], saved["world"]) == (2, 2)
    config.write_text(config.read_text().replace("steps = 2\n", "steps = 3\n").replace(strategy, "auto"))
    assert motion.main(arguments) == 0
    assert load_checkpoint(out / "last.pt")["step"] == 3


def test_a_loss_that_is_not_finite_ends_the_run_with_its_last_checkpoint(data, tmp_path, capsys):
    train_identity(data, tmp_path, steps=2)
    before = (tmp_path / "last.pt").read_bytes()
    # A margin of infinity makes the loss NaN in the first step that goes on.
    (tmp_path / "run.toml").write_text("margin = inf\n" + IDENTITY.format(steps=9, more=""))
    assert identity.main(identity_arguments(data, tmp_path)) == 1
    assert "not finite at step 2; the last checkpoint is intact" in capsys.readouterr().err
    assert (tmp_path / "last.pt").read_bytes() == before


def test_a_full_disk_leaves_the_last_checkpoint(data, tmp_path, capsys):
    train_identity(data, tmp_path, steps=2)
    before = (tmp_path / "last.pt").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / "run.toml").write_text(IDENTITY.format(steps=4, more=""))
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        assert identity.main(identity_arguments(data, tmp_path)) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "the last good one is intact" in capsys.readouterr().err
    assert (tmp_path / "last.pt").read_bytes() == before
    assert not list(tmp_path.glob("*.tmp"))


def test_a_checkpoint_of_another_trainer_or_size_is_refused(data, people, tmp_path, capsys):
    save_checkpoint(tmp_path / "last.pt", 1, motion.MotionRun(), {"kind": "motion"})
    (tmp_path / "run.toml").write_text("")
    assert identity.main(identity_arguments(data, tmp_path)) == 1
    assert "checkpoint of motion" in capsys.readouterr().err


def test_without_data_or_identity_nothing_is_started(data, tmp_path, capsys):
    empty = tmp_path / "empty"
    assert motion.main(["--data", str(empty), "--out", str(tmp_path / "a")]) == 1
    assert "run training.prepare first" in capsys.readouterr().err
    assert motion.main(["--data", str(data), "--out", str(tmp_path / "a")]) == 1
    assert "--identity" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_batches_depend_on_seed_rank_and_number_alone():
    def make(random: np.random.Generator) -> float:
        return float(random.random())

    def some(seed: int, rank: int, first: int, workers: int) -> list[float]:
        with Feed(make, seed, rank, first, workers) as feed:
            return [feed.take() for _ in range(4)]

    assert some(1, 0, 0, 1)[2:] == some(1, 0, 2, 3)[:2]
    assert some(1, 0, 0, 1) != some(1, 1, 0, 1)
    assert some(1, 0, 0, 1) != some(2, 0, 0, 1)


def test_an_error_in_a_batch_is_raised_and_the_threads_end():
    def make(_: np.random.Generator) -> float:
        raise BadInput("clip x is damaged")

    with pytest.raises(MyTalkError, match="clip x is damaged"), Feed(make, 1, 0, 0, 2) as feed:
        feed.take()
    assert feed.pool._shutdown


def test_a_damaged_clip_is_named(data, tmp_path, capsys):
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    clip = next((copy / "clips").glob("*a_0001.npz"))
    clip.write_bytes(clip.read_bytes()[:1000])
    (tmp_path / "run.toml").write_text("")
    assert identity.main(identity_arguments(copy, tmp_path)) == 1
    assert "synthetic__a_0001 is damaged" in capsys.readouterr().err


def test_asked_to_stop_it_ends_with_a_checkpoint(data, tmp_path):
    (tmp_path / "run.toml").write_text("batch = 8\n[runner]\nsteps = 1000000\nprecision = '32-true'\n")
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *_: None)  # a signal that comes too early must not end the tests
    try:
        timer.start()
        assert identity.main(identity_arguments(data, tmp_path)) == 0
    finally:
        timer.join()
        signal.signal(signal.SIGTERM, before)
    assert 0 < load_checkpoint(tmp_path / "last.pt")["step"] < 1000000


def test_minutes_end_a_run_early(data, tmp_path):
    (tmp_path / "run.toml").write_text("batch = 8\n[runner]\nsteps = 1000000\nprecision = '32-true'\n")
    assert identity.main([*identity_arguments(data, tmp_path), "--minutes", "0.005"]) == 0
    assert 0 < load_checkpoint(tmp_path / "last.pt")["step"] < 1000000
