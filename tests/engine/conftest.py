"""Commands run in this process: most tests need no other, whose start takes seconds."""

from types import SimpleNamespace

import pytest

from passl_sot import cli


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
