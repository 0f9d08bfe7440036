"""Sets everything up on a fresh machine and runs the demonstration or the tests. Standard library only.

    python3 tools/start.py demo [--seed N] [--nproc auto|N]
                                                train, evaluate and predict on handwritten digits
    python3 tools/start.py test [pytest args]   lint, type-check and test
    python3 tools/start.py test --quick         the same without the slow tests, for while you work
    python3 tools/start.py setup                only install what the tests need

Each makes `.venv` beside this checkout and installs into it; a second call finds it there and goes on.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
# The demonstration needs little; the tests run all that there is.
EXTRAS = {"demo": "digits", "test": "digits,test,export,serve,docs"}


def call(*command: str | Path, **more) -> None:
    """Runs a command in the checkout; its failure ends this script with its status."""
    # Ctrl-C reaches the command as well, which may have something to save before it ends.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    status = subprocess.run([str(part) for part in command], cwd=ROOT, check=False, **more).returncode
    signal.signal(signal.SIGINT, before)
    if status:
        print(f"failed (status {status}): {' '.join(str(part) for part in command)}", file=sys.stderr)
        sys.exit(status)


def set_up(command: str) -> None:
    """Makes the virtual environment and installs what a command requires, if it isn't installed already."""
    if sys.version_info < (3, 10):
        sys.exit(f"Python 3.10 or newer is needed (3.11 is what CI runs); this is {sys.version.split()[0]}")
    files = [*sorted(ROOT.glob("requirements*.txt")), ROOT / "setup.py", ROOT / "pyproject.toml"]
    wanted = hashlib.sha256(b"".join(f.read_bytes() for f in files) + str(ROOT).encode()).hexdigest()
    # What the tests require holds all that the demonstration does.
    stamps = {name: VENV / f"installed-{name}.sha256" for name in EXTRAS}
    if any(stamps[name].exists() and stamps[name].read_text() == wanted for name in (command, "test")):
        return
    size, room = {"demo": (300, 2.5), "test": (600, 3.5)}[command]
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < room:
        sys.exit(f"setting up {VENV} takes up to {room} GB; {free:.1f} GB are free there: make room")
    print(f"setting up {VENV} (about {size} MB to download, a minute or two)", flush=True)
    if not PYTHON.exists():
        made = subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=False, capture_output=True)
        if made.returncode:  # Debian's Python comes without ensurepip; pip can then install from outside
            call(sys.executable, "-m", "venv", "--without-pip", VENV)
    pip = [PYTHON, "-m", "pip"]
    if subprocess.run([*pip, "--version"], check=False, capture_output=True).returncode:
        pip = [sys.executable, "-m", "pip", "--python", PYTHON]
    quiet = ["--quiet", "--disable-pip-version-check"]
    call(*pip, "install", *quiet, "-r", "requirements.txt", "-e", f".[{EXTRAS[command]}]")
    stamps[command].write_text(wanted)


def demo(seed: int, processes: int) -> None:
    """Trains the small SoT on the digits, evaluates it, and predicts a few images.

    Several processes share the images of each update.
    """
    began = time.time()
    output = f"output/demo-seed{seed}"
    run, data = ROOT / output / "sot_digits", "data/digits"
    config = "configs/sot/sot_digits.yaml"
    settings = ["-o", f"seed={seed}", f"output_dir={output}"]
    call(PYTHON, "-c", f"from passl_sot.data.datasets.digits import write_digits; write_digits({data!r})")
    train = [PYTHON]
    if processes > 1:
        train += ["-m", "paddle.distributed.launch", "--nproc_per_node", str(processes)]
        train += ["--log_level", "ERROR", "--log_dir", f"{output}/log"]
    size = "dataloader.train.sampler.batch_size"
    # An earlier call may have been by another number of processes.
    go_on = ["--resume", "auto", "--resume-override", size]
    call(*train, "tools/train.py", "-c", config, *settings, f"{size}={32 // processes}", *go_on)
    best, report = run / "best.safetensors", run / "evaluation" / "metrics.json"
    call(PYTHON, "tools/eval.py", "-c", config, *settings, "--weights", best, "--out", report)
    images = [sorted((ROOT / data / "val" / str(digit)).glob("*.png"))[0] for digit in (3, 5, 8)]
    call(PYTHON, "tools/predict.py", "--weights", best, *images, "--out", run / "predictions.csv")
    result = json.loads(report.read_text())
    print(
        f"\ndone in {time.time() - began:.0f} s: top-1 accuracy {result['top1']:.2f} % "
        f"on {result['images']} held-out digits"
        f"\nfiles of the run: {run}"
        f"\n  best.safetensors, metrics.jsonl, evaluation/confusion.png, predictions.csv"
        f"\n  for other programs, and for browsers: docs/export.md, docs/serving.md"
        f"\n  curves: {VENV.name}/bin/visualdl --logdir {run.relative_to(ROOT)}/visualdl"
    )


def test(arguments: list[str]) -> None:
    """Lint, types, tests: what CI runs; with `--quick`, without the tests that are marked slow."""
    call(PYTHON, "-m", "ruff", "check", ".")
    call(PYTHON, "-m", "ruff", "format", "--check", ".")
    call(PYTHON, "-m", "mypy")
    # One more than cores: tests that wait for processes would leave a core idle for a quarter of the time.
    whole = ["-n", str((os.cpu_count() or 1) + 1), "--dist", "worksteal"]
    if not arguments:
        arguments = whole
    elif arguments == ["--quick"]:
        arguments = [*whole, "-m", "not slow"]
    call(PYTHON, "tests/run.py", *arguments)


def main() -> None:
    """Parses the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True)
    options = commands.add_parser("demo", help="train, evaluate and predict on handwritten digits")
    options.add_argument("--seed", type=int, default=0)
    several = "processes that train: a number, or auto (default), by the cores; two trained 1.5 times as fast"
    options.add_argument("--nproc", default="auto", help=f"{several} as one on two idle cores")
    commands.add_parser("test", add_help=False)
    commands.add_parser("setup", help="only install what the tests need")
    args, rest = parser.parse_known_args()
    if rest and args.command != "test":
        parser.error(f"unknown arguments: {' '.join(rest)}")
    set_up("demo" if args.command == "demo" else "test")
    if args.command == "demo":
        cores = min(len(os.sched_getaffinity(0)), 8)
        # A power of two divides the batch of 32.
        demo(args.seed, 1 << (cores.bit_length() - 1) if args.nproc == "auto" else int(args.nproc))
    elif args.command == "test":
        test(rest)


if __name__ == "__main__":
    main()
