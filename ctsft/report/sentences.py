"""What the two-page report says to the authors and to a user, by claim and verdict."""

TO_THE_AUTHORS = {
    ("C1", "contradicted"): "Tuning all weights is the arm to beat: please print its learning rate, its loss curve "
    "and its spread over seeds. Ours does not collapse, and then the circuit does not match it.",
    (
        "C1",
        "undecided",
    ): "Whether the circuit matches all weights hangs on how well all weights are tuned; a rate "
    "chosen on validation for every arm, and intervals, would settle it.",
    ("C2", "contradicted"): "Easy and hard targets do not part circuit from near-zero heads here; a paired test over "
    "targets would show whether they do in your rows.",
    ("C3b", "undecided"): "Your largest effect, what is kept of the source, hangs on the learning rate: please print "
    "every arm at several (ours are in `*_01_by_rate.md`), because one rate compares arms at different places.",
    ("C3b", "contradicted"): "Your largest effect, what is kept of the source, needs a full tuning that forgets. Ours "
    "hardly does; the optimizer's settings for that arm would help to find out why.",
    (
        "C5",
        "contradicted",
    ): "On entailment from a competent start we do not see both of your effects: look at C5's numbers.",
    (
        "C6",
        "contradicted",
    ): "Keeping only the circuit's heads does not keep the task. Please print faithfulness, keep "
    "and knock-out, beside the circuits.",
    ("C8", "contradicted"): "Unsigned scores rank heads no worse than directional ones by faithfulness.",
    ("C8", "undecided"): "Directional and unsigned scores are not told apart by faithfulness on real text.",
    ("B9", "contradicted"): "Please print a classifier without a language model beside your arms, on the same rows: "
    "here character n-grams beat the circuit.",
    ("B9", "undecided"): "Please print a classifier without a language model beside your arms, on the same rows: here "
    "the circuit is not told apart from character n-grams.",
}
TO_A_USER = {
    ("C1", "contradicted"): "If only the target counts, tune all weights at a validated rate.",
    (
        "C1",
        "undecided",
    ): "If only the target counts, tune all weights at a validated rate too, and let validation choose.",
    ("C1", "supported"): "Tune the circuit: it matches all weights with a hundredth of them.",
    (
        "C3b",
        "supported",
    ): "If the source must stay, tune heads and norms: it is kept better than by all weights, and "
    "the delta is a few megabytes.",
    ("C3b", "undecided"): "If the source must stay, try lower rates before fewer weights, and look at both ends: heads "
    "and norms are not shown to keep more of it than all weights at a rate that suits them.",
    ("C3b", "contradicted"): "Do not expect heads to keep the source better than all weights.",
    ("C6", "contradicted"): "Do not read the circuit as the mechanism: alone it does not keep the task. It is a choice "
    "of what to tune.",
    ("C6", "supported"): "The circuit may be read as (part of) the mechanism.",
    ("B15", "supported"): "If source rows are at hand, tune all weights with one of them for every four target rows: "
    "that learns more than the circuit; look at B1 for what it keeps.",
    ("B1", "supported"): "If source rows are at hand, replay them: that keeps the source better than the circuit does.",
    (
        "B3",
        "supported",
    ): "If all weights may move, try a penalty (EWC): over these languages it kept more of the source than plain "
    "tuning; look at each of them, and at equal rates.",
    ("B9", "contradicted"): "Fit character n-grams on your rows before anything else: they take seconds and no model, "
    "and on such rows as these they beat the circuit. Tune only what beats them on validation.",
    (
        "B9",
        "undecided",
    ): "Fit character n-grams on your rows first: they take seconds and no model, and here the circuit "
    "is not told apart from them.",
    ("B10", "contradicted"): "Over these languages they beat all weights too; look at each of them.",
    ("B14", "contradicted"): "Choose a rate with the source in view: at rates that the target alone chose, the circuit "
    "loses some of it.",
    ("B14", "undecided"): "Choose a rate with the source in view: at rates that the target alone chose, the circuit is "
    "not shown to keep it.",
    ("B11", "supported"): "The circuit is no worse a choice than LoRA: give both the same rates to choose from.",
    (
        "B11",
        "undecided",
    ): "LoRA and the circuit are not told apart on the target: give both the same rates.",
    ("B11", "contradicted"): "Try LoRA too: on the target it is ahead of the circuit.",
    ("B12", "supported"): "If the source must stay, prefer the circuit to LoRA.",
}
