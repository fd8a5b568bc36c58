"""NusaX-Senti transfer (the paper's tables 1, 2 and 4): does tuning only the circuit's heads reach the target?

    python experiments/01_nusax_transfer.py                    # demo: constructed languages, minutes on two cores
    python experiments/01_nusax_transfer.py --preset small     # SmolLM2-135M on real NusaX
    python experiments/01_nusax_transfer.py --preset paper     # Qwen2.5-0.5B, the paper's protocol, one GPU

For your own language pair, copy this file and change task, source, targets, n_source and data_dir below.
"""

from ctsft.study.config import StudyConfig
from ctsft.study.run import main

PAPER = dict(
    experiment="01_nusax_transfer",
    task="nusax",
    source="indonesian",
    targets=("acehnese", "buginese", "javanese", "minangkabau"),
    arms=("zero_shot", "full", "direct", "circuit", "near_zero", "bottom", "random", "norm_only"),
)

PRESETS = {
    "small": StudyConfig(**PAPER, preset="small", model="HuggingFaceTB/SmolLM2-135M-Instruct", n_source=400),
    "paper": StudyConfig(**PAPER, preset="paper", model="Qwen/Qwen2.5-0.5B", n_source=50),
}

if __name__ == "__main__":
    main(PRESETS, __doc__)
