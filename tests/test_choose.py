"""``auto`` takes what is fastest, says why, and does not measure the same machine twice."""

from __future__ import annotations

import json

import pytest

from mytalk.engines import choose_engine, default_bundle
from mytalk.engines.choose import card_candidates, choose, cpu_candidates, key_of
from mytalk.engines.survey import Survey, survey
from mytalk.errors import EngineFailed
from tests.fakes import FakeEngine

CPU = Survey({"onnxruntime": "1.32.0"}, "A CPU", ("avx2",), (), 2)
INT8 = ["decode.onnx", "decode_int8.onnx"]


def machine(*libraries: str, flags: tuple[str, ...] = (), cards: tuple[str, ...] = ()) -> Survey:
    return Survey(dict.fromkeys(libraries, "1.0"), "A CPU", flags, cards, 2)


def test_candidates_follow_libraries_flags_and_files():
    both = ("onnxruntime", "openvino")
    assert cpu_candidates(machine("onnxruntime"), INT8) == ["onnx-fp32"]
    vnni = ("avx512_vnni",)
    assert cpu_candidates(machine("onnxruntime", flags=vnni), INT8) == ["onnx-int8", "onnx-fp32"]
    assert cpu_candidates(machine("onnxruntime", flags=vnni), INT8[:1]) == ["onnx-fp32"]
    assert cpu_candidates(machine(*both, flags=vnni), INT8) == ["openvino-int8", "onnx-int8", "onnx-fp32"]
    assert cpu_candidates(machine(*both), INT8) == ["openvino-fp32", "onnx-fp32"]
    amx = machine(*both, flags=("amx_bf16", "amx_int8"))
    assert cpu_candidates(amx, INT8) == ["openvino-int8", "onnx-int8", "openvino-bf16", "onnx-fp32"]
    assert cpu_candidates(machine(), INT8) == []


def test_a_card_without_its_libraries_changes_nothing():
    card = ("NVIDIA H200",)
    assert card_candidates(machine("onnxruntime", "torch", cards=())) == []
    assert card_candidates(machine("onnxruntime", "openvino", cards=card)) == []
    assert card_candidates(machine("onnxruntime-gpu", cards=card)) == ["onnx-cuda"]
    assert card_candidates(machine("onnxruntime-gpu", "tensorrt", cards=card)) == [
        "onnx-tensorrt",
        "onnx-cuda",
    ]
    everything = machine("onnxruntime-gpu", "tensorrt", "torch", "torch-tensorrt", cards=card)
    assert card_candidates(everything) == ["tensorrt", "torch-cuda", "onnx-tensorrt", "onnx-cuda"]
    built_for_cpus = Survey({"torch": "2.13.0+cpu"}, "A CPU", (), card, 2)
    assert card_candidates(built_for_cpus) == []


def test_the_survey_reads_cpu_and_cards(tmp_path):
    info, cards = tmp_path / "cpuinfo", tmp_path / "gpus"
    info.write_text(
        "processor : 0\nmodel name\t: A Fine CPU\nflags\t: fpu avx2 avx512_vnni\n\nprocessor : 1\n"
    )
    (cards / "0000:01:00.0").mkdir(parents=True)
    (cards / "0000:01:00.0" / "information").write_text("Model: \t NVIDIA H200\nIRQ: 5\n")
    found = survey(info, cards)
    assert (found.cpu, found.flags, found.cards) == ("A Fine CPU", ("avx2", "avx512_vnni"), ("NVIDIA H200",))
    assert found.has_vnni
    assert "onnxruntime" in found.libraries or "onnxruntime-gpu" in found.libraries
    nothing = survey(tmp_path / "none", tmp_path / "none")
    assert (nothing.cpu, nothing.flags, nothing.cards, nothing.has_vnni) == ("", (), (), False)


class Timed:
    """A clock, and engines whose decoding moves it."""

    def __init__(self, **ms: float) -> None:
        self.ms, self.now, self.loaded = ms, 0.0, []

    def load(self, name: str):
        self.loaded.append(name)
        if name not in self.ms:
            raise EngineFailed(f"{name} is not installed")
        engine = FakeEngine()
        engine.name = name
        decode = engine.decode

        def slow(*given):
            self.now += self.ms[name] * len(given[0]) / 1e3
            return decode(*given)

        engine.decode = slow
        return engine

    def choose(self, *groups, key="k", cache=None):
        return choose(groups, self.load, key=key, cache=cache, clock=lambda: self.now)


