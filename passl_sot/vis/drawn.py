"""What all pictures of the inside of a model are."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Drawn(NamedTuple):
    """A picture.

    Attributes:
        name: Of its file, without suffix.
        figure: The picture, whose own titles say what it shows.
        caption: What can be read off it.
    """

    name: str
    figure: "Figure"
    caption: str
