"""Forgetting: what happens to the source language, and to related tasks, while a target language is learned?

    python experiments/04_forgetting.py --output build     # demo: constructed languages, minutes on two cores
    python experiments/04_forgetting.py --preset small --output build     # SmolLM2-135M on real NusaX and SmSA
    python experiments/04_forgetting.py --preset paper --output build     # Qwen2.5-0.5B, one GPU

Every arm answers related tests and the test rows of source and target before and after tuning; with --by-epoch (as in
the demo) the latter two after every epoch too. Rows that another script wrote in the same output folder are kept; their
cells are tuned again only to answer the related tests.

For your own language pair, copy this file and change task, source, targets, label_words, probes and data_dir
below.
"""

from ctsft.report.forgetting import forgetting
from ctsft.study.config import StudyConfig
from ctsft.study.run import main

NUSAX = dict(
    experiment="04_forgetting",
    task="nusax",
    source="indonesian",
    targets=("acehnese", "buginese", "javanese", "minangkabau"),
    arms=("zero_shot", "full", "direct", "circuit:2", "near_zero:2", "random:2", "norm_only"),
    lrs=(1e-5, 5e-5, 2e-4),  # 5e-5 is the paper's; all weights and a few heads learn best at different ones
    n_targets=(25, 100),
    probes=(
        "smsa/indonesian",
        "xnli/english",
        *(f"nusax/{name}" for name in "english balinese banjarese madurese ngaju sundanese toba_batak".split()),
    ),
)

PRESETS = {
    "demo": StudyConfig(
        experiment="04_forgetting",
        preset="demo",
        task="demo",
        source="d00",
        targets=("d30", "d70", "d90"),
        arms=("zero_shot", "full", "direct", "circuit:2", "near_zero:2", "random:2", "norm_only"),
        model="demo",
        n_source=400,
        n_targets=(25, 100),
        seeds=(31, 777),
        lrs=(1e-3, 3e-3, 1e-2),
        source_lr=3e-3,
        micro_batch=16,
        eval_batch=200,
        probes=("demo/d10", "demo/d50"),
        by_epoch=True,
    ),
    "small": StudyConfig(
        **NUSAX,
        preset="small",
        model="HuggingFaceTB/SmolLM2-135M-Instruct",
        n_source=400,
        score_rows=12,  # minutes on a CPU; the protocol's 48 take four times as long
    ),
    "paper": StudyConfig(**NUSAX, preset="paper", model="Qwen/Qwen2.5-0.5B", n_source=50, by_epoch=True),
}

if __name__ == "__main__":
    main(PRESETS, __doc__, forgetting)
