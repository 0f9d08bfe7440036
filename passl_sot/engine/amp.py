"""Training in 16 bits: the device's abilities, Paddle's autocasting, and the scale of the loss.

The code that has never run here is in `Precision`: Paddle's automatic mixed precision does nothing on a CPU.
The islands of float32 inside the models (`passl_sot.nn.precision`) don't depend on it.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import paddle

from passl_sot.config import zh
from passl_sot.engine.train_state import Progress
from passl_sot.optim.clip import scale_gradients

_FIRST_SCALE = 2.0**13
_LARGEST_SCALE = 2.0**24
_GROW_AFTER = 2000  # updates without an overflow


@dataclass(kw_only=True)
class AmpSection:
    """`amp:` mixed precision, on GPUs; a CPU trains in float32 with or without it.

    Attributes:
        level: O1 keeps the weights in float32 and computes products in 16 bits; O2 holds the weights in 16
            bits too, with a copy in float32 for the optimizer.
        dtype: "auto" takes bfloat16 where the GPU has it (compute capability 8.0 and up), else float16 with a
            scaled loss.
    """

    level: Literal["O1", "O2"] = "O1"
    dtype: Literal["auto", "bfloat16", "float16"] = "auto"


class Precision:
    """How a run computes: in float32, or as its `amp:` section and the device say."""

    def __init__(self, section: AmpSection | None, *, on_gpu: bool, has_bfloat16: bool):
        self.dtype = "float32"  # or "bfloat16" or "float16"
        self.level = "O0"
        self.note = ""  # a line for the log, where there was a choice to make
        if section is None:
            return
        if not on_gpu:
            self.note = (
                f"amp {section.level} is asked for, but Paddle's mixed precision does nothing on a CPU: "
                "training in float32" + zh("amp_cpu")
            )
            return
        self.level = section.level
        self.dtype = section.dtype
        if self.dtype == "auto":
            self.dtype = "bfloat16" if has_bfloat16 else "float16"
        self.note = f"amp {self.level} in {self.dtype}"
        if self.dtype == "bfloat16" and not has_bfloat16:
            self.note += ", which this GPU has no fast way to compute: float16 may be faster"

    @classmethod
    def of_this_device(cls, section: AmpSection | None) -> "Precision":
        """Looks at the device that Paddle uses."""
        on_gpu = paddle.device.get_device().startswith("gpu")
        # Paddle says True on CPUs as well.
        return cls(section, on_gpu=on_gpu, has_bfloat16=on_gpu and paddle.amp.is_bfloat16_supported())

    def autocast(self) -> AbstractContextManager:
        """A block whose operations run in 16 bits where that is safe."""
        if self.dtype == "float32":
            return nullcontext()
        return paddle.amp.auto_cast(level=self.level, dtype=self.dtype)

    def prepare(self, model: paddle.nn.Layer, optimizer) -> None:
        """For O2: casts the weights, and has the optimizer keep them in float32 as well."""
        if self.level == "O2":
            paddle.amp.decorate(model, optimizer, level="O2", dtype=self.dtype, master_weight=True)

    def backward(self, loss: paddle.Tensor, progress: Progress) -> None:
        """Differentiates; float16 needs the loss scaled up, or small gradients become 0."""
        if self.dtype != "float16":
            loss.backward()
            return
        progress.loss_scale = progress.loss_scale or _FIRST_SCALE
        (loss.astype("float32") * progress.loss_scale).backward()

    def unscale(self, parameters: list[paddle.Tensor], progress: Progress) -> None:
        """Makes the gradients those of the loss itself."""
        if self.dtype == "float16":
            scale_gradients(parameters, 1.0 / progress.loss_scale)

    def update_loss_scale(self, bad: bool, progress: Progress) -> bool:
        """Halves the scale after a bad update, which may mend the next; doubles it after many good ones."""
        if self.dtype != "float16":
            return False
        progress.scaled_updates += 1
        if bad:
            progress.scaled_updates = 0
        if bad and progress.loss_scale > 1:
            progress.loss_scale /= 2
            return True
        if progress.scaled_updates >= _GROW_AFTER:
            progress.scaled_updates = 0
            progress.loss_scale = min(2 * progress.loss_scale, _LARGEST_SCALE)
        return False
