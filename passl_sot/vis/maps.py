"""What models, or parts of their fused heads, see of items: maps, predictions, and how far to trust them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle

from passl_sot.config import did_you_mean, nearest
from passl_sot.config.errors import listing
from passl_sot.vis.faithfulness import Faithfulness, faithfulness
from passl_sot.vis.relevance import explain, methods_of, parts_of
from passl_sot.vis.subject import Read, Subject, VisualizeError

WHOLE = "all"


@dataclass(frozen=True)
class View:
    """A way to see an item: a model, or a part of its fused head.

    Attributes:
        subject: The model.
        part: As of `explain`.
        method: The same.
        name: What the view is called beside others.
    """

    subject: Subject
    part: str
    method: str
    name: str


@dataclass(frozen=True)
class Seen:
    """What a view shows of an item for a class.

    Attributes:
        view: The view.
        index: The class.
        map: Relevances, float32 [H, W] or, of a text, [L].
        predicted: The class that the view's logits predict.
        probability: Its; where labels are numbers the number that is predicted.
        of_class: The probability of the class `index`.
        curves: Of insertion and deletion, float32 [steps + 1] each; None without steps, and of numbers.
    """

    view: View
    index: int
    map: np.ndarray
    predicted: int
    probability: float
    of_class: float
    curves: Faithfulness | None

    @property
    def areas(self) -> dict[str, float]:
        """Below the curves, by their names; empty without them."""
        if self.curves is None:
            return {}
        return {name: float(area) for name, area in self.curves.areas().items()}


def views_of(subjects: Sequence[Subject], *, parts: bool = False, method: str | None = None) -> list[View]:
    """The views of models, each as a whole or, with `parts`, by the parts of its head and then as a whole.

    Args:
        subjects: The models.
        parts: Whether to show parts.
        method: The method of all; by default each model's own.

    Raises:
        VisualizeError: A head isn't fused, or a model has no such method.
    """
    views = []
    for subject in subjects:
        chosen = _method(subject, method)
        if not parts:
            views.append(View(subject, WHOLE, chosen, subject.name))
            continue
        known = [part for part in parts_of(subject.model) if part != WHOLE]
        if not known:
            raise VisualizeError(
                f"{subject.name} has no parts to show: its {type(subject.model.head).__name__} doesn't add "
                "logits of the class token and of words; leave out --parts"
            )
        whose = f", {subject.name}" * (len(subjects) > 1)
        for part, name in [*zip(known, known, strict=True), (WHOLE, "+".join(known))]:
            views.append(View(subject, part, chosen, name + whose))
    return views


def _method(subject: Subject, asked: str | None) -> str:
    methods = methods_of(subject.model)
    chosen = asked or next(iter(methods), "")
    if chosen not in methods:
        near = did_you_mean(nearest(asked, methods))
        raise VisualizeError(
            f"{subject.name} ({type(subject.model.backbone).__name__}) has no method {chosen!r}{near}; it "
            f"has: {listing(methods) or 'none'}"
        )
    return chosen


def choose_classes(
    subject: Subject, batch: Sequence[Read], *, asked: int | None = None, top_k: int = 0
) -> np.ndarray:
    """The classes whose maps are shown of each item, int64 [B, k].

    Args:
        subject: Whose predictions count.
        batch: The items.
        asked: One class for all.
        top_k: The most probable ones. With neither, it is the label where a file's folder tells it, else the
            predicted class.
    """
    if asked is not None:
        return np.full((len(batch), 1), asked)
    labels = [None if top_k else subject.label_of(read.item) for read in batch]
    # A forward pass only where some item's class isn't known without.
    if None not in labels:
        return np.array(labels)[:, np.newaxis]
    with paddle.no_grad():
        logits = subject.model(*subject.inputs([read.samples[subject.name] for read in batch]))
    classes = np.argsort(-logits.numpy(), axis=1, kind="stable")[:, : max(1, top_k)]
    for own, label in zip(classes, labels, strict=True):
        if label is not None:
            own[0] = label
    return classes


def see(view: View, batch: Sequence[Read], classes: np.ndarray, steps: int) -> list[Seen]:
    """What a view shows of items.

    Args:
        view: The view.
        batch: The items.
        classes: For each the class that its map is of, int64 [B].
        steps: Of the curves by which maps are judged; 0 for none.
    """
    subject = view.subject
    inputs = subject.inputs([read.samples[subject.name] for read in batch])
    options: dict[str, Any] = {"part": view.part}
    if subject.takes_texts:
        options["special_ids"] = subject.task.tokenizer.added_ids
    found = explain(subject.model, inputs, classes, method=view.method, **options)
    curves: list[Faithfulness | None] = [None] * len(batch)
    # Numbers have no probability whose curve could be drawn.
    if steps and not subject.predicts_numbers:
        if subject.takes_texts:
            options["baseline"] = subject.task.tokenizer.mask_id
        options["probabilities"] = subject.task.probabilities
        of_all = faithfulness(subject.model, inputs, found.maps, classes, steps=steps, **options)
        curves = [Faithfulness(*of_one) for of_one in zip(*of_all, strict=True)]
    outputs = subject.task.probabilities(paddle.to_tensor(found.logits)).numpy()
    best = outputs.argmax(axis=1)
    return [
        Seen(
            view=view,
            index=int(classes[i]),
            map=found.maps[i],
            predicted=int(best[i]),
            probability=float(outputs[i, best[i]]),
            of_class=float(outputs[i, classes[i]]),
            curves=curves[i],
        )
        for i in range(len(batch))
    ]
