"""The recipes of the models of texts, as resolved, against the authors' commands, scripts and tables."""

import json
import re

import pytest
import yaml

from passl_sot import cli
from passl_sot.config import read_card
from passl_sot.engine.schema import load_config
from passl_sot.optim import SCHEDULERS, build_optimizer
from passl_sot.optim.schedules import plan_batch
from passl_sot.published.cards import cards
from passl_sot.zoo import find_config
from tests.data.text_files import write_bpe, write_vocab

# Scores without and with SoT's head on CoLA (Matthews correlation), RTE, MNLI and QNLI (accuracy).
SCORES = {
    "gpt": (54.32, 57.25, 63.17, 65.35, 82.10, 82.41, 86.36, 87.13),
    "bert_base": (54.82, 58.03, 67.15, 69.31, 83.47, 84.20, 90.11, 90.78),
    "bert_large": (60.63, 61.82, 73.65, 75.09, 85.90, 86.46, 91.82, 92.37),
    "spanbert_base": (57.48, 63.77, 73.65, 77.26, 85.53, 86.13, 92.71, 93.31),
    "spanbert_large": (64.32, 65.94, 78.34, 79.79, 87.89, 88.16, 94.22, 94.49),
    "roberta_base": (61.58, 65.28, 77.60, 80.50, 87.50, 87.90, 92.70, 93.10),
    "roberta_large": (67.98, 70.90, 86.60, 88.10, 90.20, 90.50, 94.70, 95.00),
}
TASKS = {"cola": ("CoLA", 2), "rte": ("RTE", 2), "mnli": ("MNLI", 3), "qnli": ("QNLI", 2)}
CASES = [(model, head, task) for model in SCORES for head in ("", "_sot") for task in TASKS]
COMMON = {
    "epochs": 10,
    "seed": 42,
    "mode": "train",
    "betas": (0.9, 0.999),
    "epsilon": 1e-8,
    "decay": 0.0,
    "decay_on": "weights",
    "clip": 1.0,
    "lr": 2e-5,
    "warmup": 0.0,
    "amp": None,
    "drop_last": False,
    "dropout": (0.1, 0.1),
    "tokens": ("wordpiece", 28996),
    "language_model": 0.0,
}
FAMILIES = {
    # cokezrr/transformers, README and examples/run_glue.py: 4 GPUs x 16.
    "bert": {"batch": (4, 16)},
    # facebookresearch/SpanBERT, README and code/run_glue.py.
    "spanbert": {"batch": (1, 32), "decay": 0.01, "warmup": 0.1, "amp": "O1", "drop_last": True},
    # fairseq, examples/roberta/README.glue.md.
    "roberta": {
        "batch": (1, 32),
        "seed": 1,
        "betas": (0.9, 0.98),
        "epsilon": 1e-6,
        "decay": 0.1,
        "decay_on": "all",
        "clip": None,
        "lr": 1e-5,
        "warmup": 0.06,
        "amp": "O1",
        "tokens": ("bpe", 50265),
    },
    # openai/finetune-transformer-lm, train.py.
    "gpt": {
        "batch": (4, 8),
        "epochs": 3,
        "decay": 0.01,
        "lr": 6.25e-5,
        "warmup": 0.002,
        "tokens": ("gpt", 40481),
        "language_model": 0.5,
    },
}
BY_TASK = {
    ("bert", "qnli"): {"lr": 3e-5},
    ("roberta", "rte"): {"lr": 2e-5, "batch": (1, 16)},
    ("roberta", "cola"): {"batch": (1, 16)},
}
# Widths and dropout of the head on 768 channels; on 1,024 they are those of MNLI.
HEADS = {
    "cola": ([96, 48], 0.5),
    "rte": ([56, 32], 0.8),
    "mnli": ([112, 48], 0.7),
    "qnli": ([112, 48], 0.5),
}


