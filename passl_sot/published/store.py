"""The folder of published weights: each file is fetched once, converted once, and kept with a note.

    ~/.cache/passl_sot/deit_small/deit_small_patch16_224-cd65a155.pth    as its authors made it
                                  deit_small.safetensors                 a checkpoint of this project
                                  deit_small.json                        where it comes from

Files of a model's tokenizer, where it has one, lie beside them.
A checkpoint rather than bare weights, so that all commands that take one know model and preprocessing.
"""

import datetime
import json
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from passl_sot.config import find_config, zh
from passl_sot.data.imagenet import imagenet_classes
from passl_sot.published.cards import MOST_BYTES, Card, card_of, find_card, unreleased
from passl_sot.published.fetch import Expected, FetchError, check_address, download
from passl_sot.utils.cache import HOME, cache_folder, locked
from passl_sot.utils.files import sha256_of
from passl_sot.utils.logger import get_logger
from passl_sot.version import __version__
from passl_sot.weights import CheckpointError
from passl_sot.weights.checkpoint import explained, write_checkpoint, write_whole

OFFLINE = "PASSL_SOT_OFFLINE"
MIRROR = "PASSL_SOT_MIRROR"
TOKENIZER_PATH = "dataloader.train.dataset.tokenizer.path"
# What a name may stand for in the folder where a command is given: weights, or what was exported.
_FILES = ("", ".safetensors", ".pdparams", "/inference.yml")


def is_published_name(given: str | Path) -> bool:
    """Whether weights by name are meant, published or not: nothing here is called so."""
    name = str(given)
    if any(Path(f"{name}{rest}").is_file() for rest in _FILES):
        return False
    return find_card(name) is not None or name in unreleased()


def local_weights(given: str | Path) -> Path:
    """The weights that are meant by a path, or by the name of a card; its file is fetched if need be.

    Raises:
        NotPublishedError: There are no weights of that name.
        CheckpointError: They can't be had, or don't convert.
    """
    if not is_published_name(given):
        return Path(given)
    return published_weights(str(given))


def published_weights(name: str) -> Path:
    """As `local_weights`, by name alone, whatever files are called so."""
    card = card_of(name)
    folder = cache_folder() / card.name
    converted = folder / f"{card.name}.safetensors"
    wanted = [converted, *(folder / file for file in card.tokenizer_files)]
    # Without the lock, for which a folder that others have filled may be read-only.
    if _is_current(card, wanted, _read_note(folder, card)):
        return converted
    with _locked(folder, card):
        note = _read_note(folder, card)
        if not _is_current(card, wanted, note):
            source, note = _local_source(card, folder, note)
            for file, url in card.tokenizer_files.items():
                note |= _tokenizer_file(card, folder / file, url, note)
            note |= _convert(card, source, converted)
            _write_note(folder, card, note)
            get_logger().info("kept %s; licence of the weights: %s", converted, card.weights_license)
    return converted


def _is_current(card: Card, wanted: Sequence[Path], note: dict[str, Any]) -> bool:
    # Another version may name layers or classes otherwise; the authors' file is still there for it.
    made = (note.get("version"), note.get("classes", ""))
    return all(path.is_file() for path in wanted) and made == (__version__, card.classes)


def tokenizer_folder(name: str) -> Path | None:
    """The folder with a card's or config's files of a tokenizer, which are fetched if need be.

    None for models without one. Errors are those of `local_weights`.
    """
    return published_weights(name).parent if card_of(name).tokenizer else None


def local_source(given: str | Path) -> Path:
    """As `local_weights`, for the file as its authors made it."""
    if not is_published_name(given):
        return Path(given)
    card = card_of(str(given))
    folder = cache_folder() / card.name
    with _locked(folder, card):
        source, note = _local_source(card, folder, _read_note(folder, card))
        _write_note(folder, card, note)
    return source


@contextmanager
def _locked(folder: Path, card: Card) -> Iterator[None]:
    """As `utils.cache.locked`; a CheckpointError where the folder can't be written to."""
    with ExitStack() as stack:
        # Of the lock alone: what goes wrong in the block has messages of its own.
        with explained(folder, f"; name another folder with {HOME}"):
            stack.enter_context(locked(folder, f"fetches {card.name}"))
        yield


