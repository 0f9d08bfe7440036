"""Draws the floors of passl_sot, from its imports, into docs/design.md.

    python docs/floors.py

A room is a folder or a file directly below passl_sot; an arrow leads from a room to one that it imports.
Arrows that follow from others are left out. The drawing is Mermaid text, which GitHub and many editors show
as a picture.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "passl_sot"
PAGE = Path(__file__).with_name("design.md")
BEGIN, END = "<!-- floors: drawn by docs/floors.py -->\n", "<!-- end of floors -->\n"

# From below. A room imports from lower floors and from itself alone; tests/test_architecture.py holds that.
FLOORS = (
    ("config", "imageio", "version"),
    ("utils",),
    ("launch", "metrics", "nn"),
    ("data", "engines", "modeling", "optim", "weights"),
    ("tasks",),
    ("engine", "export", "interop"),
    ("published",),
    ("bench", "judging", "predict", "vis", "zoo"),
    ("dense", "model", "serve"),
    ("cli",),
    ("__main__",),
    ("__init__",),
)
# Rooms that say nothing about the structure: the version's number, a logger, the names the package hands on.
NOT_DRAWN = ("version", "utils", "__init__", "__main__")


def room_of(path: Path) -> str:
    """The room in which a file of the package lies."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> Iterator[str]:
    """Dotted names of the modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == PACKAGE.name:
            yield from (f"{PACKAGE.name}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def rooms() -> dict[str, set[str]]:
    """For each room those that it imports."""
    found: dict[str, set[str]] = {room: set() for floor in FLOORS for room in floor}
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in imports_of(path):
            package, _, rest = name.partition(".")
            if package == PACKAGE.name and rest:
                found[room_of(path)].add(rest.partition(".")[0])
    return {room: others - {room} for room, others in found.items()}


def reached(room: str, arrows: dict[str, set[str]]) -> set[str]:
    """All rooms that a room imports, directly or through others."""
    return arrows[room].union(*(reached(other, arrows) for other in arrows[room]))


def drawing() -> str:
    """The Mermaid text."""
    arrows = {room: others - set(NOT_DRAWN) for room, others in rooms().items()}
    lines = ["```mermaid", "flowchart TB"]
    drawn = [[room for room in floor if room not in NOT_DRAWN] for floor in reversed(FLOORS)]
    for number, floor in enumerate(filter(None, drawn)):
        lines.append(f'  subgraph floor{number}[" "]')
        lines += [f"    {room}" for room in floor]
        lines.append("  end")
    for floor in filter(None, drawn):
        for room in floor:
            through_others = set().union(*(reached(other, arrows) for other in arrows[room]))
            lines += [f"  {room} --> {other}" for other in sorted(arrows[room] - through_others)]
    return "\n".join([*lines, "```\n"])


def page_with(picture: str) -> str:
    """The page with `picture` in place of the one that it has."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    return before + BEGIN + picture + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(page_with(drawing()), encoding="utf-8")
