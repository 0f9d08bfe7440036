"""k-NN and linear probes against scikit-learn, by hand, and on problems whose answers are known."""

import json
import shutil

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from passl_sot.config import UserError
from passl_sot.judging.features import FeatureMaker
from passl_sot.judging.probes import accuracies, knn, linear_probe, neighbour_votes


def clouds(items, classes=7, width=12, spread=1.0, seed=0):
    centres = np.random.default_rng(9).normal(size=(classes, width))
    rng = np.random.default_rng(seed)
    labels = np.arange(items) % classes
    features = centres[labels] + spread * rng.normal(size=(items, width))
    return (features * rng.uniform(0.5, 5, (items, 1))).astype(np.float32), labels


def test_votes_are_those_of_scikit_learn(monkeypatch):
    train, labels = clouds(300)
    queries, wanted = clouds(90, seed=1)
    monkeypatch.setattr("passl_sot.judging.probes._AT_ONCE", 300 * 40)  # the last chunk is a smaller one
    votes = neighbour_votes(train, labels, queries, (1, 10, 20, 100, 200), 7)
    for k, table in votes.items():
        reference = KNeighborsClassifier(
            n_neighbors=k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07)
        ).fit(train, labels)
        shares = table / table.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(shares, reference.predict_proba(queries), atol=1e-5)
    rows = knn(train, labels, queries, wanted, 7)
    assert [row["probe"] for row in rows] == [f"k-NN, k = {k}" for k in (10, 20, 100, 200)]
    right = 100 * np.mean(votes[20].argmax(1) == wanted)
    assert rows[1]["top1"] == pytest.approx(right) and 20 < right < 100 and rows[1]["top5"] > right


def test_votes_by_hand():
    train = np.array([[2, 0], [0, 3], [1, 1], [-1, 0]], np.float32)
    votes = neighbour_votes(train, np.array([0, 1, 1, 0]), np.array([[5, 0]], np.float32), (1, 2, 9), 3)
    near, far, never = np.exp((np.array([np.sqrt(0.5), 0, -1]) - 1) / 0.07)
    np.testing.assert_allclose(votes[1], [[1, 0, 0]])
    np.testing.assert_allclose(votes[2], [[1, near, 0]], rtol=1e-5)
    np.testing.assert_allclose(votes[9], [[1 + never, near + far, 0]], rtol=1e-5)
    rows = knn(train, np.array([0, 1, 1, 0]), np.array([[5, 0]], np.float32), np.array([0]), 3)
    assert [row["probe"] for row in rows] == ["k-NN, k = 4"] and rows[0]["top1"] == 100


def test_accuracies_with_ties():
    assert accuracies(np.zeros((2, 7)), np.array([0, 5])) == {"top1": 50, "top5": 50}
    assert accuracies(np.zeros((2, 5)), np.array([0, 4])) == {"top1": 50}


def test_the_linear_probe_is_scikit_learns_at_the_chosen_strength():
    train, labels = clouds(140, spread=1.5)
    queries, wanted = clouds(70, spread=1.5, seed=1)
    found = linear_probe(train, labels, queries, wanted, 7)
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=found["C"], max_iter=1000))
    reference.fit(train, labels)
    assert found["top1"] == pytest.approx(100 * reference.score(queries, wanted))
    assert found["held_out"][found["C"]] == max(found["held_out"].values()) and len(found["held_out"]) == 7
    assert len({*found["held_out"].values()}) > 1
    # A class that the training items lack can't win, and one of a single item doesn't hinder.
    odd = np.append(labels[:-1], 8)
    assert 0 < linear_probe(train, odd, queries, wanted, 10)["top1"] < 100
    # However few there are of a class, one is learned from.
    for few in ([0] * 6 + [1], [0, 0, 1], [0, 1, 2, 2]):
        assert linear_probe(train[: len(few)], np.array(few), queries, wanted, 7)["C"] > 0
    with pytest.raises(UserError, match="no two training items are of one class"):
        linear_probe(train[:3], np.arange(3), queries, wanted, 7)
    with pytest.raises(UserError, match="all of one class"):
        linear_probe(train, np.zeros(140, int), queries, wanted, 7)


def test_a_separable_problem_is_solved():
    train, labels = clouds(70, spread=0.01)
    queries, wanted = clouds(35, spread=0.01, seed=1)
    assert knn(train, labels, queries, wanted, 7)[0]["top1"] == 100
    assert linear_probe(train, labels, queries, wanted, 7)["top1"] == 100


def test_the_command_keeps_the_features(small, invoke, tmp_path, monkeypatch):
    monkeypatch.setenv("PASSL_SOT_HOME", str(tmp_path / "home"))
    out = tmp_path / "probe.json"
    done = invoke("probe", "--weights", small.checkpoint, "--out", out)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert (report["train"], report["val"]) == (24, 9)
    names = [row["probe"] for row in report["probes"]]
    assert names == ["k-NN, k = 10", "k-NN, k = 20", "linear"]
    assert "| linear " in done.stdout and report["features"] in done.stdout
    banks = sorted((tmp_path / "home" / "features").iterdir())
    assert len(banks) == 2

    def never(*_):
        raise AssertionError("computed again")

    with monkeypatch.context() as patch:
        patch.setattr(FeatureMaker, "_compute", never)
        assert invoke("probe", "--weights", small.checkpoint, "--out", out).returncode == 0
    assert json.loads(out.read_text()) == report
    banks[0].write_bytes(b"damaged")
    assert invoke("probe", "--weights", small.checkpoint).returncode == 0
    assert banks[0].stat().st_size > 1000


def test_the_command_on_own_classes(small, small_text, invoke, tmp_path, monkeypatch):
    """A folder without splits: some of each class are held out, none is learned from and tried."""
    monkeypatch.setenv("PASSL_SOT_HOME", str(tmp_path / "home"))
    own = tmp_path / "own"
    for name, source in (("dog", "a b"), ("cow", "c")):
        shutil.copytree(small.folder / "train" / source, own / name)
    out = tmp_path / "probe.json"
    done = invoke("probe", "--weights", small.checkpoint, "--data", own, "--pool", "words", "--out", out)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert (
        report["train"] + report["val"] == 16 and report["val"] >= 2 and report["features"] == "mean of words"
    )
    done = invoke("probe", "--weights", small_text.checkpoint, "--out", out)
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text())["train"] == 24
