"""Classification of texts, one or a pair of them each; or, where labels are numbers, regression."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import paddle

from passl_sot.config import (
    Config,
    ConfigError,
    NonNegative,
    NonNegativeByEpoch,
    NotEmpty,
    make_section,
    value_at,
    zh,
)
from passl_sot.data import DATASETS, DataError, ItemError, build_dataset, check_texts
from passl_sot.data.given import collect_texts
from passl_sot.data.schema import DataSection
from passl_sot.data.token_files import TokenizerSection
from passl_sot.data.tokens import Tokenizer, make_tokenizer, pad
from passl_sot.metrics import CorrelationMeter, SentenceMeter
from passl_sot.metrics.classification import write_table
from passl_sot.modeling.backbones import BACKBONES
from passl_sot.modeling.classifier import Classifier
from passl_sot.tasks.base import TASKS, Batch, Words
from passl_sot.tasks.labelled import LabelledTask
from passl_sot.tasks.text_faults import find_faults, input_faults, kind_faults
from passl_sot.weights.checkpoint import CheckpointError

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_KEYS = ("text", "text_pair")
_OF_NUMBERS = ("pearson", "spearman")
# What log lines call them, and the unit.
_SPOKEN = {
    "accuracy": ("accuracy", " %"),
    "matthews": ("Matthews correlation x 100", ""),
    "f1": ("F1 x 100", ""),
    "pearson": ("Pearson correlation x 100", ""),
    "spearman": ("Spearman correlation x 100", ""),
}
_IF_FLAT = (
    "likely the learning rate is far too low or too high (fine-tuning takes about 2e-5), the labels don't "
    "belong to the texts, or the layers that matter are frozen"
)
_IF_GUESSED = (
    "likely there are too few texts to learn more than themselves, the model has no pretrained weights "
    "(--pretrained), or the classes of the two splits differ in more than their names"
)


@dataclass
class TextPrediction:
    """The prediction for a text, or a pair of them.

    Attributes:
        text: The text; so is `text_pair`, empty where there is one alone.
        path: The file it is from; empty for one in memory.
        index: What the file calls it, in a column `index`, or its number there from 0.
        classes: Indices of the most probable classes, best first; empty where labels are numbers.
        names: Theirs; so are `probabilities`, in [0, 1].
        value: The number, where labels are numbers.
        error: Why there is no prediction; empty if there is.
    """

    text: str = ""
    text_pair: str = ""
    path: str = ""
    index: str = ""
    classes: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    value: float | None = None
    error: str = ""


@TASKS.register()
class TextClassificationTask(LabelledTask):
    """Texts to logits to the `loss:` section's loss; see `LabelledTask`.

    Args:
        score: What chooses the best weights. "f1" is that of the second of two classes, or the mean over
            more. "pearson" and "spearman" are for labels that are numbers: the head has one output then.
        lm_weight: Of the loss of predicting each next token, which is added (GPT's auxiliary loss; 0.5 in
            OpenAI's fine-tuning). The log then also has both losses.
    """

    new_meter = SentenceMeter
    takes_texts = True
    batches_ahead = 16

    def __init__(
        self,
        *,
        score: Literal["accuracy", "matthews", "f1", "pearson", "spearman"] = "accuracy",
        lm_weight: NonNegative = 0.0,
        weights: Annotated[list[NonNegativeByEpoch], NotEmpty()] | None = None,
    ):
        super().__init__(weights=weights)
        self.score = score
        self.regression = score in _OF_NUMBERS
        self.lm_weight = lm_weight
        spoken, unit = _SPOKEN[score]
        self.words = Words("sentence", spoken, unit, _IF_FLAT, _IF_GUESSED)
        self.input_names: Sequence[str] = _INPUTS

    # -- before training ----------------------------------------------------------------------------
    def check(
        self, model: Classifier, train: Any, val: Any, section: DataSection, *, every_item: bool = False
    ) -> None:
        """As `Task.check`: the texts by themselves; tokens, lengths and types; score and loss."""
        faults = kind_faults(model, {"train": train, "val": val})
        # What follows asks for what only texts and their models have.
        if not faults:
            check_texts(train, val, model.num_classes)
            faults = find_faults(self, model, train, val)
        if faults:
            raise ConfigError(faults)

    def prepare(self, model: Classifier, train: Any, section: DataSection) -> None:
        """As `Task.prepare`; the loss learns the number of texts of each class."""
        if not self.regression:
            self.loss.use_class_counts(train.class_counts())
        self.backbone: Any = model.backbone
        self.train = train
        self.input_names = model.backbone.input_names
        self.class_names = list(train.class_names)
        self._keep(train.tokenizer, train.pad_to)

    def describe_items(self, train: Any) -> str:
        """As `Task.describe_items`."""
        if self.regression:
            return f"{self.words.items} with a number each"
        return super().describe_items(train)

    # -- training -----------------------------------------------------------------------------------
    def step(self, model: paddle.nn.Layer, batch: Batch) -> dict[str, paddle.Tensor]:
        """As `LabelledTask.step`; numbers to learn are float32 [B]."""
        if self.regression:
            batch = {**batch, "label": batch["label"].unsqueeze(1)}
        if not self.lm_weight:
            return super().step(model, batch)
        # The tokens that the model computes on its way to the logits, so that they aren't computed twice.
        heard: list[Any] = []
        hook = self.backbone.register_forward_post_hook(lambda layer, inputs, output: heard.append(output))
        try:
            losses = super().step(model, batch)
        finally:
            hook.remove()
        language = self.backbone.language_loss(heard[-1], batch["input_ids"])
        total = losses["loss"] + self.lm_weight * language
        return {**losses, "loss": total, "task_loss": losses["loss"], "lm_loss": language}

    def inputs(self, batch: Mapping[str, Any]) -> tuple[Any, ...]:
        """Tokens and mask [B, L], and where the model knows types of tokens those."""
        return tuple(batch[name] for name in self.input_names)

    def counts(self, batch: Batch) -> dict[str, Any]:
        """Tokens, and all places of the batch, with the padding."""
        mask = batch["attention_mask"]
        return {"tokens": mask.sum(), "places": mask.size}

    def pace(self, counts: Mapping[str, float], seconds: float) -> tuple[dict[str, float], str]:
        """Tokens per second, and the fraction of the places that were padding."""
        rate = counts["tokens"] / seconds
        padding = 1 - counts["tokens"] / counts["places"]
        words = f", {rate:.0f} tokens/s, {100 * padding:.0f} % padding"
        return {"tokens_per_s": rate, "padding": padding}, words

    def probe(self, model: Classifier, size: int) -> Batch:
        """Texts of the training set, spread evenly: time and memory depend on their lengths."""
        chosen = np.linspace(0, len(self.train) - 1, size).astype(np.int64)
        batch = self.train.collate([self.train.sample((0, int(i))) for i in chosen])
        return {name: paddle.to_tensor(array) for name, array in batch.items()}

    # -- the card -----------------------------------------------------------------------------------
    def make_card(self, node: Config, names: Sequence[str]) -> dict[str, Any]:
        """As `Task.make_card`; the tokenizer is read from its files."""
        self.class_names = list(names)
        section = make_section(TokenizerSection, node["tokenizer"], "dataloader.val.dataset.tokenizer")
        length = _setting(DATASETS.get(node["name"]), node, "max_length")
        self._keep(make_tokenizer(section, length), node.get("pad_to"))
        return self.describe()

    def _keep(self, tokenizer: Tokenizer, pad_to: int | None) -> None:
        # The tokenizer's own text, so that a checkpoint needs no other file.
        self.preprocessing = {"tokenizer": tokenizer.to_text()}
        if pad_to:
            self.preprocessing["pad_to"] = pad_to

    @classmethod
    def preparations(cls) -> tuple[dict[str, type], dict[str, type]]:
        """As `LabelledTask.preparations`."""
        return {"tokenizer": str}, {"pad_to": int}

    # -- evaluation ---------------------------------------------------------------------------------
    def prepare_evaluation(self, model: Classifier, node: Config, card: Mapping[str, Any]) -> Any:
        """The texts of the config, tokenized and numbered as the checkpoint says.

        Classes that the model alone knows are named by their numbers.
        """
        known = None if self.regression else self.known_classes(card)
        val = self.open_data(model, node, card, known)
        if val.labels is None:
            raise DataError(
                "the texts have no labels, as those of a test set: `passl-sot predict` writes predictions"
                + zh("texts_without_labels")
            )
        self.name_classes(model, val)
        return val

    def open_data(
        self, model: Classifier, node: Config, card: Mapping[str, Any], names: Sequence[str] | None = None
    ) -> Any:
        """As `LabelledTask.open_data`."""
        dataset = build_dataset(_prepared(node, card), class_names=names)
        faults = kind_faults(model, {"val": dataset}) or input_faults("val", model, dataset)
        if faults and card:
            message = f"the checkpoint prepares texts that its model doesn't take: {faults[0].message}"
            raise CheckpointError(message)
        if faults:
            raise ConfigError(faults)
        self.input_names = model.backbone.input_names
        return dataset

    def guess(self, val: Any) -> float | None:
        """As `Task.guess`; None where it isn't known for the score."""
        if self.score == "accuracy":
            return super().guess(val)
        if self.score == "f1":
            return None
        # Chance correlations of N pairs are within 1/sqrt(N) in two of three cases.
        return 100 / len(val) ** 0.5

    def meter(self, model: Classifier, val: Any, *, rows: bool = False) -> Any:
        """As `Task.meter`."""
        if self.regression:
            return CorrelationMeter(len(val))
        return super().meter(model, val, rows=rows)

    def doubt(self, meter: Any) -> str:
        """As `Task.doubt`: whether all texts were given one class, or one number."""
        if self.regression:
            same = meter.items > 1 and not np.ptp(meter.outputs)
            what = "the same number"
        else:
            predicted = meter.confusion.sum(axis=0)
            same = np.count_nonzero(meter.confusion.sum(axis=1)) > 1 and np.count_nonzero(predicted) == 1
            what = f"class {self.class_names[int(predicted.argmax())]!r}"
        if not same:
            return ""
        return f"all {meter.items} predictions are {what}: it has learned nothing yet" + zh("one_prediction")

    def details(self, meter: Any) -> dict[str, Any]:
        """Scores of each class."""
        if self.regression:
            return {}
        return super().details(meter)

    def columns(self, val: Any) -> dict[str, list[str]]:
        """The texts."""
        items = [_texts_of(val.texts(i)) for i in range(len(val))]
        return {"text": [texts[0] for texts in items], "text_pair": ["".join(texts[1:]) for texts in items]}

    def write_files(self, meter: Any, val: Any, folder: Path) -> list[Path]:
        """As `LabelledTask.write_files`; where labels are numbers `predictions.csv` alone."""
        if not self.regression:
            return super().write_files(meter, val, folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "predictions.csv"
        shown = self.columns(val)
        rows = zip(*shown.values(), meter.labels.tolist(), meter.outputs.tolist(), strict=True)
        cells = ([*texts, f"{true:g}", f"{output:.6f}"] for *texts, true, output in rows)
        write_table(path, [*shown, "label", "value"], cells)
        return [path]

    def draw(self, meter: Any, folder: Path, title: str) -> list[Path]:
        """As `LabelledTask.draw`; nothing where labels are numbers."""
        if self.regression:
            return []
        return super().draw(meter, folder, title)

    # -- prediction ---------------------------------------------------------------------------------
    def use_card(self, card: Mapping[str, Any]) -> None:
        """As `Task.use_card`."""
        self.class_names = card["class_names"]
        data = (value_at(card["config"], f"dataloader.val.dataset.{key}") for key in ("text", "second"))
        self.own_columns = [name for name in data if isinstance(name, str)]
        self.preprocessing = card["preprocessing"]
        try:
            self.tokenizer = Tokenizer.from_text(self.preprocessing["tokenizer"])
        except DataError as error:
            raise ValueError(str(error)) from error  # of which `check_card` tells the file
        self.input_names = _inputs_of(card["config"]["model"]["architecture"])

    def items_of(self, node: Mapping[str, Any], card: Mapping[str, Any]) -> list[Any]:
        """The texts, numbered from 0."""
        dataset = build_dataset(_prepared(node, card))
        items = [_texts_of(dataset.texts(i)) for i in range(len(dataset))]
        return [{**dict(zip(_KEYS, texts, strict=False)), "index": i} for i, texts in enumerate(items)]

    def collect(self, arguments: Sequence[str], columns: Sequence[str]) -> list[Any]:
        """Files of texts, `-` for standard input; see `collect_texts`."""
        return collect_texts(arguments, columns, self.own_columns)

    def items(self, given: Any) -> list[Any]:
        """As `Task.items`: one text, or a list of texts and pairs of them."""
        if isinstance(given, str | Mapping):
            return [given]
        if not hasattr(given, "__iter__"):
            raise TypeError(f"a {type(given).__name__} is no text and no list of texts")
        return list(given)

    def read(self, item: Any) -> dict[str, Any]:
        """A text, a pair of texts, or a mapping with `text` and perhaps `text_pair`, as numbers of tokens."""
        texts = _texts_of(item)
        try:
            encoding = self.tokenizer.encode([texts if len(texts) == 2 else texts[0]])[0]
        except DataError as error:
            raise ItemError(repr(texts[0])[:80], str(error)) from error
        return {"input_ids": encoding.ids, "token_type_ids": encoding.types}

    def size_of(self, sample: Mapping[str, Any]) -> int:
        """As `Task.size_of`: tokens, so that little is padded."""
        return len(sample["input_ids"])

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """As `Task.collate`; padded to the longest text, or to the length of the training."""
        pad_to = self.preprocessing.get("pad_to")
        return pad(samples, self.tokenizer.pad_id, pad_to=pad_to, longest=self.tokenizer.max_length)

    def probabilities(self, outputs: paddle.Tensor) -> paddle.Tensor:
        """As `LabelledTask.probabilities`; numbers stay as they are."""
        if self.regression:
            return outputs
        return super().probabilities(outputs)

    def decode(self, outputs: paddle.Tensor, top_k: int) -> list[dict[str, Any]]:
        """As `LabelledTask.decode`; where labels are numbers the `value`."""
        if self.regression:
            return [{"value": float(value)} for value in outputs.numpy()[:, 0]]
        return super().decode(outputs, top_k)

    def row(self, item: Any, error: str, values: Mapping[str, Any]) -> TextPrediction:
        """As `Task.row`; a mapping may also have `path` and `index`."""
        place: dict[str, str] = {}
        if isinstance(item, Mapping):
            place = {key: str(item[key]) for key in ("path", "index") if key in item}
        if not error:
            place |= zip(_KEYS, _texts_of(item), strict=False)
        return TextPrediction(error=error, **place, **values)


def _prepared(node: Mapping[str, Any], card: Mapping[str, Any]) -> Mapping[str, Any]:
    """A `dataset:` section whose texts are prepared as a checkpoint says; as it is without one."""
    if not card:
        return node
    own = card["preprocessing"]
    # The files that its tokenizer is from may be gone. Its text also says how long texts may be.
    return Config({**node, "tokenizer": {"text": own["tokenizer"]}, "pad_to": own.get("pad_to")})


def _inputs_of(architecture: Mapping[str, Any]) -> Sequence[str]:
    """The names of the inputs of a backbone that isn't built."""
    if _setting(BACKBONES.get(architecture["name"]), architecture, "num_types"):
        return _INPUTS
    return _INPUTS[:2]


def _setting(kind: Any, node: Mapping[str, Any], key: str) -> Any:
    """A setting of a registered class, by its section or its default; None where it has no such setting."""
    parameter = inspect.signature(kind).parameters.get(key)
    return node.get(key, parameter.default if parameter else None)


def _texts_of(item: Any) -> tuple[str] | tuple[str, str]:
    """The text of an item, or both of a pair; an ItemError where it is something else."""
    texts = item
    if isinstance(item, Mapping):
        texts = tuple(item[key] for key in _KEYS if item.get(key) is not None)
    elif isinstance(item, str):
        texts = (item,)
    if isinstance(texts, list | tuple) and len(texts) in (1, 2) and all(isinstance(t, str) for t in texts):
        return tuple(texts)  # type: ignore[return-value]
    raise ItemError(repr(item)[:80], "is no text and no pair of texts" + zh("no_text"))
