"""A new user's way on the command line: from files in four classes to a checkpoint, a circuit, a delta and labels."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from own_data import LABELS, label_words, sentences, write_jsonl, write_topics

import ctsft
from ctsft.cli import COMMANDS, main
from ctsft.commands.options import OnModel
from ctsft.discovery.relevance import Relevance
from ctsft.errors import UserError
from ctsft.evaluation import predict as predict_rows
from ctsft.heads import Head
from ctsft.heatmap import terminal
from ctsft.prediction import Labeller, Lines, Voice
from ctsft.tasks.form import task_of
from ctsft.tasks.formats import separated
from ctsft.tasks.prompts import encode, label_tokens
from ctsft.tasks.task import Example
from ctsft.tuning.arms import plain_arm

ROOT = Path(__file__).parents[1]
FAST = "--epochs 3 --lr 3e-3 --micro-batch 16".split()


def run(capsys, *arguments: object) -> str:
    main([str(argument) for argument in arguments])
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """DATA/topics, a checkpoint that is competent on d10, its scores, and a delta for d90, all made by commands."""
    folder = tmp_path_factory.mktemp("work")
    data = ["--task", "topics", "--data-dir", write_topics(folder / "data", ("d10", "d90"))]
    data += ["--label-words", *label_words()]
    for command in (
        ["tune", "--model", "demo", *data, "--language", "d10", "--role", "source", "--arm", "full", "--n", 200,
         "--output", folder / "theta1", *FAST],
        ["discover", "--model", folder / "theta1", *data, "--source", "d10", "--scorer", "cdt_linear",
         "--mean-rows", 16, "--score-rows", 8, "--output", folder / "scores.json"],
        ["tune", "--model", folder / "theta1", *data, "--language", "d90", "--scores", folder / "scores",
         "--depth", 1, "--output", folder / "delta", *FAST],
    ):  # fmt: skip
        main([str(argument) for argument in command])
    return folder


def with_texts(path: Path, texts: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, texts[0])
        writer.writeheader()
        writer.writerows(texts)
    return path


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_from_files_to_labels(work, tmp_path, capsys):
    """The done-when: files in, delta, predictions out, right far more often than chance."""
    rows = sentences("d90", "test", 100)
    source = with_texts(tmp_path / "in.csv", [{"n": str(i), "text": row["text"]} for i, row in enumerate(rows)])
    arguments = ["--model", work / "theta1", "--delta", work / "delta", "--input", source]
    run(capsys, "predict", *arguments, "--output", tmp_path / "out.csv", "--with-source")
    found = read_csv(tmp_path / "out.csv")
    assert list(found[0]) == ["n", "text", "label", "confidence", "source_label", "source_confidence"]
    assert [row["n"] for row in found] == [str(i) for i in range(100)]
    right = [row["label"] == gold["label"] for row, gold in zip(found, rows, strict=True)]
    before = [row["source_label"] == gold["label"] for row, gold in zip(found, rows, strict=True)]
    assert np.mean(right) > 0.5
    assert np.mean(right) > np.mean(before)
    assert {row["label"] for row in found} <= set(LABELS)
    assert all(0.25 <= float(row["confidence"]) <= 1 for row in found)
    # Not the numbers of a model that is sure of everything: confidence and accuracy are within the split's noise.
    assert abs(np.mean([float(row["confidence"]) for row in found]) - np.mean(right)) < 0.2
    assert not (tmp_path / "out.csv.partial").exists()
    out = run(
        capsys, "evaluate", "--model", work / "theta1", "--delta", work / "delta", "--task", "topics",
        "--data-dir", work / "data", "--label-words", *label_words(), "--language", "d90",
    )  # fmt: skip
    assert f"with delta: accuracy {np.mean(right):.3f}" in out
    assert f"model: accuracy {np.mean(before):.3f}" in out
    assert re.search(r"with delta: calibration error 0\.\d+ \(calibrated on d90\)", out)
    assert re.search(r"model: calibration error 0\.\d+ \(calibrated on d10\)", out)


def test_predictions_are_the_models_own(work, tmp_path, capsys):
    """The stream's answers against one batch through `evaluation.predict`, with the delta merged by hand."""
    rows = sentences("d90", "valid", 30)
    source = with_texts(tmp_path / "in.csv", [{"text": row["text"]} for row in rows])
    run(capsys, "predict", "--model", work / "theta1", "--delta", work / "delta", "--input", source,
        "--output", tmp_path / "out.csv")  # fmt: skip
    loaded, delta = ctsft.load_model(str(work / "theta1")), ctsft.HeadDelta.load(work / "delta")
    delta.apply(loaded.model)
    task = task_of(delta.about["task"])
    encoded = encode(loaded.tokenizer, task, [Example("x", row["text"], 0) for row in rows], 128, loaded.layout)
    exact = torch.autocast("cpu", torch.bfloat16, enabled=False)
    plain = predict_rows(
        loaded.model, encoded, label_tokens(loaded.tokenizer, task, loaded.layout), loaded.layout, 30, exact
    )
    p = torch.softmax(torch.tensor(plain.logits).double() / delta.about["temperature"], 1).max(1).values
    for row, label, sure in zip(read_csv(tmp_path / "out.csv"), plain.labels, p, strict=True):
        assert row["label"] == task.labels[label]
        assert float(row["confidence"]) == pytest.approx(float(sure), abs=2e-4)


