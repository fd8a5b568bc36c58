"""How the cost of scoring grows with heads, rows and tokens: time = a size^b, and b is fitted.

python benchmarks/growth.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
from common import RESULTS, problem_of, random_model, seconds, write

from ctsft.discovery.problem import Batch
from ctsft.discovery.scorers import get_scorer, propagate
from ctsft.report.figures.style import save


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="smollm2-135m", help="smollm2-135m or qwen2.5-0.5b")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    loaded = random_model(options.shape, options.device)
    layers = range(0, len(loaded.anatomy.layers), 10)

    def heads(count: int) -> Callable[[], object]:
        batch = Batch(problem_of(loaded, 4, 48), range(4))
        return lambda: [propagate(batch, layer, range(count)) for layer in layers]

    def rows(count: int) -> Callable[[], object]:
        problem = problem_of(loaded, count, 48)
        return lambda: get_scorer("cdt_linear")(problem, None, [])

    def tokens(count: int) -> Callable[[], object]:
        problem = problem_of(loaded, 4, count)
        return lambda: get_scorer("cdt_linear")(problem, None, [])

    table = []
    figure, axis = plt.subplots(figsize=(4, 3))
    studies = {"heads (cdt)": ([3, 6, 9], heads), "rows (cdt_linear)": ([4, 8, 16], rows)}
    studies |= {"tokens (cdt_linear)": ([32, 64, 128], tokens)}
    for (what, (sizes, make)), marker in zip(studies.items(), "os^", strict=True):
        runs = [make(size) for size in sizes]
        for run in runs:
            run()
        times = np.array([[seconds(run, options.device) for run in runs] for _ in range(options.repeats)])
        medians = np.median(times, axis=0)
        exponent = float(np.polyfit(np.log(sizes), np.log(medians), 1)[0])
        for size, median in zip(sizes, medians, strict=True):
            table.append({"grows_with": what, "size": size, "seconds": median, "exponent": exponent})
        axis.loglog(np.array(sizes) / sizes[0], medians / medians[0], marker=marker, label=f"{what}: {exponent:.2f}")
    write(f"growth-{options.shape}-{options.device}", table)
    axis.set_xlabel("size, relative")
    axis.set_ylabel("time, relative")
    axis.legend(title="exponent", fontsize=8)
    figure.tight_layout()
    save(figure, RESULTS / f"growth-{options.shape}-{options.device}")


if __name__ == "__main__":
    main()
