"""Several processes tune one model: each takes its share of every batch; the first decides, steps and writes.

Only the first process runs the study: it alone looks at files and locks, holds the optimizer, and answers test rows.
The others wait for it. To tune, it sends them the weights; for every batch they get the trained weights as they stand
and give back the gradient of their rows. So a gradient is that of the whole batch, no two processes can drift apart,
and a rule for the gradients sees what it sees in one process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from ctsft.errors import CellFailed, UserError

Item = TypeVar("Item")
# The others wait while the first evaluates, or waits for another run's theta1. Who is gone is told by the connection.
PATIENCE = timedelta(days=30)
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Team:
    """The processes that tune together; of one, every method is what it would be without a team."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    def own(self, rows: Sequence[Item]) -> Sequence[Item]:
        """This process's share; of rows in the order of their length, as many long and short ones as the others'."""
        return rows[self.rank :: self.size]

    def summed(self, parameters: Sequence[nn.Parameter], gradients: Callable[[], float]) -> float:
        """Call `gradients`, which leaves gradients in the parameters and returns a loss, in every process, and add up.

        Returns the sum of the losses; the sums of the gradients are in the first process. What fails in one process
        fails in all: CellFailed where it was that, and otherwise what ends the run.
        """
        if self.size == 1:
            return gradients()
        loss, error = 0.0, None
        try:
            loss = gradients()
        except Exception as failure:  # raised below, when the others know of it
            error = failure
        given = [parameter.grad is not None for parameter in parameters]
        with _together():
            totals = torch.tensor([loss, error is not None, *given], dtype=torch.float64, device=self.device)
            distributed.all_reduce(totals)
        loss, failed, *anywhere = totals.tolist()
        if failed:
            raise self._failure(error)
        for parameter in (p for p, processes in zip(parameters, anywhere, strict=True) if processes):
            # A share of no rows has no gradient, where the others' have one.
            grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = grad.contiguous()
            with _together():
                distributed.reduce(parameter.grad, dst=0)
        return loss

    def _failure(self, own: Exception | None) -> Exception:
        """In all processes at once: `own`, or where this process has none, what another says."""
        told: list[tuple[bool, str] | None] = [None] * self.size
        with _together():
            text = None if own is None else (isinstance(own, CellFailed), f"{type(own).__name__}: {own}")
            distributed.all_gather_object(told, text)
        if own is not None:
            return own
        rank, (cell_failed, text) = next((rank, what) for rank, what in enumerate(told) if what is not None)
        return (CellFailed if cell_failed else UserError)(f"process {rank} of {self.size} failed: {text}")

    # ---- the first process --------------------------------------------------------------------------------------

    @contextmanager
    def leading(self, training: object, weights: Iterable[Tensor]) -> Iterator[None]:
        """Inside, the others take part in `training`, from the model's `weights` as they are here."""
        with self.dismissing():
            self._send(training)
            self.spread(weights)
            yield

    def announce(self, batch: Sequence[int], parameters: Iterable[Tensor]) -> None:
        """Tell the others which rows come next, and the trained weights to take their gradient at."""
        self._send(batch)
        self.spread(parameters)

    @contextmanager
    def dismissing(self) -> Iterator[None]:
        """At the end, tell the others that no more comes."""
        try:
            yield
        finally:
            # Stopped in the middle of a sum, nobody could be told; the others end when this process does.
            if not isinstance(sys.exception(), KeyboardInterrupt):
                self._send(None)

    def _send(self, message: object) -> None:
        if self.size > 1:
            with _together():
                distributed.broadcast_object_list([message])

    # ---- the others ---------------------------------------------------------------------------------------------

    def receive(self) -> Any:
        """What the first process has sent: a training, a batch, or None where no more comes."""
        box: list[object] = [None]
        with _together():
            distributed.broadcast_object_list(box)
        return box[0]

    @torch.no_grad()
    def spread(self, weights: Iterable[Tensor]) -> None:
        """Make `weights` in every process those of the first."""
        if self.size > 1:
            with _together():
                for tensor in weights:
                    distributed.broadcast(tensor, src=0)


ALONE = Team()


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise UserError("another process of this run has ended; what it said stands above or below.") from error


@lru_cache(maxsize=1)
def team_on(device: torch.device) -> Team:
    """The processes that `accelerate launch` (or torchrun) has started together with this one.

    UserError for `accelerate launch --cpu`, which leaves it to MPI to start more than one.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        if os.environ.get("ACCELERATE_USE_CPU") == "True" and "MASTER_PORT" in os.environ:
            raise UserError(
                "accelerate launch --cpu starts one process only, whatever --num_processes says. "
                "Put --multi_gpu in the place of --cpu, and --device cpu behind the script's name."
            )
        return ALONE
    from accelerate import PartialState  # takes a while to import, and starts the connections

    state = PartialState(cpu=device.type == "cpu", timeout=PATIENCE)
    return Team(state.process_index, state.num_processes, state.device)
