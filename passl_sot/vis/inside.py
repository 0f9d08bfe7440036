"""Draws the inside of models into PNG files and a page: tokens of images, second-order matrices of items."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from passl_sot.vis.matrices import Spectra, second_order
from passl_sot.vis.page import Page, png
from passl_sot.vis.subject import Subject, VisualizeError, file_name, read_items
from passl_sot.vis.token_pictures import HOW_TO_READ, token_pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_tokens(
    subjects: Sequence[Subject], items: Sequence[Any], folder: Path, page: Page, *, batch_size: int = 8
) -> list[str]:
    """Draws how each image becomes tokens, and its super tokens.

    Args:
        subjects: Models of images, or else a VisualizeError; so says the model's task.
        items: As their task takes them.
        folder: Gets a PNG of each picture.
        page: Gets a section of each image.
        batch_size: How many are read at once.

    Returns:
        A line for each item that can't be read.
    """
    for subject in subjects:
        if subject.takes_texts:
            raise VisualizeError(f"{subject.name} takes texts: only images have grids of tokens to draw")
    page.section("How to read the pictures", HOW_TO_READ)
    errors: list[str] = []
    for batch in read_items(subjects, items, batch_size, errors):
        for read in batch:
            page.section(read.title)
            for subject in subjects:
                sample = read.samples[subject.name]
                images = subject.inputs([sample])[0]
                for drawn in token_pictures(subject.model.backbone, images, subject.picture(sample)):
                    name = f"{read.stem}{_suffix(subject, subjects)}_{drawn.name}"
                    caption = f"{_owner(subject, subjects)}{drawn.caption}"
                    _put(drawn.figure, name, caption, folder, page)
    return errors


def draw_matrices(
    subjects: Sequence[Subject], items: Sequence[Any], folder: Path, page: Page, *, batch_size: int = 8
) -> list[str]:
    """Draws second-order matrices before and after normalization: of each item, and their mean.

    Arguments and result are those of `draw_tokens`; models may take texts, and a UserError says that a
    model's head has no such matrix.
    """
    errors: list[str] = []
    means = [Spectra() for _ in subjects]
    cards: list[tuple[str, list[tuple[str, Spectra, str]]]] = []
    for batch in read_items(subjects, items, batch_size, errors):
        for read in batch:
            own = []
            for subject, mean in zip(subjects, means, strict=True):
                matrices = second_order(subject.model, subject.inputs([read.samples[subject.name]]))
                mean.add(matrices)
                spectra = Spectra()
                spectra.add(matrices)
                own.append((f"{read.stem}{_suffix(subject, subjects)}", spectra, _owner(subject, subjects)))
            cards.append((read.title, own))
    if len(cards) > 1:
        noun = subjects[0].task.words.items
        title = f"Mean of {len(cards)} {noun}"
        own = [
            (f"mean{_suffix(s, subjects)}", m, _owner(s, subjects))
            for s, m in zip(subjects, means, strict=True)
        ]
        cards.insert(0, (title, own))
    for title, own in cards:
        page.section(title)
        for name, spectra, owner in own:
            _put(
                spectra.figure(f"{owner}{title}"),
                f"{name}_matrices",
                f"{owner}{spectra.summary()}",
                folder,
                page,
            )
    return errors


def _put(figure: "Figure", name: str, caption: str, folder: Path, page: Page) -> None:
    data = png(figure)
    (folder / f"{name}.png").write_bytes(data)
    page.figure(data, caption)


def _owner(subject: Subject, subjects: Sequence[Subject]) -> str:
    """Whose a picture is, where there are several models."""
    return f"{subject.name}: " * (len(subjects) > 1)


def _suffix(subject: Subject, subjects: Sequence[Subject]) -> str:
    return f"_{file_name(subject.name)}" * (len(subjects) > 1)
