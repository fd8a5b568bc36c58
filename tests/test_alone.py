"""Scripts 05, 07 and 08 run in one process: a second one on the same folder is refused, by name."""

from __future__ import annotations

import os
import runpy
from dataclasses import replace

import pytest
from killing import ROOT

from ctsft.costs import run as costs
from ctsft.costs.run import run_costs
from ctsft.errors import UserError
from ctsft.storage import alone, locked
from ctsft.study import faithfulness, self_training
from ctsft.study.faithfulness import run_faithfulness
from ctsft.study.self_training import run_self_training

SCRIPTS = {
    "05_faithfulness": (faithfulness, run_faithfulness),
    "07_cost_and_energy": (costs, run_costs),
    "08_self_training": (self_training, run_self_training),
}


@pytest.fixture(params=SCRIPTS)
def script(request, tmp_path):
    """The module of a script, what it runs, and its settings."""
    presets = runpy.run_path(str(ROOT / "experiments" / f"{request.param}.py"))["PRESETS"]
    return *SCRIPTS[request.param], replace(presets["demo"], output=tmp_path)


def test_a_second_process_is_refused_before_it_loads_anything(script, monkeypatch):
    module, run, config = script
    monkeypatch.setattr(module, "opened", lambda config: pytest.fail("the folder was opened"))
    with alone(config.folder / config.experiment), pytest.raises(UserError) as told:
        run(config, table=str)
    assert f"{config.experiment} is being run in {config.folder} already, by process {os.getpid()} on " in str(
        told.value
    )
    assert "--output" in str(told.value)


def test_the_lock_is_held_while_it_runs_and_free_afterwards(script, monkeypatch):
    module, run, config = script

    def opened(config):
        with locked(config.folder / config.experiment, wait=False) as free:
            assert not free
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "opened", opened)
    with pytest.raises(KeyboardInterrupt):
        run(config, table=str)
    with locked(config.folder / config.experiment, wait=False) as free:
        assert free


def test_a_dry_run_may_be_beside_another(script, monkeypatch):
    module, run, config = script
    monkeypatch.setattr(module, "opened", lambda config: (_ for _ in ()).throw(KeyboardInterrupt))
    with alone(config.folder / config.experiment), pytest.raises(KeyboardInterrupt):
        run(replace(config, dry_run=True), table=str)
