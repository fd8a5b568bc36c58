"""Script 08: chains of generations, what they learn from, and how their end is told."""

from __future__ import annotations

import math
import runpy
import shutil
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from own_data import label_words, write_topics

from ctsft.errors import CellFailed, OutOfMemory, UserError
from ctsft.report.figures.self_training import self_training_figure
from ctsft.report.render import rate_text
from ctsft.report.self_training import (
    fate,
    read_self_training,
    self_training,
    self_training_cells,
    self_training_tables,
)
from ctsft.report.situations import own_labels
from ctsft.storage import Damaged
from ctsft.study import self_training as module
from ctsft.study.grid import cells
from ctsft.study.record import append_rows, mend_table, read_rows
from ctsft.study.self_training import COLUMNS, run_self_training
from ctsft.study.spread import entropy, spread
from ctsft.study.workbench import Workbench
from ctsft.tasks.task import digits, from_digits
from ctsft.tuning.arms import get_arm

DEMO = Path(__file__).parents[1] / "results" / "demo"
PRESETS = runpy.run_path(str(Path(__file__).parents[1] / "experiments" / "08_self_training.py"))["PRESETS"]


GENERATION = module._generation


@pytest.fixture(scope="module", autouse=True)
def turning():
    """So small a model gives all rows one label, and its chains would come to rest at once: here the labels turn."""

    def turned(bench, config, chain, cell, number, labels):
        made = GENERATION(bench, config, chain, cell, number, labels)
        return made | {"labels": digits((from_digits(made["labels"]) + number) % 3)}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_generation", turned)
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return replace(
        PRESETS["demo"],
        n_targets=(15,),
        n_source=60,
        epochs=1,
        mean_rows=24,
        score_rows=12,
        scorer="cdt_linear",
        arms=("full", "circuit:0"),
        lrs=(3e-3,),
        generations=2,
        unlabelled=30,
        rows=("same",),
        output=tmp_path_factory.mktemp("results"),
    )


@pytest.fixture(scope="module")
def rows(config) -> list[dict]:
    assert run_self_training(config, self_training) == 0
    return read_rows(config.table, COLUMNS)


def test_a_chain_has_every_generation(config, rows):
    assert len(rows) == 2 * 2 * 2 * 3  # arms, seeds, with and without human rows, generations
    for row in rows:
        human = row["human"] == "True"
        assert int(row["n_rows"]) == (15 if row["generation"] == "0" else 30 + 15 * human)
        assert (row["pseudo_accuracy"] == "") == (row["generation"] == "0")
        assert len(row["predictions"]) == len(row["source_predictions"]) == 401


def test_the_first_generation_does_not_depend_on_what_follows(rows):
    first = [row for row in rows if row["generation"] == "0"]
    by_setting = {}
    for row in first:
        by_setting.setdefault((row["arm"], row["seed"]), set()).add(row["predictions"])
    assert all(len(answers) == 1 for answers in by_setting.values())


def test_each_generation_learns_from_the_last_ones_labels(config, rows, monkeypatch, tmp_path):
    """Watch one chain: the labels that are trained on are those that the tuned model gave, and no human's."""
    seen, given = [], []
    bench = Workbench(config)
    tune, predict = bench.train_arm, bench.predict

    def train(arm, heads, training, *rest, **more):
        seen.append(training)
        return tune(arm, heads, training, *rest, **more)

    def answer(part, *rest):
        out = predict(part, *rest)
        if len(part) == 30:
            given.append(tuple(int(label) for label in out.labels))
        return out

    bench.theta1_of(31)
    monkeypatch.setattr(bench, "train_arm", train)
    monkeypatch.setattr(bench, "predict", answer)
    [alone, _] = module.chains_of(bench, replace(config, seeds=(31,), arms=("full",)))
    module.generations(bench, replace(config, output=tmp_path), alone)
    assert [len(training) for training in seen] == [15, 30, 30]
    assert seen[1].labels == given[0]
    assert seen[2].labels == tuple((label + 1) % 3 for label in given[1])
    assert set(seen[1].ids) <= set(bench.pool_a)
    assert set(seen[0].ids) <= set(bench.pools_b[alone.cells[0].target])


