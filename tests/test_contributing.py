"""CONTRIBUTING's "add a backbone" is carried out, step by step, in a copy of the project."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def step(text: str, language: str) -> tuple[Path, str]:
    """The file a step names and the code block below it."""
    match = re.search(rf"Write `([^`]+)`:\n\n   ```{language}\n(.*?)   ```", text, re.S)
    body = "\n".join(line[3:] for line in match[2].splitlines()) + "\n"
    return Path(match[1]), body


@pytest.mark.slow
def test_add_a_backbone(tmp_path):
    for name in ("passl_sot", "configs", "docs", "tools", "tests/modeling"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (ROOT / "tests").glob("*.py"):
        shutil.copy(path, tmp_path / "tests")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for language in ("python", "yaml"):
        path, body = step(text, language)
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(body, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    commands = re.search(r"3\. .*?```bash\n(.*?)   ```", text, re.S)[1].strip().splitlines()
    # The project's own rules hold for the new files too.
    tests = re.search(r"4\. .*?```bash\n(.*?)   ```", text, re.S)[1].strip()
    commands.append(f"{tests} tests/test_architecture.py".replace("-k MyNet", "-k 'MyNet or my_net or leaf'"))
    for command in commands:
        done = subprocess.run(
            ["bash", "-c", command.strip()],
            check=False,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
            timeout=300,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-2000:]}"
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 10
