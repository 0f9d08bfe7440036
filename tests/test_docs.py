"""The documents are run: every command and every Python example in them, in order, as a reader would.

A block of YAML that begins with a file's name in a comment becomes that file.
"""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from passl_sot.cli import main

ROOT = Path(__file__).parent.parent
PAGES = (
    "README.md",
    "docs/first_hour.md",
    "docs/config.md",
    "docs/data.md",
    "docs/recipes.md",
    "docs/convert.md",
    "docs/dense.md",
    "docs/export.md",
    "docs/judging.md",
    "docs/paddleclas.md",
    "docs/performance.md",
    "docs/serving.md",
    "docs/seeing.md",
    "docs/results/README.md",
    "docs/results/dense.md",
    "docs/results/seeing.md",
    "docs/results/text/README.md",
    "docs/text.md",
)
OWN_MODEL = "docs/own_model.md"  # run by test_own_model
CHINESE = ("docs/zh/first_hour.md", "docs/zh/own_model.md", "docs/zh/text.md", "docs/zh/seeing.md")
# Run elsewhere: the demo by test_demo below, the tests by whoever runs this one, the studies and the
# benchmark of processes at a tiny size by test_study and test_benchmark, the server in tests/serve, the
# trainings on ImageNet and GLUE by somebody with the data (test_configs checks their configs), what is
# fetched by the tests of tests/published.
ELSEWHERE = (
    "tools/start.py",
    "source ",
    "docs/results/study.py",
    "docs/results/seeing.py",
    "docs/results/text_study.py",
    "--pretrained bert_base",
    "data/glue",
    "minilm.yaml",
    "tools/benchmark.py -c sot_digits --mode processes",
    "docs/results/serving.py",
    "passl-sot serve",
    "passl-sot dense train -c mask",  # these four in tests/dense, on made-up data
    "passl-sot dense eval",
    "passl-sot dense predict",
    "passl-sot dense export",
    "--target packages",
    "docs/results/dense_data.py",
    "docs/results/dense_study.py",
    "docs/results/dense_pictures.py",
    "docs/results/dense_sizes.py",
    "curl ",
    "tools/train.py -c configs/sot/sot_small.yaml",
)


def blocks(page: str) -> list[tuple[str, str]]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```(bash|python|yaml)\n(.*?)^```", text, re.M | re.S)


def run(kind: str, text: str, folder: Path, monkeypatch) -> None:
    if kind == "yaml":
        name = re.match(r"# (\w+\.yaml)\n", text)
        if name:
            (folder / name[1]).write_text(text, encoding="utf-8")
        return
    if kind == "python":
        run_code(text, folder, monkeypatch)
        return
    for command in text.strip().splitlines():
        if any(part in command for part in ELSEWHERE):
            continue
        words = shlex.split(command)
        if words[:2] == ["python", "-c"]:
            run_code(words[2], folder, monkeypatch)
        elif words[:1] == ["python"] and words[1].endswith(".py"):
            run_script(words[1:], folder, monkeypatch)
        elif words[:1] == ["passl-sot"] and not re.search("[|<>&;]", command):
            run_command(words, folder, monkeypatch)
        else:
            run_process(["bash", "-c", command], folder)


def run_code(text: str, folder: Path, monkeypatch) -> None:
    """Runs an example in this process, with names of its own."""
    monkeypatch.chdir(folder)
    exec(compile(text, "<example>", "exec"), {"__name__": "__main__"})


def run_script(words: list[str], folder: Path, monkeypatch) -> None:
    """Runs a script in this process, which saves each of some forty commands the start of Paddle."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(words[0], run_name="__main__")
    assert not end.value.code, words


def run_command(words: list[str], folder: Path, monkeypatch) -> None:
    """Runs `passl-sot ...` in this process, for the same reason."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", words)
    assert main() == 0, words


def run_process(arguments: list[str], folder: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PADDLE")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(
        arguments, check=False, capture_output=True, text=True, cwd=folder, env=environment, timeout=600
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory) -> Path:
    """A twentieth of the demo's data: that the commands work is tested here, not what they learn."""
    from passl_sot.data.datasets.digits import write_digits

    whole = tmp_path_factory.mktemp("digits") / "digits"
    write_digits(str(whole))
    for folder in whole.glob("*/*"):
        for path in sorted(folder.glob("*.png"))[8:]:
            path.unlink()
    return whole


