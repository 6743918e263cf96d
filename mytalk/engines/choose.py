"""``auto``: the fastest engine that this machine has, measured once and remembered."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mytalk.engines.bundle import INT8_DECODER, first_line
from mytalk.engines.engine import Engine
from mytalk.engines.survey import Survey
from mytalk.errors import EngineFailed, MyTalkError

logger = logging.getLogger(__name__)
PICTURES = 2  # in a measured call: a hop's
ROUNDS, CALLS = 4, 3  # turns, and calls of an engine in a turn; the fastest of them all counts
MARGIN = 1.1  # an engine further down the list must be so many times as fast, or chance would decide
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Choice:
    """name: the engine. reason: one line for the log. ms: measured milliseconds per picture, by engine."""

    name: str
    reason: str
    ms: dict[str, float]


def card_candidates(machine: Survey) -> list[str]:
    """Engines that may be the fastest on an NVIDIA card, the likeliest first, by what is installed."""
    libraries, names = machine.libraries, []
    if not machine.cards:
        return []
    if {"torch", "torch-tensorrt"} <= set(libraries):
        names.append("tensorrt")
    if "onnxruntime-gpu" in libraries:
        names += ["onnx-tensorrt"] if "tensorrt" in libraries else []
        names.append("onnx-cuda")
    if "torch" in libraries and "+cpu" not in libraries["torch"]:
        names.insert(1 if names[:1] == ["tensorrt"] else 0, "torch-cuda")
    return names


def cpu_candidates(machine: Survey, files: Sequence[str]) -> list[str]:
    """The same on the CPU: int8 where sums cannot saturate and the bundle has it, bfloat16 on AMX, float32.

    torch is none of them: it was slower than the others on every CPU that was tried.
    """
    libraries, names = set(machine.libraries), []
    runtimes = ["openvino"] if "openvino" in libraries else []
    runtimes += ["onnx"] if libraries & {"onnxruntime", "onnxruntime-gpu"} else []
    if machine.has_vnni and INT8_DECODER in files:
        names += [f"{runtime}-int8" for runtime in runtimes]
    if "openvino" in runtimes and "amx_bf16" in machine.flags:
        names.append("openvino-bf16")
    # OpenVINO in float32 is worth its loading time only where there is nothing better to compare
    floats = [runtime for runtime in runtimes if runtime == "onnx" or not names]
    return [*names, *(f"{runtime}-fp32" for runtime in floats)]


def key_of(machine: Survey, weights_id: str, names: Sequence[str], threads: int | None) -> str:
    """What a measurement holds for: weights, libraries, machine, candidates and threads."""
    about = {
        "format": FORMAT,
        "machine": asdict(machine),
        "weights": weights_id,
        "names": list(names),
        "threads": threads,
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


def choose(
    groups: Sequence[Sequence[str]],
    load: Callable[[str], Engine],
    *,
    key: str,
    cache: Path | None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Choice, Engine]:
    """The fastest engine of the first group that has one that can be loaded.

    cache: file where what was chosen is kept, by key; None: nowhere. Raises the last engine's error when
    none can be loaded.
    """
    known = _remembered(cache, key)
    if known is not None:
        try:
            return known, load(known.name)
        except MyTalkError as error:
            logger.warning("%s was chosen before, but cannot be loaded: %s", known.name, error)
    failure: MyTalkError = EngineFailed("no engine is installed: pip install -c constraints.txt -e .")
    for names in groups:
        engines, refused = {}, {}
        for name in names:
            try:
                engines[name] = load(name)
            except MyTalkError as error:
                failure, refused[name] = error, str(error)
        if not engines:
            continue
        ms = _measure(engines, clock) if len(engines) > 1 else {}
        choice = _decide(list(engines), ms, refused)
        _remember(cache, key, choice)
        return choice, engines[choice.name]
    raise failure


def _measure(engines: dict[str, Engine], clock: Callable[[], float]) -> dict[str, float]:
    """Milliseconds per picture, engines in turns; one that fails is left out."""
    from mytalk.engines.warm import Exercise

    exercises: dict[str, Exercise] = {}
    best: dict[str, float] = {}
    for name, engine in engines.items():
        try:
            exercises[name] = Exercise(engine, PICTURES)
            exercises[name].decode(PICTURES)
        except EngineFailed as error:
            logger.warning("%s cannot be measured: %s", name, first_line(error))
            exercises.pop(name, None)
    for _ in range(ROUNDS):
        for name, exercise in exercises.items():
            for _ in range(CALLS):
                begin = clock()
                exercise.decode(PICTURES)
                took = 1e3 * (clock() - begin) / PICTURES
                best[name] = min(best.get(name, took), took)
    return best


def _decide(names: Sequence[str], ms: dict[str, float], refused: dict[str, str]) -> Choice:
    name = next(iter(ms), names[0])
    for other, took in ms.items():
        if took * MARGIN < ms[name]:
            name = other
    if ms:
        others = ", ".join(f"{other} {took:.1f}" for other, took in ms.items() if other != name)
        reason = f"{ms[name]:.1f} ms a picture" + (f", against {others}" if others else "")
        if min(ms.values()) < ms[name]:
            reason += " (differences below 10 % do not count)"
    else:
        reason = "the only one here"
    if refused:
        reason += f"; cannot be loaded: {', '.join(refused)}"
    return Choice(name, reason, ms)


def _remembered(cache: Path | None, key: str) -> Choice | None:
    found = _read(cache).get(key)
    try:
        return None if found is None else Choice(**found)
    except TypeError:
        return None


def _read(cache: Path | None) -> dict[str, Any]:
    try:
        found = json.loads(cache.read_text()) if cache is not None else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _remember(cache: Path | None, key: str, choice: Choice) -> None:
    """Write it beside what is known; where that fails, the next start measures again."""
    if cache is None:
        return
    known = _read(cache) | {key: asdict(choice)}
    temporary = None
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=cache.parent, suffix=".tmp")
        with os.fdopen(descriptor, "w") as file:
            json.dump(known, file, indent=1)
        Path(temporary).replace(cache)
    except OSError as error:
        logger.info("%s cannot be written: %s", cache, error.strerror)
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
