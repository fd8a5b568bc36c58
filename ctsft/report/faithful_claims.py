"""The claims that rest on script 05: C6, whether the circuit is faithful, and C8, which scores rank heads better."""

from __future__ import annotations

from collections.abc import Collection

from ctsft.report.faithfulness import Faithfulness, area, asked_of, beaten, faithfulness_of
from ctsft.report.judging import Judgement, all_agree, by_interval, not_run, unless_by_index
from ctsft.report.render import change, interval, listed
from ctsft.report.select import pick
from ctsft.report.signs import like_unsigned


def faithful(found: Faithfulness | None) -> Judgement:
    """C6: the circuit of depth 2 keeps more than half of the margin, and 95 % of the random sets like it keep less."""
    if found is None:
        return not_run("C6", "script 05")
    sets = pick(found.sets, language=found.source, scorer=found.main)
    here = pick(sets, direction="keep")
    circuits = pick(here, selection="circuit")
    mine, random = pick(circuits, size=circuits["size"].max()), pick(here, selection="random:circuit")
    kept, by_chance = faithfulness_of(found, mine), faithfulness_of(found, random)
    if kept is None or by_chance is None:
        return not_run("C6", "the circuit of depth 2 and random sets like it (script 05)")
    wins, draws = beaten(mine, random)
    better = "supported" if wins >= 0.95 * draws else "contradicted" if wins < 0.5 * draws else "undecided"
    verdict = all_agree({by_interval(kept, 0.5, 0.5), better})
    share = f"{mine['size'].iloc[0]} of {mine['heads'].iloc[0]} heads"
    out = pick(sets, selection="circuit", direction="knock_out", size=circuits["size"].max())
    number = (
        f"faithfulness of {share}: {interval(kept)}, above {wins} of {draws} random sets from the same layers; random "
        f"sets: {interval(by_chance)}; all heads but these: {interval(faithfulness_of(found, out))}"
    )
    random_out = pick(sets, selection="random:circuit", direction="knock_out")
    more, draws = beaten(out, random_out, knocked_out=True)
    if draws:
        number += f", less than without {more} of {draws} random sets: {interval(faithfulness_of(found, random_out))}"
    data = _asked(found, found.told(found.main), found.seeds)
    return unless_by_index(Judgement("C6", verdict, number, data), found.by_index)


def directional(found: Faithfulness | None) -> Judgement:
    """C8: over all numbers of heads, those that `cdt` ranks first are more faithful than those of `magnitude`."""
    value = None if found is None else area(found, "cdt", "magnitude")
    if value is None:
        return not_run("C8", "the scorers cdt and magnitude of script 05")
    number = f"area under faithfulness, cdt − magnitude: {change(value)}"
    if found.main != "cdt":
        number += f"; {found.main} − magnitude: {change(area(found, found.main, 'magnitude'))}"
    if found.no_negative("cdt"):
        number += "; no cdt score is negative, so their signs cannot make them rank better"
    if (alike := like_unsigned(found, "cdt")) is not None:
        number += f"; rank correlation of the two scores {alike:.2f}"
    seeds = asked_of(found, "cdt", "magnitude")
    return Judgement("C8", by_interval(value, 0, 0), number, _asked(found, "cdt and magnitude", seeds))


def _asked(found: Faithfulness, scorer: str, seeds: Collection[int]) -> str:
    rows = len(next(values for values in found.sets["values"] if values is not None))
    return f"{scorer}; {found.source}, {rows} validation rows; seeds {listed(seeds)}"
