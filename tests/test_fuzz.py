"""Whatever a file or a flag holds: it is read right, or refused by one sentence that names it. Never anything else.

CTSFT_FUZZ is the number of cases of each test; the long run has 2,500 (20,000 and more in all).
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import runpy
from dataclasses import fields

import numpy as np
import pytest
import torch
from conftest import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from killing import ROOT
from safetensors import safe_open
from safetensors.torch import save_file

from ctsft.discovery.relevance import Relevance
from ctsft.errors import UserError
from ctsft.heads import Head, head_slices
from ctsft.models.load import weight_hash
from ctsft.models.weight_files import refuse_foreign_shards
from ctsft.storage import read_sealed, write_sealed
from ctsft.study.beside import keep_gold, read_gold
from ctsft.study.config import StudyConfig
from ctsft.study.record import COLUMNS, append_rows, read_rows
from ctsft.study.run import parse
from ctsft.tasks.nusax import LABELS, parse_csv
from ctsft.tasks.smsa import SMSA
from ctsft.tasks.task import Example, Rows
from ctsft.tasks.xnli import LABELS as ENTAILMENT
from ctsft.tasks.xnli import json_lines
from ctsft.tasks.xnli import parse as parse_pairs
from ctsft.tuning.delta import HeadDelta

CASES = int(os.environ.get("CTSFT_FUZZ", "60"))
fuzz = settings(
    max_examples=CASES,
    deadline=None,
    derandomize=CASES < 1000,
    database=None,
    suppress_health_check=list(HealthCheck),
)
PRESETS = runpy.run_path(str(ROOT / "experiments" / "01_nusax_transfer.py"))["PRESETS"]


def refused(error: UserError, *names: str) -> None:
    """One sentence or two in one line, and it names the file."""
    assert str(error).strip()
    assert "\n" not in str(error)
    assert all(name in str(error) for name in names)


@st.composite
def damaged(draw, content: bytes) -> bytes:
    """The content with a few bytes changed, a piece cut out, or something put in."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place, size = draw(st.integers(0, max(0, len(data) - 1))), draw(st.integers(0, 40))
        data[place : place + size] = draw(st.one_of(st.binary(max_size=8), st.just(b""), st.binary(max_size=size)))
    return bytes(data)


cell_text = st.one_of(st.text(max_size=12), st.sampled_from([*LABELS, "", " ", '"', "a\nb", "\x00", "1,2"]))


@fuzz
@given(
    st.lists(st.tuples(cell_text, cell_text, cell_text), max_size=6), st.sampled_from(["id,text,label", "text,id", ""])
)
def test_csv_rows(rows, header):
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    content = f"{header}\n{out.getvalue()}"
    try:
        examples = parse_csv(content, "rows.csv", LABELS)
    except UserError as error:
        refused(error, "rows.csv")
        return
    assert header == "id,text,label"
    written = [row for row in rows if row]
    assert [(e.id, e.text, LABELS[e.label]) for e in examples] == written
    assert all(e.text.strip() for e in examples)


@fuzz
@given(st.text(max_size=200) | st.text('",\n\r idtextlabel', max_size=80))
def test_any_text_as_csv(content):
    try:
        examples = parse_csv(content, "rows.csv", LABELS)
    except UserError as error:
        refused(error, "rows.csv")
    else:
        assert all(e.text.strip() and 0 <= e.label < 3 and e.id is not None for e in examples)


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(ENTAILMENT)
)
values = st.one_of(scalars, st.lists(scalars, max_size=2), st.dictionaries(st.text(max_size=3), scalars, max_size=2))
names = st.sampled_from(["premise", "hypothesis", "label", "pair_id", "prompt_id", "other"])
json_line = st.one_of(
    st.dictionaries(names, values, max_size=6).map(json.dumps),
    st.fixed_dictionaries(
        {"premise": st.text(max_size=5), "hypothesis": st.text(max_size=5), "label": st.sampled_from(ENTAILMENT)}
    ).map(json.dumps),
    values.map(json.dumps),
    st.text(max_size=20),
)


