"""What a cell of script 06 leaves beside its row: probabilities, answers to related tests, bits per byte, an audit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from ctsft.evaluation import Predictions
from ctsft.models.precision import products
from ctsft.provenance import now
from ctsft.storage import write_sealed
from ctsft.study.grid import Cell
from ctsft.study.measure_files import path_of, per_mille, probabilities, read_measure
from ctsft.study.probes import NamedTests, share_right
from ctsft.study.workbench import Workbench
from ctsft.tasks.task import Example, digits
from ctsft.tuning.arms import get_arm
from ctsft.tuning.loop import token_losses

# Enough for a change of one hundredth of a bit per byte, and for a share of changed answers to two digits.
TEXT_ROWS = 100
AUDIT_ROWS = 50


def measure(bench: Workbench, tests: NamedTests, cell: Cell, key: str, target: Predictions) -> None:
    """Measure the model as it is now, the cell's arm tuned, and write the file. `target`: its answers on the target."""
    arm, config, path = get_arm(cell.arm), bench.config, path_of(bench.config.folder, key)
    # What an earlier run has asked too is asked again, so that no answer is lost.
    asked = dict.fromkeys([*(read_measure(path)["related"] if path.is_file() else ()), *config.bystanders])
    trained_on = None
    if cell.n_target:
        rows = bench.training_rows(replace(arm, extra_rows=None), cell)
        trained_on = share_right(bench.predict(rows).digits, digits(rows.labels))
    languages = [config.source, cell.target]
    languages += [test.partition("/")[2] for test in asked if test.startswith(f"{config.task}/")]
    content = {
        "cell": key,
        "target_probabilities": per_mille(probabilities(target.logits)),
        "train_accuracy": trained_on,
        "related": {test: tests.answers(test) for test in asked if test != f"{config.task}/{cell.target}"},
        "bits_per_byte": {}
        if arm.classifier
        else {
            f"{config.task}/{language}": round(bits_per_byte(bench, bench.split(language, "test").examples), 6)
            for language in dict.fromkeys(languages)
        },
        "audit": audit(bench, cell.target),
        "git_commit": bench.provenance["git_commit"],
        "created": now(),
    }
    write_sealed(path, content)


@torch.no_grad()
def bits_per_byte(bench: Workbench, examples: Sequence[Example]) -> float:
    """-log2 p of the texts over their length in bytes (UTF-8), on the first TEXT_ROWS rows, cut at --max-tokens.

    Where the tokenizer has no start token, a text's first token is not predicted, and its bytes do not count.
    """
    examples = examples[:TEXT_ROWS]
    rows, layout = bench.texts(examples), bench.loaded.layout
    nats = 0.0
    for start in range(0, len(rows), bench.config.micro_batch):
        # A few rows at a time: unlike in classification, every position has logits over the whole vocabulary.
        some = rows.prompts[start : start + bench.config.micro_batch]
        with products(bench.autocast):
            losses, _ = token_losses(bench.model, some, layout, bench.autocast)
        nats += float(losses.double().sum())
    return (
        nats
        / math.log(2)
        / sum(_bytes(bench, example, len(p)) for example, p in zip(examples, rows.prompts, strict=True))
    )


def _bytes(bench: Workbench, example: Example, n_tokens: int) -> int:
    """Bytes of the part of a text that its tokens cover and that is predicted."""
    tokenizer = bench.loaded.tokenizer
    text = bench.text(example)
    spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    with_start = tokenizer.bos_token_id is not None
    last = spans[n_tokens - 1 - with_start][1]
    first = 0 if with_start else spans[0][1]
    return len(text[first:last].encode("utf-8"))


def audit(bench: Workbench, language: str) -> list[dict[str, str]]:
    """For each of the task's pairs of openings (a name, a group): the probabilities of rows that differ in it alone."""
    if bench.task.openings is None:
        return []
    examples = bench.split(language, "test").examples[:AUDIT_ROWS]

    def answers(opening: str) -> str:
        rows = [replace(example, text=opening + example.text) for example in examples]
        return per_mille(probabilities(bench.predict(bench.encode(rows)).logits))

    return [
        {"kind": kind, "one": one, "other": other, "with_one": answers(one), "with_other": answers(other)}
        for kind, one, other in bench.task.openings(language)
    ]
