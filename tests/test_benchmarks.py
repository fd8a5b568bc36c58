"""Benchmarks are measured by hand; here only that each one starts and explains its flags."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.py") if path.name != "common.py"))
def test_every_benchmark_explains_itself(name):
    done = subprocess.run([sys.executable, str(FOLDER / name), "--help"], capture_output=True, text=True, check=True)
    assert "usage" in done.stdout
