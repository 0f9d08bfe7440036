"""How log lines speak of a task."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """How log lines speak of a task.

    Attributes:
        item: One input of a model ("image").
        score: The score that chooses the best weights.
        unit: Follows the score's number.
        if_flat: Likely causes of a loss that doesn't fall.
        if_guessed: Likely causes of a falling loss beside a score that guessing reaches.
    """

    item: str = "item"
    score: str = "score"
    unit: str = ""
    if_flat: str = "the learning rate may be far too low or too high, or the targets belong to other items"
    if_guessed: str = "the two splits may not belong together, or there is too little to learn from"

    @property
    def items(self) -> str:
        """The plural of `item`."""
        return f"{self.item}s"
