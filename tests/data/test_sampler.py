from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passl_sot.config import ConfigError, make_section
from passl_sot.data import DataError, build_dataloader
from passl_sot.data.samplers import EvalBatchSampler, ShardedBatchSampler
from passl_sot.data.schema import SamplerSection

_SIZES = {
    "num_samples": st.integers(1, 60),
    "batch_size": st.integers(1, 7),
    "world_size": st.integers(1, 5),
    "seed": st.integers(0, 3),
    "epoch": st.integers(0, 3),
}


def _all(num_samples, batch_size, world_size, seed, epoch=0, shuffle=True, drop_last=False):
    """The batches of every rank, as index lists."""
    ranks = []
    for rank in range(world_size):
        sampler = ShardedBatchSampler(
            num_samples=num_samples,
            batch_size=batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        assert all(e == epoch for batch in batches for e, _ in batch)
        ranks.append([[i for _, i in batch] for batch in batches])
    return ranks


@settings(max_examples=150, deadline=None)
@given(**_SIZES, shuffle=st.booleans(), drop_last=st.booleans())
def test_ranks_together_are_one_process(num_samples, batch_size, world_size, seed, epoch, shuffle, drop_last):
    if drop_last and num_samples < batch_size * world_size:
        return
    ranks = _all(num_samples, batch_size, world_size, seed, epoch, shuffle, drop_last)
    one = _all(num_samples, batch_size * world_size, 1, seed, epoch, shuffle, drop_last)[0]
    assert len({len(batches) for batches in ranks}) == 1
    joined = [list(itertools.chain(*parts)) for parts in zip(*ranks, strict=True)]
    assert joined == one
    seen = list(itertools.chain(*joined))
    if drop_last:
        assert len(set(seen)) == len(seen) > num_samples - batch_size * world_size
    else:
        assert set(seen) == set(range(num_samples))
        assert len(seen) - num_samples < batch_size * world_size
    if not shuffle:
        assert seen == [i % num_samples for i in range(len(seen))]


@settings(max_examples=100, deadline=None)
@given(**_SIZES, stop=st.integers(0, 20), drop_last=st.booleans())
def test_resume_continues_exactly(num_samples, batch_size, world_size, seed, epoch, stop, drop_last):
    if drop_last and num_samples < batch_size * world_size:
        return
    options = {"num_samples": num_samples, "batch_size": batch_size, "shuffle": True, "drop_last": drop_last}
    options |= {"seed": seed, "rank": world_size - 1, "world_size": world_size}
    whole = ShardedBatchSampler(**options)
    whole.set_epoch(epoch)
    batches = list(whole)
    stop = min(stop, len(batches))
    whole.consumed = stop  # what the loader counts
    again = ShardedBatchSampler(**options)
    again.load_state_dict(whole.state_dict())
    again.set_epoch(epoch)  # as a trainer's loop does
    assert list(again) == batches[stop:]
    assert list(again) == batches  # and only once
    again.set_epoch(epoch + 1)
    assert again.consumed == 0


def test_epochs_and_seeds_differ():
    orders = {tuple(_all(50, 50, 1, seed, epoch)[0][0]) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16
    assert _all(50, 50, 1, 1, 2) == _all(50, 50, 1, 1, 2)


def test_order_is_fixed():
    """Checkpoints of half-finished epochs rely on this order: a change breaks their resume."""
    sampler = ShardedBatchSampler(num_samples=10, batch_size=5, shuffle=True, drop_last=True, seed=42)
    expected = np.random.Generator(np.random.PCG64(np.random.SeedSequence([42, 3, 0, 1]))).permutation(10)
    assert sampler.order(3).tolist() == expected.tolist()


def test_resume_at_another_world_size_of_the_same_global_batch():
    options = {"num_samples": 24, "shuffle": True, "drop_last": True, "seed": 1}
    two = ShardedBatchSampler(**options, batch_size=4, rank=1, world_size=2)
    two.set_epoch(2)
    list(two)
    two.consumed = 1
    one = ShardedBatchSampler(**options, batch_size=8)
    one.load_state_dict(two.state_dict())
    assert [i for _, i in next(iter(one))] == one.order(2)[8:16].tolist()


def test_resume_with_another_global_batch_goes_on_at_the_same_image():
    options = {"num_samples": 24, "shuffle": True, "drop_last": True, "seed": 1}
    two = ShardedBatchSampler(**options, batch_size=4, rank=1, world_size=2)
    two.set_epoch(2)
    two.consumed = 1
    one = ShardedBatchSampler(**options, batch_size=4)
    one.load_state_dict(two.state_dict())
    assert one.consumed == 2
    assert [i for batch in one for _, i in batch] == one.order(2)[8:].tolist()
    three = ShardedBatchSampler(**options, batch_size=4, world_size=3)
    with pytest.raises(DataError, match="global_batch was 8 and is 12"):
        three.load_state_dict(two.state_dict())


def test_resume_in_mid_epoch_refuses_another_order():
    sampler = ShardedBatchSampler(num_samples=24, batch_size=4, shuffle=True, drop_last=True, seed=1)
    state = {**sampler.state_dict(), "consumed": 2, "num_samples": 30, "global_batch": 8}
    with pytest.raises(DataError, match="num_samples was 30 and is 24, global_batch was 8 and is 4"):
        sampler.load_state_dict(state)
    sampler.load_state_dict({**state, "consumed": 0, "epoch": 5})
    assert sampler.epoch == 5


def test_too_few_images():
    with pytest.raises(
        DataError, match=r"has 30 images, fewer than one batch of 64 \(batch_size 32 x 2 processes\)"
    ) as e:
        _all(30, 32, 2, 0, drop_last=True)
    assert "batch_size to 15 or less" in str(e.value)
    assert len(_all(30, 32, 2, 0)[0]) == 1


# -- repeated augmentation ----------------------------------------------------------------------------
def _repeated(num_samples, batch_size, world_size, *, seed=5, epoch=2, drop_last=True, repeats=3):
    """One sampler per rank."""
    samplers = []
    for rank in range(world_size):
        options = {"num_samples": num_samples, "batch_size": batch_size, "seed": seed, "repeats": repeats}
        sampler = ShardedBatchSampler(
            **options, shuffle=True, drop_last=drop_last, rank=rank, world_size=world_size
        )
        sampler.set_epoch(epoch)
        samplers.append(sampler)
    return samplers


@settings(max_examples=100, deadline=None)
@given(
    num_samples=st.integers(1, 1500),
    batch_size=st.integers(1, 40),
    world_size=st.integers(1, 9),
    repeats=st.integers(2, 4),
)
def test_repeated_augmentation_has_deits_definition(num_samples, batch_size, world_size, repeats):
    used = num_samples // 256 * 256 or num_samples
    if used < batch_size * world_size:
        return
    samplers = _repeated(num_samples, batch_size, world_size, repeats=repeats)
    order = samplers[0].order(2).tolist()
    places = [(2, index, copy) for index in order for copy in range(repeats)]
    for rank, sampler in enumerate(samplers):
        share = places[rank::world_size][: used // world_size]
        batches = [share[i : i + batch_size] for i in range(0, len(share), batch_size)]
        whole = [batch for batch in batches if len(batch) == batch_size]
        assert list(sampler) == whole
        assert len(sampler) == len(whole)


def test_copies_are_neighbours_in_one_process_and_apart_in_three():
    (one,) = _repeated(600, 12, 1)
    batch = next(iter(one))
    assert [copy for _, _, copy in batch] == [0, 1, 2] * 4
    assert [index for _, index, _ in batch[::3]] == [index for _, index, _ in batch[2::3]]
    three = [next(iter(sampler)) for sampler in _repeated(600, 4, 3)]
    assert [{copy for _, _, copy in batch} for batch in three] == [{0}, {1}, {2}]
    assert len({tuple(index for _, index, _ in batch) for batch in three}) == 1
    assert len(list(one)) * 12 == 504  # of 512: the epoch is not longer, and has a third of the images
    assert len({index for batch in one for _, index, _ in batch}) == 168


@pytest.mark.parametrize(("stop", "world_size"), [(0, 2), (3, 2), (3, 1), (3, 6), (7, 3)])
def test_resuming_repeated_augmentation_on_any_number_of_processes(stop, world_size):
    before = _repeated(300, 6, 2)
    whole = [sorted(itertools.chain(*parts)) for parts in zip(*map(list, before), strict=True)]
    before[0].consumed = stop
    after = _repeated(300, 12 // world_size, world_size, epoch=0)
    for sampler in after:
        sampler.load_state_dict(before[0].state_dict())
        sampler.set_epoch(2)
    assert [sorted(itertools.chain(*parts)) for parts in zip(*map(list, after), strict=True)] == whole[stop:]


def test_resuming_with_other_repeats_is_refused():
    (sampler,) = _repeated(300, 4, 1, repeats=1)
    old = {**sampler.state_dict(), "consumed": 2}
    del old["repeats"]  # as checkpoints had it before there was this setting
    sampler.load_state_dict(old)
    with pytest.raises(DataError, match="repeats was 1 and is 3"):
        _repeated(300, 4, 1)[0].load_state_dict(old)


def test_repeated_augmentation_of_small_sets():
    """Below 256 images, where the rule would leave nothing, an epoch has as many places as images."""
    (sampler,) = _repeated(100, 10, 1)
    assert len(sampler) == 10
    assert len({index for batch in sampler for _, index, _ in batch}) == 34
    assert [len(batch) for batch in _repeated(10, 4, 1, drop_last=False)[0]] == [4, 4, 4]
    with pytest.raises(
        DataError,
        match=r"has 400 images \(256 used with repeats: 3\), fewer than one batch of 300 .* to 128 or",
    ):
        _repeated(400, 150, 2)


@pytest.mark.parametrize("sampler", [ShardedBatchSampler, EvalBatchSampler])
def test_wrong_numbers(sampler):
    more = {"shuffle": True, "drop_last": False, "seed": 0} if sampler is ShardedBatchSampler else {}
    with pytest.raises(DataError, match="empty"):
        sampler(num_samples=0, batch_size=1, **more)
    with pytest.raises(ValueError, match="rank 2 of 2"):
        sampler(num_samples=5, batch_size=1, rank=2, world_size=2, **more)


def test_wrong_numbers_in_a_config():
    with pytest.raises(ConfigError) as caught:
        make_section(SamplerSection, {"batch_size": 0, "repeats": 0})
    for key in ("batch_size", "repeats"):
        assert f"{key}: must be at least 1, got 0" in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(num_samples=st.integers(1, 60), batch_size=st.integers(1, 7), world_size=st.integers(1, 70))
def test_evaluation_sees_each_image_once(num_samples, batch_size, world_size):
    seen = []
    for rank in range(world_size):
        sampler = EvalBatchSampler(
            num_samples=num_samples, batch_size=batch_size, rank=rank, world_size=world_size
        )
        batches = list(sampler)
        assert len(batches) == len(sampler)
        assert all(1 <= len(batch) <= batch_size for batch in batches)
        seen += [i for batch in batches for _, i in batch]
    assert seen == list(range(num_samples))


# -- balanced ---------------------------------------------------------------------------------------
def _balanced(labels, batch_size, world_size, *, epoch=0, seed=3, drop_last=True):
    samplers = [
        ShardedBatchSampler(
            num_samples=len(labels),
            batch_size=batch_size,
            shuffle=True,
            drop_last=drop_last,
            seed=seed,
            rank=rank,
            world_size=world_size,
            labels=np.asarray(labels),
        )
        for rank in range(world_size)
    ]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    return samplers


def test_balanced_epochs_give_each_class_its_share():
    labels = np.repeat([0, 2, 5], [70, 25, 5])  # class numbers without images don't count
    (sampler,) = _balanced(labels, 10, 1)
    assert len(sampler) == 10
    keys = list(itertools.chain(*sampler))
    assert len(keys) == 100 == len(set(keys))  # copies have draws of their own
    counts = {label: sum(labels[index] == label for _, index, _ in keys) for label in (0, 2, 5)}
    assert sorted(counts.values()) == [33, 33, 34]
    for label, members in ((0, 70), (2, 25), (5, 5)):
        per_image = np.bincount([index for _, index, _ in keys if labels[index] == label], minlength=100)
        per_image = per_image[labels == label]
        assert per_image.max() - per_image.min() <= 1 and per_image.sum() == counts[label]
        copies = [copy for _, index, copy in keys if labels[index] == label]
        assert max(copies) == -(-counts[label] // members) - 1
    # Classes are spread over the epoch, and the next one is another.
    firsts = [labels[index] for _, index, _ in keys[:50]]
    assert min(firsts.count(label) for label in (0, 2, 5)) >= 8
    sampler.set_epoch(1)
    assert list(itertools.chain(*sampler)) != keys
    large = {index for _, index, _ in keys if labels[index] == 0}
    assert len(large) == counts[0]


def test_balanced_epochs_on_several_processes_and_resumed():
    labels = np.repeat([0, 1], [40, 8])
    (alone,) = _balanced(labels, 12, 1, epoch=2)
    whole = list(alone)
    pair = _balanced(labels, 6, 2, epoch=2)
    assert [a + b for a, b in zip(*map(list, pair), strict=True)] == whole
    alone.set_epoch(0)
    alone.set_epoch(2)
    alone.consumed = 2
    later = _balanced(labels, 4, 3)
    for sampler in later:
        sampler.load_state_dict(alone.state_dict())
        sampler.set_epoch(2)
    assert [a + b + c for a, b, c in zip(*map(list, later), strict=True)] == whole[2:]
    plain = ShardedBatchSampler(num_samples=48, batch_size=12, shuffle=True, drop_last=True, seed=3)
    with pytest.raises(DataError, match="balanced was True and is False"):
        plain.load_state_dict(alone.state_dict())


def test_what_balancing_goes_without():
    options = {"num_samples": 4, "batch_size": 2, "drop_last": True, "seed": 0, "labels": np.zeros(4)}
    for more in ({"shuffle": False}, {"shuffle": True, "repeats": 3}):
        with pytest.raises(DataError, match="balanced draws an order of its own"):
            ShardedBatchSampler(**options, **more)


def test_balanced_loader(folder, split):
    """From a config, on real files: eight of each class in an epoch of 16, other draws for each copy."""
    root = folder({"many": 14, "few": 2})
    section = split(root, batch_size=16, balanced=True)
    loader = build_dataloader(section, mode="train", seed=0)
    (batch,) = list(loader)
    assert np.bincount(batch["label"].numpy()).tolist() == [8, 8]
    first = batch["index"].numpy() == 0
    assert first.sum() == 4 and len(np.unique(batch["image"].numpy()[first], axis=0)) == 4
    with pytest.raises(
        DataError, match=r"sampler.balanced is true; evaluation reads every image exactly once"
    ):
        build_dataloader(section, mode="val", seed=0)
