"""Which rows stand for an arm: at which learning rate, strength, share and scorer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from ctsft.discovery.circuits import PAPERS_SHARE
from ctsft.tuning.arms import get_arm

# What makes two rows answers to the same question, but for the seed and the learning rate, which validation chooses.
SETTING = "task source n_source target n_target arm depth share scorer ties kv_policy".split()
PAPERS_RATE = 5e-5
OF_AN_ARM = [name for name in SETTING if name not in ("source", "target")]
# The script of the baselines, whose arms are compared in a table of their own.
ODYSSEY = "06_adaptation_odyssey"
# How one row is chosen of those that differ in the learning rate alone.
Choice = Callable[[pd.DataFrame], pd.DataFrame]


def extra_rates(rows: pd.DataFrame) -> pd.Series:
    """Rows of script 06 at a rate that the other scripts did not try where they tuned on as many rows of the target.

    Its arms share cells with theirs; with one rate more to choose from, these few would be compared with arms that
    never had it.
    """
    setting = texts_of(rows, ["task", "source", "target", "n_target", "dtype"])
    at_rate = setting + " " + rows["lr"].astype(str)
    own, tuned = rows["experiment"] == ODYSSEY, rows["lr"].notna()
    others = ~own & tuned
    return own & tuned & setting.isin(setting[others]) & ~at_rate.isin(at_rate[others])


def at_own_strength(rows: pd.DataFrame) -> pd.DataFrame:
    """Without the rows of variants: a penalty at the one strength that bears its name.

    Were validation to choose among three strengths as well as the rates, penalties would have three times as many tries
    as any other arm, and so the better chances.
    """
    return rows[rows["variant"].isna()]


def at_validated_rate(rows: pd.DataFrame) -> pd.DataFrame:
    """Each arm at the learning rate that the target's validation prefers, for every seed (a tie goes to the lower).

    An arm with variants is at its own strength. Nothing changes where there is one of each. One rate for all weights
    and for one weight in a hundred is no fair comparison, so rows at several rates are always compared this way.
    """
    ordered = at_own_strength(rows).sort_values(["valid_accuracy", "lr"], ascending=[False, True], kind="stable")
    return ordered.groupby([*SETTING, "dtype", "draw", "seed"], dropna=False, sort=False).head(1).sort_index()


def texts_of(rows: pd.DataFrame, names: Sequence[str]) -> pd.Series:
    """The values of these columns as one text a row, to look rows up by; what is missing is empty."""
    columns = [
        ["" if gone else str(value) for value, gone in zip(rows[name].tolist(), rows[name].isna(), strict=True)]
        for name in names
    ]
    return pd.Series([" ".join(row) for row in zip(*columns, strict=True)], index=rows.index, dtype=object)


def at_one_rate(rows: pd.DataFrame) -> pd.DataFrame:
    """Each arm, for each number of target rows, at the rate that validation prefers on average over targets and seeds.

    Only rates that all of its targets, seeds and draws have count; an arm without such a rate has no rows. Steadier
    than a choice for every seed, and what somebody does who sets a rate once for all languages.
    """
    rows = at_own_strength(rows)
    best = (
        whole_rates(rows)
        .sort_values(["valid", "lr"], ascending=[False, True], kind="stable")
        .drop_duplicates(OF_AN_ARM)
    )
    kept = rows.merge(best[[*OF_AN_ARM, "lr"]], on=[*OF_AN_ARM, "lr"])["cell"]
    return rows[rows["lr"].isna() | rows["cell"].isin(kept)]


def whole_rates(rows: pd.DataFrame) -> pd.DataFrame:
    """For each arm and number of target rows the rates that all of its targets, seeds and draws have.

    `valid`: mean accuracy on validation.
    """
    tuned = rows[rows["lr"].notna()]
    tuned = tuned.assign(unit=texts_of(tuned, ["source", "target", "seed", "draw"]))
    by_rate = tuned.groupby([*OF_AN_ARM, "lr"], dropna=False).agg(
        valid=("valid_accuracy", "mean"), units=("unit", "nunique")
    )
    units = tuned.groupby(OF_AN_ARM, dropna=False)["unit"].nunique().rename("all").reset_index()
    by_rate = by_rate.reset_index().merge(units, on=OF_AN_ARM)
    return by_rate[by_rate["units"] == by_rate["all"]]


def have_one_rate_to_choose(rows: pd.DataFrame) -> bool:
    """Whether `at_one_rate` is a choice for every arm: with one rate in all targets and seeds it is none."""
    tuned = at_own_strength(rows[rows["lr"].notna()])
    number = whole_rates(tuned).groupby(OF_AN_ARM, dropna=False).size()
    arms = len(tuned.drop_duplicates(OF_AN_ARM))
    return arms > 0 and len(number) == arms and bool((number > 1).all())


def is_at_papers_rate(rows: pd.DataFrame) -> pd.Series:
    """Whether each row is at the paper's learning rate, or is of an arm without one."""
    return rows["lr"].isna() | (rows["lr"] == PAPERS_RATE)


