"""The account of a conversion: the fate of every key of both sides."""

from collections.abc import Iterable, Sized
from dataclasses import dataclass, field

from passl_sot.config import UserError

_MOST_SHOWN = 3  # names of one reason; the rest is a number
_MOST_ON_A_SCREEN = 20


class ConversionError(UserError, ValueError):
    """A state dict does not fit the model; the text is the report."""

    status = 1


@dataclass
class ConversionReport:
    """The fate of every key of both sides; "source" is the foreign file, shapes are as it has them.

    Attributes:
        naming: "official", another naming of the family's key rules, or "passl_sot" for this project's own.
        loaded: Names in the model that got a value.
        renamed: (Name in the source, name in the model) where the two differ.
        sources: Names in the model to the source's, of all that got a value.
        adapted: (Name in the source, shape there, shape taken) of what the backbone resized.
        channels: The same of what was changed for other image channels.
        extended: The same of what got new rows behind its own.
        zeros: Names in the model that are zeros, as the source lacks them.
        left_new: Names in the model that keep new values, on request or because no such file has them.
        ignored: (Name in the source, why it has no place).
        missing: Names in the model that got nothing.
        unexpected: (Name in the source, nearest free names in the model) of keys without a place.
        mismatched: (Name in the source, name in the model, shape there, shape wanted).
        conflicts: Sentences on keys against the model or each other.
    """

    naming: str = "official"
    loaded: list[str] = field(default_factory=list)
    renamed: list[tuple[str, str]] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    adapted: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    channels: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    extended: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    zeros: list[str] = field(default_factory=list)
    left_new: list[str] = field(default_factory=list)
    ignored: list[tuple[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[tuple[str, list[str]]] = field(default_factory=list)
    mismatched: list[tuple[str, str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)

    @property
    def faults(self) -> int:
        """Number of keys of both sides that are not accounted for."""
        return len(self.missing) + len(self.unexpected) + len(self.mismatched) + len(self.conflicts)

    @property
    def ok(self) -> bool:
        """Whether every key of both sides is accounted for."""
        return not self.faults

    def leave_the_rest_new(self) -> None:
        """Takes what doesn't fit off the lists of faults, for weights of a related model.

        Unless they are of quite another one: then less than half of the model's entries fit.
        """
        if self._is_of_another:
            return
        self.left_new += [*self.missing, *(target for _, target, _, _ in self.mismatched)]
        self.ignored += [(source, "no place in this model") for source, _ in self.unexpected]
        self.ignored += [(source, f"another shape than {target}") for source, target, _, _ in self.mismatched]
        for _, target, _, _ in self.mismatched:
            self.sources.pop(target, None)
        self.missing = []
        self.unexpected = []
        self.mismatched = []

    def raise_if_bad(self) -> None:
        """Raise `ConversionError` unless ``ok``."""
        if not self.ok:
            raise ConversionError(str(self))

    def __str__(self) -> str:
        lines = [self._summary(), *self._details()]
        if len(lines) > _MOST_ON_A_SCREEN:
            lines.append(lines[0])  # the first line is out of sight by now
        return "\n".join(lines)

    def _summary(self) -> str:
        head = f"{len(self.loaded)} loaded ({len(self.renamed)} renamed), {len(self.ignored)} ignored"
        if self.left_new:
            head += f", {len(self.left_new)} left new"
        bad: dict[str, Sized] = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "mismatched": self.mismatched,
            "in conflict": self.conflicts,
        }
        counts = [f"{len(items)} {word}" for word, items in bad.items() if items]
        if not counts:
            return f"all keys accounted for ({self.naming} naming): {head}"
        text = f"the state dict does not fit: {head}" + "".join(f", {count}" for count in counts)
        if self._is_of_another:
            text += (
                f"\n  these are weights of another model: {len(self.loaded)} of {self._wanted} entries fit"
            )
        return text

    @property
    def _wanted(self) -> int:
        return len(self.loaded) + len(self.missing) + len(self.mismatched)

    @property
    def _is_of_another(self) -> bool:
        return 2 * len(self.loaded) < self._wanted

    def _details(self) -> Iterable[str]:
        for name, got, taken in self.adapted:
            yield f"  resized     {name} {list(got)} -> {list(taken)}"
        for name, got, taken in self.channels:
            yield f"  channels    {name} {list(got)} -> {list(taken)}"
        for name, got, taken in self.extended:
            yield f"  new rows    {name} {list(got)} -> {list(taken)}"
        for name in self.zeros:
            yield f"  zeros       {name}: the file has none"
        for name in self.left_new:
            yield f"  left new    {name}"
        reasons: dict[str, list[str]] = {}
        for name, reason in self.ignored:
            reasons.setdefault(reason, []).append(name)
        for reason, names in reasons.items():
            shown = ", ".join(names[:_MOST_SHOWN])
            if len(names) > _MOST_SHOWN:
                shown += f" and {len(names) - _MOST_SHOWN} more"
            yield f"  ignored     {shown}: {reason}"
        unexpected = [
            f"{name} (did you mean {' or '.join(near)}?)" if near and not self._is_of_another else name
            for name, near in self.unexpected
        ]
        mismatched = [
            f"{name} {list(got)} -> {target}, which wants {list(want)}{_hint(target, got, want)}"
            for name, target, got, want in self.mismatched
        ]
        bad = {
            "missing": self.missing,
            "unexpected": unexpected,
            "mismatched": mismatched,
            "in conflict": self.conflicts,
        }
        for word, lines in bad.items():
            # Of another model's hundreds of names a few show which one it is.
            few = lines[:_MOST_SHOWN] if self._is_of_another else lines
            yield from (f"  {word:11} {line}" for line in few)
            if len(few) < len(lines):
                yield f"  {word:11} {len(lines) - len(few)} more"


def _hint(target: str, got: tuple[int, ...], want: tuple[int, ...]) -> str:
    if target.endswith("word_embed.weight"):
        return " (another vocabulary: of other words, or of cased and not of lower-cased ones?)"
    if target.startswith("backbone.") or len(got) != len(want) or len(got) > 2 or got[1:] != want[1:]:
        return ""
    return f" (another number of classes? {got[0]} there, {want[0]} here)"
