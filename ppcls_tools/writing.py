"""What a config can't say in PaddleClas's words is gathered, so that all of it is told at once."""

from typing import Any

from passl_sot.config import Fault
from passl_sot.engine.schema import Experiment


class Writing:
    """What is in work: faults by our dotted keys, and lines on what differs."""

    def __init__(self, experiment: Experiment):
        self.experiment = experiment
        self.faults: list[Fault] = []
        self.notes: list[str] = []

    def note(self, path: str, what: str) -> None:
        """Tells a difference that doesn't stop the conversion."""
        self.notes.append(f"{path}: {what}")

    def refuse(self, path: str, why: str) -> None:
        """Tells what PaddleClas has no words for."""
        self.faults.append(Fault(path, why, self.experiment.origin(path)))

    def need(self, path: str, value: Any, wanted: Any, why: str) -> None:
        """Refuses a setting unless it is what PaddleClas always does."""
        if value != wanted:
            self.refuse(path, f"PaddleClas can't say {value!r}: {why}")
