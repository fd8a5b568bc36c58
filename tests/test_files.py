"""A user's own files: every form that rows may have, and everything that is found before training."""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
import re
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import datasets
import evaluate
import pytest
from own_data import label_words, sentences, write_jsonl, write_topics
from sklearn.metrics import f1_score

import ctsft
from ctsft import cli
from ctsft.errors import UserError
from ctsft.evaluation import scores
from ctsft.report import compare
from ctsft.report.rows import Results
from ctsft.storage import digest
from ctsft.study.config import StudyConfig
from ctsft.study.grid import cell_fingerprint, cells
from ctsft.study.record import read_rows
from ctsft.study.run import run_study
from ctsft.study.workbench import Workbench
from ctsft.tasks.checks import findings, near_duplicates
from ctsft.tasks.demo.languages import word
from ctsft.tasks.demo.task import DEMO
from ctsft.tasks.prompts import Layout, answers, encode
from ctsft.tasks.registry import TASKS, get_task
from ctsft.tasks.role import training_rows
from ctsft.tasks.task import SPLITS, Example, Rows, digits, from_digits

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "experiments" / "01_nusax_transfer.py"
LAYOUT = Layout(1)
ROWS = [
    {"id": "a", "text": "one, two", "label": "yes"},
    {"id": "b", "text": 'she said "no"', "label": "no"},
    {"id": "c", "text": "zeile äöü ไทย", "label": "yes"},
]


@pytest.fixture(scope="module")
def topics(tmp_path_factory) -> Path:
    return write_topics(tmp_path_factory.mktemp("data"), ("d00", "d10", "d50", "d90"))


def as_csv(path: Path, rows: list[dict]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def as_tsv(path: Path, rows: list[dict]) -> None:
    lines = ["\t".join(rows[0]), *("\t".join(row.values()) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


WRITERS = {".csv": as_csv, ".tsv": as_tsv, ".jsonl": write_jsonl}


def folder_of(tmp_path: Path, kind: str, rows=ROWS, splits=("train", "valid", "test"), **declared) -> Path:
    folder = tmp_path / "mine" / "x"
    folder.mkdir(parents=True, exist_ok=True)
    for split in splits:
        WRITERS[kind](folder / f"{split}{kind}", rows)
    if declared:
        (tmp_path / "mine" / "task.json").write_text(json.dumps(declared))
    return tmp_path


# ---- forms ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".jsonl"])
def test_every_form_gives_the_same_rows(tmp_path, kind):
    data = folder_of(tmp_path, kind)
    task = get_task("mine", data)
    rows = task.load("x", "train", data)
    assert task.labels == ("no", "yes")
    assert task.label_words == (" no", " yes")
    assert [(e.id, e.text, task.labels[e.label]) for e in rows.examples] == [
        (row["id"], row["text"], row["label"]) for row in ROWS
    ]


def test_a_datasets_folder_is_read_and_class_numbers_become_names(tmp_path):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["yes", "no"])})
    rows = [{"text": row["text"], "label": row["label"]} for row in ROWS]
    split = datasets.Dataset.from_list(rows, features=features)
    datasets.DatasetDict({"train": split, "validation": split, "test": split}).save_to_disk(
        str(tmp_path / "mine" / "x")
    )
    task = get_task("mine", tmp_path)
    for name in ("train", "valid", "test"):
        examples = task.load("x", name, tmp_path).examples
        assert [(e.text, task.labels[e.label]) for e in examples] == [(r["text"], r["label"]) for r in ROWS]
        assert len({e.id for e in examples}) == 3


def test_two_texts_and_declared_columns(tmp_path):
    rows = [{"s1": f"p{i}", "s2": f"h{i}", "gold": str(i % 2)} for i in range(4)]
    data = folder_of(tmp_path, ".csv", rows, columns={"text": "s1", "pair": "s2", "label": "gold"})
    task = get_task("mine", data)
    assert task.template == "{text} | {pair} | label:"
    assert task.load("x", "test", data).examples[3] == Example("test-4", "p3", 1, "h3")
    nli = folder_of(tmp_path / "b", ".jsonl", [{"premise": "p", "hypothesis": "h", "label": x} for x in "ab"])
    assert get_task("mine", nli).load("x", "test", nli).examples[0] == Example("test-1", "p", 0, "h")


def test_numbers_as_labels_are_sorted_as_numbers(tmp_path):
    data = folder_of(tmp_path, ".jsonl", [{"text": f"t{i}", "label": i} for i in (10, 9, 2)])
    assert get_task("mine", data).labels == ("2", "9", "10")


