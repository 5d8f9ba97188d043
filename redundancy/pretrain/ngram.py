"""Interpolated Kneser-Ney n-gram model: the baseline a neural language model has to beat."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.int64]


def _grams(tokens: Codes, order: int, vocabulary: int) -> Codes:
    """Code every n-gram of `tokens` as one integer in base `vocabulary`: (len(tokens) - order + 1,)."""
    size = len(tokens) - order + 1
    codes = np.zeros(size, dtype=np.int64)
    for offset in range(order):
        codes *= vocabulary
        codes += tokens[offset : offset + size]
    return codes


def _find(keys: Codes, values: Codes, wanted: Codes) -> Codes:
    """`values` at the places where the sorted `keys` equal `wanted`, 0 where they do not occur."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)


def highest_order(vocabulary: int) -> int:
    """The largest order whose codes fit in 63 bits."""
    order = 1
    while vocabulary ** (order + 1) < 2**63:
        order += 1
    return order


class NGram:
    """Interpolated Kneser-Ney with one discount per order.

    P_k(w | c) = max(a(cw) - D_k, 0) / a(c.) + D_k N1+(c.) / a(c.) P_(k-1)(w | c'), P_0 = 1 / vocabulary,
    where a is the raw count at the highest order and the number of distinct left neighbours below it, and D_k
    = n1 / (n1 + 2 n2) (Ney, Essen & Kneser 1994; Chen & Goodman 1999, section 2.7).

    Parameters
    ----------
    tokens : (n,) int64 training tokens, or several such arrays, between which no n-gram is counted.
    order : 1 is the unigram.
    vocabulary : number of token ids; `vocabulary ** order` must fit in 63 bits.

    Raises
    ------
    ValueError : when the codes do not fit.
    """

    def __init__(self, tokens: Codes | Sequence[Codes], order: int, vocabulary: int):
        if vocabulary**order >= 2**63:
            raise ValueError(f"{vocabulary} tokens at order {order} do not fit in 63-bit codes")
        self.order, self.vocabulary = order, vocabulary
        self.levels: list[tuple[Codes, Codes, Codes, Codes, Codes, float]] = []
        pieces = [tokens] if isinstance(tokens, np.ndarray) else [t for t in tokens if len(t) >= order]
        coded = np.concatenate([_grams(piece, order, vocabulary) for piece in pieces])
        grams, counts = np.unique(coded, return_counts=True)
        for level in range(order, 0, -1):
            contexts, starts = np.unique(grams // vocabulary, return_index=True)
            totals = np.add.reduceat(counts, starts)
            followers = np.diff(np.append(starts, len(grams)))
            once, twice = int((counts == 1).sum()), int((counts == 2).sum())
            discount = once / (once + 2 * twice) if once else 0.0
            self.levels.insert(0, (grams, counts, contexts, totals, followers, discount))
            if level > 1:
                grams, counts = np.unique(grams % vocabulary ** (level - 1), return_counts=True)

    def log_probabilities(self, tokens: Codes) -> npt.NDArray[np.float64]:
        """Log probability of tokens[1:], each given the (up to order - 1) tokens before it in `tokens`:
        (len(tokens) - 1,).
        """
        probability = np.full(len(tokens) - 1, 1 / self.vocabulary)
        for level, (grams, counts, contexts, totals, followers, discount) in enumerate(self.levels, start=1):
            first = max(
                level, 2
            )  # number of tokens up to the first target that has level - 1 tokens before it
            codes = _grams(tokens[first - level :], level, self.vocabulary)
            count = _find(grams, counts, codes)
            total = _find(contexts, totals, codes // self.vocabulary)
            distinct = _find(contexts, followers, codes // self.vocabulary)
            lower = probability[first - 2 :]
            mixed = (np.maximum(count - discount, 0) + discount * distinct * lower) / np.maximum(total, 1)
            probability[first - 2 :] = np.where(total > 0, mixed, lower)
        return np.log(probability)
