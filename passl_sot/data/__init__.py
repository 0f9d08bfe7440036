"""From files on disk to batches: datasets, transforms, samplers, the loader, and checks before a run.

Importing this package doesn't import paddle; `build_dataloader` does.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from passl_sot.config import ConfigError, Fault, make_section
from passl_sot.data.datasets.base import DATASETS, Dataset
from passl_sot.data.datasets.folders import ImageFolder as ImageFolder
from passl_sot.data.datasets.labelled import LabelledImages
from passl_sot.data.datasets.list_files import ListFile as ListFile
from passl_sot.data.datasets.packed import PackedImages as PackedImages
from passl_sot.data.datasets.texts import LabelledTexts as LabelledTexts
from passl_sot.data.errors import DataError, ItemError
from passl_sot.data.samplers import build_sampler
from passl_sot.data.schema import SplitSection
from passl_sot.data.transforms.base import TRANSFORMS
from passl_sot.data.transforms.compose import build_transforms
from passl_sot.data.transforms.mixup import Mixup as Mixup
from passl_sot.data.validate import check_data
from passl_sot.data.validate_texts import check_texts as check_texts
from passl_sot.imageio.errors import ImageError as ImageError
from passl_sot.utils.environment import launcher_number
from passl_sot.utils.memory import machine_memory

if TYPE_CHECKING:
    from passl_sot.data.loader.loader import DataLoader


def build_dataset(cfg: Mapping[str, Any], *, class_names: Sequence[str] | None = None) -> Any:
    """Builds the dataset that a `dataset:` section describes. Doesn't import paddle.

    Args:
        cfg: The section, a mapping with a `name`.
        class_names: Names of all classes in label order, such as a checkpoint's; by default the data's own.

    Raises:
        ConfigError: The section is wrong.
        DataError: The data aren't there, aren't laid out as they should be, or hold an unknown class.
    """
    dataset = DATASETS.build(cfg)
    if class_names is not None:
        dataset.use_class_names(class_names)
    return dataset


def build_dataloader(
    cfg: SplitSection | Mapping[str, Any],
    *,
    mode: Literal["train", "val"],
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    class_names: Sequence[str] | None = None,
    dataset: Any = None,
) -> "DataLoader":
    """Builds the loader that `dataloader.train` or `dataloader.val` of a config describes.

    Args:
        cfg: The section, or a mapping with `loader`, `sampler` and `dataset`, which is checked then.
        mode: "train": shuffled, equal batches, unreadable files replaced. "val": every image once over all
            processes, the first unreadable file stops the run.
        seed: Seed of order and augmentation; the same in all processes.
        rank: Number of this process, from 0.
        world_size: Number of processes.
        class_names: As for `build_dataset`.
        dataset: The `Dataset` of `cfg`, where it is already built.

    Returns:
        The loader: `len()` batches, iterable once per epoch, with `dataset`, `sampler`, `bad_files`,
        `wait_seconds`.

    Raises:
        ConfigError: The section is wrong, or its batches are larger than memory.
        DataError: As for `build_dataset`; or there are fewer images than a batch needs.
    """
    # They import Paddle, for which lists and checks of the data need not wait.
    from passl_sot.data.loader.loader import DataLoader, worker_count
    from passl_sot.data.loader.worker import start_server

    if mode not in ("train", "val"):
        raise ValueError(f'mode is {mode!r}; it must be "train" or "val"')
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must be 0 or more")
    section = cfg if isinstance(cfg, SplitSection) else make_section(SplitSection, cfg)
    # The processes on this machine, which share its cores; Paddle's launcher tells how many.
    local_size = launcher_number("PADDLE_LOCAL_SIZE", world_size)
    if worker_count(section.loader.num_workers, local_size):
        start_server()  # it gets ready while the data are listed
    if dataset is None:
        dataset = build_dataset(section.dataset)
    if class_names is not None:
        dataset.use_class_names(class_names)
    training = mode == "train"
    dataset.prepare(training=training)
    dataset.seed = seed
    place = {"seed": seed, "rank": rank, "world_size": world_size}
    sampler = build_sampler(section.sampler, dataset, training=training, **place)
    loader = DataLoader(dataset, sampler, section.loader, training=training, world_size=local_size)
    _check_memory(loader, mode, local_size)
    return loader


def _check_memory(loader: "DataLoader", mode: str, local_size: int) -> None:
    """A ConfigError where the batches of the processes on this machine can't be held in its memory."""
    dataset = loader.dataset
    size = loader.sampler.batch_size
    memory = machine_memory()
    under_way = loader.batches_under_way()
    needed = local_size * under_way * dataset.slot_bytes(min(size, len(dataset)))
    if needed > memory:
        place = f"dataloader.{mode}.sampler.batch_size"
        message = (
            f"{under_way} batches of {size}, those that are under way, need {needed / 1e9:.0f} GB "
            f"for their {dataset.noun}s alone, and this machine has {memory / 1e9:.0f} GB of memory: lower "
            f"it, or dataloader.{mode}.loader.num_workers"
        )
        raise ConfigError([Fault(place, message)])