def test_declared_labels_words_and_template(tmp_path):
    declared = dict(labels=["yes", "no"], label_words={"no": " nope"}, template="{text} =", several_tokens="first")
    task = get_task("mine", folder_of(tmp_path, ".csv", **declared))
    assert (task.labels, task.label_words, task.template) == (("yes", "no"), (" yes", " nope"), "{text} =")
    assert task.several_tokens == "first"
    assert not task.parallel


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        (".csv", "text\nhello\n", r"train\.csv: no column 'label'; found \['text'\].*task\.json"),
        (".csv", "text,label\nhello,a\n,b\n", "line 3: the field 'text' is empty"),
        (".csv", "text,label\n\nhello,a\n\n,b\n", "line 5: the field 'text' is empty"),
        (".tsv", "text\tlabel\nhello\ta\n\tb\n", "line 3: the field 'text' is empty"),
        (".csv", "text\n\nhello\n", "no column 'label'"),
        (".jsonl", "{}\n", r"no column 'text'; found \[\]"),
        (".csv", "text;label\nhello;good\n", r"found \['text;label'\]\. It has semicolons between the names"),
        (".csv", "text\tlabel\nhello\tgood\n", "It has tabs between the names: save it with those of its ending"),
        (".csv", 'text,label\nhello,"a\nbye,b"\n', r"line 3: a line break in label 'a\\nbye,b'"),
        (".csv", "text,label\nhello,a\nbye,\n", "line 3: the field 'label' is empty"),
        (".csv", "text,label\nhello, you,a\n", "line 2: 3 fields, but the header has 2.*quotation marks"),
        (".csv", 'text,label\n"hello,a\n', "line 2: unexpected end of data"),
        (".csv", "text,text,label\nhello,x,a\n", "names a column twice"),
        (".csv", "text,label\n", "has no rows"),
        (".csv", "", "has no rows"),
        (".tsv", "text\tlabel\nhello\n", "line 2: 1 fields"),
        (".jsonl", '{"text": "x", "label": "a"}\n{"text": \n', "line 2: not JSON"),
        (".jsonl", "[1]\n", "line 1: expected an object"),
        (".jsonl", '{"text": 1.5, "label": "a"}\n', "line 1: the field 'text' must be text, not 1.5"),
        (".jsonl", '{"text": null, "label": "a"}\n', "line 1: the field 'text' is empty"),
        (".csv", b"text,label\n" + 3000 * b"hello,a\n" + b"\xff\xfe,a\n", "line 3002: not UTF-8"),
        (".jsonl", '{"text": "x", "label": "a"}\n{"text": "\\ud83d", "label": "a"}\n', "line 2: half of a character"),
        (".csv", "text,premise,label\nx,y,a\n", r"columns \['text', 'premise'\]"),
        (
            ".jsonl",
            '{"text": "x", "label": "a"}\n{"text": "y", "label": "b", "group": "g"}\n',
            r"train\.jsonl, line 2: a column 'group', which the first row lacks",
        ),
        (
            ".jsonl",
            '{"text": "x", "label": "a"}\n{"text": "y", "label": "b", "hypothesis": "z"}\n',
            "line 2: a column 'hypothesis', which the first row lacks",
        ),
        (".jsonl", '{"text": "x", "label": "a"}\n', "has 1 labels"),
        (".jsonl", "".join(f'{{"text": "x", "label": "l{i}"}}\n' for i in range(21)), "has 21 labels.*2 to 20"),
    ],
)
def test_faulty_files_are_named_by_line(tmp_path, kind, content, message):
    folder = tmp_path / "mine" / "x"
    folder.mkdir(parents=True)
    content = content if isinstance(content, bytes) else content.encode()
    (folder / f"train{kind}").write_bytes(content)
    with pytest.raises(UserError, match=f"(?s){message}"):
        get_task("mine", tmp_path)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"templat": "x"}, "unknown key 'templat'.*template, labels"),
        ({"template": "{txt}:"}, r"must hold \{text\} once, and no other"),
        ({"template": "{text} again: {text}:"}, r"must hold \{text\} once, and no other"),
        ({"template": "{text"}, "cannot be read"),
        ({"labels": "a"}, "'labels' must be a list"),
        ({"columns": {"words": "x"}}, "'columns' must be an object with some of text"),
        ({"columns": {"text": "sentence"}}, "no column 'sentence'"),
        ({"several_tokens": "last"}, '"refuse" or "first"'),
        ({"parallel": 1}, "'parallel' must be bool"),
        ({"label_words": {"maybe": " m"}}, "names 'maybe'"),
        ({"labels": ["yes", "no", "maybe"]}, "no row has the label 'maybe'"),
        ({"labels": ["yes", "nope"]}, "line 3: unknown label 'no'"),
        ({"labels": ["é", "e\u0301"]}, "'labels' must be a list of different strings"),
        ({"template": "{text} \ud83d:"}, r"task\.json: half of a character"),
        ({"label_words": {"no": " \udc00"}}, r"task\.json: half of a character"),
        ({"columns": {"text": "text", "label": "text"}}, "'text' cannot be both the text and the label"),
        ({"columns": {"text": "label"}}, "'label' cannot be both the text and the label"),
        ({"columns": {"pair": "text"}}, "'text' cannot be both the text and the pair"),
    ],
)
def test_faulty_declarations_are_refused_with_what_is_valid(tmp_path, declared, message):
    data = folder_of(tmp_path, ".csv", **declared)
    with pytest.raises(UserError, match=message):
        get_task("mine", data).load("x", "train", data)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "not JSON"), (b"[" * 10**5, "not JSON"), (b'{"template": "\xff"}', "line 1: not UTF-8")],
)
def test_a_declaration_that_is_not_json_is_named(tmp_path, content, message):
    data = folder_of(tmp_path, ".csv")
    (data / "mine" / "task.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"task\.json.*{message}"):
        get_task("mine", data)


def test_a_declaration_may_begin_as_some_editors_begin_a_file(tmp_path):
    data = folder_of(tmp_path, ".csv")
    (data / "mine" / "task.json").write_text('{"template": "{text} is"}', encoding="utf-8-sig")
    assert get_task("mine", data).template == "{text} is"


def test_a_premise_may_be_the_group_of_its_rows(tmp_path):
    rows = [{"premise": f"p{i // 2}", "hypothesis": f"h{i}", "label": "ab"[i % 2]} for i in range(4)]
    data = folder_of(tmp_path, ".jsonl", rows, columns={"group": "premise"})
    assert [e.group for e in get_task("mine", data).load("x", "train", data).examples] == ["p0", "p0", "p1", "p1"]


def test_missing_and_doubled_files_are_named(tmp_path):
    data = folder_of(tmp_path, ".csv", splits=("train", "test"))
    with pytest.raises(UserError, match=r"no valid file; exactly one of valid\.csv"):
        get_task("mine", data).load("x", "valid", data)
    folder_of(tmp_path, ".jsonl", splits=("test",))
    with pytest.raises(UserError, match=r"both test\.csv and test\.jsonl"):
        get_task("mine", data).load("x", "test", data)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no language"):
        get_task("empty", tmp_path)
    with pytest.raises(UserError, match=r"unknown task '\.\./mine'"):
        get_task("../mine", tmp_path / "mine")


def test_languages_with_other_labels_are_named_with_their_line(tmp_path):
    data = folder_of(tmp_path, ".csv")
    folder = tmp_path / "mine" / "y"
    folder.mkdir()
    as_csv(folder / "train.csv", [*ROWS, {"id": "d", "text": "x", "label": "yess"}])
    with pytest.raises(
        UserError, match=r"y/train\.csv has 'yess' \(1 rows, the first in line 5\).*Common to all: no, yes"
    ):
        get_task("mine", data)


# ---- label words of several tokens ---------------------------------------------------------------------------------


def test_the_first_distinguishing_token_decides_and_the_shared_ones_end_the_prompt(tokenizer):
    very, good, bad, so = (word("d00", *meaning) for meaning in (("very", 0), ("good", 0), ("bad", 0), ("plain", 0)))
    task = replace(DEMO, label_words=(f" {very} {bad}", f" {very} {so} {bad}", f" {very} {good}"))
    with pytest.raises(UserError, match="not a single token after the prompt"):
        answers(tokenizer, task, LAYOUT)
    task = replace(task, several_tokens="first")
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in (very, good, bad, so)}
    assert answers(tokenizer, task, LAYOUT) == ([ids[very]], [ids[bad], ids[so], ids[good]])
    long = encode(tokenizer, task, [Example("1", " ".join([so] * 50), 0)], 20, LAYOUT).prompts[0]
    assert len(long) == 20
    assert tokenizer.convert_ids_to_tokens(list(long))[-3:] == ["|", "sentiment:", very]
    with pytest.raises(UserError, match="no token tells it apart"):
        answers(tokenizer, replace(task, label_words=(f" {very}", f" {very} {so}", f" {very} {good}")), LAYOUT)
    with pytest.raises(UserError, match="share one token"):
        answers(tokenizer, replace(task, label_words=(f" {very} {bad}", f" {very} {good}", f" {good}")), LAYOUT)


