"""Whatever a user brings: rows of one's own, their task.json, and what `ctsft predict` is given.

It is read as it stands there, or refused by one sentence that names the file.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import fields as fields_of
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_fuzz import damaged, fuzz, refused

from ctsft.commands.predict import Predict
from ctsft.errors import UserError
from ctsft.models.load import Loaded, load_model
from ctsft.prediction import Labeller
from ctsft.tasks.demo.task import DEMO
from ctsft.tasks.files import Declaration, own_task
from ctsft.tasks.form import form_of
from ctsft.tasks.formats import LONGEST_FIELD
from ctsft.tasks.tables import COLUMNS, normal_label
from ctsft.tasks.task import SPLITS

KINDS = st.sampled_from([".csv", ".tsv", ".jsonl"])
LABELS = ("yes", "no", "ü")
odd = st.sampled_from(["", " ", '"', "a\nb", "a\r", "\t", "\x00", "\ufeff", "1,2", "e\u0301"])
fields = st.one_of(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), odd, st.sampled_from(LABELS))
names = st.sampled_from([*(name for usual in COLUMNS.values() for name in usual), "sentence", "", " text"])
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6), odd, names)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | names, inner, max_size=3)
)
contents = st.text(max_size=30).map(lambda text: text.encode(errors="replace")) | st.binary(max_size=30)
# Likely enough to be right that the reading goes on behind the first check.
rows = st.lists(
    st.tuples(fields.filter(str.strip) | fields, st.sampled_from(LABELS[:2]) | fields), min_size=1, max_size=6
)


def written(kind: str, header: list[str], records: list[tuple]) -> bytes:
    """A table as its form has it; in a .tsv file nothing can be quoted, so that some of it means something else."""
    if kind == ".jsonl":
        return "".join(json.dumps(dict(zip(header, record, strict=True))) + "\n" for record in records).encode()
    out = io.StringIO(newline="")
    if kind == ".csv":
        csv.writer(out).writerows([header, *records])
    else:
        out.write("".join("\t".join(record) + "\n" for record in [header, *records]))
    return out.getvalue().encode()


def read_as_written(kind: str, records: list[tuple]) -> bool:
    """Whether the form can hold these fields at all."""
    return kind != ".tsv" or not any(character in field for r in records for field in r for character in "\t\n\r")


@fuzz
@given(KINDS, rows, st.data())
def test_rows_of_ones_own(tmp_path_factory, kind, records, data):
    folder = tmp_path_factory.mktemp("own")
    (folder / "x").mkdir()
    content = written(kind, ["text", "label"], records)
    whole = data.draw(st.booleans())
    for split in SPLITS:
        path = folder / "x" / f"{split}{kind}"
        path.write_bytes(content if whole else data.draw(damaged(content)))
    try:
        task = own_task("own", folder)
        found = [task.load("x", split).examples for split in SPLITS]
    except UserError as error:
        refused(error, "own")
        return
    for examples in found:
        assert all(e.text.strip() and 0 <= e.label < len(task.labels) and e.id for e in examples)
        if whole and read_as_written(kind, records):
            assert [(e.text, task.labels[e.label]) for e in examples] == [
                (text.strip(), normal_label(label.strip())) for text, label in records
            ]


@fuzz
@given(KINDS, st.tuples(contents, contents, contents))
def test_any_content_as_rows_of_ones_own(tmp_path_factory, kind, splits):
    folder = tmp_path_factory.mktemp("own")
    (folder / "x").mkdir()
    for split, content in zip(SPLITS, splits, strict=True):
        (folder / "x" / f"{split}{kind}").write_bytes(content)
    try:
        task = own_task("own", folder)
        found = [e for split in SPLITS for e in task.load("x", split).examples]
    except UserError as error:
        refused(error, "own")
    else:
        assert all(e.text.strip() and 0 <= e.label < len(task.labels) for e in found)


likely = st.fixed_dictionaries(
    {},
    optional={
        "template": st.sampled_from(["{text}:", "{text} {pair}", "{text!r}", "{text:>9}", "{", "{0}", "{{}}{text}"]),
        "labels": st.lists(st.sampled_from([*LABELS, "", " yes"]), max_size=3),
        "label_words": st.dictionaries(st.sampled_from(LABELS), st.text(max_size=4), max_size=2),
        "several_tokens": st.sampled_from(["refuse", "first"]),
        "columns": st.dictionaries(st.sampled_from(list(COLUMNS)), names, max_size=3),
        "parallel": st.booleans(),
        "target_pool": st.integers(),
    },
)
keys = st.sampled_from([field.name for field in fields_of(Declaration)])
declared = st.one_of(
    likely, st.builds(lambda known, more: known | more, likely, st.dictionaries(keys, values, max_size=1)), values
)


@fuzz
@given(declared, st.data())
def test_declarations_of_ones_own(tmp_path_factory, content, data):
    folder = tmp_path_factory.mktemp("own")
    (folder / "x").mkdir()
    for split in SPLITS:
        (folder / "x" / f"{split}.tsv").write_text("text\tlabel\tsentence\nA\tyes\tB\nC\tno\tD\n")
    text = json.dumps(content).encode()
    (folder / "task.json").write_bytes(data.draw(damaged(text)) if data.draw(st.booleans()) else text)
    try:
        task = own_task("own", folder)
        found = [e for split in SPLITS for e in task.load("x", split).examples]
    except UserError as error:
        refused(error, "own")
        return
    assert {task.labels[e.label] for e in found} == {"yes", "no"}
    assert {e.text for e in found} in ({"A", "C"}, {"B", "D"})
    assert len(task.label_words) == len(task.labels) == 2
    assert task.target_pool > 0
    assert all(text.encode() for text in (task.template, *task.labels))
    "".join(task.label_words).encode()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    (folder / "ctsft.json").write_text(json.dumps({"task": form_of(DEMO), "temperature": 1.0}))
    return folder


@cache
def demo() -> Loaded:
    return load_model("demo")


def predicted(checkpoint: Path, source: Path, monkeypatch) -> list[dict[str, str]]:
    """What `ctsft predict` writes for a file; the model answers the first label to everything."""
    monkeypatch.setattr(Labeller, "_ask", lambda self, examples, voice: ([0] * len(examples), [0.5] * len(examples)))
    using = SimpleNamespace(model=str(checkpoint), load=demo, longest=lambda *about: 128)
    output = source.with_suffix(".out")
    output.unlink(missing_ok=True)
    try:
        Predict(using, input=str(source), output=str(output)).run()
    except UserError:
        assert not output.exists()
        raise
    csv.field_size_limit(LONGEST_FIELD)
    with output.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


@fuzz
@given(KINDS, st.lists(names, min_size=1, max_size=3), st.data())
def test_rows_to_label(tmp_path_factory, checkpoint, monkeypatch, kind, header, data):
    """Every row comes back in its place with its fields, and with a label where it has a text."""
    source = tmp_path_factory.mktemp("in") / f"rows{kind}"
    cells = st.one_of(fields, values) if kind == ".jsonl" else fields
    records = data.draw(st.lists(st.tuples(*[cells] * len(header)), max_size=5))
    content = written(kind, header, records)
    whole = data.draw(st.booleans())
    source.write_bytes(content if whole else data.draw(damaged(content)))
    try:
        found = predicted(checkpoint, source, monkeypatch)
    except UserError as error:
        refused(error)
        return
    assert all(bool(row["label"]) == bool(row["text"].strip()) for row in found)
    if whole and read_as_written(kind, records):
        asked = [dict(zip(header, record, strict=True)) for record in records]
        assert [list(row.values())[:-2] for row in found] == [list(map(_as_field, row.values())) for row in asked]


def _as_field(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


@fuzz
@given(KINDS, contents)
def test_any_content_to_label(tmp_path_factory, checkpoint, monkeypatch, kind, content):
    source = tmp_path_factory.getbasetemp() / f"any{kind}"
    source.write_bytes(content)
    try:
        found = predicted(checkpoint, source, monkeypatch)
    except UserError as error:
        refused(error)
    else:
        assert all(bool(row["label"]) == bool(row["text"].strip()) for row in found)
