"""What does adapting cost, by arm: operations, seconds, memory, bytes to store, energy? And what do fewer bits cost?

    python experiments/07_cost_and_energy.py --output build     # demo: constructed languages, minutes on two cores
    python experiments/07_cost_and_energy.py --preset small --output build     # SmolLM2-135M on real NusaX
    python experiments/07_cost_and_energy.py --preset paper --output build     # Qwen2.5-0.5B, one GPU

Energy is read by codecarbon where it is installed (pip install -e ".[energy]"); else it is seconds times --watts, and
every row says so. The second part answers test rows with L-Mul (products by adding mantissas) and with float8.

For your own model, copy this file and change model, task, source, targets, label_words and data_dir below, and leave
out lexicon, which needs a dictionary.
"""

from ctsft.costs.run import CostConfig, run_costs
from ctsft.report.costs import costs
from ctsft.study.run import main

ARMS = (
    "full circuit:2 norm_only lora lora_heads:2 l2sp ewc replay lt_sft:2 layers_top layers_below lexicon dapt ngrams"
).split()
NUSAX = dict(
    experiment="07_cost_and_energy",
    task="nusax",
    source="indonesian",
    targets=("javanese",),
    n_targets=(100,),
    seeds=(31,),
)

PRESETS = {
    "demo": CostConfig(
        experiment="07_cost_and_energy",
        preset="demo",
        task="demo",
        source="d00",
        targets=("d70",),
        arms=(*ARMS, "bitfit"),
        model="demo",
        n_source=400,
        n_targets=(100,),
        seeds=(31,),
        lrs=(1e-3,),
        source_lr=3e-3,
        micro_batch=16,
        eval_batch=200,
    ),
    # SmolLM2 has no bias that bitfit could tune.
    "small": CostConfig(
        **NUSAX,
        preset="small",
        model="HuggingFaceTB/SmolLM2-135M-Instruct",
        n_source=400,
        score_rows=12,  # as script 01 does
        arms=tuple(ARMS),
        arithmetic_rows=100,  # three products stand for one, in float32: about four times a usual forward pass
    ),
    "paper": CostConfig(
        **NUSAX,
        preset="paper",
        model="Qwen/Qwen2.5-0.5B",
        n_source=50,
        arms=(*ARMS, "bitfit"),
        watts=350.0,
    ),
}

if __name__ == "__main__":
    main(PRESETS, __doc__, costs, study=run_costs)