def test_single_tokens_add_nothing_to_the_prompt(tokenizer):
    assert answers(tokenizer, replace(DEMO, several_tokens="first"), LAYOUT) == answers(tokenizer, DEMO, LAYOUT)
    assert answers(tokenizer, DEMO, LAYOUT)[0] == []


# ---- what is told --------------------------------------------------------------------------------------------------


def rows_of(**splits) -> dict:
    """Rows by language and split: text/label pairs; ids are those of the split."""
    return {
        tuple(name.split("_")): [Example(f"{name}-{i}", text, label) for i, (text, label) in enumerate(pairs)]
        for name, pairs in splits.items()
    }


def clean(language: str) -> dict:
    texts = {"train": 60, "valid": 20, "test": 120}
    return {
        f"{language}_{split}": [
            (f"{language} {split} {word('d00', 'thing', i % 20)} {i * 7919}", i % 3) for i in range(n)
        ]
        for split, n in texts.items()
    }


def told(**changes) -> list[str]:
    task = replace(DEMO, parallel=False)
    return findings(task, "src", ["tgt"], rows_of(**clean("src") | clean("tgt") | changes))


def test_clean_rows_give_no_findings():
    assert told() == []


def test_duplicates_between_splits_are_told_whatever_their_case_and_spacing():
    train = clean("tgt")["tgt_train"]
    [finding] = told(tgt_test=[*clean("tgt")["tgt_test"], (f"  {train[4][0].upper()} ", 0)])
    assert re.match(r"tgt: 1 of 121 test rows are also in train \(row 'tgt_test-120' is 'tgt_train-4'\)", finding)


