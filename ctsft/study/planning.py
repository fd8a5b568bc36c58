"""How long a study takes on k workers: its stages laid out in time, as the executors run them.

A worker is one process, with a GPU or some cores of its own. It takes the first stage of the grid's order whose
predecessor is done (list scheduling; Graham, 1969). No schedule is shorter than the work shared evenly, and none than
the longest chain of stages that wait for each other; this one is never longer than the sum of the two. What a worker
does once (loading the model, reading theta1) and the time to write a row are left out.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Literal, NamedTuple

WORKERS = tuple(2**power for power in range(9))
# Beyond this more than a fifth of what is paid for waits.
WORTH_IT = 0.8


class Stage(NamedTuple):
    """Seconds of work for one worker, and the number of the stage that must be done before it."""

    seconds: float
    after: int | None = None


class Plan(NamedTuple):
    """A study on `workers`: its seconds, how many times faster than on one, the share of time in which workers work.

    `limit` is the larger of the two lower bounds: the work, shared evenly, or the longest chain.
    """

    workers: int
    seconds: float
    speed_up: float
    efficiency: float
    limit: Literal["work", "chain"]


def duration(seconds: float) -> str:
    """In seconds below two minutes, in minutes below an hour, in hours below two hundred, else in days."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 720_000 else f"{seconds / 86400:.0f} days"


def makespan(stages: Sequence[Stage], workers: int) -> float:
    """Seconds until the last stage is done. A stage stands after its predecessor in `stages`."""
    followers: dict[int | None, list[int]] = {}
    for number, stage in enumerate(stages):
        followers.setdefault(stage.after, []).append(number)
    ready, running, now = followers.get(None, []), [], 0.0
    heapq.heapify(ready)
    while ready or running:
        while ready and len(running) < workers:
            number = heapq.heappop(ready)
            heapq.heappush(running, (now + stages[number].seconds, number))
        now, done = heapq.heappop(running)
        for number in followers.get(done, []):
            heapq.heappush(ready, number)
    return now


def plans(stages: Sequence[Stage], workers: Sequence[int] = WORKERS) -> list[Plan]:
    """One plan for each number of workers."""
    total = sum(stage.seconds for stage in stages)
    chain = makespan(stages, len(stages))  # the longest, with a worker for every stage
    made = []
    for count in workers:
        seconds = makespan(stages, count)
        speed_up = total / seconds if seconds else 1.0
        made.append(Plan(count, seconds, speed_up, speed_up / count, "work" if total / count > chain else "chain"))
    return made


def best(choices: Sequence[Plan]) -> Plan:
    """The most workers that are busy at least four fifths of the time."""
    return max((plan for plan in choices if plan.efficiency >= WORTH_IT), key=lambda plan: plan.workers)
