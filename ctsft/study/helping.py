"""`accelerate launch`: what the processes beside the first do in a study."""

from __future__ import annotations

from ctsft.errors import UserError
from ctsft.study.config import OneProcess, StudyConfig
from ctsft.study.workbench import Workbench
from ctsft.tuning.team import Team


def check_team(config: StudyConfig, team: Team) -> None:
    """UserError for studies that several processes cannot do together."""
    if team.size == 1:
        return
    if isinstance(config, OneProcess):
        raise UserError("this script measures in one process: start it with python, without accelerate launch.")
    if config.executor != "local":
        raise UserError(f"--executor {config.executor} brings its own processes: leave out accelerate launch.")


def help_out(config: StudyConfig, team: Team) -> None:
    """Take part in every training of the first process, until it has no more; writes nothing, and looks at no lock."""
    bench = None
    while (training := team.receive()) is not None:
        # Not before the first training: what had to be downloaded is there by then.
        bench = bench or Workbench(config)
        bench.take_part(training)