def test_a_text_with_two_labels_is_told():
    train = clean("src")["src_train"]
    [finding] = told(src_train=[*train, (train[0][0], 2)])
    assert finding.startswith("src: 1 training texts stand there with two labels")


def test_near_duplicates_between_source_and_target_are_told():
    source = clean("src")["src_train"]
    [finding] = told(tgt_test=[*clean("tgt")["tgt_test"], (source[3][0] + " !", 0)])
    assert finding.startswith("1 of 121 test rows of tgt are nearly equal to train rows of src (row 'tgt_test-120'")


def test_target_rows_to_choose_by_that_the_source_trains_on_are_told():
    source = clean("src")["src_train"]
    [finding] = told(tgt_valid=[*clean("tgt")["tgt_valid"], (source[3][0] + " !", 0)])
    assert finding.startswith("1 of 21 valid rows of tgt are nearly equal to train rows of src (row 'tgt_valid-20'")
    assert "a temperature is then chosen" in finding


def test_groups_that_stand_in_two_splits_are_told():
    rows = rows_of(**clean("src") | clean("tgt"))
    for split, number in (("train", 5), ("test", 9), ("test", 11)):
        rows["tgt", split][number] = replace(rows["tgt", split][number], group="page 7")
    [finding] = findings(replace(DEMO, parallel=False), "src", ["tgt"], rows)
    assert finding.startswith("tgt: 1 groups have rows in train and in test (such as 'page 7')")


def test_texts_that_a_program_has_quoted_are_told():
    rows = rows_of(**clean("src") | clean("tgt"))
    rows["tgt", "train"][3] = replace(rows["tgt", "train"][3], text='"he said ""kipan"" and went"')
    rows["tgt", "train"][4] = replace(rows["tgt", "train"][4], text='"a title" and "another one"')
    [finding] = findings(replace(DEMO, parallel=False), "src", ["tgt"], rows)
    assert finding.startswith("tgt: 1 texts (the first is row 'tgt_train-3') stand in quotation marks")


def test_source_test_rows_that_are_trained_on_in_the_target_are_told():
    source = clean("src")["src_test"]
    [finding] = told(tgt_train=[*clean("tgt")["tgt_train"], (source[3][0] + " !", 0)])
    assert finding.startswith("1 of 61 train rows of tgt are nearly equal to test rows of src (row 'tgt_train-60'")
    assert "kept of the source" in finding


def test_imbalance_and_scarce_labels_and_few_test_rows_are_told():
    train = [*clean("src")["src_train"][:40:3], *clean("src")["src_train"][1::3], ("one of the last", 2)]
    found = told(src_train=train)
    assert "20 of 'neutral' against 1 of 'positive'" in found[0]
    assert found[1] == "src: fewer than 10 training rows of 'positive' (1); expect little of them."
    [finding] = told(tgt_test=clean("tgt")["tgt_test"][:25])
    assert finding == "tgt: 25 test rows; an accuracy on them has a standard error of up to 0.100."


def hash_of(*content) -> str:
    return hashlib.sha256(repr(content).encode()).hexdigest()


def test_languages_that_look_parallel_are_told():
    def same(language):
        return {
            (language, s): [
                Example(f"{s}-{i}", f"{language * 3} {language} {hash_of(language, s, i)}", i % 3) for i in range(120)
            ]
            for s in ("train", "valid", "test")
        }

    [finding] = findings(replace(DEMO, parallel=False), "s", ["t"], same("s") | same("t"))
    assert '"parallel": true' in finding
    assert findings(DEMO, "s", ["t"], same("s") | same("t")) == []