def test_a_merged_checkpoint_predicts_as_the_delta_does(work, tmp_path, capsys):
    out = run(
        capsys, "merge", "--model", work / "theta1", "--delta", work / "delta", "--output", tmp_path / "merged"
    )  # fmt: skip
    assert out == f"checkpoint: {tmp_path / 'merged'}\n"
    source = with_texts(tmp_path / "in.csv", [{"text": row["text"]} for row in sentences("d90", "valid", 20)])
    run(capsys, "predict", "--model", tmp_path / "merged", "--input", source, "--output", tmp_path / "a.csv")
    run(capsys, "predict", "--model", work / "theta1", "--delta", work / "delta", "--input", source,
        "--output", tmp_path / "b.csv")  # fmt: skip
    assert read_csv(tmp_path / "a.csv") == read_csv(tmp_path / "b.csv")


def test_a_delta_answers_prompts_of_the_length_that_it_was_tuned_on(work, tmp_path, capsys):
    """Its temperature was fitted on these; the checkpoint has another length, which its own answers keep."""
    own = ["--task", "topics", "--data-dir", work / "data", "--label-words", *label_words(), "--language", "d90"]
    model = ["--model", tmp_path / "merged"]
    run(capsys, "tune", "--model", work / "theta1", *own, "--scores", work / "scores", "--n", 4, "--epochs", 1,
        "--max-tokens", 12, "--output", tmp_path / "short")  # fmt: skip
    run(capsys, "merge", "--model", work / "theta1", "--delta", tmp_path / "short", "--output", tmp_path / "merged")
    run(capsys, "tune", *model, *own, "--arm", "norm_only", "--n", 4, "--epochs", 1, "--output", tmp_path / "same")
    assert ctsft.HeadDelta.load(tmp_path / "same").about["max_tokens"] == 12
    run(capsys, "tune", *model, *own, "--arm", "norm_only", "--n", 4, "--epochs", 1, "--max-tokens", 9,
        "--output", tmp_path / "shorter")  # fmt: skip
    model += ["--delta", tmp_path / "shorter"]
    source = with_texts(tmp_path / "in.csv", [{"text": row["text"]} for row in sentences("d90", "valid", 12)])

    def answers(*flags: object) -> list[tuple[tuple[str, str], tuple[str, str]]]:
        out = run(capsys, "predict", *model, "--input", source, "--with-source", *flags)
        rows = csv.DictReader(io.StringIO(out))
        return [((r["label"], r["confidence"]), (r["source_label"], r["source_confidence"])) for r in rows]

    plain, longer, shorter = answers(), answers("--max-tokens", 12), answers("--max-tokens", 9)
    assert [delta for delta, _ in plain] == [delta for delta, _ in shorter] != [delta for delta, _ in longer]
    assert [base for _, base in plain] == [base for _, base in longer] != [base for _, base in shorter]

    def told(*flags: object) -> list[list[str]]:
        lines = run(capsys, "evaluate", *model, *own, *flags).splitlines()
        return [[line for line in lines if line.startswith(name)] for name in ("model", "with delta")]

    plain, longer, shorter = told(), told("--max-tokens", 12), told("--max-tokens", 9)
    assert plain == [longer[0], shorter[1]]
    assert longer[1] != shorter[1]