@fuzz
@given(st.lists(json_line, max_size=4), st.data())
def test_json_lines(tmp_path_factory, lines, data):
    path = tmp_path_factory.getbasetemp() / "rows.jsonl.gz"
    content = gzip.compress("\n".join(lines).encode("utf-8", errors="surrogatepass"))
    path.write_bytes(data.draw(damaged(content)) if data.draw(st.booleans()) else content)
    try:
        examples = parse_pairs(json_lines(path), str(path))
    except UserError as error:
        refused(error, "rows.jsonl.gz")
        return
    for example in examples:
        assert isinstance(example.text, str)
        assert isinstance(example.pair, str)
        assert example.text.strip()
        assert example.pair.strip()
        assert 0 <= example.label < 3


numbers = st.one_of(st.integers(-2, 200), st.integers(), st.floats())
flag_text = st.one_of(numbers.map(str), st.text(max_size=8), st.sampled_from(["cdt", "circuit:0,1", "d30", "demo/d50"]))
flags = st.sampled_from([f"--{field.name.replace('_', '-')}" for field in fields(StudyConfig)])


@fuzz
@given(st.lists(st.tuples(flags, st.lists(flag_text, max_size=2)), max_size=3))
def test_flags(pairs):
    argv = [text for flag, texts in pairs for text in (flag, *texts)]
    try:
        config = parse(PRESETS, "", argv)
    except UserError as error:
        refused(error)
    except SystemExit:
        pass  # the parser of the flags has said what is wrong, or printed --help
    else:
        assert min(config.n_source, config.epochs, config.batch_size, config.eval_batch, config.micro_batch) >= 1
        assert all(0 < lr < float("inf") for lr in (*config.lrs, config.source_lr))
        assert all(0 < share <= 1 for share in config.shares)
        assert 1 <= min(config.n_targets) <= max(config.n_targets) <= 100
        assert config.source not in config.targets


ROW = {name: f"{name}-value" for name in COLUMNS}


@fuzz
@given(st.data())
def test_result_rows(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzzed" / "rows.csv"
    path.unlink(missing_ok=True)
    append_rows(path, [ROW | {"cell": "first"}, ROW | {"cell": 'second, with "comma"'}])
    good = read_rows(path)
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    try:
        rows = read_rows(path)
    except UserError as error:
        refused(error, "rows.csv")
    else:
        assert all(row in good for row in rows)  # a row may be gone (it is run again), but none is altered


@fuzz
@given(st.data())
def test_stored_scores(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzzed" / "map"
    scores = np.arange(6.0).reshape(2, 3)
    Relevance(scores, {Head(1, 2): scores + 0.5}, {"theta1_hash": "abc"}).save(path)
    victim = path.with_suffix(data.draw(st.sampled_from([".json", ".safetensors"])))
    victim.write_bytes(data.draw(damaged(victim.read_bytes())))
    try:
        loaded = Relevance.load(path)
    except UserError as error:
        refused(error, "map")
    else:
        assert np.array_equal(loaded.logits, scores)
        assert list(loaded.columns) == [Head(1, 2)]
        assert np.array_equal(loaded.columns[Head(1, 2)], scores + 0.5)


@fuzz
@given(st.data())
def test_labels_beside_the_rows(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "labels"
    (folder / "gold.json").unlink(missing_ok=True)
    examples = [Example(str(number), "teks", number % 3) for number in range(9)]
    keep_gold(folder, {f"demo/{name}": Rows(name, "test", tuple(examples), "0123") for name in ("d00", "d30")})
    path = folder / "gold.json"
    good = read_gold(path)
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    try:
        found = read_gold(path)
    except UserError as error:
        refused(error, "gold.json")
    else:
        # An entry may be gone; one is altered only where the name of its checksum is too.
        checked = {test: entry for test, entry in found.items() if "labels_sha256" in entry}
        assert all(entry["labels"] == good[test]["labels"] for test, entry in checked.items())


@fuzz
@given(st.data())
def test_saved_circuits(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "circuit.json"
    content = {"arm": "circuit", "depth": 1, "heads": ["0.1", "2.3"], "share": 0.02}
    write_sealed(path, content)
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    try:
        found = read_sealed(path)
    except UserError as error:
        refused(error, "circuit.json")
    else:
        # Whatever is read is what was written, unless the checksum itself is gone with its name.
        assert found == content or "sha256" not in json.loads(path.read_bytes())


ABOUT = {"task": {"labels": ["buruk", "baik"], "template": "{text} →"}, "temperature": 1.25, "language": "javanese"}


@pytest.fixture(scope="module")
def saved_delta(tmp_path_factory) -> tuple:
    loaded = tiny("llama-2kv")
    moving = head_slices(loaded.anatomy, [Head(0, 1), Head(2, 3)])
    folder = tmp_path_factory.mktemp("delta")
    HeadDelta.of(loaded.model, moving, weight_hash(loaded.model), ABOUT).save(folder)
    path = folder / "delta.safetensors"
    return loaded, path, path.read_bytes()


@fuzz
@given(st.data())
def test_deltas(saved_delta, data):
    loaded, path, content = saved_delta
    before = weight_hash(loaded.model)
    path.write_bytes(data.draw(damaged(content)))
    try:
        found = HeadDelta.load(path)
        found.apply(loaded.model)
    except UserError as error:
        refused(error)
    else:
        assert (found.about, found.base) == (ABOUT, before)
    # The delta holds the model's own values: applied or refused, not one weight may differ.
    assert weight_hash(loaded.model) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"1.25", b"1.75"),
        (b"buruk", b"bukur"),
        (b"{text}", b"{test}"),
        (b'"header_sha256"', b'"header_sha257"'),
        (b'"sha256"', b'"sha257"'),
        (b'"about"', b'"abort"'),
    ],
)
def test_what_a_delta_says_of_itself_is_refused_where_it_is_damaged(saved_delta, old, new):
    _, path, content = saved_delta
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    with pytest.raises(UserError, match="damaged"):
        HeadDelta.load(path)


@pytest.mark.parametrize("names", [("base", "format", "about"), ("base", "format", "about", "sha256")])
def test_deltas_of_earlier_versions_are_read(saved_delta, names):
    """These had no checksum, and then one of their values alone."""
    _, path, content = saved_delta
    path.write_bytes(content)
    with safe_open(path, "pt") as file:
        metadata, values = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(values, path, {name: metadata[name] for name in names})
    assert HeadDelta.load(path).about == ABOUT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda values: {piece._replace(parameter="no.such"): value for piece, value in values.items()},
            "does not have",
        ),
        (lambda values: {p._replace(start=p.start + 999, stop=p.stop + 999): v for p, v in values.items()}, "outside"),
        (
            lambda values: {piece: value[..., :1] for piece, value in values.items() if value.ndim == 2},
            "this model needs",
        ),
    ],
)
def test_a_delta_that_does_not_fit_changes_nothing(saved_delta, change, message):
    loaded, path, content = saved_delta
    path.write_bytes(content)
    delta = HeadDelta.load(path)
    before = weight_hash(loaded.model)
    with pytest.raises(UserError, match=message):
        HeadDelta(delta.base, change(delta.values)).apply(loaded.model)
    assert weight_hash(loaded.model) == before