def test_near_duplicates_equal_a_plain_comparison_of_sets():
    def grams(text):
        padded = f"\x02\x02\x02{text}"
        return {padded[i : i + 4] for i in range(len(padded) - 3)}

    first = ["abcdefghijkl", "สวัสดีครับผม", "x", "completely different"]
    second = ["abcdefghijklm", "สวัสดีครับผม!", "x", "y", "abcdefgh"]
    expected = [
        (i, j)
        for i, a in enumerate(first)
        for j, b in enumerate(second)
        if len(grams(a) & grams(b)) >= 0.8 * len(grams(a) | grams(b))
    ]
    assert near_duplicates(first, second) == expected == [(0, 0), (1, 1), (2, 2)]


# ---- from files to rows --------------------------------------------------------------------------------------------


def changed_by_the_readme(script: str) -> str:
    """The script with the README's diff applied to it: every run of `-` lines becomes the `+` lines behind it."""
    [diff] = re.findall(r"^```diff\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    for old, new in re.findall(r"((?:^-.*\n)+)((?:^\+.*\n)+)", diff, re.MULTILINE):
        before, after = (re.sub(r"^[-+]", "", part, flags=re.MULTILINE) for part in (old, new))
        assert script.count(before) == 1
        script = script.replace(before, after)
    return script


def test_a_data_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match=r"or a folder in .*/absent \(which is not there\) that holds"):
        get_task("topics", tmp_path / "absent")


def test_a_wrong_word_in_a_copied_script_is_told_in_a_line(tmp_path):
    (tmp_path / "mine.py").write_text(SCRIPT.read_text().replace('"acehnese", "buginese"', '"acehnes", "buginese"'))
    run = subprocess.run(
        [sys.executable, "mine.py"], cwd=tmp_path, capture_output=True, text=True, env=environment()
    )  # fmt: skip
    assert run.returncode == 2
    assert run.stderr.startswith("error: unknown language 'acehnes' for nusax. Valid: acehnese, ")
    assert "Traceback" not in run.stderr


def test_a_copied_script_with_the_readmes_diff_runs_a_data_set_of_ones_own(tmp_path):
    """The README's promise, by its letter: four classes, its diff of a few lines, the rest flags.

    The rows are constructed sentences under the README's names, so that the demo's micro model can read them.
    """
    original = SCRIPT.read_text()
    mine = changed_by_the_readme(original)
    changed = [line for line in difflib.ndiff(original.splitlines(), mine.splitlines()) if line.startswith("+ ")]
    assert len(changed) <= 5
    (tmp_path / "mine.py").write_text(mine)
    write_topics(tmp_path / "data", ("d10", "d90"))
    for language, name in (("d10", "indonesian"), ("d90", "javanese")):
        (tmp_path / "data" / "topics" / language).rename(tmp_path / "data" / "topics" / name)
    flags = "--preset small --model demo --n-targets 100 --seeds 31 --source-lr 3e-3 --lrs 3e-3 --micro-batch 16"
    flags += " --arms zero_shot circuit:0 norm_only --output out --label-words"
    run = subprocess.run(
        [sys.executable, "mine.py", *flags.split(), *label_words()],
        cwd=tmp_path, capture_output=True, text=True, env=environment(),
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert f"label tools: '{label_words()[2]}'" in run.stdout
    rows = read_rows(tmp_path / "out" / "small" / "01_nusax_transfer.csv")
    assert [row["arm"] for row in rows] == ["zero_shot", "circuit", "norm_only"]
    assert {row["task"] for row in rows} == {"topics"}
    # Four classes of equal size: chance is .25. What is learned must show, or the test could not fail.
    accuracy = {row["arm"]: float(row["accuracy"]) for row in rows}
    assert float(rows[0]["source_accuracy_before"]) > 0.8
    assert accuracy["circuit"] > max(0.5, accuracy["zero_shot"])
    results = Results.read(tmp_path / "out" / "small")
    assert results.rows["accuracy"].round(6).tolist() == list(accuracy.values())


def environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT)}


def config_of(data: Path, output: Path, **changes) -> StudyConfig:
    settings = dict(
        experiment="mine",
        preset="own",
        task="topics",
        source="d00",
        targets=("d50",),
        label_words=label_words(),
        arms=("zero_shot",),
        model="demo",
        n_source=40,
        n_targets=(20,),
        seeds=(31,),
        epochs=1,
        data_dir=data,
        output=output,
    )
    return StudyConfig(**settings | changes)


