"""What mkdocs does to the pages beyond rendering them; named in mkdocs.yml.

- The README is the home page.
- A link to a file outside of docs/ becomes the file's path as code: the site doesn't have the file.
- Mermaid becomes a table: the theme would load a script from elsewhere to draw it.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

LINK = re.compile(r"\[([^\]]+)\]\(([^)#\s]+)(#[^)\s]*)?\)")
FENCED = re.compile(r"(^\s*```.*?^\s*```\s*?$|`[^`\n]+`)", re.M | re.S)


def on_files(files: Any, config: Any) -> Any:
    """Adds the README as home page; from there its links count from docs/."""
    docs = Path(config.docs_dir)
    readme = docs.parent / "README.md"
    text = readme.read_text(encoding="utf-8")
    text = outside_code(text, lambda part: LINK.sub(_from_docs, part))
    files.append(File.generated(config, "index.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Mends a page's links and pictures before it is rendered."""
    if page.file.src_uri == "models.md":
        page.meta["hide"] = ["toc"]  # its tables are as wide as the screen
    docs = Path(config.docs_dir).resolve()
    folder = (docs / page.file.src_uri).parent

    def mend(link: re.Match) -> str:
        if "://" in link[2] or (folder / link[2]).resolve().is_relative_to(docs):
            return link[0]
        path = (folder / link[2]).resolve().relative_to(docs.parent)
        if link[1].strip("`") == str(path):
            return f"`{path}`"
        return f"{link[1]} (`{path}`)"

    markdown = outside_code(markdown, lambda part: LINK.sub(mend, part))
    return re.sub(r"^```mermaid\n(.*?)^```$", lambda block: table_of(block[1]), markdown, flags=re.M | re.S)


def outside_code(markdown: str, change: Any) -> str:
    """The text with its parts that are no code changed by a function."""
    parts = FENCED.split(markdown)
    parts[::2] = map(change, parts[::2])  # between the pieces of code
    return "".join(parts)


def table_of(drawing: str) -> str:
    """A flow chart of floors, as docs/floors.py draws it, as a table from the top floor to the lowest."""
    arrows: dict[str, list[str]] = {}
    for room, other in re.findall(r"(\w+) --> (\w+)", drawing):
        arrows.setdefault(room, []).append(f"`{other}`")
    rows = ["| floor | room | imports (what follows from others is left out) |", "|---|---|---|"]
    floors = re.findall(r"subgraph .*?\n(.*?)\n  end", drawing, re.S)
    for height, floor in zip(range(len(floors), 0, -1), floors, strict=True):
        rows += [f"| {height} | `{room}` | {', '.join(arrows.get(room, []))} |" for room in floor.split()]
    return "\n".join(rows)


def _from_docs(link: re.Match) -> str:
    path = link[2]
    if path.startswith("docs/"):
        path = path.removeprefix("docs/")
    elif "://" not in path:
        path = f"../{path}"
    return f"[{link[1]}]({path}{link[3] or ''})"
