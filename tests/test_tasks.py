"""Rows, pools and prompts: what is checked, what is refused, and what is never cut."""

from __future__ import annotations

import copy
import csv
import json
import shutil
from dataclasses import replace
from itertools import pairwise

import pytest
from conftest import there
from own_data import write_jsonl
from tokenizers.processors import TemplateProcessing

from ctsft.errors import UserError
from ctsft.hub import hub_answers
from ctsft.tasks import nusax, prompts, smsa
from ctsft.tasks.demo.entailment import ENTAILMENT
from ctsft.tasks.demo.languages import DISTANCES, KINDS, vocabulary, word
from ctsft.tasks.demo.task import DEMO
from ctsft.tasks.nusax import NUSAX, parse_csv
from ctsft.tasks.prompts import Layout, encode, fill, label_tokens, pad_left
from ctsft.tasks.registry import get_task
from ctsft.tasks.smsa import SMSA
from ctsft.tasks.task import SPLITS, Example, Rows, check_aligned, draw, draw_balanced, pools, split_pools


def test_pools_are_split_by_id_once_for_all_languages():
    first = split_pools(DEMO.load("d00", "train"), 100, 3)
    for language in DISTANCES:
        assert split_pools(DEMO.load(language, "train"), 100, 3) == first
    pool_a, pool_b = first
    assert len(pool_a) == 400
    assert len(pool_b) == 100
    assert not set(pool_a) & set(pool_b)


def test_pools_do_not_depend_on_the_order_of_the_file():
    rows = DEMO.load("d00", "train")
    turned = Rows(rows.language, rows.split, rows.examples[::-1], rows.sha256)
    assert {*split_pools(rows, 100, 3)[1]} == {*split_pools(turned, 100, 3)[1]}


def test_pool_b_has_every_labels_share():
    rows = DEMO.load("d00", "train")
    chosen = rows.by_id(split_pools(rows, 100, 3)[1])
    assert [sum(e.label == label for e in chosen) for label in range(3)] == [38, 24, 38]


def test_draws_of_one_seed_are_nested_and_seeds_differ():
    ids = [str(i) for i in range(100)]
    assert draw(ids, 25, 31) == draw(ids, 50, 31)[:25] == draw(ids, 100, 31)[:25]
    assert draw(ids, 25, 31) != draw(ids, 25, 777)
    with pytest.raises(UserError, match="pool has 100"):
        draw(ids, 101, 31)
    for none in (0, -95):
        with pytest.raises(UserError, match=f"{none} rows were asked for. Ask for at least 1"):
            draw(ids, none, 31)
    with pytest.raises(UserError, match="seed is -1; it must not be negative"):
        draw(ids, 5, -1)
    with pytest.raises(UserError, match="seed is -1; it must not be negative"):
        draw_balanced(DEMO.load("d00", "train").examples, 3, 3, -1)


