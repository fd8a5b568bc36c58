"""What every result says of where it came from: code, versions, GPU, time."""

from __future__ import annotations

import datetime
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch


def git_commit() -> str:
    """The commit of this code, with `+` when the working tree differs; `unknown` outside git."""
    here, package = Path(__file__), Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=package, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", str(here))  # an installed package may lie in its user's repository
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions() -> dict[str, str]:
    names = ("torch", "transformers", "tokenizers", "datasets", "numpy", "scikit-learn", "peft")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def gpu(device: torch.device) -> dict[str, str]:
    """The name of the GPU, where it is one; nothing of a CPU."""
    return {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
