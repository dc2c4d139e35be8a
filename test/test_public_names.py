"""What ``from aiofranka_ros import ...`` offers. No arm, no ROS graph."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import aiofranka_ros

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("name", aiofranka_ros.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    if name == "RosInterface":
        pytest.importorskip("rclpy")
    value = getattr(importlib.import_module("aiofranka_ros"), name)
    assert value is not None
    assert name in dir(aiofranka_ros), "the second use does not import again"


def test_the_table_of_modules_has_exactly_the_public_names() -> None:
    assert set(aiofranka_ros._MODULES) == set(aiofranka_ros.__all__)
    assert aiofranka_ros.__all__ == sorted(aiofranka_ros.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = aiofranka_ros.nothing


def test_importing_the_package_imports_none_of_its_modules() -> None:
    code = "import sys, aiofranka_ros; print([name for name in sys.modules if name.startswith('aiofranka_ros.')])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout == "[]\n"