def test_an_address_of_the_hub_that_is_none_is_named(monkeypatch):
    monkeypatch.setattr("ctsft.hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("ctsft.hub.constants.ENDPOINT", "hf-mirror.example")
    with pytest.raises(UserError, match="HF_ENDPOINT is 'hf-mirror"):
        hub_answers()


def test_a_balanced_draw_has_as_many_of_each_label():
    examples = DEMO.load("d00", "train").examples
    drawn = draw_balanced(examples, 16, 3, 1)
    assert [sum(e.label == label for e in drawn) for label in range(3)] == [16, 16, 16]
    scarce = [e for e in examples if e.label != 1] + [e for e in examples if e.label == 1][:4]
    assert len(draw_balanced(scarce, 16, 3, 1)) == 12


def test_languages_are_parallel_and_distance_is_nested():
    for split in ("train", "valid", "test"):
        for language in DISTANCES:
            check_aligned(DEMO.load("d00", split), DEMO.load(language, split))
    meanings = [(kind, n) for kind, size in KINDS.items() for n in range(size)]
    own = {lang: {m for m in meanings if word(lang, *m) != word("d00", *m)} for lang in DISTANCES}
    languages = list(DISTANCES)
    for near, far in pairwise(languages):
        assert own[near] < own[far]
    for language, distance in DISTANCES.items():
        assert abs(len(own[language]) / len(meanings) - distance) < 0.1
    assert len(set(vocabulary())) == len(vocabulary())


def test_misaligned_languages_are_refused():
    rows = DEMO.load("d00", "test")
    shifted = Rows("d10", "test", rows.examples[1:] + rows.examples[:1], "")
    with pytest.raises(UserError, match="same ids, labels and groups"):
        check_aligned(rows, shifted)
    grouped = replace(rows, examples=tuple(replace(e, group="g") for e in rows.examples))
    with pytest.raises(UserError, match="same ids, labels and groups"):
        check_aligned(rows, grouped)


def test_groups_read_off_a_text_split_every_language_alike(tmp_path):
    """A premise has other words in each language; theta1's rows must not be translations of the target's."""
    for language in ("aa", "bb"):
        rows = [
            {"id": f"r{n}", "text": f"{language} text {n}", "premise": f"{language} {n // 3}", "label": "xyz"[n % 3]}
            for n in range(90)
        ]
        for split in ("train", "valid", "test"):
            write_jsonl(tmp_path / "own" / language / f"{split}.jsonl", rows)
    (tmp_path / "own" / "task.json").write_text(
        json.dumps({"parallel": True, "columns": {"text": "text", "group": "premise"}})
    )
    task = get_task("own", tmp_path)
    both = {language: task.load(language, "train", tmp_path) for language in ("aa", "bb")}
    check_aligned(*both.values())
    first, second = (pools(task, rows, {language: rows}) for language, rows in both.items())
    assert first[0] == second[0]
    assert first[1]["aa"] == second[1]["bb"]
    premises = {e.id: e.group for e in both["aa"].examples}
    assert not {premises[i] for i in first[0]} & {premises[i] for i in first[1]["aa"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,text\n1,hello\n", "column 'label' is missing"),
        ("id,text,label\n1,hello,positive\n2,  ,negative\n", "line 3: the text is empty"),
        ("id,text,label\n1,hello,happy\n", "line 2: unknown label 'happy'. Valid: negative, neutral, positive"),
        ("id,text,label\n1,hello\n", "line 2: 2 fields, but the header has 3"),
        ('id,text,label\n1,hello,"a\nb"\n', r"line 3: unknown label 'a\\nb'"),
        ("id,text,label\n1,hello,\n", "line 2: unknown label ''"),
        ("id,text,label\n1,hello,-\n", "line 2: unknown label '-'"),
    ],
)
def test_faulty_csv_files_are_named_by_line(content, message):
    with pytest.raises(UserError, match=message):
        parse_csv(content, "file.csv", NUSAX.labels)


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(UserError, match=r"'klingon'.*acehnese"):
        NUSAX.load("klingon", "train")
    with pytest.raises(UserError, match=r"'nusaxx'.*nusax, xnli, smsa, demo, demo_entailment"):
        get_task("nusaxx")


def test_a_folder_without_the_files_says_which_and_where_from(tmp_path):
    with pytest.raises(UserError, match=r"javanese/train\.csv.*github\.com/IndoNLP/nusax"):
        NUSAX.load("javanese", "train", tmp_path)


def test_repeated_ids_and_missing_labels_are_refused():
    def read(language, split, data_dir):
        return Rows(language, split, tuple(Example(i, "x", 0) for i in ids), "")

    task = replace(NUSAX, read=read)
    ids = ("a", "a")
    with pytest.raises(UserError, match="'a' occurs more than once"):
        task.load("javanese", "train")
    ids = ("a", "b")
    for split in SPLITS:
        with pytest.raises(UserError, match="no row has the label 'neutral'"):
            task.load("javanese", split)


def test_a_download_that_fails_names_both_flags(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(nusax, "URL", (tmp_path / "absent").as_uri())
    with pytest.raises(UserError, match=r"(?s)--data-dir.*--model"):
        NUSAX.load("javanese", "train")


def test_downloads_are_checked_against_the_published_hash(monkeypatch, tmp_path, real_data):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    site = tmp_path / "site"
    shutil.copytree(real_data / "nusax_senti" / "javanese", site / "javanese")
    monkeypatch.setattr(nusax, "URL", site.as_uri())
    assert len(NUSAX.load("javanese", "train").examples) == 500
    (site / "javanese" / "valid.csv").chmod(0o644)
    (site / "javanese" / "valid.csv").write_text("id,text,label\n1,x,positive\n")
    with pytest.raises(UserError, match="not the published"):
        NUSAX.load("javanese", "valid")


def test_real_nusax_has_the_published_rows(real_data):
    english = {split: NUSAX.load("english", split, real_data) for split in ("train", "valid", "test")}
    assert [len(rows.examples) for rows in english.values()] == [500, 100, 400]
    for language in NUSAX.languages:
        for split, rows in english.items():
            check_aligned(rows, NUSAX.load(language, split, real_data))
    counts = [sum(e.label == label for e in english["test"].examples) for label in range(3)]
    assert counts == [153, 96, 151]


def test_too_few_and_too_many_rows_are_refused(tmp_path, real_data):
    folder = tmp_path / "nusax_senti" / "javanese"
    folder.mkdir(parents=True)
    with (real_data / "nusax_senti" / "javanese" / "train.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    for written, found in ((rows[:-1], 499), ([*rows, ["one more", *rows[-1][1:]]], 501)):
        with (folder / "train.csv").open("w", newline="") as file:
            csv.writer(file).writerows(written)
        with pytest.raises(UserError, match=f"{found} rows, but NusaX has 500"):
            NUSAX.load("javanese", "train", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"indonesian,javanese\nabu,awu\nkopi,\xff\n", r"javanese\.csv, line 3: not UTF-8"),
        (b"indonesian,bali\nabu,awu\n", "the column 'javanese' is missing"),
        (b"indonesian,javanese\nabu," + b"x" * 2**25, "line 2: field larger than"),
    ],
)
def test_faulty_lexicons_are_named_by_line(tmp_path, content, message):
    (tmp_path / "nusax_lexicon").mkdir()
    (tmp_path / "nusax_lexicon" / "javanese.csv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        NUSAX.dictionary("indonesian", "javanese", tmp_path)


def test_long_prompts_lose_text_and_keep_the_label_field(tokenizer):
    text = " ".join(vocabulary()[:50])
    encoded = encode(tokenizer, DEMO, [Example("1", text, 0)], 20, Layout(1))
    words = tokenizer.convert_ids_to_tokens(list(encoded.prompts[0]))
    assert len(words) == 20
    assert words[-2:] == ["|", "sentiment:"]
    assert words[:18] == text.split()[:18]


def test_two_long_texts_are_cut_alike_in_few_passes(tokenizer, monkeypatch):
    text, passes = " ".join(vocabulary()[:40] * 50), []
    monkeypatch.setattr(prompts, "fill", lambda *asked: passes.append(1) or fill(*asked))
    [ids] = encode(tokenizer, ENTAILMENT, [Example("1", text, 0, pair=text)], 60, Layout(1)).prompts
    assert len(ids) == 60
    assert len(passes) < 200
    fields = tokenizer.decode(ids).split("|")
    assert abs(len(fields[0].split()) - len(fields[1].split())) <= 2


def test_no_room_for_the_text_is_refused(tokenizer):
    with pytest.raises(UserError, match="no room for the text of row '1'"):
        encode(tokenizer, DEMO, [Example("1", "banebing suyu kipan", 0)], 2, Layout(1))


def test_a_label_word_of_several_tokens_is_refused_with_its_pieces(tokenizer):
    with pytest.raises(UserError, match=r"' very good' is not a single token.*\["):
        label_tokens(tokenizer, replace(DEMO, label_words=(" very good", " neutral", " bad")), Layout(1))
    with pytest.raises(UserError, match="share one token"):
        label_tokens(tokenizer, replace(DEMO, label_words=(" neutral", " neutral", " positive")), Layout(1))
    with pytest.raises(UserError, match="unknown to this tokenizer"):
        label_tokens(tokenizer, replace(DEMO, label_words=(" zzz", " neutral", " positive")), Layout(1))


def test_a_tokenizer_that_ends_every_text_is_refused_for_what_it_is(tokenizer):
    """No other word would help."""
    ending, end = copy.deepcopy(tokenizer), tokenizer.pad_token
    ending.eos_token = end
    ending.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, tokenizer.pad_token_id)]
    )
    assert ending("x")["input_ids"][-1] == ending.eos_token_id
    with pytest.raises(UserError, match=r"ends every text with .* Set add_eos_token to false"):
        label_tokens(ending, DEMO, Layout(1))


