"""A run's folder and what is recorded about how it came to be."""

import json
import platform
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle

from passl_sot.engine import checkpoint as ckpt
from passl_sot.utils.config import Config
from passl_sot.utils.logger import get_logger
from passl_sot.version import __version__

log = get_logger()


class RunFolder:
    """The folder of one run: checkpoints, metrics, the resolved config and where it came from.

    Args:
        path: `output_dir/<name of the config file>`.
    """

    def __init__(self, path: Path):
        self.path = path
        self.info = {
            "version": __version__,
            "paddle": paddle.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "commit": _commit(),
        }

    def checkpoint_to_resume(self, resume: str | None) -> ckpt.Checkpoint | None:
        """Reads the checkpoint that `--resume auto|PATH` means; None for a new run."""
        if resume is None:
            return None
        if resume != "auto":
            return ckpt.read_checkpoint(resume)
        saved = ckpt.find_latest(self.path, log.warning)
        if saved is None:
            log.info("nothing to resume in %s: a new run", self.path)
        return saved

    def refuse_to_overwrite(self) -> None:
        """Stops a new run from replacing another's checkpoints."""
        if (self.path / "last.safetensors").exists():
            raise ckpt.CheckpointError(
                f"{self.path} already holds a run: add --resume auto to go on with it, or keep it and write "
                f"elsewhere with -o output_dir=DIR / 该目录已有训练结果：加 --resume auto 继续，或换目录"
            )

    def record(self, cfg: Config, overrides: tuple[str, ...], world_size: int) -> None:
        """Writes `config.yaml` (resolved) and `run.json` (command, versions, commit)."""
        self.path.mkdir(parents=True, exist_ok=True)
        ckpt.remove_leftovers(self.path)
        (self.path / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
        facts = {"command": sys.argv, "overrides": list(overrides), "processes": world_size, **self.info}
        (self.path / "run.json").write_text(
            json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def preprocessing_of(dataset: Config) -> dict:
    """What evaluation and prediction need to treat an image as training's evaluation did."""
    return {key: dataset[key] for key in ("transforms", "apply_exif") if key in dataset}


def memory_gb() -> float:
    """Peak memory of this process so far, in GB: the device's on a GPU, else the resident set's."""
    if paddle.device.get_device().startswith("gpu"):
        return paddle.device.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # Linux counts kilobytes


def _commit() -> str:
    """The commit of the source tree this package runs from; empty outside a checkout."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
