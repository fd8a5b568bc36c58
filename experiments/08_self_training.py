"""Self-training: when do generations that learn from the last one's labels collapse, and does the circuit slow it down?

    python experiments/08_self_training.py --output build     # demo: constructed languages, minutes on two cores
    python experiments/08_self_training.py --preset small --output build     # SmolLM2-135M on real NusaX
    python experiments/08_self_training.py --preset paper --output build     # Qwen2.5-0.5B, one GPU

Generation 0 is tuned on human labels; each later one starts from theta1 and learns from labels that the one before gave
to unlabelled target rows, with the human rows in the mix and without them. With --rows fresh, every generation labels
rows that no earlier one has; the demo has chains on the same rows and on fresh ones. Every chain is at the learning
rate whose generation 0 validation prefers, and goes on where it ended when more --generations are asked for.

For your own language, copy this file and change task, source, targets, label_words and data_dir below.
"""

from ctsft.report.self_training import self_training
from ctsft.study.run import main
from ctsft.study.self_training import SelfTrainingConfig, run_self_training

NUSAX = dict(
    experiment="08_self_training",
    task="nusax",
    source="indonesian",
    targets=("javanese",),
    arms=("full", "circuit:2", "near_zero:2"),
    n_targets=(100,),
    lrs=(5e-5, 2e-4, 1e-3),
)

PRESETS = {
    "demo": SelfTrainingConfig(
        experiment="08_self_training",
        preset="demo",
        task="demo",
        source="d00",
        targets=("d70",),
        arms=("full", "circuit:2", "near_zero:2"),
        model="demo",
        n_source=400,
        n_targets=(25,),  # so few that the first labels are poor, which is where generations differ
        seeds=(31, 777),
        lrs=(1e-3, 3e-3, 1e-2),
        source_lr=3e-3,
        micro_batch=16,
        eval_batch=200,
        rows=("same", "fresh"),
    ),
    "small": SelfTrainingConfig(
        **NUSAX,
        preset="small",
        model="HuggingFaceTB/SmolLM2-135M-Instruct",
        n_source=400,
        score_rows=12,  # as script 01 does
        seeds=(31, 777),
        unlabelled=100,  # half of the usual number: a chain takes half an hour of a core as it is
    ),
    "paper": SelfTrainingConfig(**NUSAX, preset="paper", model="Qwen/Qwen2.5-0.5B", n_source=50),
}

if __name__ == "__main__":
    main(PRESETS, __doc__, self_training, study=run_self_training)