def test_a_stopped_run_goes_on_behind_its_last_generation(config, rows, monkeypatch, tmp_path):
    """Stopped in the last generation of the first chain: it alone is tuned again, and the rows are the same."""
    again = replace(config, seeds=(31,), arms=("full",), output=tmp_path)
    shutil.copytree(config.folder / "theta1", again.folder / "theta1")
    shutil.copytree(config.folder / "cache" / "theta1", again.folder / "cache" / "theta1")
    tuned, generation = [], module._generation

    def step(bench, config, chain, cell, number, labels):
        if len(tuned) == 2:
            tuned.append("stopped")
            raise KeyboardInterrupt
        tuned.append((chain.human, number))
        return generation(bench, config, chain, cell, number, labels)

    monkeypatch.setattr(module, "_generation", step)
    with pytest.raises(KeyboardInterrupt):
        run_self_training(again, self_training)
    assert not again.table.exists()
    assert run_self_training(again, self_training) == 0
    assert tuned == [(False, 0), (False, 1), "stopped", (False, 2), (True, 1), (True, 2)]
    mine = [row for row in rows if row["arm"] == "full" and row["seed"] == "31"]
    same = ("chain", "generation", "n_rows", "predictions", "source_predictions", "pseudo_accuracy", "confidence")
    found = read_rows(again.table, COLUMNS)
    assert {tuple(row[name] for name in same) for row in found} == {tuple(row[name] for name in same) for row in mine}


def test_a_generation_that_gives_back_what_it_learned_is_where_a_chain_rests(config, monkeypatch, tmp_path):
    """The next one would start from theta1 and learn the same again: it is written down, not tuned."""
    tuned, honest = [], module._kept

    def step(bench, config, chain, cell, number, labels):
        tuned.append((chain.human, number))
        return GENERATION(bench, config, chain, cell, number, labels)

    def never_the_same(*asked):
        made = honest(*asked)
        return made | {"labels": Fresh(made.get("labels", ""))}

    monkeypatch.setattr(module, "_generation", step)
    for output, kept in ((tmp_path / "rest", honest), (tmp_path / "all", never_the_same)):
        monkeypatch.setattr(module, "_kept", kept)
        assert (
            run_self_training(replace(config, seeds=(31,), arms=("full",), generations=3, output=output), self_training)
            == 0
        )
    assert tuned == [(False, 0), (False, 1), (True, 1), (False, 0), *((h, n) for h in (False, True) for n in (1, 2, 3))]
    short, whole = (read_rows(replace(config, output=tmp_path / name).table, COLUMNS) for name in ("rest", "all"))
    same = [name for name in COLUMNS if name != "created"]
    assert [[row[name] for name in same] for row in short] == [[row[name] for name in same] for row in whole]


def test_generations_of_another_theta1_are_made_anew(config, tmp_path):
    """Their weights may be gone, and made again on another machine."""
    made = iter((1, 2, 3))
    kept = [module._kept(replace(config, output=tmp_path), theta1, "x", lambda: {"n": next(made)}) for theta1 in "aabb"]
    assert kept == [{"n": 1, "theta1": "a"}] * 2 + [{"n": 2, "theta1": "b"}] * 2


def test_arms_that_add_rows_are_refused(config):
    with pytest.raises(UserError, match=r"'replay' adds rows of its own.*Leave that arm out"):
        replace(config, arms=("full", "replay"))


@pytest.mark.parametrize("arm", ["ngrams", "zero_shot"])
def test_arms_without_a_rate_are_refused_and_not_dropped(config, arm):
    with pytest.raises(UserError, match=f"'{arm}' tunes no weights.*Leave that arm out"):
        replace(config, arms=("full", arm))


class Fresh(str):
    """Labels that equal no others."""

    def __eq__(self, other):
        return False

    __hash__ = str.__hash__