def test_a_pickle_is_no_delta(tmp_path):
    path = tmp_path / "delta.safetensors"
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="cannot read the head delta"):
        HeadDelta.load(path)


paths = st.one_of(st.text(max_size=12), st.text("./a\x00", max_size=12), scalars)


@fuzz
@given(st.dictionaries(st.text(max_size=3), st.one_of(paths, paths.map("{}.safetensors".format)), max_size=3))
def test_indexes_of_sharded_checkpoints(tmp_path_factory, weight_map):
    folder = tmp_path_factory.getbasetemp() / "checkpoint"
    folder.mkdir(exist_ok=True)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    try:
        refuse_foreign_shards(index)
    except UserError as error:
        refused(error, "model.safetensors.index.json")
    else:
        inside = [os.path.normpath(os.path.join(folder, name)) for name in weight_map.values()]
        assert all(path.startswith(f"{folder}{os.sep}") and path.endswith(".safetensors") for path in inside)


@fuzz
@given(st.data())
def test_files_of_a_data_folder(tmp_path_factory, data):
    """Whole files as they lie in a data folder, damaged: gzip, encoding and lines."""
    folder = tmp_path_factory.getbasetemp() / "data"
    (folder / "smsa").mkdir(parents=True, exist_ok=True)
    path = folder / "smsa" / "test.no_nusax.tsv.gz"
    lines = [f"teks nomor {number}\t{LABELS[number % 3]}" for number in range(6)]
    content = "\n".join(lines).encode()
    inside = data.draw(st.booleans())
    path.write_bytes(
        gzip.compress(data.draw(damaged(content))) if inside else data.draw(damaged(gzip.compress(content)))
    )
    try:
        rows = SMSA.load("indonesian", "test", folder)
    except UserError as error:
        refused(error, "smsa")
    else:
        assert all(example.text.strip() for example in rows.examples)
