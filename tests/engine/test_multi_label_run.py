"""Several labels per image as a switch: list files, whole runs, evaluation and prediction."""

import json

import numpy as np
import pytest
from PIL import Image

from passl_sot import cli
from passl_sot.data import DataError, ListFile, Mixup, build_dataloader
from passl_sot.engine.run_dir import read_metrics
from passl_sot.predict import Predictor
from passl_sot.weights.checkpoint import read_checkpoint
from tests.engine.several_labels import write_several_labels

PLAIN = [{"name": "Resize", "size": [8, 8]}, {"name": "Normalize"}]


@pytest.fixture
def config(experiment, tmp_path):
    return write_several_labels(tmp_path)


@pytest.mark.usefixtures("drawn")
def test_a_run(config, tmp_path, capfd):
    assert cli.train(["-c", str(config)]) == 0
    said = capfd.readouterr().out
    assert "finished: best mean average precision" in said and "drawn: curves.png\n" in said
    folder = tmp_path / "output" / "several"
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if row["kind"] == "val_raw"]
    assert rows[-1]["map"] > 90 and rows[-1]["images"] == 16 and "top1" not in rows[-1]
    best = read_checkpoint(folder / "best.safetensors").meta
    assert best["progress"]["best"] == max(
        row["map"]
        for row in read_metrics(folder / "metrics.jsonl")
        if row["kind"] == f"val_{best['best_by']}"
    )
    out = tmp_path / "evaluation" / "metrics.json"
    assert cli.evaluate(["-c", str(config), "--weights", str(folder / "best"), "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["map"] == pytest.approx(best["progress"]["best"])
    assert [row["images"] for row in report["per_class"]] == [8, 8, 8]
    files = [out.parent / name for name in ("per_class.csv", "predictions.csv")]
    assert report["files"] == [str(file) for file in files]
    scores, predictions = (file.read_text(encoding="utf-8-sig").splitlines() for file in files)
    assert scores[0] == "class,name,images,ap,precision,recall,f1" and len(scores) == 4
    means = np.array([line.split(",")[2:] for line in scores[1:]], float).mean(axis=0)
    assert 100 * means[1] == pytest.approx(report["map"], abs=1e-3)
    assert 100 * means[4] == pytest.approx(report["macro_f1"], abs=1e-3)
    assert predictions[0] == "path,labels,predicted,0,1,2" and len(predictions) == 17
    assert predictions[8].startswith(f'{tmp_path}/images/val 7.png,"0,1,2",')
    assert predictions[9].startswith(f"{tmp_path}/images/val 8.png,-,")
    (one,) = Predictor(folder / "best")(str(tmp_path / "images" / "val 7.png"))  # all three
    (none,) = Predictor(folder / "best")(str(tmp_path / "images" / "val 8.png"))
    assert min(one.probabilities) > max(none.probabilities)
    assert sum(one.probabilities) > 1.5


def test_targets_reach_the_loss(config):
    from passl_sot.engine.schema import load_config

    cfg = load_config(config)
    loader = build_dataloader(cfg.dataloader.val, mode="val", seed=0)
    batch = next(iter(loader))
    assert str(batch["label"].dtype) == "paddle.float32"
    expected = [[i & 1, (i & 2) // 2, (i & 4) // 4] for i in range(8)]
    np.testing.assert_array_equal(batch["label"].numpy(), expected)
    assert loader.dataset.class_counts().tolist() == [8, 8, 8]
    images = np.zeros((4, 8, 8, 3), np.uint8)
    labels = np.array(expected[:4], np.float32)
    mixup = Mixup(num_classes=3, cutmix_alpha=0.0, label_smoothing=0.1)
    for seed in range(3):
        _, mixed = mixup(images, labels, np.random.default_rng(seed))
        share, _ = mixup.draw(8, 8, np.random.default_rng(seed))
        np.testing.assert_allclose(mixed, share * labels + (1 - share) * labels[::-1], rtol=1e-5)


def refused(config, capfd, *overrides: str) -> str:
    assert cli.train(["-c", str(config), "--dry-run", "-o", *overrides]) == 2
    return capfd.readouterr().err


def test_what_does_not_go_with_several_labels(config, capfd):
    assert "loss.name: CrossEntropyLoss takes one label" in refused(
        config, capfd, "loss={name: CrossEntropyLoss}"
    )
    balanced = refused(config, capfd, "dataloader.train.sampler.balanced=true")
    assert "balanced is for one label per image" in balanced
    single = config.parent / "single.txt"
    single.write_text("val 0.png\t0\nval 1.png\t1\nval 2.png\t2\n")
    mixed = ("dataloader.val.dataset.multi_label=false", f"dataloader.val.dataset.list_file={single}")
    assert "multi_label is set for one of train and val" in refused(config, capfd, *mixed)


def test_lines(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a b.png")
    path = tmp_path / "list.txt"

    def read(text: str, **more) -> ListFile:
        path.write_text(text)
        return ListFile(
            dataroot=str(tmp_path), list_file=str(path), transforms=PLAIN, multi_label=True, **more
        )

    found = read("# all\na b.png\t0,2\na b.png -\na b.png 1\n")
    np.testing.assert_array_equal(found.multi_hot, [[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    assert found.path(1).endswith("a b.png") and found[0]["label"].dtype == np.float32
    found.use_class_names(["0", "1", "2", "3"])
    assert found.multi_hot.shape == (3, 4)
    (tmp_path / "names.txt").write_text("x\ny\nz\n")
    named = read("a b.png\t0,2\n", class_names=str(tmp_path / "names.txt"))
    named.use_class_names(["w", "z", "y", "x"])
    np.testing.assert_array_equal(named.multi_hot, [[0, 1, 0, 1]])
    for text in ("a b.png\t0,x\n", "a b.png\t0,,1\n", "a b.png\t-1\n", "0\n"):
        with pytest.raises(DataError, match=r"list.txt:1: .* isn't 'path 0,3'"):
            read(text)
    with pytest.raises(DataError, match="gives no image a label"):
        read("a b.png\t-\n")
    with pytest.raises(DataError, match="has label 3, and class_names holds 3"):
        read("a b.png\t3\n", class_names=str(tmp_path / "names.txt"))


def test_paddleclass_lists_of_zeros_and_ones(config, tmp_path):
    """The same images in both formats are the same targets; which format it is is said, not guessed."""
    from passl_sot.engine.schema import load_config

    cfg = load_config(config)
    given = build_dataloader(cfg.dataloader.val, mode="val", seed=0).dataset
    lines = [
        f"{given.paths[i]}\t{','.join(map(str, row))}\n" for i, row in enumerate(given.multi_hot.tolist())
    ]
    path = tmp_path / "hot.txt"

    def read(text: str, multi_label: bool | str = "multi_hot", **more) -> ListFile:
        path.write_text(text)
        options = {"dataroot": given.root, "list_file": str(path), "transforms": PLAIN, **more}
        return ListFile(multi_label=multi_label, **options)

    found = read("".join(lines))
    np.testing.assert_array_equal(found.multi_hot, given.multi_hot)
    assert found.class_names == ["0", "1", "2"] and found.path(7) == given.path(7)
    np.testing.assert_array_equal(found[3]["label"], [1, 1, 0])
    # Two classes: 0,1 is either both classes or the second alone.
    np.testing.assert_array_equal(read("a.png\t0,1\nb.png\t1,0\n").multi_hot, [[0, 1], [1, 0]])
    np.testing.assert_array_equal(read("a.png\t0,1\nb.png\t1,0\n", True).multi_hot, [[1, 1], [1, 1]])
    wrong = r"hot\.txt:2: '0,1,1' names a class twice \(a 0 or 1 .* is read by multi_label: multi_hot\)"
    with pytest.raises(DataError, match=wrong):
        read("a.png\t0,1\nb.png\t0,1,1\n", True)
    with pytest.raises(DataError, match=r"hot.txt:1: '2,2' names a class twice / "):
        read("a.png\t2,2\n", True)
    with pytest.raises(
        DataError, match=r"hot.txt:2: 'b.png\\t0,3' isn't 'path 0,1,0' .* by multi_label: true"
    ):
        read("a.png\t0,1\nb.png\t0,3\n")
    with pytest.raises(DataError, match=r"hot\.txt:2: has 3 zeros and ones, and the first line 2"):
        read("a.png\t0,1\nb.png\t0,1,1\n")
    (tmp_path / "names.txt").write_text("x\ny\nz\n")
    assert read("a.png\t0,1,1\n", class_names=str(tmp_path / "names.txt")).class_names == ["x", "y", "z"]
    with pytest.raises(DataError, match="has 2 zeros and ones a line, and class_names holds 3"):
        read("a.png\t0,1\n", class_names=str(tmp_path / "names.txt"))
