"""The section `dataloader` of a config."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from passl_sot.config import Count, Positive, Range, Rule
from passl_sot.data.datasets.base import DATASETS


@dataclass(frozen=True)
class BadFileRule(Rule):
    """A count (an integer, 0 or more) or a share (0 to below 1); 1.0 could be meant as either."""

    def complaint(self, value: Any) -> str | None:
        """As `Rule.complaint`."""
        if value is None or 0 <= value < 1 or (isinstance(value, int) and value > 0):
            return None
        return f"must be a count (an integer, 0 or more) or a share below 1, got {value}"


@dataclass(kw_only=True)
class LoaderSection:
    """`loader:`, how items are read.

    Attributes:
        num_workers: Processes that read them, per training process; 0 reads in a thread of the main
            process; "auto" takes what the machine's cores allow, at most 8.
        use_shared_memory: Hand batches over in memory that the processes share, which is no part of /dev/shm;
            false sends them through pipes.
        max_bad: How many unreadable files a training run may skip: a count (int), or a share of the set
            (float below 1). By default 1 % of the set, but at least 10.
        timeout: Seconds that a batch, or a file of the check before training, may take until the run ends
            with the name of the file that is being read; null waits without end.
    """

    num_workers: Annotated[int, Range(min=0, max=1024)] | Literal["auto"] = "auto"
    use_shared_memory: bool = True
    max_bad: Annotated[int | float | None, BadFileRule()] = None
    timeout: Positive | None = 300.0


@dataclass(kw_only=True)
class SamplerSection:
    """`sampler:`, which items, images or texts, make a batch.

    Attributes:
        batch_size: Items per batch and process.
        shuffle: New order in each epoch. By default true for training, false otherwise.
        drop_last: Leave out the items of an incomplete last batch. By default true for training, false
            otherwise. Evaluation always sees each item exactly once, so there both can't be true.
        repeats: Repeated augmentation: how often an image that an epoch uses stands in it, each time with
            other draws; an epoch is as long as without, so it uses as many fewer images. Training only.
        balanced: Give each class the same share of an epoch: items of small classes stand in it several
            times, each time with other draws, and of large ones some are drawn. Training only.
        group_by_length: Make batches of texts of similar length, with little padding. In training the order
            is still drawn anew each epoch, with each text once; it excludes the two settings above.
    """

    batch_size: Count
    shuffle: bool | None = None
    drop_last: bool | None = None
    repeats: Count = 1
    balanced: bool = False
    group_by_length: bool = False


@dataclass(kw_only=True)
class SplitSection:
    """`dataloader.train` or `dataloader.val`."""

    sampler: SamplerSection
    dataset: Annotated[dict, DATASETS]  # where items and labels are, and how they are prepared
    loader: LoaderSection = field(default_factory=LoaderSection)


@dataclass(kw_only=True)
class DataSection:
    """`dataloader:` the two splits."""

    train: SplitSection
    val: SplitSection


def bad_file_limit(num_samples: int, max_bad: int | float | None) -> int:
    """How many items may be bad among `num_samples`, by a `max_bad` as of `LoaderSection`."""
    if max_bad is None:
        # A hundredth is the noise of a download; a set of 50 images should survive a truncated one, too.
        return max(10, num_samples // 100)
    if isinstance(max_bad, int):
        return max_bad
    return int(num_samples * max_bad)