def recipe(cfg) -> dict:
    """A config's values under the table's names, defaults of the classes included."""
    optimizer, schedule = build_optimizer(cfg.optimizer), SCHEDULERS.build(cfg.lr_scheduler)
    train = cfg.dataloader.train
    assert (cfg.optimizer.name, cfg.lr_scheduler.name) == ("AdamW", "LinearSchedule")
    assert cfg.loss == {"name": "CrossEntropyLoss", "label_smoothing": 0.0}
    assert (schedule.unit, schedule.lag, schedule.T_max) == ("step", 0, None)
    assert (schedule.min_lr, schedule.warmup_lr, schedule.batch_rule) == (0.0, 0.0, "accumulate")
    assert cfg.ema is None and train.sampler.shuffle
    devices = schedule.reference_batch // train.sampler.batch_size
    plan = plan_batch(schedule, train.sampler.batch_size, devices, 100)
    assert (plan.accumulate, plan.effective, plan.lr_factor) == (1, schedule.reference_batch, 1.0)
    architecture = cfg.model.architecture
    return {
        "epochs": cfg.epochs,
        "seed": cfg.seed,
        "mode": cfg.training_mode,
        "batch": (devices, train.sampler.batch_size),
        "betas": (optimizer.beta1, optimizer.beta2),
        "epsilon": optimizer.epsilon,
        "decay": optimizer.weight_decay,
        "decay_on": cfg.parameters.weight_decay_on,
        "clip": optimizer.clip_grad,
        "lr": schedule.learning_rate,
        "warmup": schedule.warmup_epochs / cfg.epochs,
        "amp": cfg.amp and cfg.amp.level,
        "drop_last": train.sampler.drop_last,
        "dropout": (architecture.get("drop_rate", 0.1), architecture.get("attn_drop_rate", 0.1)),
        "tokens": (train.dataset.tokenizer.format, architecture.vocab_size),
        "language_model": cfg.task.get("lm_weight", 0.0),
    }


@pytest.mark.parametrize(("model", "head", "task"), CASES, ids="".join)
def test_recipe(model, head, task):
    name = f"{model}{head}_{task}"
    family = model.partition("_")[0]
    cfg = load_config(find_config(name))
    assert recipe(cfg) == {**COMMON, **FAMILIES[family], **BY_TASK.get((family, task), {})}
    glue, classes = TASKS[task]
    for part, split in (("train", "train"), ("val", "dev")):
        dataset = getattr(cfg.dataloader, part).dataset
        assert (dataset.name, dataset.task, dataset.split, dataset.max_length) == ("GLUE", glue, split, 128)
        assert dataset.tokenizer == cfg.dataloader.train.dataset.tokenizer
        assert not dataset.tokenizer.get("lower_case")
        # The scores of SoT's head rest on 128 tokens always, with padding pooled like words.
        assert dataset.get("pad_to") == (128 if head else None)
    assert cfg.dataloader.train.sampler.group_by_length == (not head)
    score = "matthews" if task == "cola" else "accuracy"
    assert cfg.task.score == score
    node = cfg.model.head
    assert node.num_classes == classes
    large = model.endswith("large")
    widths, dropout = ([112, 48], 0.7) if large else HEADS[task]
    expected = {
        "_sot": {
            "name": "CrossCovarianceHead",
            "reduction": widths,
            "normalization": {"name": "SvPN", "dropout": dropout},
            "mask_words": False,
        },
        "": {
            "name": "LinearHead" if family == "gpt" else "PoolerHead",
            "dropout": 0.0 if family == "roberta" else 0.1,
        },
    }[head]
    assert node == {**expected, "num_classes": classes, "in_channels": 1024 if large else 768}
    sizes = [cfg.model.architecture[key] for key in ("embed_dim", "depth", "num_heads")]
    assert sizes == ([1024, 24, 16] if large else [768, 12, 12])


@pytest.mark.parametrize("model", SCORES)
def test_cards_and_comments(model):
    weights = cards()[model]
    for i, task in enumerate(TASKS):
        for sot in (False, True):
            name = f"{model}{'_sot' * sot}_{task}"
            meta = read_card(name)
            score = SCORES[model][2 * i + sot]
            assert (meta["published_score"], meta["score"]) == (
                score,
                "matthews" if task == "cola" else "accuracy",
            )
            assert meta["license"] == weights.weights_license
            text = find_config(name).read_text(encoding="utf-8")
            assert f" {score:.2f} % (published" in text and f"--pretrained {model}\n" in text
            assert ("inferred" in text) == (
                (sot and model != "bert_base") or (not sot and model.startswith("bert"))
            )
            devices, size = map(int, re.search(r"(\d) GPUs? x (\d+) texts", text).groups())
            batch = yaml.safe_load(text).get("lr_scheduler", {}).get("reference_batch")
            assert batch in (None, devices * size)


# Rates of updates by the authors' formulas: epoch, update, updates of an epoch, and the fraction of the peak.
RATES = {
    "bert_base_cola": [(0, 0, 100, 1.0), (5, 0, 100, 0.5), (9, 99, 100, 0.001)],
    "spanbert_base_rte": [(0, 50, 100, 0.5), (1, 0, 100, 1.0), (5, 50, 100, 0.5)],
    "roberta_base_mnli": [(0, 30, 100, 0.5), (0, 60, 100, 1.0), (5, 30, 100, 0.5)],
    "gpt_qnli": [(0, 3, 1000, 0.5), (0, 6, 1000, 1 - 0.002), (1, 500, 1000, 0.5)],
}