def test_a_chain_that_does_not_fit_fails_alone(config, rows, monkeypatch, tmp_path, capsys):
    short = replace(config, seeds=(31,), arms=("full", "circuit:0"), generations=1, output=tmp_path)
    shutil.copytree(config.folder / "theta1", short.folder / "theta1")
    shutil.copytree(config.folder / "cache" / "theta1", short.folder / "cache" / "theta1")
    generation = module._generation

    def step(bench, config, chain, cell, *rest):
        if cell.arm == "full":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        return generation(bench, config, chain, cell, *rest)

    monkeypatch.setattr(module, "_generation", step)
    assert run_self_training(short, self_training) == 1
    assert "out of memory (CUDA out of memory" in capsys.readouterr().err
    assert {row["arm"] for row in read_rows(short.table, COLUMNS)} == {"circuit"}


def test_a_rate_that_memory_lacked_for_is_not_taken_for_a_bad_one(config, rows, monkeypatch, tmp_path, capsys):
    """The chain fails, and another run may have the memory: a choice that is written stays."""
    short = replace(config, seeds=(31,), arms=("full",), lrs=(1e-3, 3e-3), generations=1, output=tmp_path)
    shutil.copytree(config.folder / "theta1", short.folder / "theta1")
    shutil.copytree(config.folder / "cache" / "theta1", short.folder / "cache" / "theta1")
    validated = module._validated

    def tried(bench, cell):
        if cell.lr == 3e-3:
            raise OutOfMemory("out of memory")
        return validated(bench, cell)

    monkeypatch.setattr(module, "_validated", tried)
    assert run_self_training(short, self_training) == 1
    assert "out of memory" in capsys.readouterr().err
    assert not short.table.exists()


def test_a_target_without_unlabelled_rows_is_refused_before_anything_is_tuned(config, monkeypatch, tmp_path):
    own = replace(
        config,
        task="topics",
        source="d00",
        targets=("d50",),
        n_targets=(25, 480),
        label_words=label_words(),
        data_dir=write_topics(tmp_path),
        output=tmp_path / "out",
    )
    monkeypatch.setattr(module, "_preferred", lambda *a: pytest.fail("a chain was begun"))
    with pytest.raises(UserError, match="--n-targets 480 are all rows of d50"):
        run_self_training(own, self_training)


def test_more_generations_go_on_where_fewer_have_ended(config, rows, monkeypatch, tmp_path):
    """Nothing is tuned twice, and tables tell the longest chain alone."""
    short = replace(config, seeds=(31,), arms=("full",), generations=1, output=tmp_path)
    shutil.copytree(config.folder / "theta1", short.folder / "theta1")
    shutil.copytree(config.folder / "cache" / "theta1", short.folder / "cache" / "theta1")
    assert run_self_training(short, self_training) == 0
    tuned, generation = [], module._generation

    def step(bench, config, chain, cell, number, labels):
        tuned.append((chain.human, number))
        return generation(bench, config, chain, cell, number, labels)

    monkeypatch.setattr(module, "_generation", step)
    assert run_self_training(replace(short, generations=2), self_training) == 0
    assert tuned == [(False, 2), (True, 2)]
    mine = [row["predictions"] for row in rows if row["arm"] == "full" and row["seed"] == "31"]
    found = read_self_training(short.folder)
    assert list(found["predictions"]) == mine
    assert set(found["unlabelled"]) == {30}


