"""XNLI: the paper's split from local files and from the hub's Parquet, premises kept together, prompts of two texts."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from conftest import there

from ctsft.errors import UserError
from ctsft.models.load import load_model
from ctsft.tasks import xnli
from ctsft.tasks.prompts import Layout, encode, fill
from ctsft.tasks.task import Example, check_aligned, split_pools
from ctsft.tasks.xnli import CODES, SPLITS, XNLI


def made_up(premises: int) -> list[dict]:
    """With ids as the published files have them, which leave numbers out: 1, 2, 3, 16, 17, ..."""
    return [
        {
            "pair_id": str(15 * number + label + 1),
            "prompt_id": str(5 * number + 1),
            "premise": f"premise {number}",
            "hypothesis": f"hypothesis {number} {label}",
            "label": name,
        }
        for number in range(premises)
        for label, name in enumerate(xnli.LABELS)
    ]


def write(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def folder(tmp_path) -> Path:
    for code in ("en", "es"):
        write(tmp_path / "xnli" / f"{code}.dev.jsonl.gz", made_up(830))
        write(tmp_path / "xnli" / f"{code}.test.jsonl.gz", made_up(1670))
    return tmp_path


def test_the_splits_are_the_papers_and_share_no_premise(folder):
    rows = {split: XNLI.load("english", split, folder).examples for split in SPLITS}
    assert {split: len(examples) for split, examples in rows.items()} == {"train": 500, "valid": 100, "test": 400}
    for examples in rows.values():
        counts = Counter(example.label for example in examples)
        assert max(counts.values()) - min(counts.values()) <= 1
    assert not {e.group for e in rows["train"]} & {e.group for e in rows["valid"]}


def test_every_language_has_the_same_ids(folder):
    for split in SPLITS:
        check_aligned(XNLI.load("english", split, folder), XNLI.load("spanish", split, folder))


def test_no_premise_is_in_both_pools(folder):
    train = XNLI.load("english", "train", folder)
    group = {example.id: example.group for example in train.examples}
    pool_a, pool_b = split_pools(train, 100, 3)
    assert len(pool_b) == 100
    assert len(pool_a) >= 390
    assert not {group[i] for i in pool_a} & {group[i] for i in pool_b}


def test_the_hubs_parquet_has_no_ids_so_other_rows_are_chosen(folder, monkeypatch):
    """The hub's layout in a local folder: the same texts in the same order, numbered from 0."""

    def local(repository, name, repo_type, revision, local_files_only):
        assert (repository, repo_type, revision) == ("facebook/xnli", "dataset", xnli.REVISION)
        assert len(xnli.REVISION) == 40
        assert name == "en/validation-00000-of-00001.parquet"
        frame = pd.DataFrame(made_up(830))
        frame["label"] = frame["label"].map(xnli.LABELS.index)
        path = folder / "validation.parquet"
        frame[["premise", "hypothesis", "label"]].to_parquet(path)
        return str(path)

    monkeypatch.setattr(xnli, "hf_hub_download", local)
    hub, files = XNLI.load("english", "train"), XNLI.load("english", "train", folder)
    lines = made_up(830)
    for example in hub.examples:
        line = lines[int(example.id)]
        assert (example.text, example.pair, xnli.LABELS[example.label]) == (
            line["premise"],
            line["hypothesis"],
            line["label"],
        )
        assert example.group == str(int(example.id) // 3)
    assert len(hub.examples) == len(files.examples) == 500
    # As docs/data.md says: the order hangs on the ids, so other premises come first.
    assert {e.text for e in hub.examples} != {e.text for e in files.examples}


def test_without_the_hub_and_without_files_both_flags_are_named(folder, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def refuse(*args, **kwargs):
        raise OSError("no connection")

    monkeypatch.setattr(xnli, "hf_hub_download", refuse)
    with pytest.raises(UserError, match=r"(?s)no connection.*--data-dir.*--model"):
        XNLI.load("english", "train")
    with pytest.raises(UserError, match=r"xnli/th\.dev\.jsonl\.gz.*pair_id"):
        XNLI.load("thai", "train", folder)
    with pytest.raises(UserError, match=r"'klingon'.*arabic.*chinese"):
        XNLI.load("klingon", "train", folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "-"}, r"line 2: unknown label '-'.*must be left out"),
        ({"label": ""}, "line 2: the field 'label' is missing"),
        ({"hypothesis": "  "}, "line 2: the field 'hypothesis' is missing"),
        ({"premise": None}, "line 2: the field 'premise' is missing"),
    ],
)
def test_faulty_rows_are_named(folder, change, message):
    rows = made_up(830)
    rows[1] |= change
    write(folder / "xnli" / "en.dev.jsonl.gz", rows)
    with pytest.raises(UserError, match=message):
        XNLI.load("english", "train", folder)


