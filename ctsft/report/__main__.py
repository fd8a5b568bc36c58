"""Redraw tables, claims and figures from result rows, without a model.

python -m ctsft.report results/demo results/small
python -m ctsft.report results/small --page build/report.html
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt

from ctsft.errors import UserError, ending_in_a_line
from ctsft.report.by_rate import rate_tables
from ctsft.report.choosing import ODYSSEY
from ctsft.report.claims_page import claims_page
from ctsft.report.costs import cost_tables
from ctsft.report.documents import fill
from ctsft.report.faithful_tables import faithfulness_tables
from ctsft.report.faithfulness import Faithfulness
from ctsft.report.figures.by_rate import by_rate_figure
from ctsft.report.figures.circuits import layers_figure, overlap_figure, relevance_figure
from ctsft.report.figures.costs import arithmetic_figure, costs_figure
from ctsft.report.figures.faithfulness import curves_figure, paying_figure, stability_figure
from ctsft.report.figures.forgetting import epochs_figure, plane_figure
from ctsft.report.figures.odyssey import odyssey_figure
from ctsft.report.figures.self_training import self_training_figure
from ctsft.report.figures.style import save
from ctsft.report.figures.tradeoff import difficulty_figure, surface_figure
from ctsft.report.figures.transfer import by_rows_figure, transfer_figure
from ctsft.report.forgetting import forgetting_tables
from ctsft.report.kinds import apart_from
from ctsft.report.measured import odyssey_results
from ctsft.report.odyssey import odyssey_tables
from ctsft.report.page import page, picture
from ctsft.report.pairs import pair_tables
from ctsft.report.paper import paper_tables
from ctsft.report.render import Table
from ctsft.report.rows import Results
from ctsft.report.select import ENTAILMENT, EXPERIMENT
from ctsft.report.self_training import self_training_tables
from ctsft.report.situations import odyssey_page
from ctsft.report.summary import report_page
from ctsft.report.tradeoff import tradeoff_tables
from ctsft.report.transfer import transfer_table
from ctsft.storage import write_atomic

PAPERS_TASKS = {"nusax", "xnli"}
FIGURES = {
    "01_nusax_transfer": transfer_figure,
    "01_by_target_rows": by_rows_figure,
    "01_by_rate": by_rate_figure,
    "03_difficulty": difficulty_figure,
    "03_surface": surface_figure,
    "04_forgetting_plane": plane_figure,
    "04_epochs": epochs_figure,
    "circuits_relevance": relevance_figure,
    "circuits_overlap": overlap_figure,
    "circuits_layers": layers_figure,
}
ENTAILMENT_FIGURES = {
    ENTAILMENT: partial(transfer_figure, experiment=ENTAILMENT),
    "02_circuits_relevance": relevance_figure,
}


def _transfer_tables(study: Results, experiment: str) -> list[Table]:
    """Those of the grid of script 01 or 02; none where it has no rows, because another script began the study."""
    own = study.on_the_grid_of(experiment)
    return [] if own.rows.empty else [transfer_table(study, experiment), *rate_tables(own, experiment[:2])]


def tables_of(results: Results) -> list[Table]:
    """Every table of a results folder, each task by itself."""
    tables, main, second = [], results.studies(EXPERIMENT), results.of(ENTAILMENT)
    if main:
        tables += [*_transfer_tables(main[0], EXPERIMENT), *pair_tables(main[0], "01")]
        tables += [*tradeoff_tables(main[0]), *forgetting_tables(main[0])]
        for other in main[1:]:
            suffix = "_".join(apart_from(main[0].rows, other.rows))
            tables += [table.suffixed(suffix) for table in _transfer_tables(other, EXPERIMENT)]
    if second is not None:
        tables += [*_transfer_tables(second, ENTAILMENT), *pair_tables(second, "02")]
    found = Faithfulness.read(results.folder)
    tables += [] if found is None else faithfulness_tables(found, results)
    tables += odyssey_tables(odyssey) if (odyssey := odyssey_results(results.folder)) else []
    return [*tables, *cost_tables(results.folder), *self_training_tables(results.folder)]


def figures_of(results: Results) -> dict[str, plt.Figure]:
    """Every figure that the folder's rows suffice for, by name."""
    drawn = {}
    by_script = {EXPERIMENT: FIGURES, ENTAILMENT: ENTAILMENT_FIGURES}
    for experiment, drawers in by_script.items():
        own = results.of(experiment)
        drawn |= {name: draw(own) for name, draw in drawers.items()} if own is not None else {}
    main, *others = results.studies(EXPERIMENT) or [None]
    for other in others:
        suffix = "_".join(apart_from(main.rows, other.rows))
        drawn |= {f"{name}_{suffix}": FIGURES[name](other) for name in (EXPERIMENT, "04_forgetting_plane")}
    travelled, found = odyssey_results(results.folder), Faithfulness.read(results.folder)
    drawn |= {} if travelled is None else {ODYSSEY: odyssey_figure(travelled)}
    if found is not None:
        drawn |= {"05_faithfulness": curves_figure(found), "05_stability": stability_figure(found)}
        drawn["05_paying"] = paying_figure(found, results)
    drawn |= {"07_cost_and_energy": costs_figure(results.folder), "07_arithmetic": arithmetic_figure(results.folder)}
    drawn["08_self_training"] = self_training_figure(results.folder)
    return {f"{results.name}_{name}": figure for name, figure in drawn.items() if figure is not None}


