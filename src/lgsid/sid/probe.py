"""What codes say of items: a linear probe from tokens to province, city, district and category.

The probe is multinomial logistic regression on the one-hot tokens of all levels: it can add up what each token says,
and cannot learn what a combination of tokens says. It is fitted on four fifths of the items and judged on the rest,
beside always answering the commonest label.

Labels that fewer than `LEAST_ITEMS` sampled items have are left out with their items: nobody can learn a district from
two shops, and judging that would measure the catalogue's long tail. `left_out_share` says how many items that were
(those without a label included).
"""

from __future__ import annotations

import warnings
from typing import Any, TypeAlias

import numpy as np
import polars as pl

from lgsid.arrays import CodeArray, IntArray
from lgsid.sid.attributes import attributes

LEAST_ITEMS = 10
"""Items that a label must have to be asked for."""
SAMPLE = 20_000
"""Most items that the probe is fitted and judged on."""
ITERATIONS = 100
"""Most steps of L-BFGS; catalogues of some thousand items need fewer."""
INVERSE_PENALTY = 10.0
"""C of scikit-learn. At its own default of 1 the probe loses a point of accuracy on provinces, which tokens know."""
HELD_OUT = 0.2

Decoded: TypeAlias = dict[str, float | int]


def decodability(items: pl.DataFrame, codes_NL: CodeArray, seed: int = 0) -> dict[str, Decoded | None]:
    """What a linear probe reads from the codes, for each of `attributes.ATTRIBUTES`; see `probe`."""
    return {name: probe(codes_NL, label_N, seed) for name, label_N in attributes(items).items()}


def probe(codes_NL: CodeArray, label_N: IntArray, seed: int = 0) -> Decoded | None:
    """Held-out accuracy of a linear probe from codes to labels.

    Args:
        codes_NL: codes of the N items.
        label_N: their labels; negative where unknown.
        seed: of the sample and of the split, which keeps the labels' shares.

    Returns:
        ``accuracy``; ``majority``, the accuracy of always answering the commonest label; ``labels`` and ``items`` that
        are left; ``left_out_share`` of the sampled items. None where fewer than two labels are left.
    """
    from sklearn.model_selection import train_test_split

    rng = np.random.default_rng(seed)
    sample = np.sort(rng.permutation(len(label_N))[:SAMPLE])
    counts = np.bincount(label_N[sample][label_N[sample] >= 0])
    often = np.append(counts >= LEAST_ITEMS, False)  # the last one stands for -1
    rows = sample[often[label_N[sample]]]
    if often.sum() < 2:
        return None
    train, test = train_test_split(rows, test_size=HELD_OUT, random_state=seed, stratify=label_N[rows])
    answers = _fit(one_hot(codes_NL[train], codes_NL), label_N[train]).predict(one_hot(codes_NL[test], codes_NL))
    commonest = np.bincount(label_N[train]).argmax()
    return {
        "accuracy": float((answers == label_N[test]).mean()),
        "majority": float((label_N[test] == commonest).mean()),
        "labels": int(often.sum()),
        "items": len(rows),
        "left_out_share": 1 - len(rows) / len(sample),
    }


def _fit(tokens: Any, labels: IntArray) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of steps is bounded on purpose
        return LogisticRegression(C=INVERSE_PENALTY, max_iter=ITERATIONS).fit(tokens, labels)


def one_hot(codes_NL: CodeArray, every_NL: CodeArray) -> Any:
    """Sparse one-hot tokens (N, sum of the levels' sizes); ``every_NL`` are all codes, for the sizes."""
    from scipy.sparse import csr_array

    items, levels = codes_NL.shape
    sizes = every_NL.max(axis=0).astype(np.int64) + 1
    columns = codes_NL.astype(np.int64) + (np.cumsum(sizes) - sizes)
    rows = np.arange(0, items * levels + 1, levels)
    return csr_array((np.ones(items * levels), columns.ravel(), rows), shape=(items, int(sizes.sum())))
