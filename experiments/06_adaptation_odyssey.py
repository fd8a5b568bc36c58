"""The adaptation odyssey: does adapting help or hurt, by arm, on everything one would not want to lose?

    python experiments/06_adaptation_odyssey.py --output build     # demo: constructed languages, minutes on two cores
    python experiments/06_adaptation_odyssey.py --preset small --output build     # SmolLM2-135M on real NusaX
    python experiments/06_adaptation_odyssey.py --preset paper --output build     # Qwen2.5-0.5B, one GPU

Every arm, the fair baselines too, at the learning rate that the target's validation split prefers of the same few.
All have as many tries: the demo also runs two penalties at other strengths, which nothing is chosen from. Beside
accuracy on target, source and related tests: bits per byte of held-out text, calibration, and whether a name or a group
word in front of a text changes the answer; measured at the rate that is preferred alone. Rows that another script wrote
in the same output folder are kept; such a cell is tuned again only to be measured.

For your own language pair, copy this file and change task, source, targets, label_words, bystanders and
data_dir below, and leave out the arms that need a dictionary (lexicon, circuit_lexicon).
"""

from ctsft.report.odyssey import odyssey
from ctsft.study.config import StudyConfig
from ctsft.study.run import main

CONTROLS = ("zero_shot", "full", "direct", "circuit:2", "near_zero:2", "norm_only")
BASELINES = (
    "lora",
    "lora_heads:2",
    "l2sp",
    "ewc",
    "replay",
    "circuit_replay:2",
    "lt_sft:2",
    "layers_top",
    "layers_below",
)
STRENGTHS = ("l2sp_0.01", "l2sp_1", "ewc_0.1", "ewc_10")
DATA_BASELINES = ("lexicon", "circuit_lexicon:2", "dapt", "circuit_dapt:2", "ngrams")

NUSAX = dict(
    experiment="06_adaptation_odyssey",
    task="nusax",
    source="indonesian",
    bystanders=("smsa/indonesian", "nusax/english"),
    n_targets=(100,),
    lrs=(5e-5, 2e-4, 1e-3),
)

PRESETS = {
    "demo": StudyConfig(
        experiment="06_adaptation_odyssey",
        preset="demo",
        task="demo",
        source="d00",
        targets=("d70",),
        arms=(*CONTROLS, *BASELINES, *STRENGTHS, "bitfit", *DATA_BASELINES),
        model="demo",
        n_source=400,
        n_targets=(100,),
        seeds=(31, 777),
        lrs=(1e-3, 3e-3, 1e-2),
        source_lr=3e-3,
        micro_batch=16,
        eval_batch=200,
        bystanders=("demo/d10", "demo/d50"),
    ),
    # SmolLM2 has no bias that bitfit could tune.
    "small": StudyConfig(
        **NUSAX,
        preset="small",
        model="HuggingFaceTB/SmolLM2-135M-Instruct",
        targets=("javanese", "buginese"),
        seeds=(31, 777),
        n_source=400,
        score_rows=12,  # as script 01 does
        arms=(*CONTROLS, *BASELINES, *DATA_BASELINES),
    ),
    "paper": StudyConfig(
        **NUSAX,
        preset="paper",
        model="Qwen/Qwen2.5-0.5B",
        targets=("acehnese", "buginese", "javanese", "minangkabau"),
        n_source=50,
        arms=(*CONTROLS, *BASELINES, "bitfit", *DATA_BASELINES),
    ),
}

if __name__ == "__main__":
    main(PRESETS, __doc__, odyssey)
