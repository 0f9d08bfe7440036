"""What is done to a batch as a whole, after each of its images has passed through `transforms`."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Sequence
from typing import Any

import numpy as np

from passl_sot.data.datasets import LabelledImages
from passl_sot.data.errors import DataError
