"""Writes PaddleClas's list files for an ImageNet-layout folder of images.

    python ppcls_tools/make_list.py data/photos lists

reads `data/photos/{train,val}/<class>/**` and writes `lists/train_list.txt`, `lists/val_list.txt` (a line
"path label" per image, paths relative to `data/photos`) and `lists/class_id_map.txt` ("label name"). Where
the class folders lie in `data/photos` itself, `--val-ratio 0.2` splits each class. Classes are numbered in
natural order (0, 1, 2, 10), as passl_sot's ImageFolder does.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from passl_sot.data.datasets.folders import scan_folder
from passl_sot.data.errors import DataError
from passl_sot.utils.files import replace_atomically

Rows = list[tuple[str, int]]
_SEPARATORS = {"space": " ", "tab": "\t"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool; returns its exit status (0, or 2 where the data or the arguments are wrong)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("data_dir", help="folder with train/ and val/, or with the class folders")
    parser.add_argument("out_dir", help="folder for the lists; made where it doesn't exist")
    parser.add_argument(
        "--val-ratio", type=float, help="share of each class that goes to val, where there is no val/"
    )
    parser.add_argument("--seed", type=int, default=0, help="chooses that share (default: %(default)s)")
    parser.add_argument(
        "--separator",
        choices=("auto", "space", "tab"),
        default="auto",
        help="between path and label; auto: a space, or a tab where paths hold spaces",
    )
    parser.add_argument("--force", action="store_true", help="overwrite lists that are there")
    args = parser.parse_args(argv)
    try:
        class_names, splits = find_images(args.data_dir, args.val_ratio, args.seed, progress=True)
        separator = write_lists(args.out_dir, class_names, splits, args.separator, force=args.force)
    except DataError as error:
        print(f"make_list: {error}", file=sys.stderr)
        return 2
    for name, rows in splits.items():
        print(f"{os.path.join(args.out_dir, name)}_list.txt: {len(rows)} images")
    print(f"{os.path.join(args.out_dir, 'class_id_map.txt')}: {len(class_names)} classes")
    if separator == "\t":
        print(r'Fields are separated by a tab: in PaddleClas set `delimiter: "\t"` in the dataset section.')
    return 0


def find_images(
    data_dir: str, val_ratio: float | None, seed: int, *, progress: bool = False
) -> tuple[list[str], dict[str, Rows]]:
    """Class names, and (path, label) of each image by split.

    Raises:
        DataError: The folder isn't laid out as it should be, or the classes of train and val differ.
    """
    has_splits = os.path.isdir(os.path.join(data_dir, "train"))
    if not has_splits:
        if val_ratio is None:
            raise DataError(
                f"{data_dir} has no train/ folder; give --val-ratio 0.2 to split its class folders, or 0 for "
                "a training list alone / 没有 train 目录，请用 --val-ratio 划分"
            )
        if not 0 <= val_ratio < 1:
            raise DataError(f"--val-ratio is {val_ratio}; it must be 0 or more and below 1")
        scan = scan_folder(data_dir, progress=progress)
        return scan.class_names, _split(list(zip(scan.paths, scan.labels, strict=True)), val_ratio, seed)
    if val_ratio is not None:
        raise DataError(f"{data_dir} has a train/ folder, so --val-ratio has no meaning; leave it out")
    train = scan_folder(os.path.join(data_dir, "train"), progress=progress)
    splits = {"train": [(f"train/{p}", label) for p, label in zip(train.paths, train.labels, strict=True)]}
    if os.path.isdir(os.path.join(data_dir, "val")):
        val = scan_folder(os.path.join(data_dir, "val"), progress=progress)
        strangers = [name for name in val.class_names if name not in set(train.class_names)]
        if strangers:
            raise DataError([f"class '{name}' is in val but not in train" for name in strangers])
        number = {name: label for label, name in enumerate(train.class_names)}
        labels = [number[val.class_names[label]] for label in val.labels]
        splits["val"] = [(f"val/{p}", label) for p, label in zip(val.paths, labels, strict=True)]
    return train.class_names, splits


def write_lists(
    out_dir: str, class_names: Sequence[str], splits: dict[str, Rows], separator: str, *, force: bool
) -> str:
    """Writes the lists and the class map, each whole or not at all; returns the separator used.

    Raises:
        DataError: A file is there already and not `force`, a path can't be written in this form, or the
            folder can't be made or written to.
    """
    paths = [path for rows in splits.values() for path, _ in rows]
    broken = next((path for path in paths if not _writable(path)), None)
    if broken is not None:
        raise DataError(
            f"{broken!r} has a tab, a line end or a character that isn't UTF-8 in its name, which a list "
            "file can't hold; rename it"
        )
    spaced = next((path for path in paths if " " in path), None)
    if separator == "auto":
        separator = "tab" if spaced else "space"
    mark = _SEPARATORS[separator]
    files = {
        f"{name}_list.txt": "".join(f"{path}{mark}{label}\n" for path, label in rows)
        for name, rows in splits.items()
    }
    files["class_id_map.txt"] = "".join(f"{label} {name}\n" for label, name in enumerate(class_names))
    there = [name for name in files if os.path.exists(os.path.join(out_dir, name))]
    if there and not force:
        raise DataError(
            f"{out_dir} already holds {', '.join(there)}; add --force to overwrite "
            "/ 文件已存在，覆盖请加 --force"
        )
    try:
        os.makedirs(out_dir, exist_ok=True)
        for name, text in files.items():
            _write_whole(Path(out_dir, name), text)
    except OSError as error:
        raise DataError(
            f"can't write to {out_dir}: {error.strerror or error}; name a folder that exists or can be made "
            "/ 无法写入该目录，请换一个"
        ) from error
    return mark


def _write_whole(path: Path, text: str) -> None:
    replace_atomically(path, lambda file: file.write(text.encode()))


def _writable(path: str) -> bool:
    # Bytes of a file name that aren't UTF-8 stand in it as surrogates.
    return not any(c in "\t\r\n" or "\ud800" <= c <= "\udfff" for c in path)


def _split(rows: Rows, val_ratio: float, seed: int) -> dict[str, Rows]:
    """Puts a share of each class into val; a class of two or more images has one in train."""
    if val_ratio == 0:
        return {"train": rows}
    labels = np.array([label for _, label in rows])
    generator = np.random.Generator(np.random.PCG64(seed))
    chosen = np.zeros(len(rows), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(max(1, round(len(members) * val_ratio)), len(members) - 1)
        chosen[generator.permutation(members)[:count]] = True
    return {
        "train": [row for row, in_val in zip(rows, chosen, strict=True) if not in_val],
        "val": [row for row, in_val in zip(rows, chosen, strict=True) if in_val],
    }


if __name__ == "__main__":
    sys.exit(main())
