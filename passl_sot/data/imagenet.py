"""The 1,000 classes of ImageNet-1K (ILSVRC 2012), in the order of the outputs of models trained on it."""

import functools
from importlib.resources import files
from typing import NamedTuple

COUNT = 1000


class ImageNetClass(NamedTuple):
    """One class.

    Attributes:
        id: Its synset in WordNet 3.0, such as "n01440764", and the name of its folder.
        sets: Of the sets with 200 classes those that have it: "A" (ImageNet-A), "R", "AR", or "-".
        name: The words of the synset, such as "tench, Tinca tinca"; no two classes have the same.
    """

    id: str
    sets: str
    name: str


@functools.cache
def imagenet_classes() -> tuple[ImageNetClass, ...]:
    """All classes in label order, from imagenet_classes.txt, which states where they come from."""
    text = files(__package__).joinpath("imagenet_classes.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return tuple(ImageNetClass(*line.split(" ", 2)) for line in lines)