def test_json_lines_are_answered_like_a_table(work, tmp_path, capsys):
    rows = [{"text": row["text"], "n": i, "more": None} for i, row in enumerate(sentences("d90", "valid", 6))]
    write_jsonl(tmp_path / "in.jsonl", rows)
    with_texts(tmp_path / "in.csv", [row | {"n": str(row["n"]), "more": ""} for row in rows])
    arguments = ["predict", "--model", work / "theta1", "--delta", work / "delta", "--input"]
    assert run(capsys, *arguments, tmp_path / "in.jsonl") == run(capsys, *arguments, tmp_path / "in.csv")


def test_the_commands_tell_what_is_odd_before_they_train(tmp_path, capsys, monkeypatch):
    """Test rows that stand in train too, in the source, in the target, and in both languages."""
    data = write_topics(tmp_path / "data", ("d10", "d90"))
    for language, size in (("d10", 3), ("d90", 2)):
        path = data / "topics" / language / "test.jsonl"
        write_jsonl(path, [*sentences(language, "test", 100), *sentences(language, "train", size)])
    for name, task in (("scores", {"name": "topics"}), ("of_a_study", "topics")):
        Relevance(np.ones((4, 8)), {}, {"source": "d10", "task": task}).save(tmp_path / name)
    own = ["--task", "topics", "--data-dir", data, "--label-words", *label_words()]

    # Stopped where the model would be loaded.
    monkeypatch.setattr(OnModel, "load", lambda self: {}["no model"])

    def told(*command: object) -> list[str]:
        with pytest.raises(KeyError):
            main([str(argument) for argument in command])
        return re.findall("^check: (d10|d90): ", capsys.readouterr().out, re.MULTILINE)

    tune = ["tune", "--model", "demo", *own, "--output", tmp_path / "new"]
    assert told(*tune, "--language", "d10", "--role", "source", "--arm", "full") == ["d10"]
    assert told(*tune, "--language", "d90", "--arm", "norm_only") == ["d90"]
    for scores in ("scores", "of_a_study"):
        assert told(*tune, "--language", "d90", "--scores", tmp_path / scores) == ["d10", "d90"]
    assert told("discover", "--model", "demo", *own, "--source", "d10", "--output", tmp_path / "s") == ["d10"]
    assert told("advise", "--model", "demo", *own, "--source", "d10", "--target", "d90") == ["d10", "d90"]
    assert ctsft.check(ctsft.load_task("demo"), "d00", ["d50"]) == []


@pytest.mark.parametrize(("model", "noted"), [("theta1", False), ("demo", True)])
def test_scores_of_other_weights_are_told(work, tmp_path, capsys, model, noted):
    own = ["--task", "topics", "--data-dir", work / "data", "--label-words", *label_words(), "--language", "d90"]
    path = work / model if model == "theta1" else model
    main(
        [*map(str, ["tune", "--model", path, *own, "--scores", work / "scores", "--n", 4, "--output", tmp_path / "x"])]
    )
    assert ("note: the scores were made on other weights" in capsys.readouterr().err) == noted


def test_help_loads_no_model_library():
    code = "import sys, ctsft.cli; print(*(m for m in ('torch', 'transformers', 'pandas') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_no_flag_is_explained_in_two_lines_of_source():
    """tyro keeps the break between them, wherever it falls in the help."""
    for path in (ROOT / "ctsft" / "study" / "config.py", *(ROOT / "ctsft" / "commands").glob("*.py")):
        for told in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)):
            texts = [line.value.value for line in told.body[1:] if isinstance(line, ast.Expr)]
            assert not [text for text in texts if "\n" in text]


