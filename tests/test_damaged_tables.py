"""Damaged results tables: a header with other bytes, checksums that are not whole, a process killed between the two."""

from __future__ import annotations

from pathlib import Path

import pytest
from killing import ROOT

from ctsft.costs.run import ARITHMETIC_COLUMNS as ARITHMETIC
from ctsft.costs.run import COST_COLUMNS as COSTS
from ctsft.errors import UserError
from ctsft.storage import Damaged
from ctsft.study import record
from ctsft.study.record import COLUMNS, TABLES, append_rows, mend, mend_table, read_rows, unit_of
from ctsft.study.self_training import COLUMNS as CHAINS

ROW = {name: f"{name}-value" for name in COLUMNS}
ROWS = [ROW | {"cell": cell} for cell in ("a", "b", "c")]
HEADER = ",".join(COLUMNS).encode()
COMMITTED = sorted([*(ROOT / "results").rglob("*.csv.sha256"), *(ROOT / "benchmarks").rglob("*.csv.sha256")])


@pytest.fixture
def table(tmp_path) -> Path:
    append_rows(tmp_path / "rows.csv", ROWS)
    return tmp_path / "rows.csv"


def sums_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def early(columns: list[str]) -> list[str]:
    return [name for name in columns if name not in record.LATE]


def header_of(content: bytes, new: bytes) -> bytes:
    return new + content.removeprefix(HEADER)


DAMAGED_HEADERS = {
    "a letter": HEADER.replace(b"accuracy", b"accuracz", 1),
    "a bit of a comma": HEADER.replace(b"cell,", b"cell-", 1),
    "a byte that is no text": b"\xff" + HEADER[1:],
    "a new line inside": HEADER.replace(b"preset", b"pre\net", 1),
    "a block of zeros": bytes(64) + HEADER[64:],
    "cut at its start": HEADER[30:],
    "gone": b"",
}


@pytest.mark.parametrize("damage", DAMAGED_HEADERS)
def test_a_damaged_header_is_named_set_aside_and_written_again_and_its_rows_are_kept(table, capsys, damage):
    good = table.read_bytes()
    table.write_bytes(damaged := header_of(good, DAMAGED_HEADERS[damage]))
    with pytest.raises(Damaged, match=r"rows\.csv, line 1: the names of the columns are not as they were written"):
        read_rows(table)
    mend(table.parent)
    assert f"warning: {table}, line 1: " in capsys.readouterr().err
    assert table.with_name("rows.csv.damaged-1").read_bytes() == damaged
    assert table.read_bytes() == good
    assert read_rows(table) == ROWS


def test_a_header_that_swallowed_its_first_row_takes_that_row_with_it(table):
    table.write_bytes(table.read_bytes().replace(b"\n", b" ", 1))
    mend(table.parent)
    assert read_rows(table) == ROWS[1:]


def test_without_checksums_a_few_characters_are_damage_too(table):
    sums_of(table).unlink()
    good = table.read_bytes()
    table.write_bytes(header_of(good, DAMAGED_HEADERS["a letter"]))
    with pytest.raises(Damaged, match="line 1"):
        read_rows(table)
    mend(table.parent)
    assert table.read_bytes() == good


@pytest.mark.parametrize("end", [HEADER, HEADER.replace(b"created", b"creeted")], ids=["whole", "damaged"])
def test_a_header_without_an_end_has_no_rows(table, end):
    table.write_bytes(end)
    with pytest.raises(Damaged, match="line 1"):
        read_rows(table)
    mend(table.parent)
    assert table.read_bytes() == HEADER + b"\n"


def other_columns(how: str) -> list[str]:
    names = {"renamed": ["micro_precision" if name == "macro_f1" else name for name in COLUMNS]}
    names |= {"swapped": [*COLUMNS[:3], COLUMNS[4], COLUMNS[3], *COLUMNS[5:]]}
    return (names | {"more": [*COLUMNS, "energy"], "fewer": COLUMNS[:-1]})[how]