def test_the_fastest_wins_with_its_reason():
    timed = Timed(a=20.0, b=10.0, c=30.0)
    choice, engine = timed.choose(["a", "b", "c", "missing"])
    assert engine.name == choice.name == "b"
    assert choice.reason == "10.0 ms a picture, against a 20.0, c 30.0; cannot be loaded: missing"
    assert choice.ms == pytest.approx({"a": 20.0, "b": 10.0, "c": 30.0})


def test_chance_does_not_decide_between_equals():
    choice, _ = Timed(a=10.0, b=9.5).choose(["a", "b"])
    assert choice.name == "a"
    assert choice.reason == "10.0 ms a picture, against b 9.5 (differences below 10 % do not count)"
    assert Timed(a=10.0, b=9.0).choose(["a", "b"])[0].name == "b"


def test_the_cpu_is_not_measured_where_a_card_works():
    timed = Timed(card=1.0, cpu=0.5)
    choice, _ = timed.choose(["missing", "card"], ["cpu"])
    assert choice.name == "card"
    assert timed.loaded == ["missing", "card"]
    assert choice.reason == "the only one here; cannot be loaded: missing"
    assert Timed(cpu=1.0).choose(["card"], ["cpu"])[0].name == "cpu"


def test_what_was_measured_is_kept_until_something_changes(tmp_path):
    cache = tmp_path / "made" / "engines.json"
    Timed(a=20.0, b=10.0).choose(["a", "b"], cache=cache)
    again = Timed(a=1.0, b=10.0)
    choice, engine = again.choose(["a", "b"], cache=cache)
    assert (choice.name, engine.name, again.loaded, again.now) == ("b", "b", ["b"], 0.0)
    assert "10.0 ms" in choice.reason
    assert Timed(a=1.0, b=10.0).choose(["a", "b"], key="other", cache=cache)[0].name == "a"
    assert set(json.loads(cache.read_text())) == {"k", "other"}
    gone = Timed(a=1.0)  # b was chosen, and has been removed
    assert gone.choose(["a", "b"], cache=cache)[0].name == "a"


def test_a_damaged_or_unwritable_cache_costs_a_measurement_and_no_more(tmp_path):
    cache = tmp_path / "engines.json"
    for text in ("{", "[]", '{"k": {"name": "b"}}'):
        cache.write_text(text)
        assert Timed(a=1.0, b=2.0).choose(["a", "b"], cache=cache)[0].name == "a"
    (tmp_path / "file").write_text("")
    assert Timed(a=1.0).choose(["a"], cache=tmp_path / "file" / "engines.json")[0].name == "a"


def test_an_engine_that_cannot_decode_is_not_chosen():
    timed = Timed(a=1.0, b=5.0, c=6.0)
    load = timed.load

    def broken(name):
        engine = load(name)
        if name == "a":
            engine.decode = fails
        return engine

    def fails(*_):
        raise EngineFailed("no kernel")

    timed.load = broken
    assert timed.choose(["a", "b", "c"])[0].name == "b"


def test_nothing_at_all_is_one_sentence():
    with pytest.raises(EngineFailed, match="missing is not installed"):
        Timed().choose(["missing"], [])
    with pytest.raises(EngineFailed, match="no engine is installed: pip install"):
        Timed().choose([], [])


def test_the_key_changes_with_all_that_matters():
    keys = [
        key_of(CPU, "w", ["a"], None),
        key_of(CPU, "v", ["a"], None),
        key_of(CPU, "w", ["a", "b"], None),
        key_of(CPU, "w", ["a"], 1),
        key_of(machine("onnxruntime"), "w", ["a"], None),
    ]
    assert len(set(keys)) == len(keys)
    assert key_of(CPU, "w", ["a"], None) == keys[0]


def test_auto_is_an_engine_of_this_machine_and_says_why(tmp_path):
    choice, engine = choose_engine(default_bundle(), 1, tmp_path / "engines.json")
    assert engine.name == choice.name
    known = cpu_candidates(survey(), INT8) + card_candidates(survey())
    assert choice.name in known
    again, _ = choose_engine(default_bundle(), 1, tmp_path / "engines.json")
    assert again == choice
