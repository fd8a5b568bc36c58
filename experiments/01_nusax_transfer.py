"""NusaX-Senti transfer (the paper's tables 1, 2, 4, 5 and 8): does tuning only the circuit's heads reach the target?

    python experiments/01_nusax_transfer.py --output build     # demo: constructed languages, minutes on two cores
    python experiments/01_nusax_transfer.py --preset small --output build     # SmolLM2-135M on real NusaX
    python experiments/01_nusax_transfer.py --preset paper --output build     # Qwen2.5-0.5B, the paper's protocol; GPU

Finished cells in the output folder (results/, where ours are committed) are kept and not run again.

For your own language pair, copy this file and change task, targets, label_words and data_dir below (and source).
"""

from ctsft.study.config import StudyConfig
from ctsft.study.run import main

NUSAX = dict(
    experiment="01_nusax_transfer",
    task="nusax",
    source="indonesian",
    targets=("acehnese", "buginese", "javanese", "minangkabau"),
    arms=("zero_shot", "full", "direct", "circuit", "near_zero", "bottom", "random", "norm_only"),
    lrs=(1e-5, 5e-5, 2e-4),  # 5e-5 is the paper's; all weights and a few heads learn best at different ones
)

PRESETS = {
    "demo": StudyConfig(
        experiment="01_nusax_transfer",
        preset="demo",
        task="demo",
        source="d00",
        targets=("d10", "d30", "d50", "d70", "d90"),
        arms=("zero_shot", "full", "direct", "circuit:0,2", "near_zero:2", "random:2", "norm_only"),
        model="demo",
        n_source=400,
        n_targets=(100,),
        seeds=(31, 777),
        lrs=(1e-3, 3e-3, 1e-2),  # the micro model has a narrow residual stream (64) and learns at higher rates
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
    main(PRESETS, __doc__)
