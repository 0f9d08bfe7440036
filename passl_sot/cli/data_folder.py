"""Config and data of a command: a file or a checkpoint, and `--data DIR`, a folder of the user's own."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from passl_sot.cli import own_texts
from passl_sot.cli.run_plan import RunPlan
from passl_sot.config import ConfigError, Fault, find_config, get_config, value_at, zh
from passl_sot.data import DataError
from passl_sot.data.datasets.folders import VAL_SHARE, OwnFolder, find_splits
from passl_sot.data.own_texts import OwnTexts
from passl_sot.engine.schema import Experiment, load_config
from passl_sot.published.store import TOKENIZER_PATH
from passl_sot.tasks.base import check_card
from passl_sot.weights.checkpoint import read_header

_FOLDERS = ("ImageFolder", "PackedImages")
_BOTH = ("train", "val")


@dataclass(frozen=True)
class Source:
    """Where a command's config comes from.

    Attributes:
        path: The config file, or the checkpoint.
        stored: A checkpoint's config; None for a file.
    """

    path: Path
    stored: dict[str, Any] | None = None

    @classmethod
    def of(cls, config: str | None, weights: str | None) -> "Source":
        """The file or model name `config`, or else the checkpoint `weights`.

        Raises:
            ConfigError: There is no such file or name.
            CheckpointError: `weights` is no checkpoint.
        """
        if config or not weights:
            return cls(find_config(config or ""))
        path, card = read_header(weights)
        check_card(path, card)
        return cls(path, card["config"])

    @property
    def name(self) -> str:
        """The run's: of the file, or of the folder that the checkpoint lies in."""
        return self.path.stem if self.stored is None else self.path.resolve().parent.name

    def load(self, overrides: Sequence[str]) -> Experiment:
        """As `engine.schema.load_config`."""
        return load_config(self.path, overrides, stored=self.stored)

    def with_tokenizer(self, folder: Path) -> list[str]:
        """The override that names the folder of a tokenizer, for a model of texts whose config names none."""
        tree = self.stored or get_config(self.path)
        section = value_at(tree, TOKENIZER_PATH.rpartition(".")[0])
        named = not isinstance(section, Mapping) or section.get("path") or section.get("text")
        return [] if named else [f"{TOKENIZER_PATH}={json.dumps(str(folder))}"]

    def experiment(
        self, root: str | None, overrides: Sequence[str], splits: Sequence[str], *, training: bool
    ) -> tuple[Experiment, list[str]]:
        """What a command computes on: the config on a folder, or on its own data; and lines on these.

        Args:
            root: The folder of `--data`; None for the config's own data.
            splits: As of `require_data`.
            training: As of `on_folder`.
        """
        added: list[str] = []
        lines: list[str] = []
        if root:
            added, lines = self.on_folder(root, overrides, training=training)
        experiment = self.load([*added, *overrides])
        self.require_data(experiment, splits)
        return experiment, lines

    def require_data(self, experiment: Experiment, splits: Sequence[str] = _BOTH) -> None:
        """Raises a DataError where the data of a checkpoint's config aren't on this machine."""
        if self.stored is None:
            return
        for split in splits:
            node = getattr(experiment.dataloader, split).dataset
            named = [node.get(key) for key in ("dataroot", "list_file", "file")]
            for place in [place for place in named if isinstance(place, str)]:
                if not os.path.exists(os.path.expanduser(place)):
                    raise DataError(
                        f"{self.path} was trained on data in {place}, which isn't here: name a folder of the "
                        "same classes with --data DIR" + zh("data_elsewhere")
                    )

    def on_folder(
        self, root: str, overrides: Sequence[str], *, training: bool = True, plan: bool = True
    ) -> tuple[list[str], list[str]]:
        """The changes of `--data`: folders, number of classes, and the plan of a run on so many images.

        Of a config that reads texts it is also a table, see `find_texts`.

        The config is only read, for its check comes with these overrides; for `root` see `find_splits`.

        Args:
            training: Otherwise the model of a checkpoint is evaluated: its classes count, and of a folder
                without splits all images, unless some were held out of its training.
            plan: Fit the recipe to the number of images.

        Returns:
            Overrides, to go before the user's, and lines that say so; none where the config lacks a dataset,
            which its check will tell.

        Raises:
            DataError: The folder isn't laid out as it should be.
            ConfigError: The config reads its images from something else than folders.
        """
        texts = own_texts.reads_texts(get_config(self.path, stored=self.stored))
        told = own_texts.not_of_datasets(overrides) if texts else overrides
        tree = get_config(self.path, told, schema=Experiment, stored=self.stored)
        if not all(isinstance(value_at(tree, f"dataloader.{split}.dataset"), Mapping) for split in _BOTH):
            return [], []
        own_classes = training or self.stored is None
        # An evaluated checkpoint's training data stay as they are: they may be gone.
        splits = _BOTH if own_classes else ("val",)
        added = own_texts.same_layout(tree, root, splits) if texts else []
        if added:
            return added, [f"data: GLUE in {root}"]
        found = own_texts.find(tree, root, overrides, own_classes) if texts else find_splits(root)
        held_out = found.held_out
        if not own_classes and value_at(tree, "dataloader.train.dataset.part") != "train":
            held_out = False
        if isinstance(found, OwnTexts):
            added = own_texts.datasets(tree, found, held_out, splits)
        else:
            added = self._folders(tree, found, held_out)
        if own_classes:
            added.append(f"model.head.num_classes={len(found.class_names) or 1}")
        lines = _describe(found, held_out, training)
        if training and plan:
            fitted = _plan(tree, overrides, found)
            added += fitted.overrides
            lines += fitted.lines
        return added, lines

    def _folders(self, tree: Mapping[str, Any], found: OwnFolder, held_out: bool) -> list[str]:
        """The overrides of both datasets."""
        wanted = "ImageFolder" if found.packed is None else "PackedImages"
        faults: list[Fault] = []
        added: list[str] = []
        for split, folder in (("train", found.train), ("val", found.val)):
            path = f"dataloader.{split}.dataset"
            kind = value_at(tree, f"{path}.name")
            if kind not in _FOLDERS and found.packed is None and self.stored is None:
                message = f"--data is for configs that read folders (ImageFolder), and {self.path} has {kind}"
                faults.append(Fault(f"{path}.name", message))
            if kind != wanted:
                added.append(f"{path}.name={wanted}")
            added += [f"{path}.dataroot={json.dumps(folder, ensure_ascii=False)}", f"{path}.apply_exif=true"]
            if held_out:
                added.append(f"{path}.part={split}")
            elif value_at(tree, f"{path}.part") is not None:
                added.append(f"{path}.part=all")
        if faults:
            raise ConfigError(faults)
        return added