def redraw(folders: list[Results], tables: Path, figures: Path) -> list[Path]:
    """Write all tables, claims and figures; returns the files."""
    written = []
    for results in folders:
        for table in tables_of(results):
            written += table.write(tables)
        for name, figure in figures_of(results).items():
            written += save(figure, figures / name)
    real = {results.name: results for results in folders if PAPERS_TASKS & {*results.rows["task"]}}
    for table in paper_tables(real) if real else []:
        written += table.write(tables)
    pages = {"claims.md": claims_page(folders), "odyssey.md": odyssey_page(folders)}
    pages |= {"report.md": report_page(real.values())} if real else {}
    for name, text in pages.items():
        write_atomic(tables / name, text)
    return [*written, *(tables / name for name in pages)]


@ending_in_a_line()
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m ctsft.report",
        description=__doc__.splitlines()[0],
        epilog="Those of folders in results/ go to paper_tables/ and figures/; those of your own, beside the first.",
    )
    parser.add_argument("results", nargs="+", type=Path, help="results folders, such as results/small")
    parser.add_argument("--tables", type=Path, help="where tables and claims go (see below)")
    parser.add_argument("--figures", type=Path, help="where figures go (see below)")
    parser.add_argument("--page", type=Path, help="write one self-contained HTML page here, and nothing else")
    parser.add_argument("--documents", action="store_true", help="fill README.md and REPRODUCING.md here, too")
    arguments = parser.parse_args()
    names = [folder.resolve().name for folder in arguments.results]
    if len(set(names)) < len(names):
        raise UserError("two results folders have the same name, which names tables and figures: rename one.")
    folders = [Results.read(folder) for folder in arguments.results]
    beside = arguments.results[0].resolve().parent
    committed = all(folder.resolve().parent.name == "results" for folder in arguments.results)
    if arguments.page:
        tables = {results.name: tables_of(results) for results in folders}
        pictures = {
            results.name: [picture(figure, name) for name, figure in figures_of(results).items()] for results in folders
        }
        write_atomic(arguments.page, page(folders, tables, pictures, claims_page(folders)))
        print(arguments.page)
    else:
        written = redraw(
            folders,
            arguments.tables or (Path("paper_tables") if committed else beside),
            arguments.figures or (Path("figures") if committed else beside),
        )
        for path in [*written, *(fill(folders) if arguments.documents else ())]:
            print(path)


if __name__ == "__main__":
    main()
