"""Batches of similar length: every item once, the same over processes, exact resume, little padding."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passl_sot.data import DataError, build_dataloader
from passl_sot.data.samplers import EvalBatchSampler, ShardedBatchSampler
from tests.data.text_files import write_vocab

_SIZES = {
    "num_samples": st.integers(1, 400),
    "batch_size": st.integers(1, 5),
    "seed": st.integers(0, 3),
    "epoch": st.integers(0, 3),
    "drop_last": st.booleans(),
}


def lengths_of(num_samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).lognormal(3, 0.6, num_samples).astype(np.int32) + 2


def sampler_of(num_samples, batch_size, seed, epoch, drop_last, rank=0, world_size=1):
    sampler = ShardedBatchSampler(
        num_samples=num_samples,
        batch_size=batch_size,
        shuffle=True,
        drop_last=drop_last,
        seed=seed,
        rank=rank,
        world_size=world_size,
        lengths=lengths_of(num_samples),
    )
    sampler.set_epoch(epoch)
    return sampler


def padding(batches, lengths) -> float:
    """Share of padding in batches."""
    tokens = [lengths[batch] for batch in batches]
    return 1 - sum(t.sum() for t in tokens) / sum(t.max() * len(t) for t in tokens)


@settings(max_examples=100, deadline=None)
@given(**_SIZES)
def test_every_item_once_and_alike_over_processes(num_samples, batch_size, seed, epoch, drop_last):
    batch = batch_size * 6  # that of 1, 2 and 3 processes
    if drop_last and num_samples < batch:
        return
    epochs = []
    for world_size in (1, 2, 3):
        ranks = [
            list(sampler_of(num_samples, batch // world_size, seed, epoch, drop_last, rank, world_size))
            for rank in range(world_size)
        ]
        epochs.append([list(itertools.chain(*parts)) for parts in zip(*ranks, strict=True)])
    assert epochs[0] == epochs[1] == epochs[2]
    seen = [index for keys in epochs[0] for _, index in keys]
    if drop_last:
        assert len(set(seen)) == len(seen) == num_samples // batch * batch
    else:
        assert sorted(seen[:num_samples]) == list(range(num_samples))
        assert len(seen) == -(-num_samples // batch) * batch


@settings(max_examples=60, deadline=None)
@given(**_SIZES, stop=st.integers(0, 40))
def test_resume_in_the_middle(num_samples, batch_size, seed, epoch, drop_last, stop):
    if drop_last and num_samples < 2 * batch_size:
        return
    whole = sampler_of(num_samples, batch_size, seed, epoch, drop_last, 1, 2)
    batches = list(whole)
    whole.consumed = min(stop, len(batches))
    again = sampler_of(num_samples, batch_size, seed, 0, drop_last, 1, 2)
    again.load_state_dict(whole.state_dict())
    again.set_epoch(epoch)
    assert list(again) == batches[whole.consumed :]


def test_what_the_order_depends_on_is_part_of_the_state():
    grouped = sampler_of(64, 8, 1, 2, True)
    grouped.consumed = 2
    state = grouped.state_dict()
    plain = ShardedBatchSampler(num_samples=64, batch_size=8, shuffle=True, drop_last=True, seed=1)
    with pytest.raises(DataError, match=r"order of images has changed: lengths was \d+ and is None"):
        plain.load_state_dict(state)
    # Checkpoints of before have no such setting.
    older = {key: value for key, value in plain.state_dict().items() if key != "lengths"}
    plain.load_state_dict({**older, "consumed": 3})
    with pytest.raises(DataError, match=r"lengths was None and is"):
        grouped.load_state_dict({**older, "consumed": 3})
    # Other batches are other pools, so nothing can be skipped.
    with pytest.raises(DataError, match="global_batch was 8 and is 4"):
        sampler_of(64, 4, 1, 2, True).load_state_dict(state)
    other = sampler_of(64, 8, 1, 2, True)
    other.lengths = lengths_of(64, seed=1)
    with pytest.raises(DataError, match="lengths was"):
        other.load_state_dict(state)
    other.load_state_dict({**state, "consumed": 0})


def test_batches_are_alike_and_epochs_are_not():
    lengths = lengths_of(3000)
    plain = ShardedBatchSampler(num_samples=3000, batch_size=16, shuffle=True, drop_last=True, seed=0)
    grouped = sampler_of(3000, 16, 0, 0, True)
    batches = [[[index for _, index in keys] for keys in sampler] for sampler in (plain, grouped)]
    assert padding(batches[0], lengths) > 0.4 and padding(batches[1], lengths) < 0.08
    # Batches of one length stand anywhere in an epoch, and hold other items in the next.
    means = np.array([lengths[batch].mean() for batch in batches[1]])
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.2
    assert 0.4 < (np.diff(means) > 0).mean() < 0.6
    grouped.set_epoch(1)
    following = {frozenset(index for _, index in keys) for keys in grouped}
    assert not following & set(map(frozenset, batches[1]))
    # What is left out is of all lengths, in other epochs another few.
    left = set(range(3000)) - {index for keys in grouped for _, index in keys}
    assert len(left) == 8 and lengths[list(left)].std() > 3


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 9), st.integers(1, 4))
def test_evaluation_sees_every_item_once(num_samples, batch_size, world_size):
    lengths = lengths_of(num_samples)
    samplers = [
        EvalBatchSampler(
            num_samples=num_samples, batch_size=batch_size, rank=rank, world_size=world_size, lengths=lengths
        )
        for rank in range(world_size)
    ]
    ranks = [[[index for _, index in keys] for keys in sampler] for sampler in samplers]
    assert [len(sampler) for sampler in samplers] == list(map(len, ranks))
    assert sorted(itertools.chain(*itertools.chain(*ranks))) == list(range(num_samples))
    for batches in ranks:
        ours = lengths[list(itertools.chain(*batches))]
        assert (np.diff(ours) <= 0).all()
        assert all(len(batch) == batch_size for batch in batches[:-1])
    # No process has much more to do than another.
    tokens = [lengths[list(itertools.chain(*batches))].sum() for batches in ranks]
    assert max(tokens) - min(tokens) <= lengths.max()


def test_sections(tmp_path, folder, split):
    """The setting of a config, for texts; for images it is refused, and so is it beside others like it."""
    rng = np.random.default_rng(0)
    rows = [f"{'the cat ' * rng.integers(1, 30)},{'ab'[i % 2]}\n" for i in range(100)]
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(rows))
    dataset = {"name": "TextTable", "file": str(tmp_path / "a.csv"), "tokenizer": write_vocab(tmp_path)}

    def loader(mode: str, **sampler):
        section = {"sampler": {"batch_size": 8, **sampler}, "loader": {"num_workers": 0}, "dataset": dataset}
        return build_dataloader(section, mode=mode, seed=0)

    for mode in ("train", "val"):
        masks = [
            np.concatenate([batch["attention_mask"].numpy().ravel() for batch in loader(mode, **sampler)])
            for sampler in ({}, {"group_by_length": True})
        ]
        assert 1 - masks[1].mean() < 0.7 * (1 - masks[0].mean())
    for other in ({"balanced": True}, {"repeats": 2}, {"shuffle": False}):
        with pytest.raises(DataError, match="group_by_length draws an order of its own: leave out balanced"):
            loader("train", group_by_length=True, **other)
    with pytest.raises(DataError, match=r"has 100 texts, fewer than one batch of 101"):
        loader("train", batch_size=101)
    with pytest.raises(
        DataError, match=r"val.sampler.repeats is 2; evaluation reads every text exactly once"
    ):
        loader("val", repeats=2)
    with pytest.raises(
        DataError, match="group_by_length needs items of different lengths, and ImageFolder has"
    ):
        build_dataloader(split(folder({"a": 4, "b": 4}), group_by_length=True), mode="train", seed=0)