def _local_source(card: Card, folder: Path, note: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """The authors' file in the folder, right by all that is known of it, and the note on it."""
    target = folder / card.file
    # Where the authors state no checksum, that of the first time counts from then on.
    expected = Expected(card.sizes(), card.sha256)
    before = note.get("sha256", "")
    if before.startswith(card.sha256):
        expected = Expected(card.sizes(), before)
    digest, url = _fetched(card, target, card.url, expected, before)
    if before and not url:
        return target, note  # as it was
    found = {
        "name": card.name,
        "file": card.file,
        "url": url or "by hand",
        "page": card.page,
        "sha256": digest,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "code_license": card.code_license,
        "weights_license": card.weights_license,
    }
    return target, note | found


def _tokenizer_file(card: Card, target: Path, url: str, note: dict[str, Any]) -> dict[str, Any]:
    """Fetches a file of a tokenizer; returns what the note says of it."""
    before = note.get(target.name, "")
    digest, _ = _fetched(card, target, url, Expected((1, MOST_BYTES), before), before)
    return {target.name: digest}


def _fetched(card: Card, target: Path, url: str, expected: Expected, before: str) -> tuple[str, str]:
    """The sha256 of a file in the folder, and where it was fetched; "" if it was there."""
    if target.is_file():
        digest = sha256_of(target)
        fault = expected.complaint(target.stat().st_size, digest)
        if fault:
            raise CheckpointError(f"{target}: {fault}: delete it{_to_accept(card, target.parent, before)}")
        return digest, ""
    url = _address(card, target, url)
    get_logger().info("fetching %s from %s", card.name, url)
    try:
        with explained(target, f"; free some space, or name another folder with {HOME}"):
            return download(url, target, expected), url
    except FetchError as error:
        raise FetchError(
            f"{error}{_to_accept(card, target.parent, before)}. {_by_hand(card, target, url)}"
        ) from error


def _to_accept(card: Card, folder: Path, before: str) -> str:
    if not before or card.sha256:
        return ""
    return f" (if its authors have changed the file, delete {_note_path(folder, card)} too)"


def _address(card: Card, target: Path, url: str) -> str:
    """Where a file is fetched; a FetchError where it can't be, or mustn't."""
    if os.environ.get(OFFLINE, "0") not in ("", "0"):
        raise FetchError(
            f"{card.name} isn't in {target.parent}, and {OFFLINE} is set. {_by_hand(card, target, url)}"
        )
    mirror = os.environ.get(MIRROR)
    if mirror:
        check_address(mirror, urlsplit(mirror).hostname)
        # All models have their words in files of the same names.
        name = target.name if target.name == card.file else f"{card.name}-{target.name}"
        return f"{mirror.rstrip('/')}/{name}"
    if not url:
        raise FetchError(f"{card.name} can only be fetched by hand. {_by_hand(card, target, url)}")
    return url


def _by_hand(card: Card, target: Path, url: str) -> str:
    """How to get a file without this program."""
    place = url
    or_else = ""
    if target.name == card.file:
        place = card.drive or url
        or_else = f"; or `passl-sot convert --config {card.config} --src FILE --dst {card.name}.pdparams"
        if card.settings:
            or_else += f" -o {shlex.join(card.settings)}"
        or_else += "`"
    return (
        f"By hand: fetch {target.name} from {place} (its authors' page: {card.page}), put it at {target} and "
        f"give the same command again{or_else}. {MIRROR}=https://HOST/FOLDER/ names another host"
        + zh("not_fetched")
    )


def _convert(card: Card, source: Path, target: Path) -> dict[str, Any]:
    """Writes the checkpoint; returns what the note says of it."""
    from passl_sot.engine.schema import load_config
    from passl_sot.interop.tool import convert_source
    from passl_sot.tasks.base import header_for
    from passl_sot.weights.find import read_source

    settings = list(card.settings)
    if card.tokenizer:
        settings.append(f"{TOKENIZER_PATH}={json.dumps(str(target.parent))}")
    experiment = load_config(find_config(card.config), settings)
    found = convert_source(read_source(source), experiment.model, name=card.name, key=card.key or None)
    # A head that the file lacks is each run's own.
    kept = found.arrays.keys() - set(found.report.left_new)
    tensors = {f"model.{name}": array for name, array in found.arrays.items() if name in kept}
    names: list[str] = []
    ids: list[str] = []
    if card.classes:
        names = [known.name for known in imagenet_classes()]
        ids = [known.id for known in imagenet_classes()]
    write_checkpoint(target, tensors, header_for(experiment, names, ids))
    return {
        "version": __version__,
        "classes": card.classes,
        "key": found.state.key,
        "naming": found.report.naming,
    }


def _note_path(folder: Path, card: Card) -> Path:
    return folder / f"{card.name}.json"


def _read_note(folder: Path, card: Card) -> dict[str, Any]:
    path = _note_path(folder, card)
    if not path.is_file():
        return {}
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(note, dict) or not all(isinstance(value, str) for value in note.values()):
            raise ValueError("no texts by name")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): delete it") from error
    return note


def _write_note(folder: Path, card: Card, note: dict[str, Any]) -> None:
    path = _note_path(folder, card)
    with explained(path, ""):
        write_whole(path, (json.dumps(note, indent=2, ensure_ascii=False) + "\n").encode())
