"""The import rules of ARCHITECTURE.md, kept by walking the syntax tree of every module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = ("mytalk", "server", "clients", "export", "training", "benchmarks")
TOPS = ("server", "export", "training", "benchmarks")  # nobody imports these
RUNTIMES = ("onnxruntime", "torch", "torch_tensorrt", "tensorrt", "openvino")
ENGINES = tuple(f"mytalk.engines.{name}" for name in ("onnx", "torch", "cuda", "tensorrt", "openvino"))
NOT_IN_CORE = ("asyncio", "aiortc", *RUNTIMES)
CLOCK_READERS = {"mytalk.__main__"}  # a command line may show a person how long something takes
TOOLS = (
    "export",
    "training",
    "benchmarks",
)  # may use a runtime bare: export compares torch with ONNX Runtime
# The one way from the command line into training, and from there to what an export has to prove.
# Benchmarks reach unseen clips, and how their mouths are scored, by one module.
ALLOWED = {
    "mytalk.actors.tuning": "training.tune",
    "training.tune": "export.parity",
    "benchmarks.spoken": "training",
}
DATE_READS = {"now", "utcnow", "today"}


@dataclass(frozen=True)
class Module:
    """One source file. name: dotted, without ``.__init__``; package: what its relative imports start from."""

    name: str
    package: str
    source: str

    def is_in(self, *packages: str) -> bool:
        return any(inside(self.name, package) for package in packages)

    @property
    def is_core(self) -> bool:
        return self.is_in("mytalk") and not self.is_in("mytalk.models", "mytalk.engines")


def inside(name: str, package: str) -> bool:
    """Whether a dotted name is the package or lies in it."""
    return name == package or name.startswith(package + ".")


def module(name: str, source: str, is_package: bool = False) -> Module:
    return Module(name, name if is_package else name.rpartition(".")[0], source)


def our_modules() -> Iterator[Module]:
    for top in OURS:
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            yield module(name, path.read_text(encoding="utf-8"), is_package)


def from_names(node: ast.ImportFrom, package: str) -> Iterator[str]:
    """``from a import b`` may mean the module a.b or the name b of a: both are given."""
    base = node.module or ""
    if node.level:
        parts = package.split(".")
        parent = ".".join(parts[: len(parts) - node.level + 1])
        base = f"{parent}.{base}" if base else parent
    yield base
    for alias in node.names:
        yield f"{base}.{alias.name}"


def loaded_by_name(node: ast.Call) -> Iterator[str]:
    """``import_module("a.b")`` and ``__import__("a.b")`` with a literal name."""
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if called in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
        yield str(node.args[0].value)


def imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Dotted names a module imports, wherever it does (inside functions and TYPE_CHECKING too)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from from_names(node, package)
        elif isinstance(node, ast.Call):
            yield from loaded_by_name(node)


def date_reads(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in DATE_READS:
            owner = ast.unparse(node.value).rpartition(".")[2]
            if owner in ("datetime", "date"):
                yield f"{owner}.{node.attr}"


def core_faults(own: Module, names: set[str], tree: ast.AST) -> Iterator[str]:
    for banned in NOT_IN_CORE:
        if any(inside(name, banned) for name in names):
            yield f"the core imports {banned}"
    if own.name not in CLOCK_READERS:
        if any(inside(name, "time") for name in names):
            yield "the core imports time (take `now` as an argument)"
        for read in date_reads(tree):
            yield f"the core reads {read}"


def import_faults(own: Module, names: set[str]) -> Iterator[str]:
    def uses(package: str) -> bool:
        return any(inside(name, package) for name in names)

    if uses("mytalk.models") and not own.is_in("mytalk.models", "mytalk.engines.torch", *TOOLS):
        yield "imports mytalk.models"
    if own.is_in("clients"):
        yield from (f"a client imports {top}" for top in OURS if top != "clients" and uses(top))
        return
    others = {name for name in names if not inside(name, ALLOWED.get(own.name, "mytalk"))}
    for top in TOPS:
        # ``from a.b import c`` names a.b and a.b.c, never a alone
        if any(inside(name, top) for name in others) and not own.is_in(top):
            yield f"imports {top}"
    if own.is_in("server") or own.is_core:
        yield from (f"imports {engine}, not asking for it by name" for engine in ENGINES if uses(engine))


def faults_of(own: Module) -> list[str]:
    """What one module does against the rules, as lines for a person."""
    tree = ast.parse(own.source)
    names = set(imports(tree, own.package))
    faults = list(import_faults(own, names))
    if own.is_core:
        faults += core_faults(own, names, tree)
    return [f"{own.name}: {fault}" for fault in faults]


def runtime_faults(modules: list[Module]) -> list[str]:
    """Each runtime library belongs to one file of engines/; tools may use all, models are made of torch."""
    faults = []
    for library in RUNTIMES:
        users = {
            own.name
            for own in modules
            if not own.is_in(*TOOLS, *(("mytalk.models",) if library == "torch" else ()))
            and any(inside(name, library) for name in imports(ast.parse(own.source), own.package))
        }
        engines = {name for name in users if inside(name, "mytalk.engines")}
        if (
            library == "torch"
        ):  # what records its calls on a card, and what torch-tensorrt compiles, belong to it
            engines -= {"mytalk.engines.cuda", "mytalk.engines.tensorrt"}
            users -= {"mytalk.engines.cuda", "mytalk.engines.tensorrt"}
        if len(engines) > 1:
            faults.append(f"{library} is imported by several engines: {sorted(engines)}")
        faults += [f"{name}: imports {library}, an engine's" for name in sorted(users - engines)]
    return faults


def test_every_module_keeps_the_rules() -> None:
    modules = list(our_modules())
    names = {own.name for own in modules}
    assert {"mytalk", "mytalk.clock", "mytalk.engines.engine"} <= names, "the walk lost its way"
    assert [fault for own in modules for fault in faults_of(own)] == []
    assert runtime_faults(modules) == []


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        ("mytalk.session", "import asyncio", "imports asyncio"),
        ("mytalk.session", "def f():\n    from torch import nn", "imports torch"),
        ("mytalk.actors.actor", "import onnxruntime as ort", "imports onnxruntime"),
        ("mytalk.dubbing.dub", "from aiortc.mediastreams import AudioStreamTrack", "imports aiortc"),
        ("mytalk.session", "import time as t\nt.monotonic()", "imports time"),
        ("mytalk.session", "from time import perf_counter", "imports time"),
        ("mytalk.actors.actor", "import datetime\ndatetime.datetime.now()", "reads datetime.now"),
        ("mytalk.actors.actor", "from datetime import date\ndate.today()", "reads date.today"),
        ("mytalk.session", "from mytalk.models.motion import Net", "imports mytalk.models"),
        ("mytalk.session", "from mytalk import models", "imports mytalk.models"),
        ("mytalk.session", "from . import models", "imports mytalk.models"),
        ("mytalk.landmarks.draw", "from ..models import unet", "imports mytalk.models"),
        ("server.app", "import importlib\nimportlib.import_module('mytalk.models')", "imports mytalk.models"),
        ("mytalk.dubbing.dub", "import server.compute.worker", "imports server"),
        ("mytalk.__main__", "def tune():\n    from training import motion", "imports training"),
        ("mytalk.actors.tuning", "from training.motion import MotionTask", "imports training"),
        ("mytalk.dubbing.dub", "from training.tune import tuner", "imports training"),
        ("training.tune", "from export.bundle import prove", "imports export"),
        ("server.app", "from export import onnx", "imports export"),
        ("server.app", "from benchmarks.latency import probe", "imports benchmarks"),
        ("training.motion", "import server", "imports server"),
        ("clients.headless", "from mytalk.clock import FPS", "a client imports mytalk"),
        ("server.compute.worker", "from mytalk.engines.onnx import OnnxEngine", "by name"),
    ],
)
def test_the_checker_sees_a_fault(name: str, source: str, complaint: str) -> None:
    faults = faults_of(module(name, source))
    assert any(complaint in fault for fault in faults), faults


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("mytalk.session", "import numpy\nfrom mytalk.clock import FPS\nnow = 1.0\nself.now()"),
        ("mytalk.session", "import timeit_like, asyncio_like"),
        ("mytalk.__main__", "import time\ntime.monotonic()"),
        ("mytalk.actors.tuning", "def f():\n    from training.tune import tuner"),
        ("training.tune", "from export.parity import LIMITS"),
        ("mytalk.engines.torch", "import torch\nfrom mytalk.models.motion import Net"),
        ("mytalk.models.motion", "import torch\nfrom mytalk.models.blocks import Conv"),
        ("server.compute.worker", "import asyncio, time\nfrom mytalk.engines.engine import Engine"),
        ("server.__main__", "from mytalk.engines import load_engine\nfrom server.app import app"),
        ("export.onnx", "import torch\nfrom mytalk.models.motion import Net"),
        ("clients.headless", "import asyncio, time, aiortc\nfrom clients.pattern import skew_ms"),
    ],
)
def test_the_checker_lets_the_rest_be(name: str, source: str) -> None:
    assert faults_of(module(name, source)) == []


def test_a_runtime_belongs_to_one_engine() -> None:
    one = module("mytalk.engines.onnx", "import onnxruntime")
    two = module("mytalk.engines.quick", "from onnxruntime import InferenceSession")
    stray = module("server.compute.worker", "def load():\n    import onnxruntime")
    net = module("mytalk.models.net", "import torch")
    assert runtime_faults([one, net]) == []
    assert "several engines" in runtime_faults([one, two])[0]
    assert "server.compute.worker" in runtime_faults([one, stray])[0]
    assert runtime_faults([module("server.x", "import torch")]) != []
