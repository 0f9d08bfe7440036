"""Makes environments for the real PaddleX and the real PaddleClas, which can't live beside this project.

    python3 ppcls_tools/make_client_envs.py [paddlex] [paddleclas]

makes `.venv-paddlex` and `.venv-paddleclas` in this checkout, by default both; a second call finds them.
Tests of `ppcls_tools` run these programs in them. Standard library only.
"""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_PADDLE = "paddlepaddle==3.3.1"
_ONNX = "onnxruntime==1.32.0"
# Lists of packages that are installed one after the other; "--no-deps" leaves out what prediction never
# imports.
CLIENTS = {
    "paddlex": [["paddlex==3.7.2", _PADDLE, _ONNX, "opencv-contrib-python==4.10.0.84", "pypdfium2==5.15.2"]],
    "paddleclas": [
        # paddleclas 2.6.0 pins its NumPy, and its OpenCV is of that time.
        [
            *(_PADDLE, _ONNX, "numpy==1.24.4", "opencv-python==4.6.0.66", "faiss-cpu==1.8.0.post1"),
            *("prettytable", "pyyaml", "requests", "scikit-learn", "scipy", "setuptools<81", "six", "tqdm"),
        ],
        ["--no-deps", "paddleclas==2.6.0"],
    ],
}
_STAMP = "installed.sha256"


def python_of(client: str) -> Path:
    """The interpreter of a client's environment, which need not be there."""
    return _folder(client) / "bin" / "python"


def is_ready(client: str) -> bool:
    """Whether the environment is there, whole, and of these versions."""
    stamp = _folder(client) / _STAMP
    return stamp.is_file() and stamp.read_text() == _digest(client)


def _folder(client: str) -> Path:
    return ROOT / f".venv-{client}"


def _digest(client: str) -> str:
    return hashlib.sha256(f"{CLIENTS[client]} {sys.version_info[:2]}".encode()).hexdigest()


def _make(client: str) -> bool:
    """Makes one environment; False, with a line that says so, where that fails."""
    folder = _folder(client)
    print(f"setting up {folder}", flush=True)
    commands = [[sys.executable, "-m", "venv", "--clear", str(folder)]]
    pip = [str(python_of(client)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    commands += [[*pip, *packages] for packages in CLIENTS[client]]
    for command in commands:
        if subprocess.run(command, check=False).returncode:
            shutil.rmtree(folder, ignore_errors=True)  # its disk space may be what failed
            print(f"{client} could not be installed; the tests that need it are skipped", file=sys.stderr)
            return False
    (folder / _STAMP).write_text(_digest(client))
    return True


def main(arguments: list[str]) -> int:
    """Makes the environments named; 1 if one could not be made, 2 for an unknown name."""
    unknown = [name for name in arguments if name not in CLIENTS]
    if unknown:
        print(f"unknown: {', '.join(unknown)}; choose among {', '.join(CLIENTS)}", file=sys.stderr)
        return 2
    made = [is_ready(client) or _make(client) for client in arguments or CLIENTS]
    return int(not all(made))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