def test_files_that_are_no_json_lines_are_named(folder):
    path = folder / "xnli" / "en.dev.jsonl.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"after line \d+: not gzipped JSON lines"):
        XNLI.load("english", "train", folder)
    write(path, made_up(829))  # enough to draw from, but others than in another language's whole file
    with pytest.raises(UserError, match=r"en\.dev\.jsonl\.gz: 2487 rows; the published file has 2490"):
        XNLI.load("english", "train", folder)
    with gzip.open(path, "wt") as file:
        file.write("[1, 2]\n")
    with pytest.raises(UserError, match="line 1: expected an object"):
        XNLI.load("english", "train", folder)


def test_a_whole_file_whose_labels_are_not_balanced_is_refused(folder):
    """As long as the published one, and its labels are valid: eight premises have one of them three times."""
    path = folder / "xnli" / "en.dev.jsonl.gz"
    chosen = {e.group for e in XNLI.load("english", "train", folder).examples}
    rows = made_up(830)
    for premise in sorted(chosen)[:8]:
        for row in (row for row in rows if row["prompt_id"] == premise):
            row["label"] = "neutral"
    write(path, rows)
    with pytest.raises(UserError, match=r"en\.dev\.jsonl\.gz: 500 rows with \{.*1: 18\d.*\} of each label"):
        XNLI.load("english", "train", folder)


def test_fields_are_found_where_they_stand():
    prompt, spans = fill("Premise: {text} Hypothesis: {pair} Label:", {"text": "ab", "pair": "cde"})
    assert prompt == "Premise: ab Hypothesis: cde Label:"
    assert {name: prompt[begin:end] for name, (begin, end) in spans.items()} == {"text": "ab", "pair": "cde"}


@pytest.mark.parametrize(("words", "pair_words"), [(60, 5), (5, 60), (40, 40), (3, 3)])
def test_the_longer_of_two_texts_is_cut_first(words, pair_words):
    """The demo's tokenizer knows none of these words, but counts them."""
    tokenizer = load_model("demo").tokenizer
    row = Example("r", " ".join(["a"] * words), 0, " ".join(["b"] * pair_words))
    [prompt] = encode(tokenizer, XNLI, [row], 40, Layout(1)).prompts
    assert len(prompt) == min(40, words + pair_words + 3)
    whole = encode(tokenizer, XNLI, [row], 400, Layout(1)).prompts[0]
    assert (prompt[0], prompt[-1]) == (whole[0], whole[-1])
    if (words, pair_words) == (60, 5):
        assert len(encode(tokenizer, XNLI, [Example("r", "a " * 60, 0, "b")], 8, Layout(1)).prompts[0]) == 8


def test_a_prompt_without_room_for_its_texts_is_refused():
    tokenizer = load_model("demo").tokenizer
    with pytest.raises(UserError, match="leaves no room"):
        encode(tokenizer, XNLI, [Example("r", "a a a", 0, "b b")], 2, Layout(1))


def test_source_rows_that_are_not_there_are_told_without_a_scripts_flag(tmp_path):
    with pytest.raises(UserError, match=r"mnli_subset/train\.jsonl\.gz.* Ask for fewer source rows\.$"):
        XNLI.more_source_rows("english", tmp_path)


def test_real_xnli_is_balanced_and_parallel(real_data):
    there(real_data, "xnli", "mnli_subset")
    english = {split: XNLI.load("english", split, real_data) for split in SPLITS}
    for language in CODES:
        for split, rows in english.items():
            check_aligned(rows, XNLI.load(language, split, real_data))
    more = XNLI.more_source_rows("english", real_data)
    assert len(more.examples) == 9885
    assert len({example.id for example in more.examples}) == 9885
    known = {example.text for rows in english.values() for example in rows.examples}
    assert not known & {example.text for example in more.examples}
    with pytest.raises(UserError, match="English alone"):
        XNLI.more_source_rows("spanish", real_data)
