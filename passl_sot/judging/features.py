"""Features of items before a model's head, kept in a file that is read instead of computing them again."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import paddle
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from passl_sot.config import Config, UserError
from passl_sot.data import build_dataloader
from passl_sot.data.schema import SplitSection
from passl_sot.modeling.backbones.base import Tokens
from passl_sot.modeling.classifier import Classifier
from passl_sot.nn.precision import at_least_float32
from passl_sot.nn.second_order import masked_mean
from passl_sot.tasks.base import task_of
from passl_sot.tasks.labelled import LabelledTask
from passl_sot.utils.cache import cache_folder
from passl_sot.utils.files import replace_atomically
from passl_sot.utils.logger import get_logger, progress_bar
from passl_sot.version import __version__

META_KEY = "passl_sot_features"
Pool = Literal["head", "token", "words"]

log = get_logger()


@dataclass
class FeatureBank:
    """Features of the items of a dataset, in its order.

    Attributes:
        features: float32 [N, F].
        labels: int64 [N]; uint8 [N, C] where items have several; float32 [N] where they are numbers; None
            where there are none.
        items: What stands for each item, by the name of a column: `path`, or `text` and `text_pair`.
        facts: `pooling`, which features they are; `class_names`; `model` and `preprocessing`; checksums of
            `weights` and `data`; `fingerprint`, of all that the features depend on.
    """

    features: np.ndarray
    labels: np.ndarray | None
    items: dict[str, list[str]]
    facts: dict[str, Any]

    def write(self, path: Path) -> None:
        """Writes a safetensors file, whole or not at all.

        Its tensors are `features`, `labels`, and `items`, the bytes of a JSON text; the facts are a JSON text
        in its metadata, under `passl_sot_features`.
        """
        text = json.dumps(self.items, ensure_ascii=False).encode()
        tensors = {"features": self.features, "items": np.frombuffer(text, np.uint8)}
        if self.labels is not None:
            tensors["labels"] = np.ascontiguousarray(self.labels)
        blob = save(tensors, {META_KEY: json.dumps(self.facts)})
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_atomically(path, lambda file: file.write(blob))

    @classmethod
    def read(cls, path: Path) -> "FeatureBank":
        """The bank that a file holds.

        Raises:
            UserError: It holds something else, or is damaged.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                facts = json.loads((file.metadata() or {})[META_KEY])
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            items = json.loads(tensors["items"].tobytes())
            return cls(tensors["features"], tensors.get("labels"), items, facts)
        except (SafetensorError, KeyError, ValueError) as error:
            raise UserError(f"{path} holds no features, or is damaged ({error})") from error


class FeatureMaker:
    """Computes features of data by a trained model.

    Args:
        model: In evaluation mode.
        card: Its checkpoint's header: items are prepared as it says.
        pool: "head": what the head's last layers take. "token": the class token. "words": the mean of words.

    Attributes:
        pooling: Which features they are, in words.

    Raises:
        UserError: The model has no such features.
    """

    def __init__(self, model: Classifier, card: Mapping[str, Any], pool: Pool = "head"):
        task = task_of(card)
        if not isinstance(task, LabelledTask):
            raise UserError(f"features are of images and texts that have labels, not of {task.words.items}")
        self.task = task
        self.model = model
        self.card = card
        self.pool = pool
        if pool == "token" and not model.backbone.num_prefix_tokens:
            name = type(model.backbone).__name__
            raise UserError(f"{name} has no class token here: choose --pool head or words")
        self.pooling = {"token": "class token", "words": "mean of words"}.get(pool, model.head.pooling)
        self._weights = _digest({name: t.numpy() for name, t in model.state_dict().items()})

    def open(self, node: Mapping[str, Any], names: Sequence[str] | None = None) -> Any:
        """The dataset of a `dataset:` section, prepared for the model as in its evaluation.

        Args:
            node: The section, of training or validation.
            names: Of the classes, in label order; by default the data's own, whatever the model's are.

        Raises:
            DataError: The data hold other classes.
            CheckpointError: The model doesn't take items that are prepared so.
        """
        # Evaluation's preparation takes the place of training's.
        plain = Config({key: value for key, value in node.items() if key != "batch_transforms"})
        return self.task.open_data(self.model, plain, self.card, names)

    def bank(self, dataset: Any, section: SplitSection, path: Path | None = None) -> tuple[FeatureBank, bool]:
        """The features of a dataset: of the file if they stand there, else new ones, which it then holds.

        Args:
            dataset: As `open` gives it.
            section: How items are read, as `dataloader.val`.
            path: The file; None for one of the cache, which is called by the fingerprint.

        Returns:
            The bank, and whether it was computed.

        Raises:
            UserError: The file holds something else.
        """
        facts = self._facts(dataset)
        place = path or cache_folder() / "features" / f"{facts['fingerprint'][:32]}.safetensors"
        if place.exists():
            # What the user names may be another's, or a checkpoint; the cache is ours to mend.
            with nullcontext() if path else suppress(UserError):
                found = FeatureBank.read(place)
                if found.facts == facts:
                    return found, False
            log.info("%s holds features of other weights, data or preprocessing: they are made anew", place)
        loader = build_dataloader(section, mode="val", seed=0, dataset=dataset)
        bank = FeatureBank(self._compute(loader), _labels(dataset), self.task.columns(dataset), facts)
        bank.write(place)
        return bank, True

    def _facts(self, dataset: Any) -> dict[str, Any]:
        identity = dataset.identity()
        facts = {
            "pooling": self.pooling,
            "class_names": dataset.class_names,
            "items": len(dataset),
            "data": _digest(identity),
            "weights": self._weights,
            "model": self.card["config"]["model"],
            "preprocessing": self.card["preprocessing"],
            "version": __version__,
        }
        text = json.dumps(facts, sort_keys=True)
        return {**json.loads(text), "fingerprint": hashlib.sha256(text.encode()).hexdigest()}

    @paddle.no_grad()
    def _compute(self, loader: Any) -> np.ndarray:
        rows: Any = None
        with progress_bar(loader, desc="features") as batches:
            for batch in batches:
                features = at_least_float32(self._features(self.task.inputs(batch))).numpy()
                if rows is None:
                    rows = np.zeros((len(loader.dataset), features.shape[1]), np.float32)
                rows[batch["index"].numpy()] = features
        return rows

    def _features(self, inputs: Sequence[paddle.Tensor]) -> Any:
        found = self.model.forward_features(*inputs)
        if self.pool == "head":
            return self.model.forward_head(found, pre_logits=True)
        tokens = found
        mask = None
        if isinstance(found, Tokens):
            tokens, mask = found
        prefix = self.model.backbone.num_prefix_tokens
        if self.pool == "token":
            return tokens[:, 0]
        return masked_mean(tokens[:, prefix:], None if mask is None else mask[:, prefix:])


def _labels(dataset: Any) -> np.ndarray | None:
    if dataset.multi_hot is not None:
        return dataset.multi_hot
    return dataset.labels


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    """A checksum of arrays and their names."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total.update(f"{name} {array.dtype} {array.shape}\n".encode())
        total.update(array.tobytes())
    return total.hexdigest()
