"""The built wheel in an environment of its own: what it carries and needs, and the first hour from it."""

import email
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import paddle
import pytest

from passl_sot import create_model
from passl_sot.launch.cpu_env import MARK

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow

OWN = """
_base_: [configs/_base_/runtime.yaml, sot_digits]
epochs: 1
model: {{architecture: {{embed_dim: 16, depth: 1, num_heads: 2}}, head: {{num_classes: 3}}}}
lr_scheduler: {{warmup_epochs: 0}}
dataloader:
  train: {{sampler: {{batch_size: 6}}, dataset: {{dataroot: {photos}/train}}}}
  val: {{dataset: {{dataroot: {photos}/val}}}}
"""

# Several commands in one process, where the console command would start Paddle for each.
COMMANDS = """
import json, sys
from passl_sot.cli import main
for words in json.loads(sys.argv[1]):
    sys.argv = ["passl-sot", *words]
    status = main()
    if status:
        sys.exit(f"{status}: {words}")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy: setuptools keeps a folder `build`, and would add what earlier builds left there."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("passl_sot", "configs"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source" / name)
    build = ["wheel", "--quiet", "--no-deps", "-w", folder, folder / "source"]
    subprocess.run([sys.executable, "-m", "pip", *map(str, build)], check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """A virtual environment with the wheel in it. All other packages are seen in that of the tests."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python"]
    install = [*pip, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run([str(word) for word in install], check=True, capture_output=True)
    # A folder named so is searched last, and its own .pth files, such as an editable install's, don't count.
    packages = next(folder.glob("lib/python*/site-packages"))
    (packages / "those_of_the_tests.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder


def test_what_it_carries_and_needs(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
        facts = email.message_from_bytes(file.read(next(n for n in names if n.endswith("/METADATA"))))
    carried = (
        "configs/sot/sot_small.yaml",
        "configs/_base_/sot.yaml",
        "config/chinese.yaml",
        "data/imagenet_classes.txt",
        "py.typed",
        "published/cards.yaml",
        "serve/page/index.html",
        "serve/page/page.js",
    )
    assert {f"passl_sot/{name}" for name in carried} <= set(names)
    assert not any(name.startswith(("tests/", "tools/")) for name in names)
    # By default it installs what requirements-common.txt does.
    needs = {
        re.split(r"[<>=;]", text)[0] for text in facts.get_all("Requires-Dist") if "extra ==" not in text
    }
    lines = (ROOT / "requirements-common.txt").read_text().splitlines()
    common = {re.split("[<>=]", line)[0] for line in lines if not line.startswith("#")}
    assert needs == common
    assert {"numba", "simplejpeg", "matplotlib", "opencv-python-headless"} <= needs


def test_the_first_hour(environment, tmp_path, write_images):
    write_images(tmp_path / "photos" / "train", 6, seed=0)
    write_images(tmp_path / "photos" / "val", 2, seed=1)
    own = tmp_path / "own.yaml"
    own.write_text(OWN.format(photos=tmp_path / "photos"), encoding="utf-8")
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("PADDLE", "PYTHON")) and k != MARK}

    def run(program: str, *words: object) -> str:
        command = [str(environment / "bin" / program), *map(str, words)]
        more = {"cwd": tmp_path, "env": variables, "capture_output": True, "text": True}
        done = subprocess.run(command, check=False, **more)
        assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def passl_sot(*words: object) -> str:
        return run("passl-sot", *words)

    assert run("python", "-c", "import passl_sot; print(passl_sot.__file__)").startswith(str(environment))
    assert {row["name"] for row in json.loads(passl_sot("list", "sot_*", "--json"))} >= {"sot_small"}
    trained = tmp_path / "output" / "own"
    best, scores = trained / "best.safetensors", tmp_path / "evaluation" / "metrics.json"
    table = tmp_path / "predictions.csv"
    weights, converted = tmp_path / "weights.pdparams", tmp_path / "official.safetensors"
    paddle.save(create_model("sot_digits").state_dict(), str(weights))
    config = "configs/sot/sot_digits.yaml"  # there is no such folder here
    commands = (
        ("train", "-c", own),
        ("train", "-c", own, "-o", "epochs=2", "--resume", "auto", "--resume-override", "epochs"),
        ("eval", "-c", own, "--weights", best, "--out", scores),
        ("predict", "--weights", best, tmp_path / "photos" / "val", "--out", table),
        ("convert", "-c", config, "--src", weights, "--dst", converted, "--to-torch"),
    )
    run("python", "-c", COMMANDS, json.dumps([[*map(str, words)] for words in commands]))
    report = json.loads(scores.read_text(encoding="utf-8"))
    assert report["images"] == 6
    pictures = {Path(name).name for name in report["files"]}
    assert pictures == {
        "per_class.csv",
        "confusion.csv",
        "predictions.csv",
        "confusion.png",
        "reliability.png",
    }
    assert len(table.read_text(encoding="utf-8-sig").splitlines()) == 1 + 6
    assert converted.stat().st_size
    assert passl_sot("doctor").splitlines()[-1] == "fit for work"
