"""The first start after an installation says that it compiles, instead of seeming to hang."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from aiofranka_ros.arm.driver import Driver
from aiofranka_ros.arm.settings import ArmSettings
from aiofranka_ros.control.client import ControlClient
from aiofranka_ros.control.compilation import report_compiling
from aiofranka_ros.control.law import report
from aiofranka_ros.errors import COMPILING, ConnectionFailed
from aiofranka_ros.kernels import _places
from aiofranka_ros.node.diagnostics import Diagnosis

#: The first one may have to compile everything, next to other programs.
pytestmark = [pytest.mark.light, pytest.mark.timeout(300)]


@pytest.fixture
def incomplete_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Child processes find all compiled code but that of one small kernel."""
    with ControlClient(priority=0):
        pass  # Now all of it is compiled.
    folder = Path(report.report.stats.cache_path)
    kernels = next(parent for parent in folder.parents if parent.parent.name == "__pycache__")
    own = tmp_path / list(_places())[-1].name  # The folder of this package in numba's.
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    shutil.copytree(kernels, own)
    for index in (own / folder.relative_to(kernels)).glob("*.report-*.nbi"):
        index.unlink()


def test_a_start_that_has_to_compile_says_so_in_log_and_diagnostics_and_the_next_one_does_not(
    incomplete_cache: None, caplog: pytest.LogCaptureFixture
) -> None:
    messages: list[str] = []

    def on_compiling() -> None:
        client = driver.client
        assert client is not None
        messages.append(Diagnosis("/arm").loop(client, client.state(), "").message)

    # Nothing listens at that address, so the start ends after the compilation.
    report_compiling.cache_clear()
    driver = Driver(ArmSettings(robot_ip="127.9.9.9", realtime_priority=0), on_compiling=on_compiling)
    for _ in range(2):
        with caplog.at_level(logging.WARNING), pytest.raises(ConnectionFailed):
            driver.configure()
        assert messages == [COMPILING]
        assert caplog.text.count(COMPILING) == 1