@pytest.fixture
def copy_of_the_checkout(tmp_path, few_digits, monkeypatch) -> Path:
    """A folder that looks like the checkout, with data in it, so that nothing is left in ours or at home."""
    monkeypatch.setenv("PASSL_SOT_HOME", str(tmp_path / "home"))
    for name in ("configs", "tools", "ppcls_tools", "passl_sot"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(few_digits, tmp_path / "data" / "digits")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_page(page, copy_of_the_checkout, monkeypatch):
    if page == "docs/dense.md":
        pytest.importorskip("paddleseg", reason="PaddleSeg is not installed")
    found = blocks(page)
    assert found
    for kind, text in found:
        run(kind, text, copy_of_the_checkout, monkeypatch)


def test_configs_on_the_page_of_recipes(copy_of_the_checkout, monkeypatch):
    found = [text for kind, text in blocks("docs/recipes.md") if kind == "yaml"]
    assert found
    for block in found:
        path = copy_of_the_checkout / "own.yaml"
        path.write_text(block)
        run_script(["tools/print_config.py", "-c", str(path)], copy_of_the_checkout, monkeypatch)


@pytest.mark.parametrize("page", CHINESE)
def test_commands_of_the_chinese_page_are_the_english_ones(page):
    pages = (*PAGES, OWN_MODEL)
    english = [line for other in pages for _, text in blocks(other) for line in text.splitlines()]
    chinese = [line for _, text in blocks(page) for line in text.splitlines()]
    assert chinese
    assert set(chinese) <= set(english)


@pytest.mark.slow
def test_own_model(copy_of_the_checkout, monkeypatch):
    """The page's models learn; its files make commands that know the model of their own."""
    monkeypatch.chdir(copy_of_the_checkout)
    names: dict = {}
    for kind, text in blocks(OWN_MODEL):
        file = re.match(r"# (\w+\.(?:py|yaml))\n", text)
        if file:
            Path(file[1]).write_text(text, encoding="utf-8")
        elif kind == "python":
            exec(compile(text, OWN_MODEL, "exec"), names)
        else:
            for command in text.strip().splitlines():
                run_process(shlex.split(command), copy_of_the_checkout)
    # About 0.75 both; one class in ten by guessing.
    assert names["with_token"] > 0.5
    assert names["without_token"] > 0.5
    assert len(Path("output/my_net/sevens.csv").read_text().splitlines()) > 8


def test_every_page_is_tested_or_has_nothing_to_run():
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        page = str(path.relative_to(ROOT))
        if page in (OWN_MODEL, *CHINESE):
            continue  # the tests above
        assert page in PAGES or {kind for kind, _ in blocks(page)} <= {"yaml"}, page


def test_links_between_pages_lead_somewhere():
    for path in [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
            assert target.startswith("https://") or (path.parent / target).exists(), f"{path}: {target}"


@pytest.mark.slow
def test_demo(tmp_path):
    """The README's first command, as written, from a checkout that is set up: trains to 97 % and says so."""
    command = next(text for kind, text in blocks("README.md") if "demo" in text).strip()
    if not list((ROOT / ".venv").glob("installed-*.sha256")):
        pytest.skip("this checkout was set up by other means than tools/start.py")

    def demo() -> subprocess.CompletedProcess:
        shell = ["bash", "-c", f"{command} --seed 3"]
        return subprocess.run(shell, check=False, capture_output=True, text=True, cwd=ROOT, timeout=1500)

    done = demo()
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    top1 = float(re.search(r"top-1 accuracy ([\d.]+) %", done.stdout)[1])
    assert top1 >= 97
    folder = Path(re.search(r"files of the run: (.+)", done.stdout)[1])
    for name in ("best.safetensors", "metrics.jsonl", "evaluation/confusion.png", "predictions.csv"):
        assert (folder / name).stat().st_size
    again = demo()
    assert again.returncode == 0
    assert "already complete" in again.stdout
    assert float(re.search(r"top-1 accuracy ([\d.]+) %", again.stdout)[1]) == top1
