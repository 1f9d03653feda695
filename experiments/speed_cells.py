"""The layers that `speed.py` times: those that people run, one cell for each kind of work, and
layers drawn by lot, which nobody has tuned a choice to."""

import math
import random
from typing import Any, NamedTuple


class Cell(NamedTuple):
    """One layer, channels first, in arguments of `jaxconv`.

    Attributes:
        name: what `--only` looks for.
        kind: the function: `conv`, `conv_transpose`, `max_pool` or `avg_pool`.
        image: shape of the operand.
        kernel: shape of the kernel, or a pool's window.
        options: the function's other arguments.
    """

    name: str
    kind: str
    image: tuple[int, ...]
    kernel: tuple[int, ...]
    options: dict[str, Any]

    @property
    def pool(self) -> bool:
        """Whether it is a pool."""
        return self.kind.endswith("pool")

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.image) - 2

    @property
    def passes(self) -> tuple[str, ...]:
        """What is timed; where the forward pass can find what the gradient needs, both as well."""
        if self.kind == "max_pool":
            return ("forward", "input gradient", "both")
        return PASSES[:2] if self.pool else PASSES


PASSES = ("forward", "input gradient", "kernel gradient")


def _conv(name: str, image: tuple[int, ...], kernel: tuple[int, ...], **options: Any) -> Cell:
    return Cell(name, "conv", image, kernel, options)


def _transposed(name: str, image: tuple[int, ...], kernel: tuple[int, ...], **options: Any) -> Cell:
    return Cell(name, "conv_transpose", image, kernel, options)


def _pool(name: str, image: tuple[int, ...], window: tuple[int, ...], **options: Any) -> Cell:
    return Cell(name, name[:3] + "_pool", image, window, options)


CELLS: tuple[Cell, ...] = (
    _conv("LeNet 5x5, first", (32, 1, 28, 28), (6, 1, 5, 5), padding=2),
    _conv("LeNet 5x5, second", (32, 6, 14, 14), (16, 6, 5, 5)),
    _conv("ResNet-50 stem 7x7 s2", (4, 3, 224, 224), (64, 3, 7, 7), stride=2, padding=3),
    _conv("ResNet 3x3, 64", (8, 64, 56, 56), (64, 64, 3, 3), padding=1),
    _conv("ResNet 3x3, 128", (8, 128, 28, 28), (128, 128, 3, 3), padding=1),
    _conv("ResNet 3x3, 256", (8, 256, 14, 14), (256, 256, 3, 3), padding=1),
    _conv("ResNet 3x3, 512", (8, 512, 7, 7), (512, 512, 3, 3), padding=1),
    _conv("ResNet 1x1 up", (8, 64, 56, 56), (256, 64, 1, 1)),
    _conv("ResNet 1x1 down", (8, 256, 56, 56), (64, 256, 1, 1)),
    _conv("ResNet 1x1 s2", (8, 256, 56, 56), (512, 256, 1, 1), stride=2),
    _conv("ResNet 3x3 s2", (8, 128, 56, 56), (128, 128, 3, 3), stride=2, padding=1),
    _conv("VGG 3x3 at 112", (2, 64, 112, 112), (128, 64, 3, 3), padding=1),
    _conv("MobileNet depthwise 3x3", (8, 96, 56, 56), (96, 1, 3, 3), groups=96, padding=1),
    _conv("MobileNet depthwise 3x3 s2", (4, 144, 56, 56), (144, 1, 3, 3),
          groups=144, stride=2, padding=1),
    _conv("EfficientNet depthwise 5x5", (8, 144, 28, 28), (144, 1, 5, 5), groups=144, padding=2),
    _conv("ConvNeXt depthwise 7x7", (8, 96, 56, 56), (96, 1, 7, 7), groups=96, padding=3),
    _conv("ConvNeXt patches 4x4 s4", (8, 3, 224, 224), (96, 3, 4, 4), stride=4),
    _conv("ResNeXt 3x3, 32 groups of 4", (4, 128, 56, 56), (128, 4, 3, 3), groups=32, padding=1),
    _conv("ResNeXt 3x3, 32 groups of 8", (4, 256, 14, 14), (256, 8, 3, 3), groups=32, padding=1),
    _conv("AlexNet 5x5, 2 groups", (8, 96, 27, 27), (256, 48, 5, 5), groups=2, padding=2),
    _conv("depth multiplier 2, 5x5", (4, 48, 40, 40), (96, 1, 5, 5), groups=48, padding=2),
    _conv("DeepLab 3x3 d6", (2, 256, 33, 33), (256, 256, 3, 3), dilation=6, padding=6),
    _transposed("U-Net 2x2 s2 transposed", (4, 128, 28, 28), (128, 64, 2, 2), stride=2),
    _transposed("DCGAN 4x4 s2 transposed", (16, 256, 8, 8), (256, 128, 4, 4), stride=2, padding=1),
    _conv("WaveNet 1-D k2 d64", (4, 64, 4096), (64, 64, 2), dilation=64, padding=((64, 0),)),
    _conv("causal depthwise 1-D k4", (4, 512, 512), (512, 1, 4), groups=512, padding=((3, 0),)),
    _conv("audio 1-D k10 s5", (2, 1, 65536), (256, 1, 10), stride=5),
    _conv("3-D 3x3x3", (1, 32, 16, 32, 32), (64, 32, 3, 3, 3), padding=1),
    _conv("3-D depthwise 3x3x3", (1, 48, 12, 28, 28), (48, 1, 3, 3, 3), groups=48, padding=1),
    _transposed("3-D 3x3x3 s2 transposed", (1, 32, 8, 20, 20), (32, 16, 3, 3, 3),
                stride=2, padding=1),
    _conv("one channel 3x3", (4, 1, 384, 384), (1, 1, 3, 3), padding=1),
    _conv("one channel 5x5", (4, 1, 384, 384), (1, 1, 5, 5), padding=2),
    _conv("one channel 31x31", (1, 1, 1024, 1024), (1, 1, 31, 31), padding=15),
    _conv("batch 1, 3x3, 64", (1, 64, 56, 56), (64, 64, 3, 3), padding=1),
    _conv("batch 32, 3x3, 64", (32, 64, 28, 28), (64, 64, 3, 3), padding=1),
    _conv("ViT patches 16x16 s16", (8, 3, 224, 224), (384, 3, 16, 16), stride=16),
    _pool("max 3x3 s2", (8, 64, 112, 112), (3, 3), stride=2, padding=1),
    _pool("max 2x2 s2", (8, 64, 112, 112), (2, 2)),
    _pool("max 3x3 s1", (4, 64, 96, 96), (3, 3), stride=1, padding=1),
    _pool("max 15x15 s1", (2, 64, 64, 64), (15, 15), stride=1, padding=7),
    _pool("max 3-D 2x2x2", (1, 32, 16, 56, 56), (2, 2, 2)),
    _pool("avg 2x2 s2", (8, 64, 112, 112), (2, 2)),
    _pool("avg 3x3 s1", (4, 64, 96, 96), (3, 3), stride=1, padding=1),
    _pool("avg 15x15 s1", (2, 64, 64, 64), (15, 15), stride=1, padding=7),
    _pool("avg global", (16, 512, 7, 7), (7, 7)),
)  # fmt: skip

