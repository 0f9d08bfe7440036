"""From a checked section to the loader of a split."""

from __future__ import annotations

import os

from passl_sot.data.datasets.base import DATASETS, Dataset
from passl_sot.data.loader.loader import DataLoader, start_workers
from passl_sot.data.samplers import build_sampler
from passl_sot.data.schema import SplitSection


def load_split(
    section: SplitSection,
    *,
    training: bool,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    dataset: Dataset | None = None,
) -> DataLoader:
    """The loader that a checked section describes; arguments as of `passl_sot.data.build_dataloader`.

    Raises:
        DataError: The data aren't as they should be, or fewer than a batch needs.
    """
    # The processes on this machine, which share its cores; Paddle's launcher tells how many.
    local_size = int(os.environ.get("PADDLE_LOCAL_SIZE", world_size))
    # The server of workers gets ready while the data are listed.
    start_workers(section.loader, local_size)
    if dataset is None:
        dataset = DATASETS.build(section.dataset)
    dataset.prepare(training=training)
    dataset.seed = seed
    sampler = build_sampler(
        section.sampler, dataset, training=training, seed=seed, rank=rank, world_size=world_size
    )
    return DataLoader(dataset, sampler, section.loader, training=training, world_size=local_size)
