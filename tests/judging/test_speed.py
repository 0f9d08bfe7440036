"""Throughput: what is counted, and that views of an image count as one image."""

import os
import re
import time

import paddle
import pytest
from paddle import nn

from passl_sot.engine.distributed import World
from passl_sot.judging.speed import Stopwatch, machine, throughput
from passl_sot.launch.cpu_env import usable_cores
from passl_sot.tasks.classification import ClassificationTask
from passl_sot.tasks.views import ViewedModel, Views


class Slow(nn.Layer):
    """Takes 20 ms for a batch, and at the first call a second more."""

    def __init__(self):
        super().__init__()
        self.calls: list[list[int]] = []

    def forward(self, x):
        time.sleep(0.02 if self.calls else 1.02)
        self.calls.append(x.shape)
        return x.mean(axis=[2, 3])


@pytest.mark.parametrize(("names", "views"), [((), 1), (("flip", "crops"), 12)])
def test_batches_of_8_but_for_the_first(names, views):
    model = Slow()
    asked = ViewedModel(model, Views(names, ClassificationTask())) if names else model
    rate = throughput(asked, (3, 16, 16), World())
    # A loaded machine may take longer, but never less; a second of the first call would make it 8 at most.
    assert 0 < rate <= 8 / (0.02 * views) and model.calls == [[8, 3, 16, 16]] * 6 * views
    model(paddle.zeros([8, 3, 16, 16]))  # nobody listens any longer
    assert not model._forward_post_hooks and not asked._forward_post_hooks


def test_items_of_all_batches_count():
    model = Slow()
    with Stopwatch(model) as watch:
        model(paddle.zeros([4, 3, 8, 8]))
        began = time.perf_counter()
        model(paddle.zeros([4, 3, 8, 8]))
        model(paddle.zeros([1, 3, 8, 8]))
        seconds = time.perf_counter() - began
    assert 5 / seconds <= watch.rate(World()) <= 5 / 0.04


def test_the_machine():
    words = rf".+, {usable_cores()} cores?, {os.environ['OMP_NUM_THREADS']} threads?"
    assert re.fullmatch(words, machine())
