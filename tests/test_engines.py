"""Engines are picked by name; one whose library is missing says how to get it."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mytalk.engines import ENGINES, default_bundle, load_engine
from mytalk.engines.bundle import has_amx_bf16, has_vnni
from mytalk.errors import EngineFailed
from tests.test_onnx_engine import job

LIBRARIES = {  # engine module → library, and what its sentence must hold
    "openvino": ("openvino", "pip install -c constraints.txt -e '.[openvino]'"),
    "torch": ("torch", "pip install -c constraints.txt -e '.[train]'"),
    "tensorrt": ("torch_tensorrt", "pip install torch==2.13.0 torch-tensorrt==2.13.0"),
}


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_missing_library_is_one_sentence_with_the_command(name, monkeypatch):
    library, command = LIBRARIES[name]
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"mytalk.engines.{name}", raising=False)
    for known in ENGINES:
        if known.startswith(name):
            with pytest.raises(EngineFailed) as raised:
                load_engine(known, default_bundle(), 1)
            assert command in str(raised.value)
            assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["onnx-cuda", "onnx-cuda-fp32", "onnx-tensorrt"])
def test_the_wrong_onnx_runtime_is_one_sentence_with_the_command(name, monkeypatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    wanted = f"the engine {name} needs .*pip uninstall -y onnxruntime && pip install onnxruntime-gpu"
    with pytest.raises(EngineFailed, match=wanted):
        load_engine(name, default_bundle(), 1)


def test_a_card_that_is_not_there_is_one_sentence(small_bundle, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for name in ("torch-cuda", "torch-cuda-fp32"):
        with pytest.raises(EngineFailed, match="torch sees no CUDA card"):
            load_engine(name, small_bundle, 1)
    assert load_engine("torch", small_bundle, 1).name == "torch-fp32"


def test_what_a_cpu_is_fast_at_is_read_from_its_flags(tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text("flags : avx512f amx_bf16 amx_int8")
    assert has_amx_bf16(info)
    assert has_vnni(info)
    info.write_text("flags : avx512f avx512_bf16")
    assert not has_amx_bf16(info)
    assert not has_amx_bf16(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["openvino-fp32", "torch-fp32"])
def test_an_engine_of_another_runtime_keeps_the_promises(name, small_bundle):
    pytest.importorskip(name.partition("-")[0], reason="its library is not installed (make test installs it)")
    engine = load_engine(name, small_bundle, 1)
    jobs = [job(engine, seed) for seed in range(3)]
    before = jobs[1].state.keys.copy()
    together, alone = engine.motion(jobs), engine.motion([jobs[1]])[0]
    np.testing.assert_array_equal(together[1].displacement, alone.displacement)
    np.testing.assert_array_equal(jobs[1].state.keys, before)
    assert together[0].state.new is not None
    assert len(together[0].state.new.speech) == 2
    if engine.concurrent:
        calls = [jobs[index % 3] for index in range(12)]
        with ThreadPoolExecutor(3) as threads:
            made = list(threads.map(lambda one: engine.motion([one])[0].displacement, calls))
        for index, displacement in enumerate(made):
            np.testing.assert_allclose(displacement, together[index % 3].displacement, atol=1e-6)
    with pytest.raises(EngineFailed, match="motion failed"):
        engine.motion([job(engine, log_mel=np.zeros((5, 80), np.float32))])


def test_bf16_is_refused_where_it_would_not_be_faster(monkeypatch, small_bundle):
    pytest.importorskip("openvino", reason="OpenVINO is not installed (make test installs it)")
    monkeypatch.setattr("mytalk.engines.openvino.has_amx_bf16", lambda: False)
    with pytest.raises(EngineFailed, match="no AMX"):
        load_engine("openvino-bf16", small_bundle, 1)


DROPPED = """
import os, signal, sys, threading
from pathlib import Path
from mytalk.engines import load_engine
engines = [load_engine("openvino-fp32", Path(sys.argv[1]), 1)]
dropped = threading.Thread(target=engines.clear)
dropped.start()
dropped.join()
signal.signal(signal.SIGTERM, lambda *_: print("asked to stop"))
os.kill(os.getpid(), signal.SIGTERM)
print("alive")
"""


def test_an_engine_that_another_thread_dropped_leaves_signals_alone(small_bundle):
    """The garbage collector runs in any thread; afterwards Ctrl-C must not end in a segfault."""
    pytest.importorskip("openvino", reason="OpenVINO is not installed (make test installs it)")
    command = [sys.executable, "-c", DROPPED, str(small_bundle)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout.split("\n")[:2]) == (0, ["asked to stop", "alive"]), done.stderr
