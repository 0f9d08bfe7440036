"""SoT's claim on texts: the class token, the words, or both, on the same fine-tuned MiniLM at equal size.

    python docs/results/text_study.py --model MINILM --brown BROWN --wordnet WORDNET [--out output/text_study]

MINILM is the folder of all-MiniLM-L6-v2 in Hugging Face's form (model.safetensors, vocab.txt), BROWN that of
the Brown corpus (ca01 to cr09), WORDNET that of WordNet 3.0 (data.noun ...); docs/results/text/README.md says
where they come from. Each run is `tools/train.py` on docs/results/text_study.yaml with overrides; see
comparison.py. The same command goes on where it was stopped.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import text_data
from comparison import Study, StudyError, compare_heads, log, run_command

from passl_sot.cli import convert

STUDY = Study(
    config=Path(__file__).with_name("text_study.yaml"),
    heads={
        "ClassT": ("model.head.representation=none",),
        "WordT": ("model.head.fusion_type=words",),
        "ClassT+WordT": (),
    },
    metric="accuracy",
    label="accuracy on held-out texts (%)",
)
# Training and held-out texts: a run takes some ten minutes of one core.
SIZES = {"genres": (2400, 1000), "senses": (4000, 1500)}
# What a data set changes in the config, for all heads.
DATA = {
    "genres": (),
    "senses": (
        "dataloader.train.dataset.second=definition",
        "dataloader.val.dataset.second=definition",
    ),
}


def prepare_data(args: argparse.Namespace) -> tuple[dict[str, tuple[str, ...]], dict[str, dict]]:
    """Writes the tables; gives by data set the overrides that name them and their classes, and facts.

    The facts are numbers of training and of held-out texts, and the accuracy (%) of a plain method.
    """
    overrides = {}
    facts: dict[str, dict] = {"texts": {}, "tfidf": {}}
    for name, folder, read in (
        ("genres", args.brown, text_data.genres),
        ("senses", args.wordnet, text_data.senses),
    ):
        try:
            train, held_out = read(folder)
        except OSError as error:
            raise StudyError(f"{error.filename} can't be read: {error.strerror}") from error
        if not train:
            raise StudyError(f"{folder} holds no such texts: see the head of {Path(__file__).name}")
        num_train, num_val = SIZES[name]
        parts = {"train": train[: args.train or num_train]}
        classes = sorted({row["label"] for row in parts["train"]})
        # Of few texts some classes are missing.
        known = [row for row in held_out if row["label"] in classes]
        parts["val"] = known[: args.val or num_val]
        target = args.out / "data" / name
        for part, rows in parts.items():
            text_data.write(rows, target / f"{part}.jsonl")
        counts = [len(rows) for rows in parts.values()]
        accuracy = round(text_data.baseline(*parts.values()), 2)
        log.info("%s: %d training and %d held-out texts; TF-IDF %.2f %%", name, *counts, accuracy)
        facts["texts"][name] = counts
        facts["tfidf"][name] = accuracy
        overrides[name] = (
            f"model.head.num_classes={len(classes)}",
            *(
                f"dataloader.{part}.dataset.{key}={value}"
                for part in parts
                for key, value in (
                    ("file", target / f"{part}.jsonl"),
                    ("class_names", json.dumps(classes)),
                )
            ),
            *DATA[name],
        )
    return overrides, facts


def prepare_model(args: argparse.Namespace) -> Path:
    """MiniLM's weights in this project's form, without a head, which is new in every run."""
    target = args.out / "minilm.pdparams"
    whole = args.out / "converted.pdparams"
    source = args.model / "model.safetensors"
    if not target.exists():
        import paddle

        if not (args.model / "vocab.txt").exists():
            raise StudyError(f"{args.model} holds no vocab.txt: --model takes MiniLM's folder")
        command = ["--config", str(STUDY.config), "--src", str(source), "--dst", str(whole)]
        own = [text for text in args.override if text.startswith("model.")]
        status = convert([*command, "-o", *own] if own else command)
        if status:
            raise StudyError(f"{source} can't be converted")
        body = {k: v for k, v in paddle.load(str(whole)).items() if not k.startswith("head.")}
        paddle.save(body, str(whole))
        whole.replace(target)
    return target


def study(args: argparse.Namespace) -> int:
    """Everything that is not done yet; the exit status."""
    tokenizer = f"dataloader.train.dataset.tokenizer.path={args.model}"
    args.out.mkdir(parents=True, exist_ok=True)
    data, facts = prepare_data(args)
    overrides = {name: (*own, tokenizer, *args.override) for name, own in data.items()}
    weights = prepare_model(args)
    tuned = replace(STUDY, options=("--pretrained", str(weights)))
    return compare_heads(tuned, args.out, args.seeds, overrides, facts, args.override)


def main(argv: list[str] | None = None) -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(description="ClassT, WordT and ClassT+WordT on texts.")
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="DIR", help="all-MiniLM-L6-v2 in Hugging Face's form")
    add("--brown", type=Path, required=True, metavar="DIR", help="the Brown corpus, ca01 to cr09")
    add("--wordnet", type=Path, required=True, metavar="DIR", help="WordNet 3.0, data.noun and so on")
    add(
        "--out", type=Path, default=Path("output/text_study"), metavar="DIR", help="default output/text_study"
    )
    add("--train", type=int, metavar="N", help="training texts, default 2,400 genres and 4,000 senses")
    add("--val", type=int, metavar="N", help="held-out texts, default 1,000 and 1,500")
    return run_command(parser, study, argv)


if __name__ == "__main__":
    sys.exit(main())
