"""Runs docs/first_hour.ipynb from its first cell to its last, and keeps what the cells showed.

    python docs/run_notebook.py

It runs in a folder of its own, which is removed; nothing else of the checkout changes.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).with_name("first_hour.ipynb")


def executed(folder: str | Path) -> Any:
    """The notebook with the outputs of a run in `folder`; an error of a cell is an error."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    # The kernel is this Python, whatever kernels the user has installed, and finds the checkout's package.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(NOTEBOOK.parents[1]), os.getenv("PYTHONPATH")])
    )
    # A busy machine sends what a cell prints in several pieces, an idle one in one.
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=None, coalesce_streams=True, resources=resources).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return notebook


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        nbformat.write(executed(scratch), NOTEBOOK)
    print(f"{NOTEBOOK}: {NOTEBOOK.stat().st_size / 1e3:.0f} kB", file=sys.stderr)
