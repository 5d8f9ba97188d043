"""What stands under every committed figure."""

# figures by section, with captions that hold whatever the numbers are
CAPTIONS: dict[str, dict[str, str]] = {
    "probe": {
        "redundancy_by_layer": (
            "R (left) and centred R² (right) by layer, the probe beside every control; bands are 95 % "
            "intervals over held-out documents."
        ),
        "redundancy_by_head": (
            "R of each head's own contribution, for the probe, the previous token, the training mean, and "
            "the probe on random weights."
        ),
        "redundancy_distribution": "R over tokens, averaged over layers, with 95 % bands.",
    },
    "training": {
        "training_course": (
            "R (top) and centred R² (middle) over training, the probe beside its controls; bottom, R "
            "against the loss, beside the preprint's table 7 (another model, text and tokenizer, no "
            "interval given)."
        ),
        "training_drivers": (
            "Top: the energy of the attention output, split by what explains it. Bottom: how attention "
            "spreads."
        ),
        "training_layers": "The probe's R and centred R² layer by layer.",
    },
    "removal": {
        "removal_curve": (
            "Loss increase against the share of attention operations replaced, on an axis of the root, for "
            "the best order of each kind, the best on these documents; between two measured numbers of whole "
            "heads or layers the line is at the larger one. "
            "The floor is the loss of the best model of one token and its position that was trained; the "
            "true one lies there or below."
        ),
        "removal_ranked": (
            "The share that +.05 nats per token allows in every order; an arrow where only an upper limit is "
            "known."
        ),
        "removal_all": (
            "Every layer replaced at once, by each replacement, between the intact model and the floor."
        ),
        "removal_methods": (
            "Whole attention layers, MLPs and blocks taken away in the order of each method, with what the "
            "method puts in their place; steps, because nothing lies between."
        ),
        "removal_by_layer": (
            "Loss increase with one layer replaced (top), and with layers 0 to l replaced (bottom)."
        ),
        "removal_recovered": (
            "Left: R, R² and the share of the loss that the probe recovers, by layer. Right: every head, "
            "replaced by its mean or by the probe, on axes of the root."
        ),
    },
    "experiments": {
        "consolidation_attention": (
            "Top: share of positions that attend, over training (mean and range of the seeds), from the "
            "step on at which attention has a price. Middle: the preprint's figures 2 and 3A, which "
            "differ from each other, beside ours. Bottom: where attention is spent."
        ),
        "consolidation_memory": (
            "Right answers to recurring queries with a part knocked out in every layer; last, novel "
            "queries to the whole models."
        ),
        "consolidation_phase_plane": (
            "Mean quality q and semantic share p at recurring queries, beside the toy model of the "
            "preprint's appendix C fitted to each seed."
        ),
        "consolidation_exposure": (
            "P(episodic) at recurring queries against the number of earlier exposures, on three clocks; "
            "black, the preprint's figure 4A, whose clock is not defined."
        ),
        "factorial_memory_and_use": (
            "Fixed key codes: share of recurring queries that the weights answer with attention knocked out, "
            "and share that the router reads, over training, by cell of the design; points are the powers of "
            "two and the last step, at which attention was knocked out. Bottom: the contrasts, with 95 and 90"
            " % intervals and the zone of ±.05. States are of reading alone: where D and E "
            "answer little with attention knocked out, they say nothing of the load."
        ),
        "published_settings": (
            "From the paper's price of attention, onset of pressure, temperature and semantic rank to ours, "
            "one step at a time and two together; all else is the small preset's. Means and 95 % intervals "
            "over seeds."
        ),
        "consolidation_tables": (
            "Right answers, attention and error of the dynamics beside the preprint's tables 1 (diamonds)"
            " and 4 (squares); ticks are seeds, bars 95 % intervals over seeds."
        ),
    },
    "fit": {
        "decay_reference_fits": (
            "P(episodic) of CRAM from its largest value on, with the best forms and the pure power law, "
            "and the residuals; grey dots are seeds. A form with an impossible limit tends to what y cannot "
            "be: it describes what was observed and not what follows."
        ),
        "decay_reference_specifications": (
            "γ of every specification of the reference curve on three clocks; the default and its choices"
            " are marked."
        ),
        "decay_fits": (
            "The thirteen points of the preprint's figure 4A with the best forms and the pure power law; "
            "bottom, residuals. A form with an impossible limit tends to what y cannot be."
        ),
        "decay_specifications": (
            "γ of every specification that can be fitted to these points, with the choices behind each; "
            "the default is marked."
        ),
        "decay_forest": (
            "The same curve under every form and estimator beside human practice curves, by what they "
            "measure; 95 % intervals."
        ),
    },
}
