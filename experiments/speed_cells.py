"""The layers that `speed.py` times: those that people run, one cell for each kind of work."""

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
