"""The command line, one file a command in ctsft/commands/."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

import tyro

from ctsft.commands.advise import Advise
from ctsft.commands.discover import Discover
from ctsft.commands.evaluate import Evaluate
from ctsft.commands.merge import Merge
from ctsft.commands.predict import Predict
from ctsft.commands.show import Show
from ctsft.commands.tune import Tune
from ctsft.errors import UserError, ending_in_a_line, first_line, nobody_reads

ABOUT = """Tune only the attention heads that carry a task, for a language of your own.

The usual way:

  1. tune --role source --arm full    make a model competent on a language that has many labelled rows
  2. discover, show                   find the heads that carry the task
  3. advise                           what to expect on the target language, and which arm to take
  4. tune --scores ...                tune these heads on the target's few rows
  5. evaluate, predict, merge         use the result

COMMAND --help explains every flag."""


def _note(message: Warning | str, *rest: object) -> None:
    """A warning of the library, to somebody who did not write the code that it points to."""
    print(f"note: {message}", file=sys.stderr)


# In the order of use.
COMMANDS = {
    "tune": Tune,
    "discover": Discover,
    "show": Show,
    "advise": Advise,
    "evaluate": Evaluate,
    "predict": Predict,
    "merge": Merge,
}


@ending_in_a_line()
def main(argv: Sequence[str] | None = None) -> None:
    """Entry point. Exits with 2 and one sentence where the user can mend something."""
    command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS, prog="ctsft", description=ABOUT, args=argv, config=(tyro.conf.OmitArgPrefixes,)
    )
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _note
            command.run()
    except KeyboardInterrupt:
        print("\nstopped.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        if not nobody_reads():
            raise
    except (RuntimeError, MemoryError) as error:
        from ctsft.memory import is_out_of_memory  # loads torch, which most commands have by then

        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"out of memory ({first_line(error)}). Close what else runs, or take a smaller model or --micro-batch."
        ) from error
