"""What the two-page report says to the authors and to a user, by claim and verdict.

{number} stands for what decides the claim, {rows} for how many target rows it rests on.
"""

TO_THE_AUTHORS = {
    "C1 contradicted": "Tuning all weights is the arm to beat: please report its learning rate, loss curve and "
    "spread over seeds. Ours does not collapse, and then the circuit does not match it.",
    "C1 undecided": "At one rate, how well it suits all weights may decide this comparison. Please choose every arm's "
    "rate on validation, and report intervals.",
    "C2 contradicted": "Easy and hard targets do not separate circuit from near-zero heads here. A paired test "
    "over targets would show whether they do in your rows.",
    "C3b undecided": "What is kept of the source may depend on the learning rate. Please report every arm at several "
    "(ours, where we have them: `*_01_by_rate.md`): one rate compares arms at different points of their curves.",
    "C3b contradicted": "Your largest effect, what is kept of the source, requires that full tuning forgets. Ours "
    "does no more than the circuit; that arm's optimizer settings would help to find out why.",
    "C5 contradicted": "On entailment from a competent start we do not see both of your effects: see C5's numbers.",
    "C6 contradicted": "Alone, the circuit's heads do not stand for the task here ({number}). We had your faithfulness "
    "curves as a picture only; their values, for keeping and for knocking out, would let us compare.",
    "C8 supported": "Please say whether you apply CD-T's clean-up: it takes most scores their sign (column `below "
    "zero` of `*_05_scorers.md`), and where none is below zero, signs are not why it ranks heads better.",
    "C8 contradicted": "By faithfulness, unsigned scores rank heads no worse than directional ones.",
    "C8 undecided": "On real text, faithfulness does not separate directional from unsigned scores.",
    "B9 contradicted": "Please also report a classifier without a language model on the same rows: here character "
    "n-grams beat the circuit (script 06; for fewer rows see `*_01_pairs.md`).",
    "B9 undecided": "Please also report a classifier without a language model on the same rows: our rows do not "
    "separate the circuit from character n-grams.",
}
TO_A_USER = {
    "C1 contradicted": "If only the target counts, tune all weights at a validated rate.",
    "C1 undecided": "If only the target counts, also tune all weights at a validated rate, and let validation choose.",
    "C1 supported": "Tune the circuit: it matches all weights with a hundredth of them.",
    "C3b supported": "If you must keep the source, tune heads and norms: they keep it better than all weights do, and "
    "the delta is a few megabytes.",
    "C3b undecided": "If you must keep the source, try lower learning rates and fewer weights, and check both "
    "languages: at validated rates `ct_sft` is not shown to keep more of it than all weights (for each kind of heads "
    "see `*_01_pairs.md`).",
    "C3b contradicted": "Do not expect heads to keep the source better than all weights do.",
    "C6 contradicted": "Do not read the circuit as the mechanism ({number}). It is a choice of what to tune.",
    "C6 supported": "The circuit may be read as (part of) the mechanism.",
    "B15 supported": "If you have source rows, tune all weights with one source row for every four target rows: "
    "this learns more than the circuit, as tuning all weights without them may do too.",
    "B1 contradicted": "Replaying source rows keeps less of the source than the circuit does: check both languages.",
    "B1 supported": "If you have source rows, replay them: this keeps the source better than the circuit does.",
    "B3 supported": "If you can tune all weights, try a penalty (EWC): over these languages it kept more of the source "
    "than plain tuning. Look at each language, and at equal rates.",
    "B9 contradicted": "Fit character n-grams on your rows first: they take seconds, need no model, and beat the "
    "circuit with {rows} (with fewer see `*_01_pairs.md`). Tune only what beats them on validation.",
    "B9 undecided": "Fit character n-grams on your rows first: they take seconds and need no model, and our rows do "
    "not separate the circuit from them.",
    "B10 contradicted": "With {rows} n-grams beat all weights too, over these targets together. Look at each language.",
    "B14 contradicted": "Choose the learning rate with the source in mind: at rates chosen on the target alone, the "
    "circuit loses some of it.",
    "B14 undecided": "Choose the learning rate with the source in mind: at rates chosen on the target alone, the "
    "circuit is not shown to keep it.",
    "B11 supported": "On the target the circuit at least matches LoRA. Try both at the same rates.",
    "B11 undecided": "On the target, our rows do not show that the circuit matches LoRA. Try both at the same rates.",
    "B11 contradicted": "Try LoRA too: on the target it is ahead of the circuit.",
    "B12 supported": "If you must keep the source, prefer the circuit to LoRA.",
}