@pytest.mark.parametrize("name", RATES)
def test_rates(name):
    cfg = load_config(find_config(name))
    schedule = SCHEDULERS.build(cfg.lr_scheduler)
    for epoch, update, updates, fraction in RATES[name]:
        rate = schedule.lr(*schedule.point(epoch, update, updates), cfg.epochs)
        assert rate == pytest.approx(fraction * schedule.learning_rate, rel=1e-6), (epoch, update)


# A line of training or development, by label; numbers of columns are those of the published files.
LINES = {
    "CoLA": (None, "gj04\t{label}\t\tthe cat sat on the mat"),
    "RTE": ("index\tsentence1\tsentence2\tlabel", "{i}\tthe cat sat\tthe dog ran\t{label}"),
    "QNLI": ("index\tquestion\tsentence\tlabel", "{i}\tthe cat sat\tthe dog ran\t{label}"),
    "MNLI": (
        "\t".join([*map(str, range(8)), "sentence1", "sentence2", "label1", "gold_label"]),
        "\t".join("0" * 8) + "\tthe cat sat\tthe dog ran\t{label}\t{label}",
    ),
}
LABELS = {
    "CoLA": ("0", "1"),
    "RTE": ("entailment", "not_entailment"),
    "QNLI": ("entailment", "not_entailment"),
    "MNLI": ("contradiction", "entailment", "neutral"),
}


@pytest.fixture(scope="module")
def glue(tmp_path_factory):
    """The four tasks as published, with 32 sentences each."""
    root = tmp_path_factory.mktemp("glue")
    for task, (head, line) in LINES.items():
        (root / task).mkdir()
        labels = LABELS[task]
        lines = [line.format(i=i, label=labels[i % len(labels)]) for i in range(32)]
        for split in ("train", "dev_matched" if task == "MNLI" else "dev"):
            content = [head, *lines] if head else lines
            (root / task / f"{split}.tsv").write_text("\n".join(content) + "\n")
    head, line = LINES["MNLI"]
    lines = [line.format(label="neutral")] * 5
    (root / "MNLI" / "dev_mismatched.tsv").write_text("\n".join([head, *lines]) + "\n")
    return root


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["bert_base_sot_cola", "bert_large_mnli", "spanbert_base_qnli", "roberta_base_sot_rte", "gpt_mnli"],
)
def test_recipe_under_dry_run(name, glue, tmp_path, capfd):
    """As it is, but for narrow blocks and a tokenizer of few words."""
    if name.startswith(("bert", "spanbert")):
        tokenizer = write_vocab(tmp_path)
    else:
        tokenizer = write_bpe(tmp_path, "gpt" if name.startswith("gpt") else "roberta")
    sizes = [f"model.architecture.{key}" for key in ("embed_dim=16", "depth=1", "num_heads=2")]
    data = f"dataloader.train.dataset.tokenizer.path={tokenizer['path']}"
    workers = [f"dataloader.{part}.loader.num_workers=0" for part in ("train", "val")]
    command = ["-c", name, "--data", str(glue), "--dry-run"]
    assert cli.train([*command, "-o", *sizes, data, *workers]) == 0
    said = capfd.readouterr().out
    assert "32 training, 32 validation sentences" in said and "sentences/s per process" in said


@pytest.mark.slow
def test_both_parts_of_mnli(glue, tmp_path, capfd):
    """32 sentences of every label in turn, and five of one label."""
    tokenizer = write_vocab(tmp_path)["path"]
    sizes = [f"model.architecture.{key}" for key in ("embed_dim=16", "depth=1", "num_heads=2")]
    settings = [*sizes, "epochs=1", f"output_dir={tmp_path}", "lr_scheduler.warmup_epochs=0"]
    settings += [f"dataloader.train.dataset.tokenizer.path={tokenizer}"]
    settings += [f"dataloader.{part}.loader.num_workers=0" for part in ("train", "val")]
    assert cli.train(["-c", "bert_base_mnli", "--data", str(glue), "-o", *settings]) == 0
    found = {}
    for split in ("dev", "dev_mismatched"):
        out = tmp_path / f"{split}.json"
        command = ["--weights", str(tmp_path / "bert_base_mnli" / "last"), "--out", str(out)]
        assert cli.evaluate([*command, "-o", f"dataloader.val.dataset.split={split}"]) == 0
        found[split] = json.loads(out.read_text())
    # A model that has learned nothing calls all of these equal sentences the same.
    assert found["dev"]["accuracy"] == pytest.approx(100 * 11 / 32, abs=4)
    assert found["dev_mismatched"]["accuracy"] in (0, 100)


def test_without_a_tokenizer_it_says_where_one_comes_from(glue, capfd):
    assert (
        cli.train(["-c", "bert_base_cola", "--dry-run", "-o", f"dataloader.train.dataset.dataroot={glue}"])
        == 2
    )
    assert "--pretrained" in capfd.readouterr().err