def test_a_chain_takes_the_rate_that_validation_prefers(config, rows, tmp_path, monkeypatch):
    """Each is tried once, on validation alone, or read from the row of another script; then one stays."""
    three = replace(config, seeds=(31,), arms=("full",), lrs=(1e-9, 3e-3, 1e-3), generations=1, output=tmp_path)
    tried, tuned, validated, generation = [], [], module._validated, module._generation

    def trial(bench, cell):
        tried.append(cell.lr)
        return validated(bench, cell)

    def step(bench, config, chain, cell, number, labels):
        tuned.append((cell.lr, chain.human, number))
        return generation(bench, config, chain, cell, number, labels)

    monkeypatch.setattr(module, "_validated", trial)
    monkeypatch.setattr(module, "_generation", step)
    assert run_self_training(three, self_training) == 0
    found = read_rows(three.table, COLUMNS)
    [best] = {float(row["lr"]) for row in found}
    assert best > 1e-9
    assert {row["rates"] for row in found} == {"1e-09 0.001 0.003"}
    assert tried == [1e-9, 1e-3, 3e-3]
    assert tuned == [(best, False, 0), (best, False, 1), (best, True, 1)]
    assert "lr1e-09+0.001+0.003-s31" in found[0]["chain"]
    [cell] = set(self_training_cells(three.folder)["rates"])
    assert cell == f"1e-9, 1e-3, 3e-3 → {rate_text(best)}"

    bench = Workbench(three)
    [alone, _] = module.chains_of(bench, three)
    explodes = three.lrs[0]

    def fails(bench, cell):
        if cell.lr == explodes:
            raise CellFailed("the loss became nan")
        return trial(bench, cell)

    monkeypatch.setattr(module, "_validated", fails)
    assert module._preferred(bench, replace(three, output=tmp_path / "without"), alone)[0].lr == best
    worst = {key: {"valid_accuracy": 1.0 - number} for number, key in enumerate(alone.keys)}
    monkeypatch.setattr(module, "read_cells", lambda folder: worst)
    tried.clear()
    tuned.clear()
    cell, _ = module._preferred(bench, replace(three, output=tmp_path / "other"), alone)
    assert cell.lr == 1e-9
    assert tuned == [(1e-9, False, 0)]
    assert not tried


def test_rows_that_a_human_labelled_are_not_among_the_unlabelled(config, tmp_path):
    """Languages of one's own have ids of their own: pool A's are the source's, and say nothing of the target."""
    own = replace(
        config,
        task="topics",
        source="d00",
        targets=("d50",),
        label_words=label_words(),
        data_dir=write_topics(tmp_path),
        unlabelled=10_000,
    )
    bench = Workbench(own)
    cell = next(cell for cell in cells(own) if cell.arm == "full")
    human = set(bench.training_rows(get_arm("full"), cell).ids)
    chain, *_ = module.chains_of(bench, own)
    unlabelled = module.unlabelled_ids(bench, chain, cell, 0)
    assert set(unlabelled) | human == set(bench.pools_b["d50"])
    assert not set(unlabelled) & human
    with pytest.raises(UserError, match="none is left without a label"):
        module.unlabelled_ids(bench, chain, replace(cell, n_target=len(bench.pools_b["d50"])), 0)


@pytest.fixture(scope="module")
def fresh(config, rows, tmp_path_factory):
    """Chains of one arm and seed on the same rows and on fresh ones, by one run."""
    both = replace(
        config,
        seeds=(31,),
        arms=("full",),
        rows=("same", "fresh"),
        unlabelled_fresh=20,
        output=tmp_path_factory.mktemp("fresh"),
    )
    for name in ("theta1", "cache/theta1"):
        shutil.copytree(config.folder / name, both.folder / name)
    return both


def test_fresh_generations_learn_from_rows_of_their_own(fresh, monkeypatch):
    """Disjoint between generations, no human's, nested in the number, and labelled by the generation before."""
    trained, given, bench = [], [], Workbench(fresh)
    tune, predict = bench.train_arm, bench.predict

    def train(arm, heads, training, *rest, **more):
        trained.append(training)
        return tune(arm, heads, training, *rest, **more)

    def answer(part, *rest):
        out = predict(part, *rest)
        given.append((part.ids, tuple(int(label) for label in out.labels)))
        return out

    bench.theta1_of(31)
    monkeypatch.setattr(bench, "train_arm", train)
    monkeypatch.setattr(bench, "predict", answer)
    monkeypatch.setattr(module, "_generation", GENERATION)
    [chain, _] = module.chains_of(bench, replace(fresh, rows=("fresh",)))
    lines = module.generations(bench, replace(fresh, output=fresh.output / "alone"), chain)
    human, *later = (set(training.ids) for training in trained)
    assert [len(ids) for ids in later] == [20, 20]
    assert set.union(*later) <= set(bench.pool_a)
    assert not set.intersection(*later)
    assert not human & set.union(*later)
    assert all((training.ids, training.labels) in given for training in trained[1:])
    cell = chain.cells[0]
    assert module.unlabelled_ids(bench, replace(chain, unlabelled=40), cell, 0) == [
        one for number in range(2) for one in module.unlabelled_ids(bench, chain, cell, number)
    ]
    right = [label for example in bench.split("d70", "train").by_id(trained[2].ids) for label in [example.label]]
    assert lines[2]["pseudo_accuracy"] == pytest.approx(np.mean(np.array(trained[2].labels) == right), abs=1e-6)


