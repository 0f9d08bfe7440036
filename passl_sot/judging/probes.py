"""What frozen features are worth: k nearest neighbours and a linear probe, by one set, tried on another."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from passl_sot.config import UserError
from passl_sot.utils.logger import get_logger, progress_bar
from passl_sot.utils.require import require_extra

TEMPERATURE = 0.07
NEIGHBOURS = (10, 20, 100, 200)
# Of LogisticRegression's C: the larger, the less its weights are held back.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
_HELD_OUT = 0.2  # of the training items, to choose among them
_AT_ONCE = 1 << 26  # cosines, a quarter of a gigabyte
_LEAST = 1e-300  # of a probability

log = get_logger()


def accuracies(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Top-1 and, with more than five classes, top-5 accuracy in per cent.

    Args:
        scores: The higher the likelier, [N, K].
        labels: int64 [N].
    """
    order = np.argsort(-scores, axis=1, kind="stable")  # ties go to the lower class
    hits = order == labels[:, None]
    found = {"top1": 100 * float(hits[:, 0].mean())}
    if scores.shape[1] > 5:
        found["top5"] = 100 * float(hits[:, :5].any(axis=1).mean())
    return found


def neighbour_votes(
    train: np.ndarray, labels: np.ndarray, queries: np.ndarray, neighbours: Sequence[int], classes: int
) -> dict[int, np.ndarray]:
    """Votes of the k nearest training items for each class, as in DINO (Caron et al., 2021, appendix F).

    Nearness is the cosine of features; a neighbour's vote counts exp(cosine / 0.07).

    Args:
        train: Features [N, F].
        labels: Theirs, int64 [N].
        queries: Features [Q, F].
        neighbours: The numbers k; those above N mean all.
        classes: K.

    Returns:
        For each k votes [Q, K].
    """
    train = _normalized(train)
    queries = _normalized(queries)
    most = min(max(neighbours), len(train))
    votes = {k: np.zeros((len(queries), classes)) for k in neighbours}
    chunk = max(1, _AT_ONCE // len(train))
    with progress_bar(range(0, len(queries), chunk), desc="k-NN") as starts:
        for start in starts:
            cosines = queries[start : start + chunk] @ train.T
            nearest = np.argpartition(cosines, len(train) - most, axis=1)[:, -most:]
            found = np.take_along_axis(cosines, nearest, axis=1)
            order = np.argsort(-found, axis=1, kind="stable")
            nearest = np.take_along_axis(nearest, order, axis=1)
            # Less the greatest possible cosine: no vote can overflow.
            weights = np.exp((np.take_along_axis(found, order, axis=1).astype(np.float64) - 1) / TEMPERATURE)
            rows = start + np.arange(len(nearest))[:, None]
            for k, table in votes.items():
                np.add.at(table, (rows, labels[nearest[:, :k]]), weights[:, :k])
    return votes


def _normalized(features: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return (features / np.maximum(lengths, 1e-12)).astype(np.float32)


def knn(
    train: np.ndarray, labels: np.ndarray, queries: np.ndarray, wanted: np.ndarray, classes: int
) -> list[dict[str, Any]]:
    """Accuracies of `neighbour_votes` for DINO's k, but for those above the number of training items.

    Args:
        train, labels, queries, classes: As for `neighbour_votes`.
        wanted: The queries' labels, int64 [Q].
    """
    counts = [k for k in NEIGHBOURS if k <= len(train)] or [len(train)]
    votes = neighbour_votes(train, labels, queries, counts, classes)
    return [{"probe": f"k-NN, k = {k}", **accuracies(votes[k], wanted)} for k in counts]


def linear_probe(
    train: np.ndarray, labels: np.ndarray, queries: np.ndarray, wanted: np.ndarray, classes: int
) -> dict[str, Any]:
    """Accuracies of a logistic regression on standardized features.

    Its strength of regularization is the one that is best on a fifth of the training items, held out for
    that, by accuracy and then by cross entropy; then all are learned from.

    Args:
        train, labels, queries, wanted, classes: As for `knn`.

    Returns:
        Beside the accuracies `C`, and the `held_out` top-1 of each C.

    Raises:
        MissingExtraError: scikit-learn isn't installed.
        UserError: The training items are of one class, or each of another one.
    """
    learn, choose = _divide(labels)
    held_out = {}
    losses = {}
    with progress_bar(STRENGTHS, desc="linear probe") as strengths:
        for strength in strengths:
            scores = _fit(train[learn], labels[learn], train[choose], classes, strength)
            held_out[strength] = accuracies(scores, labels[choose])["top1"]
            losses[strength] = -scores[np.arange(len(choose)), labels[choose]].mean()
    # Few items leave many strengths with one accuracy: then it is the most certain one that is right.
    best = max(STRENGTHS, key=lambda strength: (held_out[strength], -losses[strength]))
    if best in (STRENGTHS[0], STRENGTHS[-1]) and len({*held_out.values()}) > 1:
        log.info("linear probe: the best C, %g, is the last one tried", best)
    scores = _fit(train, labels, queries, classes, best)
    return {"probe": "linear", **accuracies(scores, wanted), "C": best, "held_out": held_out}


def _divide(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of the training items that are learned from, and of a fifth of them, to choose a strength by."""
    selection = require_extra("sklearn.model_selection", "judging", "the linear probe")
    places = np.arange(len(labels))
    _, first, counts = np.unique(labels, return_index=True, return_counts=True)
    if len(first) < 2:
        raise UserError("the training items are all of one class: a linear probe needs two")
    # Each class in both parts, where there are enough items for that.
    if counts.min() > 1 and _HELD_OUT * len(labels) >= len(first):
        return selection.train_test_split(places, test_size=_HELD_OUT, random_state=0, stratify=labels)
    others = np.delete(places, first)  # one item of each class has to be learned from
    if not len(others):
        raise UserError("no two training items are of one class: a linear probe needs some that are")
    choose = np.random.default_rng(0).permutation(others)[: max(1, round(_HELD_OUT * len(labels)))]
    return np.delete(places, choose), choose


def _fit(
    train: np.ndarray, labels: np.ndarray, queries: np.ndarray, classes: int, strength: float
) -> np.ndarray:
    """Logarithms of the probabilities [Q, K] of queries; classes that the training items lack have none."""
    linear = require_extra("sklearn.linear_model", "judging", "the linear probe")
    preprocessing = require_extra("sklearn.preprocessing", "judging", "the linear probe")
    exceptions = require_extra("sklearn.exceptions", "judging", "the linear probe")
    scaler = preprocessing.StandardScaler().fit(train)
    model = linear.LogisticRegression(C=strength, max_iter=1000)
    with warnings.catch_warnings():
        # After so many steps what is left changes little; weak regularizations seldom end sooner.
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
        model.fit(scaler.transform(train), labels)
    scores = np.zeros((len(queries), classes))
    scores[:, model.classes_] = model.predict_proba(scaler.transform(queries))
    return np.log(np.maximum(scores, _LEAST))
