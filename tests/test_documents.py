"""Documents are executed, not only read: every code block of the README, docs/ and the other pages."""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import json
import re
import shlex
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from commands import COMMAND, is_taken

from ctsft import cli
from ctsft.discovery import scorers
from ctsft.study.planning import duration
from ctsft.tasks import registry

ROOT = Path(__file__).parents[1]
FOLDERS = ("demo", "small", "cpu", "languages")  # whose rows are committed
PAGES = [ROOT / name for name in ("README.md", "REPRODUCING.md", "CONTRIBUTING.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Drawings and file trees; mermaid is drawn by the reader's browser.
NOT_CODE = {"text", "mermaid"}
# What sets up the machine that the tests run on already, and what runs these tests.
SETUP = (
    "python3 -m venv",
    ".venv/bin/python -m pip install",
    ".venv/bin/python -m pytest",
    ".venv/bin/pre-commit install",
)


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder that looks like the repository: results and scripts are there, build/ is new."""
    for name in ("results", "experiments", "Makefile", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "build").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "TASKS", dict(registry.TASKS))
    monkeypatch.setattr(scorers, "SCORERS", dict(scorers.SCORERS))
    return tmp_path


def without_comment(line: str) -> str:
    return shlex.join(shlex.split(line, comments=True)) if "#" in line else line.strip()


def run_line(line: str) -> None:
    """Run a command; long ones (studies, benchmarks, make) are checked to exist, with flags that they know."""
    words = shlex.split(line, comments=True)
    if words[0] == "ctsft":
        cli.main(words[1:])
    elif words[0] == "make":
        targets = set(re.findall(r"^(\w+):", Path("Makefile").read_text(), re.MULTILINE))
        assert set(words[1:]) <= targets, line
    elif command := COMMAND.search(line):
        assert is_taken(line), line
        if command["program"] == "-m ctsft.report":
            assert all(Path(word).name in (*FOLDERS, "build") for word in words[3:] if not word.startswith("-")), line
    elif words[0] == "printf":
        subprocess.run(line, shell=True, check=True)
    else:
        assert line.startswith(SETUP), f"a command that no test runs: {line}"


def run_block(kind: str, code: str, names: dict) -> None:
    if kind == "python":
        exec(compile(code, "block", "exec"), names)
    elif kind == "bash":
        for line in code.replace("\\\n", " ").splitlines():
            if without_comment(line):
                run_line(line)
    elif kind == "json":
        json.loads(code)
    elif kind == "diff":
        script = (ROOT / "experiments" / "01_nusax_transfer.py").read_text()
        old = [line[1:] for line in code.splitlines() if line.startswith("-")]
        assert old
        assert all(line in script.splitlines() for line in old)
        assert len([line for line in code.splitlines() if line.startswith("+")]) <= 5
    else:
        assert kind in NOT_CODE or kind == "bibtex", f"a block of kind '{kind}' that no test runs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_a_page_runs(page, folder):
    """Top to bottom, in one namespace a page."""
    names: dict = {"__name__": "page"}
    found = blocks(page)
    text = page.read_text(encoding="utf-8")
    assert text.count("```") == 2 * len(found), "a block that is not closed"
    with contextlib.redirect_stdout(io.StringIO()):
        for kind, code in found:
            run_block(kind, code, names)


def test_the_readmes_commands_leave_what_they_promise(folder):
    [block] = [code for kind, code in blocks(ROOT / "README.md") if kind == "bash" and "ctsft predict" in code]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        run_block("bash", block, {})
    assert Path("build/labels.csv").read_text().startswith("text,label,confidence,source_label,source_confidence\n")
    assert Path("build/scores.png").is_file()
    assert "delta of 4,712 weights" in said.getvalue()
    assert round(Path("build/d50/delta.safetensors").stat().st_size, -3) == 24_000


def named(page: Path) -> list[str]:
    """The commands in a page's own lines and in its text blocks; those of bash blocks are checked where these run."""
    lines = [line for kind, code in blocks(page) if kind == "text" for line in code.replace("\\\n", " ").splitlines()]
    spans = re.findall(r"`(python [^`]+)`", BLOCK.sub("", page.read_text(encoding="utf-8")))
    return [line for line in lines if COMMAND.search(line)] + [" ".join(span.split()) for span in spans]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_that_a_page_names_know_their_flags(page):
    assert [line for line in named(page) if not is_taken(line)] == []


@pytest.mark.parametrize(
    ("line", "taken"),
    [
        ("python experiments/my_pair.py --preset small --n-source 300", True),
        ("python experiments/my_pair.py --preset small --n-sauce 300", False),
        ("python experiments/01_nusax_transfer.py --preset tiny", False),
        ("python -m ctsft.study.gather build other", True),
        ("python -m ctsft.study.gather build", False),
        ("python -m ctsft.study.gather build other --fast", False),
        ("python benchmarks/agreement.py results/small FOLDER", True),
        ("python benchmarks/agreement.py", False),
        ("python benchmarks/growth.py --shape smollm2-135m &", True),
        ("python benchmarks/growth.py --shapes smollm2-135m", False),
    ],
)
def test_a_command_with_other_flags_or_without_an_argument_is_found(line, taken):
    assert is_taken(line) is taken


def test_pages_name_commands_of_every_kind():
    """Else the tests above could pass because they find none."""
    programs = {COMMAND.search(line)["program"] for page in PAGES for line in named(page)}
    assert {"experiments/my_pair.py", "-m ctsft.study.gather", "-m ctsft.report", "benchmarks/agreement.py"} <= programs


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert all((page.parent / link).exists() for link in links), links
    for name in re.findall(r"`((?:ctsft|docs|tests|experiments|notebooks|paper_tables)/[\w./]+)`", text):
        assert (ROOT / name).exists(), name


def test_reproducings_hours_are_those_of_the_rows():
    page = (ROOT / "REPRODUCING.md").read_text(encoding="utf-8")
    rows = pd.read_csv(ROOT / "results/small/01_nusax_transfer.csv")
    seconds = rows["train_seconds"].sum() + rows["eval_seconds"].sum()
    precisions = ", ".join(sorted(set(rows["dtype"] + " on " + rows["device"])))
    assert f"small: {len(rows)} rows, {duration(seconds)} ({precisions}), theta1 " in page


def test_reproducing_names_every_figure_and_every_table_of_the_paper():
    text = (ROOT / "REPRODUCING.md").read_text()
    for path in (ROOT / "paper_tables").glob("table*.md"):
        assert f"paper_tables/{path.name}" in text
    for path in (ROOT / "figures").glob("*.png"):
        assert f"`*_{path.name.split('_', 1)[1]}`" in text, path.name


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_what_a_notebook_imports_is_there(path):
    """Executing all of them takes minutes; a name that has moved is found in a second."""
    cells = json.loads(path.read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    imports = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    assert imports
    for node in imports:
        module = importlib.import_module(node.module)
        for name in node.names:
            assert hasattr(module, name.name), f"{node.module} has no {name.name}"
