"""Whether more training text would change the probe: the same probe fitted to parts of it."""

from collections.abc import Sequence

import pandas as pd

from labbook.estimate import Estimate, Studentised
from redundancy.aggregate import all_metrics, mean_over_layers, table_row
from redundancy.probe.summary import Convergence
from redundancy.regression.scores import LayerScores

LEARNING = ("tokens", "model", "metric", "against", "estimate", "lower", "upper", "n")
# centred R2 may still change by this much with twice the training tokens where "converged" is said
CONVERGED = 0.01


def tabulate_learning(
    by_tokens: Sequence[tuple[int, dict[str, dict[int, LayerScores]]]], feature: str, bootstrap: Studentised
) -> pd.DataFrame:
    """Scores of probes fitted to growing parts of the training text, means over layers: see
    `tables.Tables.learning`.

    `by_tokens` holds (training tokens, model name -> layer -> scores) in growing order; the last one had all
    of them.
    """
    rows = []
    means = [
        {
            model: mean_over_layers(
                [all_metrics([s], feature, bootstrap.weights)[0] for s in scores.values()]
            )
            for model, scores in models.items()
        }
        for _, models in by_tokens
    ]
    for (tokens, models), metrics in zip(by_tokens, means, strict=True):
        for model in models:
            for metric in ("R", "R2"):
                own, last = metrics[model][metric], means[-1][model][metric]
                for against, sampled in (("", own), ("all", own - last)):
                    keys = {"tokens": tokens, "model": model, "metric": metric, "against": against}
                    rows.append(table_row(sampled, bootstrap, **keys))
    return pd.DataFrame(rows, columns=list(LEARNING))


def converged(learning: pd.DataFrame) -> dict[str, Convergence]:
    """Per model: by how much centred R2 changed with the last doubling of the tokens, and whether less than
    CONVERGED.
    """
    by_model = {}
    part = learning[(learning["metric"] == "R2") & (learning["against"] == "all")]
    for model, rows in part.groupby("model"):
        row = rows.sort_values("tokens").iloc[-2].to_dict()
        gain = -Estimate.read(row)
        within = max(abs(gain.lower), abs(gain.upper)) < CONVERGED
        by_model[str(model)] = Convergence(int(row["tokens"]), gain, bool(within))
    return by_model