CHANNELS = (1, 3, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
SIZES = {1: (100, 500, 1000, 4000), 2: (7, 14, 20, 28, 32, 40, 56, 64, 84, 112), 3: (8, 12, 16, 24)}
#: A drawn layer's multiply-adds, or a drawn pool's elements: at least, at most.
WORK = {False: (1e6, 5e8), True: (1e5, 4e6)}
#: Numbers in the larger of a drawn layer's images, at most.
MOST_NUMBERS = 6e6


def drawn(count: int, seed: int) -> tuple[Cell, ...]:
    """So many layers by lot, the same for the same seed."""
    source, found = random.Random(seed), {}
    while len(found) < count:
        cell, work, numbers = _draw(source)
        least, most = WORK[cell.pool]
        if least <= work <= most and numbers <= MOST_NUMBERS:
            found[cell.name] = cell
    return tuple(found.values())


def _draw(source: random.Random) -> tuple[Cell, float, float]:
    """A layer, its work, and the numbers in its larger image."""
    pick = source.choice
    rank, kind = pick((1, 2, 2, 2, 2, 3)), pick(("conv",) * 7 + ("transposed", "max", "avg"))
    n, size = pick((1, 2, 4, 8, 16, 32)), pick(SIZES[rank])
    c_i, c_o = pick(CHANNELS), pick(CHANNELS)
    window, stride = pick((2, 3, 3, 3, 4, 5, 7)), pick((1, 1, 1, 2))
    groups = pick((1, 1, 1, 4, c_i))
    image, taps = (n, c_i) + (size,) * rank, (window,) * rank
    options: dict[str, Any] = {"stride": stride, "padding": (window - 1) // 2}
    if kind in ("max", "avg"):
        name = f"{kind} {_times(taps)} s{stride} of {_times(image)}"
        return _pool(name, image, taps, **options), math.prod(image), math.prod(image)
    if groups == c_i:
        c_o = c_i
    elif c_i % groups or c_o % groups:
        groups = 1
    results = size / stride if kind == "conv" else size * stride
    if kind == "conv" and stride == 1:
        options["dilation"] = pick((1, 1, 1, 2))
        options["padding"] *= options["dilation"]
    options["groups"] = groups
    kernel = (c_o, c_i // groups) if kind == "conv" else (c_i, c_o // groups)
    work = n * c_i * c_o / groups * window**rank * min(size, results) ** rank
    told = f"s{stride}" + "".join(f" {k[0]}{options[k]}" for k in ("groups", "dilation")
                                  if options.get(k, 1) > 1)  # fmt: skip
    make = _conv if kind == "conv" else _transposed
    cell = make(f"{kind} {_times(taps)} {told} of {_times(image)} to {c_o}",
                image, kernel + taps, **options)  # fmt: skip
    return cell, work, n * max(c_i * size**rank, c_o * results**rank)


def _times(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))
