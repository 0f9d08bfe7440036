"""What of an image or text speaks for the class that it is taken for."""

import base64
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from passl_sot.serve.errors import ApiError
from passl_sot.serve.hosted import Loaded
from passl_sot.vis import overlay
from passl_sot.vis.maps import choose_classes, see, views_of
from passl_sot.vis.subject import Read, Subject
from passl_sot.vis.words import words_of


class Word(BaseModel):
    """A part of a text: a word with its relevance in 0 to 1, or what stands between words, with null."""

    text: str
    value: float | None = None


class Explanation(BaseModel):
    """What speaks for the most probable class.

    An image has a `picture` (a JPEG in base64) with its map in colours, a text the `words` of each text.
    """

    path: str = ""
    index: int | None = None
    name: str = ""
    method: str = ""
    picture: str | None = None
    words: list[list[Word]] | None = None
    error: str = ""


class Explanations(BaseModel):
    """For each image or text, in order."""

    explanations: list[Explanation]


def require_maps(model: Loaded) -> None:
    """An ApiError where gradients can't be had."""
    if model.predictor.model is None:
        message = (
            f"{model.name} runs on {model.predictor.engine.name} without gradients: for maps serve the "
            "checkpoint itself, by the engine paddle"
        )
        raise ApiError(422, "no_maps", message)


def explained(model: Loaded, items: Sequence[Any], samples: Sequence[dict[str, Any]]) -> list[Explanation]:
    """Computes the maps of a batch; `require_maps` first."""
    predictor = model.predictor
    assert predictor.model is not None
    subject = Subject(model.name, predictor.model, predictor.task, {})
    (view,) = views_of([subject])
    # The items themselves: their files' names are the client's, and tell no label.
    batch = [
        Read(number, item, "", "", {subject.name: sample})
        for number, (item, sample) in enumerate(zip(items, samples, strict=True))
    ]
    classes = choose_classes(subject, batch)[:, 0]
    found = []
    for item, sample, seen, index in zip(items, samples, see(view, batch, classes, 0), classes, strict=True):
        name = "" if subject.predicts_numbers else subject.class_names[index]
        one = Explanation(index=index, name=name, method=view.method)
        if subject.takes_texts:
            pieces = words_of(subject.task.tokenizer, item, seen.map)
            one.words = [[Word(text=piece.text, value=piece.value) for piece in text] for text in pieces]
        else:
            picture = overlay.shaded(subject.picture(sample), seen.map)
            one.picture = base64.b64encode(overlay.jpeg(picture)).decode()
        found.append(one)
    return found
