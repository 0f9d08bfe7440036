"""Folders that are replaced whole."""

import subprocess
import sys

from passl_sot.utils.files import folder_replaced

WRITER = """
import sys
from pathlib import Path
from passl_sot.utils.files import folder_replaced

with folder_replaced(Path(sys.argv[1])) as new:
    (new / "large").write_text("half")
    print("writing", flush=True)
    sys.stdin.readline()
"""


def test_what_a_killed_writer_left_is_deleted_and_a_living_one_goes_on(tmp_path):
    folder = tmp_path / "out"
    command = [sys.executable, "-c", WRITER, str(folder)]
    killed, living = (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)
    )
    for process in (killed, living):
        assert process.stdout.readline() == b"writing\n"
    killed.kill()
    killed.wait()
    assert len(list(tmp_path.iterdir())) == 2
    with folder_replaced(folder) as new:
        (new / "file").write_text("whole")
    (left,) = (path for path in tmp_path.iterdir() if path != folder)
    assert (left / "large").read_text() == "half"
    assert (folder / "file").read_text() == "whole"
    living.communicate(b"\n")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in folder.iterdir()] == ["large"]