@pytest.mark.parametrize("how", ["renamed", "swapped", "more", "fewer"])
def test_a_table_that_has_other_columns_is_refused_and_stays_where_it_is(tmp_path, how):
    """Written as such a version would have written it: its rows have checksums."""
    path, columns = tmp_path / "rows.csv", other_columns(how)
    append_rows(path, [dict.fromkeys(columns, "1")], columns)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    for use in (lambda: read_rows(path), lambda: mend(tmp_path), lambda: append_rows(path, ROWS)):
        with pytest.raises(UserError, match=r"has other columns than this version writes"):
            use()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_damaged_header_from_before_the_late_columns_is_mended_as_it_was(tmp_path):
    path, columns = tmp_path / "chains.csv", early(CHAINS)
    assert len(columns) < len(CHAINS)
    append_rows(path, [dict.fromkeys(columns, "1")], columns)
    good, rows = path.read_bytes(), read_rows(path, CHAINS)
    path.write_bytes(good.replace(b"chain,", b"chein,", 1))
    mend_table(path, CHAINS)
    assert path.read_bytes() == good
    assert read_rows(path, CHAINS) == rows == [dict.fromkeys(columns, "1") | record.LATE]


@pytest.mark.parametrize("left", [0, 1, 2])
def test_rows_whose_checksums_are_cut_off_are_named_set_aside_and_measured_again(table, capsys, left):
    """Else altered rows would pass for rows from before there were checksums."""
    lines = sums_of(table).read_text().splitlines(keepends=True)
    sums_of(table).write_text("".join(lines[:left]) + lines[left][: len(lines[left]) // 2])
    table.write_bytes(damaged := table.read_bytes().replace(b"accuracy-value", b"accuracy-other"))
    with pytest.raises(Damaged, match=r"rows\.csv, line 2: a "):
        read_rows(table)
    mend(table.parent)
    assert f"warning: {table}, line 2: a " in capsys.readouterr().err
    assert table.with_name("rows.csv.damaged-1").read_bytes() == damaged
    assert read_rows(table) == []
    append_rows(table, ROWS)
    assert read_rows(table) == ROWS


def test_of_whole_rows_those_that_have_their_checksum_are_kept(table):
    lines = sums_of(table).read_text().splitlines(keepends=True)
    sums_of(table).write_text("".join(line for line in lines if not line.endswith("  b\n")))
    with pytest.raises(Damaged, match=r"line 3: b has no checksum in the \.sha256 file beside it"):
        read_rows(table)
    mend(table.parent)
    assert read_rows(table) == [ROWS[0], ROWS[2]]


@pytest.mark.parametrize("before", ["with checksums", "from before there were checksums", "none"])
def test_killed_between_checksums_and_rows_nothing_is_damaged(table, monkeypatch, before):
    if before != "with checksums":
        sums_of(table).unlink()
    if before == "none":
        table.unlink()
    known, honest, written = read_rows(table), record.write_atomic, []

    def killed(path, content):
        if written:
            raise KeyboardInterrupt
        honest(path, content)
        written.append(path)

    monkeypatch.setattr(record, "write_atomic", killed)
    with pytest.raises(KeyboardInterrupt):
        append_rows(table, [ROW | {"cell": "new"}])
    monkeypatch.setattr(record, "write_atomic", honest)
    assert read_rows(table) == known
    mend(table.parent)
    assert not list(table.parent.glob("*.damaged-*"))
    append_rows(table, [ROW | {"cell": "new"}])
    assert [row["cell"] for row in read_rows(table)] == [*(row["cell"] for row in known), "new"]


@pytest.mark.parametrize("sums", COMMITTED, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_committed_row_has_its_checksum(sums):
    path = sums.with_suffix("")
    header = path.read_text().partition("\n")[0].split(",")
    known = (*TABLES.values(), COSTS, ARITHMETIC, CHAINS)
    columns = next(columns for columns in known if header in (columns, early(columns)))
    assert {unit_of(row, columns) for row in read_rows(path, columns)} == set(record._sums(path))
