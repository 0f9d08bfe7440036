"""Commands run in this process: most tests need no other, whose start takes seconds."""

from types import SimpleNamespace

import pytest

from passl_sot import cli
from passl_sot.engine import pictures, trainer


@pytest.fixture(scope="module", autouse=True)
def undrawn():
    """Runs in this process end without their pictures, which take two thirds of a tiny run's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "draw_run", lambda *_: None)
        yield


@pytest.fixture
def drawn(monkeypatch):
    """Runs end with their pictures, as users' runs do."""
    monkeypatch.setattr(trainer, "draw_run", pictures.draw_run)


@pytest.fixture
def invoke(capfd):
    """Runs a command of the command line here; the result is like that of `tool`."""

    def run(name: str, *arguments: object) -> SimpleNamespace:
        capfd.readouterr()
        try:
            status = cli.COMMANDS[name]([str(argument) for argument in arguments])
        except SystemExit as error:  # of the parser
            status = error.code
        out, err = capfd.readouterr()
        return SimpleNamespace(returncode=status, stdout=out, stderr=err)

    return run
