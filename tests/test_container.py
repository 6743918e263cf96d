"""What can be said of the container without building it: files, flags, pins and rights fit together."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from server.config import parse
from server.guard import OPEN_PATHS

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())


def lines(instruction: str) -> list[str]:
    return re.findall(rf"^{instruction} +(.*)$", DOCKERFILE, re.MULTILINE)


def test_the_entry_point_is_a_valid_command_line():
    entry, (command,) = json.loads(lines("ENTRYPOINT")[0]), lines("CMD")[-1:]
    assert entry[:3] == ["python3", "-m", "server"]
    config = parse([*entry[3:], *json.loads(command)], {})
    assert config.host == "0.0.0.0"
    assert f"{config.udp_ports}/udp" in lines("EXPOSE")[0]
    assert str(config.port) in lines("EXPOSE")[0]
    assert config.max_sessions == 16


def test_the_health_check_asks_an_open_path_of_the_port_that_is_served():
    (check,) = lines("HEALTHCHECK")
    assert "http://127.0.0.1:8080/healthz" in check
    assert "/healthz" in OPEN_PATHS
    compile(json.loads(re.search(r"CMD (\[.*\])", check)[1])[2], "health check", "exec")


def test_it_does_not_run_as_root_and_what_it_writes_is_its_own():
    assert lines("USER") == ["mytalk"]
    assert DOCKERFILE.index("USER mytalk") > DOCKERFILE.rindex("\nRUN ")
    config = parse([], {})
    made = re.search(r"install -d -o mytalk -g mytalk (.*)", DOCKERFILE)[1]
    for folder in (config.cache.relative_to(ROOT).parts[0], config.uploads.folder.name):
        assert f"/mytalk/{folder}" in made


def test_versions_are_the_pinned_ones_and_there_is_one_onnx_runtime():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    torch = next(need for need in project["optional-dependencies"]["train"] if need.startswith("torch=="))
    assert torch in DOCKERFILE
    assert torch.replace("torch", "torch-tensorrt") in DOCKERFILE
    assert "onnxruntime-gpu==" in DOCKERFILE
    assert "! pip show --quiet onnxruntime" in DOCKERFILE
    assert any(need.startswith("onnxruntime") for need in project["dependencies"]), "the filter has a purpose"


def test_what_is_copied_exists_and_secrets_stay_out():
    for line in lines("COPY"):
        for name in line.split()[:-1]:
            assert (ROOT / name).exists()
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv", "certs", "my-actors"} <= set(ignored)


def test_compose_keeps_what_the_container_writes_and_asks_for_a_card():
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed (make test installs it)")
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    service = compose["services"]["mytalk"]
    parse([*json.loads(lines("ENTRYPOINT")[0])[3:], *service["command"]], {})
    assert service["network_mode"] == "host"
    assert service["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert {volume.partition(":")[0] for volume in service["volumes"]} == set(compose["volumes"])
    assert "video" in service["environment"]["NVIDIA_DRIVER_CAPABILITIES"]