def test_findings_are_told_before_training_and_kept_beside_the_rows(tmp_path, capsys):
    data = write_topics(tmp_path, ("d00", "d50", "d90"))
    test = data / "topics" / "d50" / "test.jsonl"
    write_jsonl(test, [*sentences("d50", "test", 100), *sentences("d50", "train", 2)])
    assert run_study(config_of(data, tmp_path / "out")) == 0
    out = capsys.readouterr().out
    assert "check: d50: 2 of 102 test rows are also in train" in out
    assert out.index("check: d50") < out.index("1 cells, 0 done")
    settings = json.loads((tmp_path / "out" / "own" / "mine.config.json").read_text())
    assert settings["checks"] == [
        line.removeprefix("check: ") for line in out.splitlines() if line.startswith("check: ")
    ]
    assert run_study(config_of(data, tmp_path / "out", targets=("d90",))) == 0
    write_jsonl(test, sentences("d50", "test", 100))
    # Also when the settings of the last run do not name that language.
    with pytest.raises(UserError, match=r"topics/d50/test has changed since.*another --output"):
        run_study(config_of(data, tmp_path / "out"))


def test_texts_that_lose_their_end_are_counted(tmp_path, capsys):
    """Of a language in which some are as long as --max-tokens allows, and of one in which all are shorter."""

    def cut(bench: Workbench) -> list[str]:
        return [finding for finding in bench.findings if "lose their end" in finding]

    data = write_topics(tmp_path, ("d00", "d50", "d90"))
    rows = sentences("d50", "valid", 60)
    for row in rows[7:10]:
        row["text"] = " ".join([row["text"]] * 20)
    write_jsonl(data / "topics" / "d50" / "valid.jsonl", rows)
    bench = Workbench(config_of(data, tmp_path / "out", targets=("d50", "d90")))
    longest = max(len(p) for both in ("d00", "d90") for name in SPLITS for p in bench.prompts(both, name).prompts)
    assert cut(bench) == [
        "d50: 3 of 640 texts lose their end (the first is row 'valid-8'): with the prompt they are longer than 128 "
        "tokens. --max-tokens allows more."
    ]
    fits = Workbench(config_of(data, tmp_path / "out", targets=("d90",), max_tokens=longest))
    short = Workbench(config_of(data, tmp_path / "out", targets=("d90",), max_tokens=longest - 1))
    assert cut(fits) == []
    assert cut(short)
    tune = "--model demo --arm norm_only --epochs 1 --n 20 --language d50 --task topics".split()
    rows = sentences("d50", "train", 480)
    rows[3]["text"] = " ".join([rows[3]["text"]] * 20)
    write_jsonl(data / "topics" / "d50" / "train.jsonl", rows)
    cli.main(["tune", *tune, "--data-dir", str(data), "--output", str(tmp_path / "d"), "--label-words", *label_words()])
    assert "check: d50: 1 of 480 texts lose their end" in capsys.readouterr().out


def test_texts_of_a_published_task_that_lose_their_end_are_told_in_one_line(tmp_path, capsys):
    """Resumed at the same limit, the run finds its rows."""
    demo = dict(task="demo", label_words=(), data_dir=None)
    whole = Workbench(config_of(tmp_path, tmp_path / "out", **demo))
    assert whole.findings == []
    sizes = {
        language: [len(p) for name in SPLITS for p in whole.prompts(language, name).prompts]
        for language in ("d00", "d50")
    }
    limit = max(map(max, sizes.values())) - 1
    cut = {language: sum(size > limit for size in own) for language, own in sizes.items()}
    told = ", ".join(f"{language} {n} of {len(sizes[language])}" for language, n in cut.items() if n)
    line = f"check: demo: texts lose their end at {limit} tokens with the prompt: {told}."
    short = config_of(tmp_path, tmp_path / "out", **demo, max_tokens=limit)
    for done in (0, 1):
        assert run_study(short) == 0
        out = capsys.readouterr().out
        assert [found for found in out.splitlines() if found.startswith("check: ")] == [line]
        assert f"1 cells, {done} done" in out
    settings = json.loads((tmp_path / "out" / "own" / "mine.config.json").read_text())
    assert settings["checks"] == [line.removeprefix("check: ")]


def test_languages_that_are_not_parallel_have_their_own_pools(topics, tmp_path):
    bench = Workbench(config_of(topics, tmp_path))
    assert len(bench.pool_a) == 480
    assert len(bench.pools_b["d50"]) == 480
    with pytest.raises(UserError, match="--n-targets asks for 481 rows, but d50 has 480"):
        Workbench(config_of(topics, tmp_path, n_targets=(481,)))
    with pytest.raises(UserError, match=r"--mean-rows 480 takes 120 source rows.*'animals'.*Lower it"):
        Workbench(config_of(topics, tmp_path, mean_rows=480, arms=("circuit:0",)))