def test_padding_goes_left_and_positions_start_at_the_first_real_token():
    batch = pad_left([[4, 5, 6], [7]], Layout(0), "cpu")
    assert batch["input_ids"].tolist() == [[4, 5, 6], [0, 0, 7]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch["position_ids"].tolist() == [[0, 1, 2], [0, 0, 0]]


def test_smsa_rows_are_read_and_faults_named(tmp_path, real_data):
    there(real_data, "smsa")
    rows = SMSA.load("indonesian", "test", real_data)
    assert len(rows.examples) == 484
    assert len(smsa.without_nusax(list(rows.examples)[:60], real_data)) == 60
    with pytest.raises(UserError, match=r"smsa/test\.no_nusax\.tsv\.gz.*leave the probe out"):
        SMSA.load("indonesian", "test", tmp_path)


def test_rows_of_nusax_are_left_out_of_smsa(real_data):
    known = NUSAX.load("indonesian", "train", real_data).examples[0]
    words = known.text.split()
    near = replace(known, text=" ".join([*words[: len(words) * 3 // 4], "lain"]))
    far = Example("far", "sama sekali tidak ada hubungan dengan apa pun di sini", 0)
    assert smsa.without_nusax([known, near, far], real_data) == [far]


@pytest.mark.parametrize("line", ["no tab at all", "text\tgood", "\tpositive", "   \tpositive"])
def test_a_faulty_smsa_line_is_named(line):
    with pytest.raises(UserError, match=r"file\.tsv, line 2: expected text TAB label"):
        smsa.parse_tsv(f"bagus\tpositive\n{line}\n", "file.tsv", "t-")


def test_smsa_is_downloaded_and_filtered(monkeypatch, tmp_path, real_data):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(smsa, "URL", tmp_path.as_uri())
    monkeypatch.setattr(
        smsa, "NUSAX", replace(NUSAX, read=lambda language, split, _: NUSAX.read(language, split, real_data))
    )
    known = NUSAX.load("indonesian", "test", real_data).examples[0].text.replace("\t", " ").replace("\n", " ")
    lines = [f"{known}\tpositive", "bagus sekali\tpositive", "biasa saja\tneutral", "buruk sekali\tnegative"]
    (tmp_path / "test_preprocess.tsv").write_text("\n".join(lines) + "\n")
    assert [e.text for e in SMSA.load("indonesian", "test").examples] == ["bagus sekali", "biasa saja", "buruk sekali"]


def test_constructed_entailment_is_what_it_says():
    """The hypothesis repeats a sentence of the premise, denies one, or speaks of a third thing."""
    for split, size in (("train", 500), ("valid", 100), ("test", 400)):
        rows = ENTAILMENT.load("d00", split).examples
        assert len(rows) == size
        denials = {word("d00", "not", number) for number in range(KINDS["not"])}
        for row in rows:
            said = [sentence.strip() for sentence in row.text.split(".") if sentence.strip()]
            plain = " ".join(part for part in row.pair.rstrip(" .").split() if part not in denials)
            denied = plain != row.pair.rstrip(" .")
            assert (plain in said) == (ENTAILMENT.labels[row.label] != "neutral")
            if ENTAILMENT.labels[row.label] != "neutral":
                assert denied == (ENTAILMENT.labels[row.label] == "contradiction")
        for language in ("d30", "d90"):
            check_aligned(ENTAILMENT.load("d00", split), ENTAILMENT.load(language, split))
    assert len(ENTAILMENT.more_source_rows("d00", None).examples) == 4000


def test_no_row_is_in_both_pools_nor_in_a_group_with_the_other(tokenizer):
    rows = Rows("x", "train", tuple(Example(str(i), "t", i % 3, group=str(i // 3)) for i in range(300)), "")
    pool_a, pool_b = split_pools(rows, 50, 3)
    groups = {example.id: example.group for example in rows.examples}
    assert len(pool_b) == 50
    assert not {groups[i] for i in pool_a} & {groups[i] for i in pool_b}
