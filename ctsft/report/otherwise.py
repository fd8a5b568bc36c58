"""The same claims on other rows of the same study: at the paper's rate, at one rate for all, by number of rows."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import pandas as pd

from ctsft.discovery.circuits import PAPERS_DEPTH, PAPERS_SHARE
from ctsft.report.choosing import (
    PAPERS_RATE,
    Choice,
    at_one_rate,
    at_validated_rate,
    have_one_rate_to_choose,
    is_at_papers_rate,
)
from ctsft.report.claims import BOTH, at_shared_rates, of_transfer, second_task
from ctsft.report.judging import Judgement
from ctsft.report.kinds import apart_from
from ctsft.report.render import listed, rate_text
from ctsft.report.rows import Results
from ctsft.report.select import ENTAILMENT, EXPERIMENT, pick

AT_PAPERS_RATE = f"at {rate_text(PAPERS_RATE)} alone"


@lru_cache(maxsize=8)  # three pages tell the same verdicts
def judge_otherwise(results: Results) -> list[tuple[str, Judgement]]:
    """The claims that rest on scripts 01 and 02, on other rows of them than `judge` takes, as (which, verdict).

    Where several rates were tried, at the paper's one and, of 01, at one for each arm, chosen over all targets and
    seeds (where these have several in common); with each number of target rows, but for the one that the verdict rests
    on where it is one, and with that one on those seeds alone that had more rates than others, at all of their rates
    and at those that the others had too; from fewer source rows; in every other precision, from every other source, and
    under every other rule for keys and values.
    """
    studies = results.studies(EXPERIMENT)
    others: list[tuple[str, Results, Choice]] = []
    if studies:
        main, best = studies[0], at_shared_rates(studies[0])
        if _had_papers_rate(best):
            others.append((AT_PAPERS_RATE, _at_papers_rate(main), at_validated_rate))
        if have_one_rate_to_choose(pick(best.rows, arm="full")) and all(
            have_one_rate_to_choose(pick(best.rows, arm=arm, depth=PAPERS_DEPTH, share=PAPERS_SHARE)) for arm in BOTH
        ):
            others.append(("at one rate for all targets and seeds", main, at_one_rate))
        seeds = pick(best.rows, arm="circuit", depth=PAPERS_DEPTH).groupby("n_target")["seed"].nunique()
        pooled = seeds.index[seeds == seeds.max()]  # numbers of rows with fewer seeds are not
        for n in sorted(set(seeds.index) - set(pooled if len(pooled) == 1 else ()), reverse=True):
            fewer = main.only(main.rows["n_target"].isin([0, n]))
            others.append((f"with {n} target rows", fewer, at_validated_rate))
        for n in pooled if len(pooled) == 1 else ():
            some = _seeds_with_most_rates(best, n)
            if some:
                here = main.only(main.rows["n_target"].isin([0, n]) & main.rows["seed"].isin(some))
                others.append((f"on seeds {listed(some)}, which had the most learning rates", here, at_validated_rate))
                # Else what these seeds show differently would be put down to their rates.
                common = here.only(here.rows["lr"].isna() | here.rows["lr"].isin(_rates_of_every_seed(best, n)))
                others.append((f"on seeds {listed(some)}, at the rates of all seeds", common, at_validated_rate))
        others += _from_fewer_source_rows(main)
        for study in studies[1:]:
            others.append((" ".join(apart_from(main.rows, study.rows).values()), study, at_validated_rate))
    told = [(which, judged) for which, study, choose in others for judged in of_transfer(study, choose)]
    second = results.of(ENTAILMENT)
    if second is not None and _had_papers_rate(at_shared_rates(second)):
        told.append((AT_PAPERS_RATE, second_task(_at_papers_rate(second))))
    return told


def _from_fewer_source_rows(main: Results) -> Iterator[tuple[str, Results, Choice]]:
    """Every other start; at the paper's rate too, where others were tried."""
    for start in sorted(set(main.rows["n_source"]) - {0}, reverse=True)[1:]:
        which, fewer = f"from {start} source rows", main.only(main.rows["n_source"].isin([0, start]))
        yield which, fewer, at_validated_rate
        if _had_papers_rate(at_shared_rates(fewer)):
            yield f"{which}, {AT_PAPERS_RATE}", _at_papers_rate(fewer), at_validated_rate


def _of_c1(best: Results, n_target: int) -> pd.DataFrame:
    rows = best.rows[best.rows["arm"].isin(("full", *BOTH)) & (best.rows["n_target"] == n_target)]
    return rows[rows["depth"].isna() | (rows["depth"] == PAPERS_DEPTH)]


def _rates_of_every_seed(best: Results, n_target: int) -> set[float]:
    """Those that the arms of C1 had on every target and seed."""
    by_setting = _of_c1(best, n_target).groupby(["seed", "target", "arm"])["lr"]
    return set.intersection(*(set(rates) for _, rates in by_setting))


def _seeds_with_most_rates(best: Results, n_target: int) -> set[int]:
    """The seeds on which the arms of C1 had more rates to choose from, on every target; none where all had as many."""
    rows = _of_c1(best, n_target)
    number = rows.groupby(["seed", "target"])["lr"].nunique().groupby("seed").min()
    return set(number.index[number == number.max()]) if number.nunique() > 1 else set()


def _had_papers_rate(study: Results) -> bool:
    """Whether the arms of C1 were tried at it, and some at others."""
    rates = study.rows["lr"]
    return rates.nunique() > 1 and set(study.rows.loc[rates == PAPERS_RATE, "arm"]) >= {"full", *BOTH}


def _at_papers_rate(study: Results) -> Results:
    return study.only(is_at_papers_rate(study.rows))