def test_chains_on_fresh_rows_go_on_after_a_stop(fresh, monkeypatch):
    """Those on the same rows keep their names, and the rows of either kind are shown apart."""
    tuned, generation = [], module._generation

    def step(bench, config, chain, cell, number, labels):
        if len(tuned) == 7:
            tuned.append("stopped")
            raise KeyboardInterrupt
        tuned.append((chain.rows, chain.human, number))
        return generation(bench, config, chain, cell, number, labels)

    monkeypatch.setattr(module, "_generation", step)
    with pytest.raises(KeyboardInterrupt):
        run_self_training(fresh, self_training)
    assert run_self_training(fresh, self_training) == 0
    numbers = {"same": [(False, 0), (False, 1), (False, 2), (True, 1), (True, 2)]}
    wanted = [(rows, *pair) for rows in ("same", "fresh") for pair in numbers["same"]]
    assert tuned == [*wanted[:7], "stopped", *wanted[7:]]
    found = read_rows(fresh.table, COLUMNS)
    assert {row["chain"].endswith("-fresh") for row in found if row["rows"] == "fresh"} == {True}
    assert {row["chain"][-5:] for row in found if row["rows"] == "same"} == {"alone", "human"}
    assert [int(row["n_rows"]) for row in found if row["rows"] == "fresh"] == [15, 20, 20, 15, 35, 35]
    table = self_training_cells(fresh.folder)
    assert list(dict.fromkeys(table["unlabelled"])) == ["30", "20 fresh"]
    [told] = self_training_tables(fresh.folder)
    assert "they are *fresh*" in told.caption
    figure = self_training_figure(fresh.folder)
    assert [len(axis.lines) for axis in figure.axes] == [2] * 8
    plt.close(figure)
    assert "20 fresh unlabelled rows" in "".join(own_labels(fresh.folder))


def test_a_chain_on_fresh_rows_uses_the_pool_up_and_no_more(fresh):
    bench = Workbench(fresh)
    [chain, _] = module.chains_of(bench, replace(fresh, rows=("fresh",), generations=4, unlabelled_fresh=100))
    ids = [module.unlabelled_ids(bench, chain, chain.cells[0], number) for number in range(5)]
    assert [len(part) for part in ids] == [100, 100, 100, 100, 0]
    with pytest.raises(UserError, match=r"d70 has 400 rows.*--generations 5 times --unlabelled-fresh 100 are 500"):
        module.chains_of(bench, replace(fresh, generations=5, unlabelled_fresh=100))


def test_committed_chains_keep_their_names(tmp_path):
    """From before there were fresh rows: a later run finds them, reads them as `same`, and adds its own."""
    config = replace(PRESETS["demo"], output=tmp_path)
    config.table.parent.mkdir(parents=True)
    for name in (config.table.name, f"{config.table.name}.sha256"):
        shutil.copy(DEMO / "self_training" / name, config.table.parent)
    known = read_rows(config.table, COLUMNS)
    bench = Workbench(config)
    names = [chain.name for chain in module.chains_of(bench, replace(config, rows=("same",)))]
    assert set(names) <= {row["chain"] for row in known}
    assert {chain.name for chain in module.chains_of(bench, config) if chain.rows == "fresh"}.isdisjoint(names)


