"""What is odd about a user's rows, in plain sentences, before anything is trained on them."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer

from ctsft.tasks.task import SPLITS, Example, Task

Split = tuple[str, str]
NEAR = 0.8  # share of character 4-grams in common (Jaccard); a translation has far less, a copy with a typo far more
IMBALANCE = 5  # times as many rows of the commonest label as of the scarcest
FEW_ROWS = 10  # of one label in the source's training rows: the mean and the scores want several each
FEW_TARGET_ROWS = 5
FEW_TEST_ROWS = 100  # below, the standard error of an accuracy exceeds .05
CHUNK = 512
PADDING = "\x02" * 3  # gives texts below four characters a 4-gram of their own; a space would be collapsed


def findings(task: Task, source: str, targets: Sequence[str], rows: Mapping[Split, Sequence[Example]]) -> list[str]:
    """One sentence for each thing that a user should know; `rows` holds train, valid and test of every language."""
    found = _alike(task)
    for language in (source, *targets):
        found += _forms(language, rows)
        found += _quoted(language, rows)
        found += _repeated(language, rows)
        found += [] if task.parallel else _torn_groups(language, rows)  # there they are named by ids of their split
        found += _absent(task, language, rows)
        found += _balance(task, language, rows, FEW_ROWS if language == source else FEW_TARGET_ROWS)
    for target in targets:
        found += _near(source, target, rows)
        found += _undeclared_parallel(task, source, target, rows)
    return found


def cut_texts(language: str, rows: Sequence[Example], cut: Sequence[str], max_tokens: int) -> list[str]:
    """The finding that rows of the ids `cut` lose the end of their texts; none where there are no such rows."""
    if not cut:
        return []
    return [
        f"{language}: {len(cut)} of {len(rows)} texts lose their end (the first is row '{cut[0]}'): with the prompt "
        f"they are longer than {max_tokens} tokens."
    ]


def normal(example: Example) -> str:
    """The text as a reader sees it: letter case, spacing and forms of the same character play no part."""
    text = f"{example.text}\n{example.pair}" if example.pair else example.text
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _alike(task: Task) -> list[str]:
    """Labels that a reader would take for one."""
    by_form: dict[str, list[str]] = {}
    for label in task.labels:
        by_form.setdefault(" ".join(unicodedata.normalize("NFKC", label).casefold().split()), []).append(label)
    return [f"the labels {' and '.join(map(repr, own))} look like one." for own in by_form.values() if len(own) > 1]


def _forms(language: str, rows: Mapping[Split, Sequence[Example]]) -> list[str]:
    """Texts of one language in two forms of the same characters, which a tokenizer takes for different ones."""
    texts = [f"{e.text}\n{e.pair}" for split in SPLITS for e in rows[language, split]]
    composed, split_up = (sum(unicodedata.normalize(form, text) == text for text in texts) for form in ("NFC", "NFD"))
    mixed = len(texts) - composed
    if not mixed or split_up == len(texts):
        return []
    return [
        f"{language}: {mixed} of {len(texts)} texts have accents as characters of their own (not NFC), and others have "
        "not; to a tokenizer they are different words. Bring all into one form."
    ]


def _quoted(language: str, rows: Mapping[Split, Sequence[Example]]) -> list[str]:
    """Texts in the quotation marks of a program that wrote a table, where they were read as part of the text."""
    quoted = [e for split in SPLITS for e in rows[language, split] if re.fullmatch(r'"(.*"".*)"', e.text, re.DOTALL)]
    if not quoted:
        return []
    return [
        f"{language}: {len(quoted)} texts (the first is row '{quoted[0].id}') stand in quotation marks, with others "
        "doubled inside, as a program writes a table: .tsv is read without quoting, so save it as .csv."
    ]


def _repeated(language: str, rows: Mapping[Split, Sequence[Example]]) -> list[str]:
    """Texts of the test (or validation) split that are in another split of the language too, or twice in train."""
    found = []
    for left, right, harm in (
        ("train", "test", "the accuracy on them is no evidence"),
        ("valid", "test", "choices made on them leak into the test"),
        ("train", "valid", "they favour what was learned by heart"),
    ):
        known = {normal(e): e.id for e in rows[language, left]}
        twice = [(e.id, known[normal(e)]) for e in rows[language, right] if normal(e) in known]
        if twice:
            found.append(
                f"{language}: {len(twice)} of {len(rows[language, right])} {right} rows are also in {left} (row "
                f"'{twice[0][0]}' is '{twice[0][1]}'); {harm}."
            )
    labels: dict[str, set[int]] = {}
    for e in rows[language, "train"]:
        labels.setdefault(normal(e), set()).add(e.label)
    torn = [text for text, own in labels.items() if len(own) > 1]
    if torn:
        found.append(f"{language}: {len(torn)} training texts stand there with two labels, such as '{torn[0][:60]}'.")
    return found


def _torn_groups(language: str, rows: Mapping[Split, Sequence[Example]]) -> list[str]:
    """Groups of rows (of one document, or premise) that stand in two splits."""
    groups = {split: {e.group for e in rows[language, split] if e.group} for split in SPLITS}
    found = []
    for left, right in combinations(SPLITS, 2):
        if both := groups[left] & groups[right]:
            found.append(
                f"{language}: {len(both)} groups have rows in {left} and in {right} (such as '{min(both)}'), so what "
                "belongs together is on both sides."
            )
    return found


def _absent(task: Task, language: str, rows: Mapping[Split, Sequence[Example]]) -> list[str]:
    """Labels without a row in valid or test, which says nothing of them then."""
    found = []
    for split, harm in (
        ("valid", "choices and the temperature are made without them"),
        ("test", "the accuracy and macro-F1 say nothing of them"),
    ):
        seen = {e.label for e in rows[language, split]}
        absent = [repr(label) for number, label in enumerate(task.labels) if number not in seen]
        if absent:
            found.append(f"{language}: no {split} row has the label {', '.join(absent)}; {harm}.")
    return found


def _balance(task: Task, language: str, rows: Mapping[Split, Sequence[Example]], few: int) -> list[str]:
    found = []
    counts = Counter(e.label for e in rows[language, "train"])
    (most, many), (least, fewest) = counts.most_common()[0], counts.most_common()[-1]
    if many >= IMBALANCE * fewest:
        share = max(Counter(e.label for e in rows[language, "test"]).values()) / len(rows[language, "test"])
        found.append(
            f"{language}: labels are unequal in train, {many} of '{task.labels[most]}' against {fewest} of "
            f"'{task.labels[least]}'; the commonest label alone is right on {share:.1%} of the test rows, so look at "
            "macro-F1."
        )
    scarce = [f"'{task.labels[label]}' ({n})" for label, n in sorted(counts.items()) if n < few]
    if scarce:
        found.append(f"{language}: fewer than {few} training rows of {', '.join(scarce)}; expect little of them.")
    n_test = len(rows[language, "test"])
    if n_test < FEW_TEST_ROWS:
        error = 0.5 / n_test**0.5
        found.append(f"{language}: {n_test} test rows; an accuracy on them has a standard error of up to {error:.3f}.")
    return found


def _near(source: str, target: str, rows: Mapping[Split, Sequence[Example]]) -> list[str]:
    """Source rows and target rows that are all but the same text: not translated, or the same language."""
    found = []
    for left, right, harm in (
        ("train", "test", "a model that knows the source knows them"),
        ("train", "valid", "a rate, an arm or a temperature is then chosen on rows that it knows"),
        ("train", "train", "they teach nothing new"),
        ("test", "train", "what is kept of the source would be measured on what was trained on"),
    ):
        pairs = near_duplicates([normal(e) for e in rows[source, left]], [normal(e) for e in rows[target, right]])
        if pairs:
            one, other = rows[source, left][pairs[0][0]], rows[target, right][pairs[0][1]]
            n = len({b for _, b in pairs})
            found.append(
                f"{n} of {len(rows[target, right])} {right} rows of {target} are nearly equal to {left} rows of "
                f"{source} (row '{other.id}' and '{one.id}'); {harm}."
            )
    return found


def near_duplicates(first: Sequence[str], second: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs (i, j) of texts that share at least NEAR of their character 4-grams; works without word boundaries."""
    vectorizer = CountVectorizer(analyzer="char", ngram_range=(4, 4), binary=True, lowercase=False, dtype=np.int32)
    first, second = ([PADDING + text for text in texts] for texts in (first, second))
    vectorizer.fit((*first, *second))
    one, other = vectorizer.transform(first), vectorizer.transform(second)
    sizes = np.asarray(other.sum(1)).ravel()
    pairs = []
    for start in range(0, one.shape[0], CHUNK):
        part = one[start : start + CHUNK]
        both = (part @ other.T).tocoo()
        union = np.asarray(part.sum(1)).ravel()[both.row] + sizes[both.col] - both.data
        near = both.data >= NEAR * union
        pairs += zip((both.row[near] + start).tolist(), both.col[near].tolist(), strict=True)
    return sorted(pairs)


def _undeclared_parallel(task: Task, source: str, target: str, rows: Mapping[Split, Sequence[Example]]) -> list[str]:
    """Equal ids and labels in equal order look like translations, which then stand on both sides of a transfer."""
    alike = all(
        [(e.id, e.label) for e in rows[source, split]] == [(e.id, e.label) for e in rows[target, split]]
        for split in ("train", "test")
    )
    if task.parallel or not alike:
        return []
    return [
        f"{source} and {target} have the same ids and labels in the same order. If their rows are translations of each "
        'other, say so in task.json ("parallel": true): source rows and target rows then never hold the same sentence.'
    ]
