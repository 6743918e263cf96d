"""Engines are picked by name; one whose library is missing says how to get it."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from mytalk.engines import ENGINES, default_bundle, load_engine
from mytalk.engines.bundle import has_amx_bf16, has_vnni
from mytalk.errors import EngineFailed
from tests.test_onnx_engine import job

LIBRARIES = {"openvino": ("openvino", "[openvino]"), "torch": ("torch", "[train]")}


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_missing_library_is_one_sentence_with_the_command(name, monkeypatch):
    library, extra = LIBRARIES[name]
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"mytalk.engines.{name}", raising=False)
    for known in ENGINES:
        if known.startswith(name):
            with pytest.raises(EngineFailed) as raised:
                load_engine(known, default_bundle(), 1)
            assert f"pip install -c constraints.txt -e '.{extra}'" in str(raised.value)
            assert "\n" not in str(raised.value)


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
    assert together[0].state.known == 2
    with pytest.raises(EngineFailed, match="motion failed in"):
        engine.motion([job(engine, log_mel=np.zeros((5, 80), np.float32))])


def test_bf16_is_refused_where_it_would_not_be_faster(monkeypatch, small_bundle):
    pytest.importorskip("openvino", reason="OpenVINO is not installed (make test installs it)")
    monkeypatch.setattr("mytalk.engines.openvino.has_amx_bf16", lambda: False)
    with pytest.raises(EngineFailed, match="no AMX"):
        load_engine("openvino-bf16", small_bundle, 1)