def test_older_rows_are_read_mended_and_added_to(tmp_path):
    """A table without the column `rows`: its checksums hold, before and after new rows stand beside them."""
    older = [name for name in COLUMNS if name != "rows"]
    path = tmp_path / "table.csv"
    made = [dict.fromkeys(older, "1") | {"chain": name} for name in "ab"]
    append_rows(path, made, older)
    assert read_rows(path, COLUMNS) == [{name: row.get(name, "same") for name in COLUMNS} for row in made]
    path.write_text(path.read_text() + "torn")
    with pytest.raises(Damaged, match="line 4"):
        read_rows(path, COLUMNS)
    mend_table(path, COLUMNS)
    append_rows(path, [dict.fromkeys(COLUMNS, "2") | {"chain": "c", "rows": "fresh"}], COLUMNS)
    assert [(row["chain"], row["rows"]) for row in read_rows(path, COLUMNS)] == [
        ("a", "same"),
        ("b", "same"),
        ("c", "fresh"),
    ]


def test_finished_chains_are_not_run_again(config, rows, monkeypatch):
    monkeypatch.setattr(module, "generations", lambda *a: pytest.fail("a finished chain was run again"))
    assert run_self_training(config, self_training) == 0


def test_spread_by_hand():
    same = np.log(np.array([[0.5, 0.25, 0.25]] * 4))
    assert spread(same) == {"label_entropy": 0, "confidence": 0.5, "diversity": 0}
    sure = np.array([[50.0, 0, 0], [0, 50.0, 0], [50.0, 0, 0], [0, 50.0, 0]])
    assert spread(sure) == pytest.approx({"label_entropy": 1, "confidence": 1, "diversity": 1})
    assert entropy(np.array([0.5, 0.5, 0.0])) == 1


def chain(shares: list[float], entropies: list[float]) -> pd.DataFrame:
    """A chain of one seed whose answers are right on these shares of 400 rows."""
    return pd.DataFrame(
        {
            "generation": range(len(shares)),
            "seed": 31,
            "right": [np.arange(400) < share * 400 for share in shares],
            "label_entropy": entropies,
            "gold_entropy": 1.5,
        }
    )


def test_the_end_of_a_chain_is_told_by_its_rules():
    assert fate(chain([0.6, 0.6, 0.61], [1.5, 1.4, 1.5])) == "held"
    assert fate(chain([0.6, 0.595, 0.5], [1.5, 1.4, 1.3])) == "decayed from generation 2"
    assert fate(chain([0.6, 0.5, 0.3], [1.5, 1.4, 0.2])) == "collapsed from generation 1 (1 of 1 seeds)"
    assert fate(chain([0.6, 0.62], [1.5, 0.1])) == "held"
    assert fate(chain([0.6, 0.3, 0.6], [1.5, 0.1, 1.5])) == "held"  # made good again
    assert fate(chain([0.6, 0.3, 0.6, 0.4], [1.5, 0.1, 1.5, 1.2])) == "decayed from generation 3"
    assert fate(chain([0.6, 0.3], [0.2, 0.15])) == "decayed from generation 1"  # it was as narrow before


def test_table_and_figure(config, rows):
    cells = self_training_cells(config.folder)
    assert len(cells) == 2 * 2 * 3
    assert set(cells["human rows"]) == {"kept", "first only"}
    first = cells[cells["generation"] == 0]
    assert set(first["against generation 0"]) == {"–"}
    [table] = self_training_tables(config.folder)
    assert table.name == "demo_08_self_training"
    assert read_self_training(config.folder)["gold_entropy"].iloc[0] == pytest.approx(
        -sum(p * math.log2(p) for p in (0.38, 0.24, 0.38)), abs=1e-6
    )
    figure = self_training_figure(config.folder)
    assert len(figure.axes[0].lines) == 4
    plt.close(figure)
    assert self_training_tables(config.folder / "nowhere") == []
    assert self_training_figure(config.folder / "nowhere") is None


def test_bad_settings_are_refused(config):
    with pytest.raises(UserError, match="--generations, --unlabelled and --unlabelled-fresh"):
        replace(config, generations=0)
    with pytest.raises(UserError, match="--rows needs same, fresh"):
        replace(config, rows=("fresh", "fresh"))