def test_an_unknown_arm_is_told_those_that_tune(tmp_path, capsys):
    """Not the baselines, which only the experiment scripts run."""
    arms = "full, circuit, near_zero, bottom, random, norm_only"
    command = ["tune", "--model", "demo", "--task", "demo", "--language", "d00", "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        main([*command, "--arm", "cirkuit"])
    assert capsys.readouterr().err == f"error: unknown arm 'cirkuit'. Valid: {arms}.\n"
    for arm in arms.split(", "):
        assert plain_arm(arm).plain


def labeller_of(work) -> Labeller:
    delta = ctsft.HeadDelta.load(work / "delta")
    return Labeller(ctsft.load_model(str(work / "theta1")), task_of(delta.about["task"]), [Voice("", delta, 1.0)])


def test_rows_stream_through_in_constant_memory(work):
    """However long the input, no more than one chunk of it is read ahead of what has been written."""
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield read, {"text": sentences("d90", "test", 1)[0]["text"]}

    stream = labeller_of(work).run(endless(), "text", None, chunk=8)
    for written in range(1, 30):
        next(stream)
        assert read <= written + 8


def test_a_row_without_a_text_keeps_its_place_and_is_told(work, tmp_path, capsys):
    texts = [row["text"] for row in sentences("d90", "valid", 5)]
    texts[1] = " "
    source = with_texts(tmp_path / "in.csv", [{"text": text} for text in texts])
    main(["predict", "--model", str(work / "theta1"), "--delta", str(work / "delta"), "--input", str(source)])
    out, err = capsys.readouterr()
    found = list(csv.DictReader(io.StringIO(out)))
    assert [bool(row["label"]) for row in found] == [True, False, True, True, True]
    assert [row["text"] for row in found] == texts
    assert "1 rows have no text and got no label (lines 3)" in err


@pytest.mark.parametrize("kind", [".csv", ".tsv"])
def test_an_empty_line_under_one_column_is_a_row_without_a_text(work, tmp_path, capsys, kind):
    one, three = (row["text"] for row in sentences("d90", "valid", 2))
    source = tmp_path / f"in{kind}"
    source.write_text(f"text\n{one}\n\n{three}\n")
    main(["predict", "--model", str(work / "theta1"), "--delta", str(work / "delta"), "--input", str(source)])
    out, err = capsys.readouterr()
    found = list(csv.DictReader(io.StringIO(out)))
    assert [(row["text"], bool(row["label"])) for row in found] == [(one, True), ("", False), (three, True)]
    assert "1 rows have no text and got no label (lines 3)" in err


def test_chunks_change_no_answer(work):
    rows = [(i, {"text": row["text"]}) for i, row in enumerate(sentences("d90", "valid", 23))]
    labeller = labeller_of(work)
    whole = [row["label"] for row in labeller.run(rows, "text", None, chunk=100)]
    assert [row["label"] for row in labeller.run(rows, "text", None, chunk=3)] == whole


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        ("words\nhello\n", [], r"line 2: no column 'text'; found \['words'\]"),
        ("text,label\nhello,x\n", [], "has a column 'label' already"),
        ("text\nhello\na,b\n", [], "line 3: 2 fields"),
        ("text\nhello\n", ["--pair", "other"], "has one text"),
        ('{"text": "a"}\n{"text": "b", "c": 1}\n', [], r"line 2: the fields \['text', 'c'\], but those of the first"),
        ("text: hello\n", [], r"expected a file that ends in \.csv, \.tsv, \.jsonl"),
        (b"text\n\xff\n", [], "not UTF-8"),
    ],
)
def test_inputs_that_cannot_be_answered_end_with_one_sentence(work, tmp_path, capsys, content, flags, message):
    path = tmp_path / f"in.{'jsonl' if content[:1] == '{' else 'txt' if ': ' in str(content) else 'csv'}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SystemExit) as stop:
        main(["predict", "--model", str(work / "theta1"), "--delta", str(work / "delta"), "--input", str(path),
              "--output", str(tmp_path / "out.csv"), *flags])  # fmt: skip
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert re.search(message, err)
    assert not (tmp_path / "out.csv").exists()


def test_rows_keep_their_fields_whatever_those_hold(work, tmp_path, capsys):
    """A carriage return within a text, and JSON fields in another order."""
    lines = ['{"text": "one\\rtwo", "n": 1}', '{"n": 2, "text": "three"}']
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
    run(capsys, "predict", "--model", work / "theta1", "--delta", work / "delta", "--input", tmp_path / "in.jsonl",
        "--output", tmp_path / "out.csv")  # fmt: skip
    assert [(row["text"], row["n"]) for row in read_csv(tmp_path / "out.csv")] == [("one\rtwo", "1"), ("three", "2")]
    assert b'\n"one\rtwo","1",' in (tmp_path / "out.csv").read_bytes()