def _plan(tree: Mapping[str, Any], overrides: Sequence[str], found: OwnFolder | OwnTexts) -> RunPlan:
    """The recipe fitted to the number of images, or texts."""
    share = value_at(tree, "dataloader.train.dataset.val_share")
    if not isinstance(share, float):  # left out, or faulty, which the check of the whole config tells
        share = VAL_SHARE
    return RunPlan(tree, overrides, lambda most: found.count_items(most, share), f"{found.noun}s")


def _describe(found: OwnFolder | OwnTexts, held_out: bool, training: bool) -> list[str]:
    names = ", ".join(found.class_names[:10])
    if len(found.class_names) > 10:
        names += " ..."
    said = [f"data: {len(found.class_names)} classes in {found.train}: {names}"]
    if not found.class_names:
        said = [f"data: texts with a number each in {found.train}"]
    if held_out:
        line = f"data: no validation {found.kind}: some of each class are held out (dataset.val_share)"
        if not training:
            line = (
                f"data: no validation {found.kind}: of each class the share that training holds out is "
                f"taken; for all {found.noun}s add -o dataloader.val.dataset.part=all"
            )
        said.append(line + zh("held_out"))
    elif found.held_out:
        said.append(f"data: all {found.noun}s of {found.val} are evaluated" + zh("all_evaluated"))
    else:
        said.append(f"data: validation in {found.val}")
    return said