def test_parallel_languages_of_ones_own_share_their_pools(tmp_path):
    data = write_topics(tmp_path, parallel=True, target_pool=80)
    bench = Workbench(config_of(data, tmp_path))
    assert (len(bench.pool_a), len(bench.pools_b["d50"])) == (400, 80)
    assert not set(bench.pool_a) & set(bench.pools_b["d50"])
    too_many = config_of(data, tmp_path, n_targets=(81,))  # a copied script's own, before its flags are read
    with pytest.raises(UserError, match=r"d\d0 has 80 to train on \(pool B; the source has the others\)"):
        Workbench(too_many)
    write_jsonl(data / "topics" / "d50" / "test.jsonl", sentences("d50", "test", 99))
    with pytest.raises(UserError, match="do not hold the same ids, labels and groups"):
        Workbench(config_of(data, tmp_path))
    for source, targets in (("d00", ["d50"]), ("d50", []), ("d00", [])):  # commands may name one language alone
        with pytest.raises(UserError, match="do not hold the same ids, labels and groups"):
            ctsft.check(get_task("topics", data), source, targets)
    assert len(training_rows(get_task("topics", data), "d50", "target")) == 80  # the training rows are aligned, as yet
    write_jsonl(data / "topics" / "d50" / "train.jsonl", sentences("d50", "train", 480)[1:])
    with pytest.raises(UserError, match="do not hold the same ids, labels and groups"):
        training_rows(get_task("topics", data), "d50", "target")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"parallel": True}, r"topics/task.json \(parallel, target_pool\)"),
        ({"columns": {"id": "text"}}, "topics/d00/test"),
    ],
)
def test_a_task_that_reads_its_files_in_another_way_is_another_task(topics, tmp_path, changed, named):
    """Other pools, or other columns, are other rows: those that lie in the results were made from neither."""
    data = write_topics(tmp_path / "data")
    assert run_study(config_of(data, tmp_path / "out")) == 0
    write_topics(data, **changed)
    with pytest.raises(UserError, match=f"{named} has changed since.*another --output"):
        run_study(config_of(data, tmp_path / "out"))


def test_a_task_of_ones_own_code_has_its_prompt_in_its_keys(topics, tmp_path):
    """As docs/extending.md registers one; what it reads is compared with what the rows were made from."""
    own = replace(get_task("topics", topics), name="stars")
    TASKS["stars"] = own
    try:
        config = config_of(topics, tmp_path / "out", task="stars")
        cell = cells(config)[0]
        before = cell.key(cell_fingerprint(config, cell, "weights"))
        assert run_study(config) == 0
        TASKS["stars"] = replace(own, template="{text} | topic:")
        config = config_of(topics, tmp_path / "out", task="stars")
        assert cell.key(cell_fingerprint(config, cell, "weights")) != before
        TASKS["stars"] = replace(own, read=lambda *asked: fewer(own.read(*asked)))
        with pytest.raises(UserError, match=r"stars/d\d0/\w+ has changed since.*another --output"):
            run_study(config_of(topics, tmp_path / "out", task="stars"))
    finally:
        del TASKS["stars"]


def fewer(rows: Rows) -> Rows:
    return replace(rows, examples=rows.examples[:-1], sha256=digest(rows.sha256))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("train.csv.gz", r"d50 has no train\.csv, .*found: .*train\.csv\.gz.*Unpack or rename it"),
        ("Train.csv", "found: Train.csv"),
        ("task.json", r"d50/task\.json is not read: it belongs beside the languages"),
    ],
)
def test_what_would_be_passed_over_is_named(tmp_path, name, message):
    data = write_topics(tmp_path)
    folder = data / "topics" / "d50"
    (folder / "train.jsonl").rename(folder / name)
    with pytest.raises(UserError, match=message):
        get_task("topics", data)
    (folder / name).rename(data / "topics" / "notes.txt")
    (data / "topics" / "raw").mkdir()  # what holds no split is nobody's language
    (folder / "train.jsonl").write_text("".join((data / "topics" / "d00" / "train.jsonl").read_text()))
    assert get_task("topics", data).languages == ("d00", "d50")


def test_labels_are_one_whatever_form_their_characters_have(tmp_path):
    """As one keyboard writes an accent with its letter and another behind it."""
    folder = tmp_path / "mine" / "fr"
    for split, form in (("train", "NFC"), ("valid", "NFD"), ("test", "NFC")):
        labels = [unicodedata.normalize(form, label) for label in ("négatif", "positif", "Positif")] * 4
        texts = [unicodedata.normalize("NFD" if i < 3 else "NFC", f"é {split} {i}") for i in range(12)]
        write_jsonl(folder / f"{split}.jsonl", [{"text": t, "label": x} for t, x in zip(texts, labels, strict=True)])
    task = get_task("mine", tmp_path)
    assert task.labels == ("Positif", "négatif", "positif")
    assert [e.label for e in task.load("fr", "valid", tmp_path).examples] == [1, 2, 0] * 4
    found = findings(task, "fr", [], {("fr", s): task.load("fr", s, tmp_path).examples for s in SPLITS})
    assert "the labels 'Positif' and 'positif' look like one." in found
    assert any("9 of 36 texts have accents as characters of their own" in sentence for sentence in found)