def test_a_task_in_free_text_leaves_the_checkpoints_own(work, tmp_path, capsys):
    """As a loop of one's own may name it; the prompt is then the checkpoint's, and where that has none it is told."""
    source = with_texts(tmp_path / "in.csv", [{"text": row["text"]} for row in sentences("d90", "valid", 4)])
    tuned = ctsft.HeadDelta.load(work / "delta")
    answers = []
    asked = ["predict", "--model", work / "theta1", "--input", source, "--delta"]
    for name, about in (("free", tuned.about | {"task": "topics"}), ("told", tuned.about)):
        replace(tuned, about=about).save(tmp_path / name)
        answers.append(run(capsys, *asked, tmp_path / name))
    assert answers[0] == answers[1]
    data = ["--task", "topics", "--data-dir", work / "data", "--label-words", *label_words(), "--language", "d90"]
    assert "with delta: accuracy" in run(
        capsys, "evaluate", "--model", work / "theta1", "--delta", tmp_path / "free", *data
    )
    merged = tmp_path / "merged"
    run(capsys, "merge", "--model", work / "theta1", "--delta", tmp_path / "free", "--output", merged)
    with pytest.raises(SystemExit):
        main(["predict", "--model", str(merged), "--input", str(source)])
    assert "neither a delta nor the checkpoint says which labels to give" in capsys.readouterr().err


def test_another_prompt_than_that_of_the_tuning_is_told(work, tmp_path, capsys):
    data = ["--task", "topics", "--data-dir", work / "data"]
    words = ["--label-words", *label_words()[1:], label_words()[0]]
    with pytest.raises(SystemExit) as stop:
        run(capsys, "evaluate", "--model", "demo", "--delta", work / "delta", *data, *words, "--language", "d90")
    assert stop.value.code == 2
    assert re.search(r"delta was tuned on another prompt: this one has label_words \[.*not \[", capsys.readouterr().err)
    out = run(capsys, "tune", "--model", work / "theta1", *data, *words, "--language", "d90", "--arm", "norm_only",
              "--n", 4, "--epochs", 1, "--output", tmp_path / "other")  # fmt: skip
    assert "theta1 was tuned on another prompt: this one has label_words" in out

    shutil.copytree(work / "theta1", tmp_path / "other_theta1")
    path = tmp_path / "other_theta1" / "ctsft.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {"task": about["task"] | {"label_words": words[1:]}}))
    with pytest.raises(SystemExit):
        run(capsys, "predict", "--model", tmp_path / "other_theta1", "--delta", work / "delta", "--with-source",
            "--input", with_texts(tmp_path / "in.csv", sentences("d90", "test", 4)))  # fmt: skip
    assert "the checkpoint was tuned with another prompt than the delta" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_an_output_that_is_no_plain_file_stays_what_it_is(work, tmp_path, capsys, kind):
    texts, out, plain = with_texts(tmp_path / "in.csv", [{"text": "suyu"}] * 4), tmp_path / "out", tmp_path / "plain"
    if kind == "pipe":
        os.mkfifo(out)
        reader = subprocess.Popen(["cat", out], stdout=plain.open("w"))
    else:
        plain.write_text("old")
        out.symlink_to(plain)
    run(capsys, "predict", "--model", work / "theta1", "--delta", work / "delta", "--input", texts, "--output", out)
    if kind == "pipe":
        assert reader.wait(60) == 0
    assert out.is_fifo() if kind == "pipe" else out.is_symlink()
    assert len(read_csv(plain)) == 4
    assert not list(tmp_path.glob("*.partial"))


