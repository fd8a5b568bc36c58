"""The committed tables and documents follow from the committed rows.

Minutes, so it is a file of its own, beside which others run.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from ctsft.report.documents import MADE

ROOT = Path(__file__).parents[1]


def test_the_committed_tables_are_what_the_rows_give(tmp_path):
    [names] = re.findall(r"^RESULTS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    folders = [str(ROOT / name) for name in names.split()]
    assert set(folders) == {str(path.parent) for path in (ROOT / "results").glob("*/gold.json")}
    command = [
        sys.executable,
        "-m",
        "ctsft.report",
        *folders,
        "--tables",
        str(tmp_path),
        "--figures",
        str(tmp_path / "f"),
        "--documents",
    ]
    (tmp_path / "here").mkdir()
    for name in MADE:
        shutil.copy(ROOT / name, tmp_path / "here")
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path / "here")
    for name in MADE:  # else: make tables
        assert (tmp_path / "here" / name).read_text() == (ROOT / name).read_text()
    made = {path.name: path.read_text() for path in tmp_path.glob("*.*")}
    kept = {path.name: path.read_text() for path in (ROOT / "paper_tables").glob("*.*")}
    assert made == kept
    assert {p.name for p in (tmp_path / "f").iterdir()} == {p.name for p in (ROOT / "figures").iterdir()}
