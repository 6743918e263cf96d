"""What all tests share: property tests draw the same examples on every machine."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the server does: threads cost more than they save

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "mytalk", deadline=None, derandomize=True, max_examples=30, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("mytalk")


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of small random models with an int8 decoder; made once, since exporting takes a while."""
    pytest.importorskip("torch", reason="torch is not installed (make test installs it)")
    from export.bundle import Int8, Steps, write_bundle
    from tests.small_bundle import small_trained, write_calibration

    folder = tmp_path_factory.mktemp("small_bundle")
    write_bundle(
        small_trained(), Steps(2, (1, 2)), Int8(write_calibration(folder.with_suffix(".npz"))), folder
    )
    return folder
