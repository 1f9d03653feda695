"""The two networks that `lenet.py` trains, of jaxconv's modules for Flax.

`LeNet` is LeNet-5 (LeCun et al. 1998, notes, section 8) with its layers' names: convolutions,
average pooling with a nonlinearity, dense layers. `AllConvolutional` has strided convolutions in
place of pooling and nothing dense (Springenberg et al. 2015): three blocks of two small windows, a
1x1 convolution to the classes, and their mean over the image.

Both take `(n, height, width, 1)` and give one logit to a class, `(n, 10)`; `layers` gives what
each layer makes of the images, by its name, for those who want to look inside.
"""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxconv.nnx import AvgPool, Conv

CLASSES = 10
SMALLEST = 12  # pixels to a side, of which LeNet's fourth layer leaves one


class LeNet(nnx.Module):
    """LeNet-5: 61,706 parameters for images of 28x28.

    Args:
        size: height and width of the images.
        rngs: where the weights are drawn from.
    """

    def __init__(self, size: tuple[int, int], *, rngs: nnx.Rngs):
        left = [(n // 2 - 4) // 2 for n in size]  # 5 pixels of 28 are left to C5
        conv = partial(Conv, rngs=rngs)
        self.c1 = conv(1, 6, (5, 5), padding=2)
        self.c3 = conv(6, 16, (5, 5), padding="VALID")
        self.pool = AvgPool((2, 2), strides=(2, 2))
        self.c5 = conv(16, 120, left, padding="VALID")
        self.f6 = nnx.Linear(120, 84, rngs=rngs)
        self.output = nnx.Linear(84, CLASSES, rngs=rngs)

    def layers(self, images: Array) -> dict[str, Array]:
        """Every layer's output, by name, in order; the last one is the logits."""
        made = {"C1": nnx.relu(self.c1(images))}
        made["S2"] = self.pool(made["C1"])
        made["C3"] = nnx.relu(self.c3(made["S2"]))
        made["S4"] = self.pool(made["C3"])
        made["C5"] = nnx.relu(self.c5(made["S4"]))
        made["F6"] = nnx.relu(self.f6(made["C5"].reshape(len(images), -1)))
        made["output"] = self.output(made["F6"])
        return made

    def __call__(self, images: Array) -> Array:
        """The logits, `(n, 10)`."""
        return self.layers(images)["output"]


class AllConvolutional(nnx.Module):
    """Convolutions and nothing else: 72,442 parameters, whatever the size of the images.

    Args:
        size: height and width of the images, which only `LeNet` has to know.
        rngs: where the weights are drawn from.
    """

    def __init__(self, size: tuple[int, int], *, rngs: nnx.Rngs):
        del size
        he = nnx.initializers.he_normal()  # for six layers of ReLU: signals keep their size
        conv = partial(Conv, kernel_size=(3, 3), kernel_init=he, rngs=rngs)
        self.c1 = conv(1, 16)
        self.c2 = conv(16, 16, strides=2)
        self.c3 = conv(16, 32)
        self.c4 = conv(32, 32, strides=2)
        self.c5 = conv(32, 64)
        self.c6 = conv(64, 64, strides=2)
        self.output = Conv(64, CLASSES, (1, 1), rngs=rngs)

    def layers(self, images: Array) -> dict[str, Array]:
        """Every layer's output, by name, in order; the last one is the logits."""
        made, x = {}, images
        for name in ("c1", "c2", "c3", "c4", "c5", "c6"):
            made[name.upper()] = x = nnx.relu(getattr(self, name)(x))
        made["output"] = jnp.mean(self.output(x), axis=(1, 2))
        return made

    def __call__(self, images: Array) -> Array:
        """The logits, `(n, 10)`."""
        return self.layers(images)["output"]


NETWORKS: dict[str, Callable[..., LeNet | AllConvolutional]] = {
    "lenet": LeNet,
    "all-conv": AllConvolutional,
}