def test_a_checkpoint_that_was_not_written_whole_is_none(work, tmp_path, capsys, monkeypatch):
    arguments = ["merge", "--model", work / "theta1", "--delta", work / "delta", "--output", tmp_path / "merged"]
    with monkeypatch.context() as patch:
        patch.setattr("ctsft.tuning.share.write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(SystemExit):
            run(capsys, *arguments)
    assert not (tmp_path / "merged").exists()
    run(capsys, *arguments)
    assert (tmp_path / "merged" / "ctsft.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


def test_a_calibration_error_on_the_split_that_it_was_fitted_on_is_no_evidence(work, capsys):
    out = run(
        capsys, "evaluate", "--model", work / "theta1", "--delta", work / "delta", "--task", "topics", "--split",
        "valid", "--data-dir", work / "data", "--label-words", *label_words(), "--language", "d90",
    )  # fmt: skip
    assert re.search(
        r"with delta: calibration error 0\.\d+ \(no evidence: the temperature was fitted on this split", out
    )
    assert re.search(r"model: calibration error 0\.\d+ \(calibrated on d10\)", out)


def test_an_output_that_cannot_be_written_shows_before_the_work(work, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ctsft, "load_model", lambda *asked: pytest.fail("a model was loaded"))
    (tmp_path / "file").write_text("")
    data = ["--task", "topics", "--data-dir", work / "data", "--label-words", *label_words()]
    beyond = tmp_path / "file" / "x"
    for command in (
        ["tune", "--model", "demo", *data, "--language", "d90", "--arm", "norm_only", "--output", beyond],
        ["discover", "--model", "demo", *data, "--source", "d90", "--output", beyond],
        ["predict", "--model", "demo", "--input", tmp_path / "file", "--output", beyond],
        ["show", work / "scores", "--png", beyond],
    ):
        with pytest.raises(SystemExit) as stop:
            run(capsys, *command)
        assert stop.value.code == 2
        assert f"error: cannot write {beyond}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(capsys, "predict", "--model", "demo", "--input", tmp_path / "file", "--output", tmp_path)
    assert "is a folder; give the name of a file" in capsys.readouterr().err


def test_predict_stands_in_a_pipe(work):
    """Standard input to standard output, notes to standard error; a reader that leaves early is no error."""
    text = "text\n" + "".join(row["text"] + "\n" for row in sentences("d90", "valid", 600))
    command = [
        sys.executable,
        "-m",
        "ctsft",
        "predict",
        "--model",
        str(work / "theta1"),
        "--delta",
        str(work / "delta"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    whole = subprocess.run(command, input=text, capture_output=True, text=True, env=environment, check=True)
    assert len(whole.stdout.splitlines()) == 601
    assert whole.stderr == ""
    pipe = " ".join(f"'{part}'" for part in command) + " | head -1"
    short = subprocess.run(["bash", "-c", f"set -o pipefail; {pipe}"], input=text, capture_output=True, text=True,
                           env=environment)  # fmt: skip
    assert short.stdout == "text,label,confidence\n"
    assert "Traceback" not in short.stderr


# ---- show ----------------------------------------------------------------------------------------------------------


def test_a_heat_map_shows_every_score_and_the_circuit():
    scores = np.array([[1.0, -0.5], [0.0, 0.25]])
    column = np.array([[0.0, 2.0], [0.0, 0.0]])
    relevance = Relevance(scores, {Head(0, 0): column})
    assert terminal(relevance, 1, 0.3, colour=False).splitlines() == [
        "layer h0   h1   ",
        "    1 +0   +2   ",
        "    0 +9d0 -4d1 ",
        "",
        "+9 is 1; heads of the circuit (layer.index):",
        "depth 0: 0.0",
        "depth 1: 0.1",
    ]
    assert "\x1b[48;2;255;0;0m" in terminal(relevance, 0, 0.3, colour=True)


def test_show_prints_and_draws(work, tmp_path, capsys):
    out = run(capsys, "show", work / "scores", "--png", tmp_path / "map.png")
    relevance = Relevance.load(work / "scores")
    assert len(out.splitlines()) == 4 + 1 + 1 + 1 + 3 + 1
    assert f"+9 is {np.abs(relevance.logits).max():.4g}" in out
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    committed = next(iter(sorted((ROOT / "results" / "demo" / "relevance").glob("*.json"))))
    assert "depth 2:" in run(capsys, "show", committed)
    for asked in (["--share", "1"], ["--share", "0"], ["--share", "nan"], ["--depth", "-1"]):
        with pytest.raises(SystemExit) as stop:
            main(["show", str(committed), *asked])
        assert stop.value.code == 2
        assert "share" in capsys.readouterr().err


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "nowhere"], "no scores at nowhere.json"),
        (["tune", "--model", "demo", "--task", "demo", "--language", "d30", "--output", "{new}"], "give --scores"),
        (["tune", "--model", "demo", "--task", "demo", "--language", "d30", "--output", "{work}"], "exists already"),
        (
            "tune --model demo --task demo --language d30 --arm lora_heads --scores s --output {new}".split(),
            "the arm 'lora_heads' is a baseline",
        ),
        (
            "tune --model nowhere --task demo --language d30 --arm norm_only --epochs 0 --output {new}".split(),
            "epochs is 0",
        ),
        (["evaluate", "--model", "demo", "--task", "nusaxx", "--language", "d30"], "unknown task 'nusaxx'"),
        (["evaluate", "--model", "demo", "--task", "demo", "--language", "x"], "unknown language 'x'"),
        (["evaluate", "--model", "demo", "--task", "demo", "--language", "d30", "--device", "gpu"], "unknown device"),
        (["evaluate", "--model", "demo", "--task", "demo", "--language", "d30", "--device", "meta"], "not supported"),
        (["show", "{work}/scores", "--png", "{new}.xyz"], "is no picture: its name must end in"),
        (["evaluate", "--model", "demo", "--task", "demo", "--language", "d30", "--delta", "{work}/delta"], "made on"),
        (["predict", "--model", "demo", "--input", "x.csv"], "neither a delta nor the checkpoint says"),
        (["predict", "--model", "{work}/theta1", "--input", "x.csv"], "cannot open x.csv"),
        (
            [
                "tune",
                "--model",
                "demo",
                "--task",
                "topics",
                "--data-dir",
                "{work}/data",
                "--language",
                "d10",
                "--arm",
                "full",
                "--output",
                "{new}",
            ],
            "the label word ' animals' is unknown to this tokenizer",
        ),
        (["predict", "--model", "{work}/theta1", "--delta", "someone/absent"], "cannot pull someone/absent"),
    ],
)
def test_mistakes_end_with_one_sentence(work, tmp_path, capsys, arguments, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main([argument.format(work=work, new=tmp_path / "new") for argument in arguments])
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert "accuracy" not in out  # told before any work
    assert err.startswith("error: ")
    assert message in err


def test_memory_that_runs_out_ends_with_one_sentence(tmp_path, capsys, monkeypatch):
    def too_large(*arguments, **settings):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore of it.")

    monkeypatch.setattr(ctsft, "load_model", too_large)
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "--model", "demo", "--task", "demo", "--language", "d50"])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("error: out of memory (CUDA out of memory. Tried to allocate 2.00 GiB.)")
    assert err.count("\n") == 1


