"""Editing against preserving: do hard transfers want the circuit's heads, and easy ones near-zero heads?

    python experiments/03_editing_preserving_tradeoff.py --output build     # demo: constructed languages, minutes
    python experiments/03_editing_preserving_tradeoff.py --preset small --output build     # SmolLM2-135M on real NusaX
    python experiments/03_editing_preserving_tradeoff.py --preset paper --output build     # Qwen2.5-0.5B, one GPU

It sweeps the share of heads and the learning rate, for the circuit and for every control of its size. Cells that
another script ran in the same output folder are read and not run again.

For your own language pair, copy this file and change task, targets, label_words and data_dir below (and source).
"""

from ctsft.report.tradeoff import tradeoff
from ctsft.study.config import StudyConfig
from ctsft.study.run import main

NUSAX = dict(
    experiment="03_editing_preserving_tradeoff",
    task="nusax",
    source="indonesian",
    targets=("acehnese", "buginese", "javanese", "minangkabau"),
    arms=("zero_shot", "circuit", "near_zero", "bottom:2", "random:2", "norm_only"),
    n_targets=(25, 100),
    shares=(0.01, 0.02, 0.05, 0.1, 0.2),
    lrs=(2e-5, 5e-5, 1e-4, 2e-4),
)

PRESETS = {
    "demo": StudyConfig(
        experiment="03_editing_preserving_tradeoff",
        preset="demo",
        task="demo",
        source="d00",
        targets=("d10", "d30", "d50", "d70", "d90"),
        arms=("zero_shot", "circuit:0,2", "near_zero:0,2", "bottom:2", "random:2", "norm_only"),
        model="demo",
        n_source=400,
        n_targets=(100,),
        shares=(0.02, 0.1, 0.2),  # 1, 3 and 6 of the 32 heads at each depth
        seeds=(31, 777),
        lrs=(1e-3, 3e-3, 1e-2),
        source_lr=3e-3,
        micro_batch=16,
        eval_batch=200,
    ),
    "small": StudyConfig(
        **NUSAX,
        preset="small",
        model="HuggingFaceTB/SmolLM2-135M-Instruct",
        n_source=400,
        score_rows=12,  # minutes on a CPU; the protocol's 48 take four times as long
    ),
    "paper": StudyConfig(**NUSAX, preset="paper", model="Qwen/Qwen2.5-0.5B", n_source=50),
}

if __name__ == "__main__":
    main(PRESETS, __doc__, tradeoff)
