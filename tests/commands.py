"""Commands that pages name and that take long, or need a cluster or files of one's own: parsed, and not run."""

from __future__ import annotations

import argparse
import importlib
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from ctsft.errors import UserError
from ctsft.study.run import parse

ROOT = Path(__file__).parents[1]
MODULES = {"-m ctsft.study.gather": "ctsft.study.gather", "-m ctsft.report": "ctsft.report.__main__"}
COMMAND = re.compile(rf"python (?P<program>(?:experiments|benchmarks)/\w+\.py|{'|'.join(MODULES)})(?P<rest>(?: .*)?)$")
COPIES = {"experiments/my_pair.py": "experiments/01_nusax_transfer.py"}  # as the README says to make them
VARIABLES = {"$SLURM_ARRAY_TASK_ID": "1", "$i": "1", "$SHARED": "build", "DATA": "build", "MODEL.gguf": "demo"}


class Parsed(Exception):
    """The program's own parser has taken the flags."""


def is_taken(line: str) -> bool:
    """Whether the program that a line with a COMMAND starts takes its flags and arguments."""
    command = COMMAND.search(line)
    assert command, f"a command that no test reads: {line}"
    rest = command["rest"]
    for name, value in VARIABLES.items():
        rest = rest.replace(name, value)
    words = [word for word in shlex.split(rest, comments=True) if word not in ("&", "...")]
    program = COPIES.get(command["program"], command["program"])
    try:
        if program.startswith("experiments/"):
            parse(runpy.run_path(str(ROOT / program))["PRESETS"], "", words)
        else:
            _only_parsed(program, words)
    except (SystemExit, UserError) as error:
        print(f"{line}: {error}", file=sys.stderr)  # a parser has said more there
        return False
    return True


def _only_parsed(program: str, words: list[str]) -> None:
    """Start a program that has an argparse parser, up to where it has parsed `words`."""
    honest = argparse.ArgumentParser.parse_args

    def parse_args(parser: argparse.ArgumentParser) -> None:
        honest(parser)
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        patch.setattr(sys, "argv", [program, *words])
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        if program in MODULES:
            start = importlib.import_module(MODULES[program]).main
        else:
            start = runpy.run_path(str(ROOT / program))["main"]
        with pytest.raises(Parsed):
            start()
