"""Progress bars: gone before an error is printed, and drawn for people alone."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from passl_sot import cli
from passl_sot.engine.trainer import Trainer
from passl_sot.tasks.classification import ClassificationTask
from passl_sot.utils.logger import get_logger, progress_bar
from passl_sot.weights.checkpoint import CheckpointError

ROOT = Path(__file__).parents[2]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def screen(text: str) -> list[str]:
    """The lines that a terminal shows at the end."""
    lines = [""]
    for piece in re.split(r"(\r|\n)", text):
        if piece == "\n":
            lines.append("")
        elif piece == "\r":
            lines[-1] = "\r" + lines[-1].lstrip("\r")
        elif piece and lines[-1].startswith("\r"):
            lines[-1] = piece + lines[-1].lstrip("\r")[len(piece) :]
        else:
            lines[-1] += piece
    return [line.strip("\r ") for line in lines if line.strip("\r ")]


@pytest.fixture
def terminal(monkeypatch):
    """Puts one in place of standard error when called: after the fixtures pytest puts its own there."""

    def put() -> Terminal:
        monkeypatch.setattr(sys, "stderr", Terminal())
        return sys.stderr

    return put


def fail(*_, **__):
    raise CheckpointError("can't write checkpoint")


@pytest.mark.parametrize(
    ("owner", "name", "drawn"),
    [(Trainer, "_save", "epoch 1/1: "), (ClassificationTask, "measure", "eval ema: ")],
)
def test_errors_stand_alone(experiment, terminal, monkeypatch, owner, name, drawn):
    monkeypatch.setattr(owner, name, fail)
    settings = ["epochs=1", "checkpoint.update_interval=1"]
    if name == "measure":
        monkeypatch.setattr(Trainer, "_save", lambda self: Path("last"))
    shown = terminal()
    assert cli.train(["-c", str(experiment), "-o", *settings]) == 2
    assert f"\r{drawn}" in shown.getvalue()
    assert screen(shown.getvalue()) == ["error: can't write checkpoint"]


def test_tracebacks_stand_alone(terminal):
    shown = terminal()
    with pytest.raises(ZeroDivisionError), progress_bar([1, 2], desc="work") as bar:
        for _ in bar:
            raise ZeroDivisionError
    assert "work: " in shown.getvalue()
    assert screen(shown.getvalue()) == []


def test_nothing_is_drawn_in_pipes_nor_when_quiet(monkeypatch, terminal):
    shown = terminal()
    get_logger().setLevel("WARNING")
    with progress_bar([1, 2]) as bar:
        assert list(bar) == [1, 2]
    get_logger().setLevel("INFO")
    with progress_bar(total=3, shown=False) as bar:
        bar.update()
        bar.set_postfix(loss=1)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress_bar(total=3) as bar:
        bar.update()
    assert shown.getvalue() == sys.stderr.getvalue() == ""


def test_a_run_into_a_file_has_a_line_for_each_interval_and_epoch(experiment, capfd):
    assert cli.train(["-c", str(experiment), "-o", "log.interval=2"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert "\r" not in out
    said = re.findall(r"INFO epoch (\d)/2  (raw|ema|update \d/3)", out)
    first = [("1", "update 1/3"), ("1", "update 2/3"), ("1", "update 3/3"), ("1", "ema")]
    assert said == [*first, ("2", "update 2/3"), ("2", "update 3/3"), ("2", "ema")]


@pytest.mark.slow
def test_on_a_terminal(experiment):
    """The whole process: bars on the way, and at the end the log and the error alone."""
    (experiment.parent / "val" / "c" / "2.png").write_bytes(b"no image")
    code = (
        "import sys; from passl_sot import cli; from passl_sot.tasks.classification import ClassificationTask"
    )
    code += "; ClassificationTask.check = lambda *_, **__: None; sys.exit(cli.train())"
    command = [sys.executable, "-c", code, "-c", str(experiment), "-o", "dataloader.val.sampler.batch_size=1"]
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    with subprocess.Popen(command, stdout=other, stderr=other, cwd=ROOT) as process:
        os.close(other)
        said = b""
        try:
            while piece := os.read(main, 1 << 16):
                said += piece
        except OSError:  # the other side has been closed
            pass
    os.close(main)
    text = said.decode()
    assert process.returncode == 2
    assert "eval ema: " in text
    shown = screen(text.replace("\r\n", "\n"))
    errors = [line for line in shown if "error: " in line]
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert not [line for line in shown if "it/s" in line or "s/it" in line]
