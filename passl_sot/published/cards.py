"""Cards of published weights, from cards.yaml and from the file that PASSL_SOT_CARDS names."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import urlsplit

from passl_sot.config import Config, ConfigError, Fault, UserError, list_models, make_section
from passl_sot.config.errors import Origin
from passl_sot.config.yaml_text import Builder, read_text

CARDS = "PASSL_SOT_CARDS"
NOT_STATED = "not stated"
MOST_BYTES = 5_000_000_000  # the largest file here has 0.9 GB
_SIZE = re.compile(r"(\d+\.(\d+)) MB")


@dataclass(frozen=True, kw_only=True)
class Card:
    """One published file.

    Attributes:
        name: What it is fetched by; that of its config, where there is one.
        page: Where the authors tell of it.
        file: Its name.
        url: Where it is fetched; "" where that is only possible by hand.
        drive: The page from which a person can fetch it, where there is one.
        sha256: Its first digits, or all, where the authors state them.
        size: Bytes, or such as "85.08 MB", where the authors state them.
        key: The state dict in it; "" for the usual one.
        config: The model that it is of: a name of `list_models()`, or a path.
        settings: Overrides of that config, as after `-o`.
        starts: Pattern of the configs that it is the start of, such as "bert_base_*"; "" where it is the
            finished model of one.
        tokenizer: Addresses of the files of its tokenizer, for models of texts.
        classes: "imagenet-1k" where the outputs are its 1,000 classes in the usual order; "" for others.
        top1, top5: Published accuracies in percent, on those classes' validation set where `classes` says so.
        code_license, weights_license: As stated by the authors.
    """

    name: str
    page: str
    file: str
    config: str
    url: str = ""
    drive: str = ""
    sha256: str = ""
    size: int | str = ""
    key: str = ""
    settings: list[str] = field(default_factory=list)
    starts: str = ""
    tokenizer: list[str] = field(default_factory=list)
    classes: Literal["", "imagenet-1k"] = ""
    top1: float | None = None
    top5: float | None = None
    code_license: str = NOT_STATED
    weights_license: str = NOT_STATED

    @property
    def tokenizer_files(self) -> dict[str, str]:
        """Names of the tokenizer's files, and their addresses."""
        return {_name_in(url): url for url in self.tokenizer}

    @property
    def access(self) -> str:
        """How it comes here: "by name" or "by hand"."""
        return "by name" if self.url else "by hand"

    def sizes(self) -> tuple[int, int]:
        """The least and the most bytes that the file may have."""
        if isinstance(self.size, int):
            return self.size, self.size
        stated = _SIZE.fullmatch(self.size)
        if not stated:
            return 1, MOST_BYTES
        # A page's MB are 10^6 bytes or 2^20.
        rounding = 10.0 ** -len(stated[2])
        return int((float(stated[1]) - rounding) * 1e6), int((float(stated[1]) + rounding) * 2**20)


class NotPublishedError(UserError, LookupError):
    """No weights of that name were published, by the cards."""


def cards() -> dict[str, Card]:
    """All cards by name; those of PASSL_SOT_CARDS replace shipped ones of their names."""
    found: dict[str, Card] = {}
    for path, tree in _files():
        for family, section in _sections(path, "families", tree.get("families")):
            shared = {key: value for key, value in section.items() if key not in ("files", "base")}
            place = f"families.{family}.files"
            for name, entry in _sections(path, place, section.get("files")):
                try:
                    found[name] = _card(name, {**shared, **entry}, section.get("base", ""), f"{place}.{name}")
                except ConfigError as error:
                    faults = [replace(fault, origin=Origin(str(path))) for fault in error.faults]
                    raise ConfigError(faults) from error
                except (TypeError, KeyError) as error:
                    raise _fault(path, f"{place}.{name}", str(error)) from error
    return found


def _sections(path: Path, place: str, tree: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and contents of the sections in one; a ConfigError where something else is there."""
    if not isinstance(tree or {}, dict):
        raise _fault(path, place, "must be a section")
    for name, section in (tree or {}).items():
        if not isinstance(section, dict):
            raise _fault(path, f"{place}.{name}", "must be a section")
        yield name, section


def _fault(path: Path, place: str, words: str) -> ConfigError:
    return ConfigError([Fault(place, words, Origin(str(path)), "value")])


def _card(name: str, entry: dict[str, Any], base: str, place: str) -> Card:
    url = entry.get("url", "")
    if base and "url" not in entry:
        url = base + entry["file"]
    file = entry.get("file") or _name_in(url)
    card = make_section(
        Card, Config({"config": name, **entry, "name": name, "url": url, "file": file}), place
    )
    # They become names in the cache folder, beside those of the store.
    taken = [f"{name}.safetensors", f"{name}.json"]
    for text in (name, file, *map(_name_in, card.tokenizer)):
        if not re.fullmatch(r"\w[\w.-]*", text) or text in taken:
            raise TypeError(f"no name of a file: {text!r}")
        taken.append(text)
    return card


def _name_in(url: str) -> str:
    return PurePosixPath(urlsplit(url).path).name


def unreleased() -> dict[str, dict[str, Any]]:
    """By name of a model without published weights: `nearest`, the card to start from, or `made_by`."""
    found: dict[str, dict[str, Any]] = {}
    for path, tree in _files():
        found |= _sections(path, "unreleased", tree.get("unreleased"))
    return found


def find_card(name: str, known: Mapping[str, Card] | None = None) -> Card | None:
    """The card of that name, or that which a config of that name starts from, among `cards()`."""
    if known is None:
        known = cards()
    if name in known or name not in list_models():
        return known.get(name)
    return next((card for card in known.values() if fnmatchcase(name, card.starts)), None)


def card_of(name: str) -> Card:
    """As `find_card`; a NotPublishedError says that there is none, and what comes nearest."""
    card = find_card(name)
    if card is not None:
        return card
    entry = unreleased().get(name, {})
    text = f"no weights of {name} are published"
    if "made_by" in entry:
        text += f": its weights are made by {entry['made_by']}, and it is trained in minutes"
    elif entry:
        near = entry["nearest"]
        if entry.get("fits", True):
            text += f"; the nearest start is {near}: "
            text += f"pretrained={near!r} (--pretrained {near}) takes what fits"
        else:
            text += f"; the nearest model with weights is {near}, of another width: nothing of it fits"
    raise NotPublishedError(f"{text}. docs/models.md lists what is published")


def _files() -> Iterator[tuple[Path, Mapping[str, Any]]]:
    paths = [Path(__file__).with_name("cards.yaml")]
    if os.environ.get(CARDS):
        paths.append(Path(os.environ[CARDS]))
    for path in paths:
        read = Builder(read_text(str(path)), str(path))
        if read.faults:
            raise ConfigError(read.faults)
        tree = read.value or {}
        if not isinstance(tree, dict):
            raise _fault(path, "", "must have sections: families, unreleased")
        yield path, tree
