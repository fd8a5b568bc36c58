"""Faithful circuits: is it the mechanism, or a lucky subset? Scorer x options x size, and how stable circuits are.

    python experiments/05_faithfulness.py --output build     # demo: constructed languages, minutes on two cores
    python experiments/05_faithfulness.py --preset small --output build     # SmolLM2-135M on real NusaX
    python experiments/05_faithfulness.py --preset paper --output build     # Qwen2.5-0.5B, one GPU
    python experiments/05_faithfulness.py --output build --known ioi     # GPT-2's published circuit, from the hub

Everything is asked on validation rows. Sets that are in the output folder already are not asked again.
"""

from ctsft.report.faithful_tables import faithfulness
from ctsft.study.faithfulness import FaithfulnessConfig, run_faithfulness
from ctsft.study.run import main

SCORERS = (
    *("cdt", "cdt+pattern", "cdt+linear", "cdt+raw", "cdt+linear+raw", "cdt+pooled", "magnitude"),
    *("cdt_linear", "cdt_linear+pooled", "attribution", "ablation"),
)
NUSAX = dict(
    experiment="05_faithfulness",
    task="nusax",
    source="indonesian",
    targets=("javanese", "buginese"),
    scorers=SCORERS,
)

PRESETS = {
    "demo": FaithfulnessConfig(
        experiment="05_faithfulness",
        preset="demo",
        task="demo",
        source="d00",
        targets=("d30", "d90"),
        scorers=SCORERS,
        model="demo",
        n_source=400,
        seeds=(31, 777),
        source_lr=3e-3,
        micro_batch=16,
        eval_batch=200,
        other_sources=("d10", "d50"),
        checkpoints=(50, 200),
        known=("planted", "induction"),
        known_seeds=(31, 777, 2025, 12345, 1, 2, 3, 4),  # with two, what a scorer misses on every other seed was luck
    ),
    # Scored on 12 rows: a propagated scorer costs SmolLM2 about a hundred forward passes for each.
    "small": FaithfulnessConfig(
        **NUSAX,
        preset="small",
        model="HuggingFaceTB/SmolLM2-135M-Instruct",
        n_source=400,
        score_rows=12,
        dtype="bfloat16",  # of theta1 and of the answers; scores are propagated in float32
        other_sources=("english",),
        checkpoints=(50,),
    ),
    "paper": FaithfulnessConfig(**NUSAX, preset="paper", model="Qwen/Qwen2.5-0.5B", n_source=50),
}

if __name__ == "__main__":
    main(PRESETS, __doc__, faithfulness, study=run_faithfulness)