def test_the_working_folder_is_no_output_and_that_shows_before_the_work(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ctsft, "load_model", lambda *a, **k: pytest.fail("loaded"))
    command = "tune --model demo --task demo --language d00 --role source --arm full --output .".split()
    with pytest.raises(SystemExit):
        main(command)
    assert "name a new folder in it" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "--model", "demo", "--task", "demo", "--language", "d30"],
        ["predict", "--model", "demo"],
        ["merge", "--model", "demo", "--output", "new"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_delta_that_is_nowhere_is_told_before_a_model_is_loaded(tmp_path, capsys, arguments, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(OnModel, "load", lambda self: pytest.fail("loaded"))
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--delta", "nope"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: no folder nope, and the hub gives no delta of that name (")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert COMMANDS[command].__doc__.split(";")[0][:40] in " ".join(out.split())


def test_a_task_with_two_texts_wants_both_columns(work):
    form = ctsft.HeadDelta.load(work / "delta").about["task"] | {"template": "{text} | {pair} | sentiment:"}
    labeller = replace(labeller_of(work), task=task_of(form))
    rows = [(2, {"a": "x", "b": "y"}), (3, {"a": "x", "b": ""})]
    first, second = labeller.run(rows, "a", "b")
    assert first["label"]
    assert (second["label"], labeller.skipped, labeller.cut) == ("", Lines(1, [3]), Lines())
    with pytest.raises(UserError, match="line 2: no column 'c'"):
        list(labeller.run(rows, "a", "c"))


def test_a_text_that_loses_its_end_is_told_by_its_line(work, tmp_path, capsys):
    texts = tmp_path / "texts.csv"
    texts.write_text("text\nshort\n" + "long " * 500 + "\n\n")
    main([*f"predict --model {work / 'theta1'} --delta {work / 'delta'} --input {texts}".split()])
    told = capsys.readouterr()
    assert told.out.count("\n") == 4
    assert told.err.splitlines()[-2:] == [
        "note: 1 rows have no text and got no label (lines 4)",
        "note: 1 rows are longer than 128 tokens with the prompt and were read without their end (lines 3)",
    ]


def test_records_keep_line_numbers_over_line_breaks_in_texts():
    lines = io.StringIO('text\n"one\ntwo"\nthree\n')
    assert [(number, row["text"]) for number, row in separated(lines, "x", ".csv")] == [(3, "one\ntwo"), (4, "three")]