def at_papers_share(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows whose circuit has the paper's 2 % of the heads a depth, and those of arms without heads.

    Where none has, those of the commonest share.
    """
    shares = rows["share"].dropna()
    share = PAPERS_SHARE if (shares == PAPERS_SHARE).any() else shares.mode().get(0)
    return rows[rows["share"].isna() | (rows["share"] == share)]


def told_by(scorer: str, ties: str) -> str:
    """How heads were chosen, in words: the scorer, and what decides between equals where it is the first rule."""
    return f"{scorer} (ties by index)" if ties == "index" else scorer


def circuits_by(rows: pd.DataFrame) -> pd.Series:
    """How the heads of each row were chosen, in words; missing where an arm tunes none, or takes their number alone."""
    columns = zip(rows["arm"], rows["scorer"], rows["ties"], strict=True)
    told = [None if get_arm(arm).takes_size_alone else told_by(scorer, ties) for arm, scorer, ties in columns]
    return pd.Series(told, index=rows.index, dtype=object)


def chosen_by_index(rows: pd.DataFrame) -> pd.Series:
    """Whether a row tunes heads that ties by index have chosen, most of which are the model's first."""
    return circuits_by(rows).notna() & (rows["ties"] == "index")


def circuits_told(rows: pd.DataFrame) -> str:
    """How the heads of these rows were chosen, for a caption; empty where no row has heads."""
    found = sorted(set(circuits_by(rows).dropna()))
    return f"; heads by {', '.join(found)}" if found else ""


def by_usual_circuits(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows whose heads were chosen as most of those with as many target rows were, and those of arms without heads.

    Circuits that ties by index filled are no finding of their scorer: they stand only where, with as many target rows,
    no arm on any target has others.
    """
    chosen, keys = circuits_by(rows), [rows["task"], rows["n_target"], rows["dtype"]]
    sound = chosen.where(~chosen_by_index(rows))
    counted = sound.where(sound.notna().groupby(keys).transform("any"), chosen)
    usual = counted.groupby(keys).transform(lambda names: next(iter(names.dropna().mode()), None))
    return rows[chosen.isna() | (chosen == usual)]


def add_ct_sft(rows: pd.DataFrame, tried: pd.DataFrame) -> pd.DataFrame:
    """The rows and, per setting, the arm `ct_sft`: circuit or near_zero, whichever the target's validation prefers.

    The choice is made for each seed and depth by `valid_accuracy` (a tie goes to the circuit), never by
    the test split. A seed that lacks one of the two gives no row, nor does one on which they had different learning
    rates in the rows `tried`: else those would choose the arm too.
    """
    keys = [*SETTING, "dtype", "seed"]
    rates = tried.groupby(texts_of(tried, keys))["lr"].agg(lambda own: " ".join(map(str, sorted(set(own)))))
    both = rows[rows["arm"].isin(["circuit", "near_zero"])]
    here = texts_of(both, [name for name in keys if name != "arm"])
    fair = texts_of(both, keys).map(rates).groupby(here).transform("nunique") == 1
    chosen = better_of_two(both[fair], "valid_accuracy")
    return pd.concat([rows, chosen.assign(arm="ct_sft")], ignore_index=True)


def better_of_two(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """Of circuit and near_zero the one with the higher `by`, per setting and seed; a tie goes to the circuit.

    Only where both began from the same theta1: else the start would choose.
    """
    pair = rows[rows["arm"].isin(["circuit", "near_zero"])].sort_values([by, "arm"], ascending=[False, True])
    setting = pair.groupby([name for name in SETTING if name != "arm"] + ["seed"], sort=False, dropna=False)
    both = (setting["arm"].transform("nunique") == 2) & (setting["theta1"].transform("nunique") < 2)
    return pair[both].groupby(setting.keys, sort=False, dropna=False).head(1)