def test_a_dry_run_fits_a_small_validation_split(tmp_path, capsys):
    data = write_topics(tmp_path)
    write_jsonl(data / "topics" / "d00" / "valid.jsonl", sentences("d00", "valid", 20))
    assert run_study(config_of(data, tmp_path / "out", dry_run=True)) == 0
    assert "CPU hours for 1 cells" in capsys.readouterr().out


def test_valid_and_test_of_ones_own_may_lack_a_label_and_train_may_not(tmp_path, capsys):
    """As 60 rows of many classes do; a study and a tuning go on, and macro-F1 is over the labels that rows have."""
    data = write_topics(tmp_path)
    for split, absent in (("valid", "travel"), ("test", "food")):
        for language in ("d00", "d50"):
            rows = [row for row in sentences(language, split, 60) if row["label"] != absent]
            write_jsonl(data / "topics" / language / f"{split}.jsonl", rows)
    settings = dict(source_lr=3e-3, lrs=(3e-3,), micro_batch=16, arms=("zero_shot", "norm_only"))
    assert run_study(config_of(data, tmp_path / "out", **settings)) == 0
    out = capsys.readouterr().out
    assert "check: d50: no valid row has the label 'travel'; choices and the temperature are made without" in out
    assert "check: d50: no test row has the label 'food'; the accuracy and macro-F1 say nothing of them." in out
    results = Results.read(tmp_path / "out" / "own")
    for row, stored in zip(results.rows.itertuples(), read_rows(tmp_path / "out" / "own" / "mine.csv"), strict=True):
        assert sorted(set(row.gold)) == [0, 2, 3]
        by_label = f1_score(row.gold, row.answers, labels=[0, 2, 3], average=None)
        assert float(stored["macro_f1"]) == pytest.approx(by_label.mean(), abs=1e-6)
        assert compare.macro_f1(results.rows[results.rows["cell"] == row.cell]).value == pytest.approx(by_label.mean())
    tune = "--model demo --arm norm_only --epochs 1 --n 20 --language d50 --task topics".split()
    cli.main(["tune", *tune, "--data-dir", str(data), "--output", str(tmp_path / "d"), "--label-words", *label_words()])
    about = ctsft.HeadDelta.load(tmp_path / "d").about
    assert about["metrics"]["rows"] == 45
    assert 0.05 <= about["temperature"] <= 20
    train = data / "topics" / "d50" / "train.jsonl"
    write_jsonl(train, [row for row in sentences("d50", "train", 60) if row["label"] != "food"])
    write_topics(data, ("d00",), labels=["animals", "food", "tools", "travel"])
    with pytest.raises(UserError, match="topics/d50/train: no row has the label 'food'"):
        get_task("topics", data).load("d50", "train", data)


def test_answers_that_no_row_asks_for_do_not_change_what_macro_f1_is_over():
    assert scores([0, 0, 1, 2], [0, 0, 1, 1])["macro_f1"] == pytest.approx((1 + 2 / 3) / 2)


def test_twelve_labels_survive_the_way_into_rows_and_back(tmp_path):
    """From the eleventh label on, an answer is a letter; rows of up to ten labels read as they always did."""
    labels = [f"l{i:02}" for i in range(12)]
    for language in ("a", "b"):
        for split in ("train", "valid", "test"):
            rows = [{"text": f"{language} {split} {i * 7919}", "label": labels[i % 12]} for i in range(48)]
            write_jsonl(tmp_path / "many" / language / f"{split}.jsonl", rows)
    (tmp_path / "many" / "task.json").write_text('{"template": "{text} | sentiment:"}')
    words = tuple(f" {word('d00', 'good', i)}" for i in range(12))
    config = config_of(tmp_path, tmp_path / "out", task="many", source="a", targets=("b",), label_words=words)
    assert run_study(config) == 0
    results = Results.read(tmp_path / "out" / "own")
    assert results.rows["gold"].iloc[0].tolist() == [i % 12 for i in range(48)]
    [row] = read_rows(tmp_path / "out" / "own" / "mine.csv")
    assert results.rows["accuracy"].iloc[0] == pytest.approx(float(row["accuracy"]), abs=1e-6)


def test_digits_go_on_with_letters():
    labels = [0, 9, 10, 19]
    assert digits(labels) == "p09aj"
    assert from_digits("p09aj").tolist() == labels
    assert from_digits("p0120").tolist() == [0, 1, 2, 0]
    for text in ("0120", "p01 2", "p01A", "p01-"):
        with pytest.raises(ValueError, match="not p and one digit"):
            from_digits(text)


def test_scores_need_no_home_that_can_be_written(monkeypatch):
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", "/proc/nowhere")
    assert scores([0, 1], [0, 1])["accuracy"] == 1
