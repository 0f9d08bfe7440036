"""Exported models of checkpoints, kept so that each is exported once, by whichever process comes first."""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from paddle import nn

from passl_sot.export.card import ExportError, read_card
from passl_sot.export.folder import export_model
from passl_sot.utils.cache import HOME, cache_folder, locked, versions_of
from passl_sot.utils.environment import EnvironmentVariableError
from passl_sot.utils.logger import get_logger
from passl_sot.weights.checkpoint import CheckpointError, explained

LIMIT = "PASSL_SOT_CACHE_GB"
_DEFAULT_LIMIT = 8.0
_WRITERS = ("paddlepaddle", "paddlepaddle-gpu", "paddle2onnx", "onnx", "openvino")


def exported(model: nn.Layer, meta: Mapping[str, Any], formats: Sequence[str]) -> Path:
    """The folder of a checkpoint's exported model, below `cache_folder()`; made where it isn't there.

    The least recently used ones are deleted where all together are larger than PASSL_SOT_CACHE_GB (by
    default 8); the folder `exports` may be deleted at any time.

    Args:
        model: In evaluation mode.
        meta: The header of the checkpoint.
        formats: As of `export_model`.

    Raises:
        CheckpointError: The folder can't be written to.
        ExportError: The model can't be exported so.
        MissingExtraError: A format's packages aren't installed.
        EnvironmentVariableError: The limit is no number.
    """
    limit = _limit()
    home = cache_folder() / "exports"
    folder = home / _key(model, meta, formats)
    if not _is_whole(folder):
        advice = f": name a folder for exported models with the environment variable {HOME}"
        with explained(home, advice), locked(home):
            # Another process may have made it meanwhile.
            if not _is_whole(folder):
                shutil.rmtree(folder, ignore_errors=True)
                _make(folder, model, meta, formats)
                _shrink(home, folder, limit)
    with suppress(OSError):
        os.utime(folder)
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether a folder holds what was exported, by its checksums."""
    try:
        read_card(folder)
    except (ExportError, CheckpointError):
        return False
    return True


def _limit() -> float:
    text = os.environ.get(LIMIT, str(_DEFAULT_LIMIT))
    limit = math.nan
    with suppress(ValueError):
        limit = float(text) * 1e9
    if not limit >= 0:  # of NaN too
        message = f"environment variable {LIMIT}: must be a number of gigabytes, got {text!r}"
        raise EnvironmentVariableError(message)
    return limit


def _key(model: nn.Layer, meta: Mapping[str, Any], formats: Sequence[str]) -> str:
    # The same weights may be saved at several times.
    kept = {name: value for name, value in meta.items() if name != "progress"}
    total = hashlib.sha256(json.dumps([versions_of(_WRITERS), sorted(formats), kept]).encode())
    for name, tensor in sorted(model.state_dict().items()):
        array = np.atleast_1d(np.asarray(tensor.numpy(), order="C"))
        total.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        total.update(array.data)
    return total.hexdigest()[:32]


def _make(folder: Path, model: nn.Layer, meta: Mapping[str, Any], formats: Sequence[str]) -> None:
    # Of writers that were killed; nobody else writes now.
    for left in folder.parent.glob(".*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    get_logger().info("exporting the model (%s) to %s, once", ", ".join(formats), folder)
    export_model(model, meta, folder, formats)


def _shrink(home: Path, kept: Path, limit: float) -> None:
    """Deletes the folders that were used longest ago until all together are within the limit."""
    folders = [folder for folder in home.iterdir() if folder.is_dir()]
    sizes = {folder: sum(file.lstat().st_size for file in folder.iterdir()) for folder in folders}
    for folder in sorted(folders, key=lambda folder: folder.stat().st_mtime):
        if sum(sizes.values()) <= limit:
            break
        if folder != kept:
            shutil.rmtree(folder, ignore_errors=True)
            del sizes[folder]
