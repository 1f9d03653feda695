"""The networks of `models.py` as people write them: plain Flax nnx, Equinox and Haiku.

Nothing in this file knows of jaxconv. Channels last in Flax and Haiku, first in Equinox, as their
libraries have it.
"""

from typing import Any

import equinox
import haiku
import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array


class ConvNorm(nnx.Module):
    """Convolution, batch normalisation, activation."""

    def __init__(self, c_i, c_o, window, stride=1, *, groups=1, act=nnx.relu, rngs):
        self.conv = nnx.Conv(
            c_i, c_o, (window, window), stride, feature_group_count=groups, use_bias=False,
            rngs=rngs,
        )  # fmt: skip
        self.norm, self.act = nnx.BatchNorm(c_o, rngs=rngs), act

    def __call__(self, x: Array) -> Array:
        return self.act(self.norm(self.conv(x)))


def identity(x: Array) -> Array:
    return x


class BasicBlock(nnx.Module):
    def __init__(self, c_i, c_o, stride, *, rngs):
        self.first = ConvNorm(c_i, c_o, 3, stride, rngs=rngs)
        self.second = ConvNorm(c_o, c_o, 3, act=identity, rngs=rngs)
        plain = stride == 1 and c_i == c_o
        self.short = None if plain else ConvNorm(c_i, c_o, 1, stride, act=identity, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        short = x if self.short is None else self.short(x)
        return nnx.relu(self.second(self.first(x)) + short)


class ResNet18(nnx.Module):
    """He et al. 2015: 7x7 stem, maxima, four stages of two blocks."""

    def __init__(self, *, rngs):
        self.stem = ConvNorm(3, 64, 7, 2, rngs=rngs)
        sizes = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2)]
        sizes += [(256, 256, 1), (256, 512, 2), (512, 512, 1)]
        self.blocks = nnx.List([BasicBlock(*size, rngs=rngs) for size in sizes])
        self.head = nnx.Linear(512, 10, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        sides: Any = ((1, 1), (1, 1))
        x = nnx.max_pool(self.stem(x), (3, 3), (2, 2), sides)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


class InvertedResidual(nnx.Module):
    def __init__(self, c_i, c_o, stride, expand, *, rngs):
        wide = c_i * expand
        self.layers = nnx.List([
            *([ConvNorm(c_i, wide, 1, act=nnx.relu6, rngs=rngs)] if expand > 1 else []),
            ConvNorm(wide, wide, 3, stride, groups=wide, act=nnx.relu6, rngs=rngs),
            ConvNorm(wide, c_o, 1, act=identity, rngs=rngs),
        ])  # fmt: skip
        self.plain = stride == 1 and c_i == c_o

    def __call__(self, x: Array) -> Array:
        y, layers = x, list[Any](self.layers)
        for layer in layers:
            y = layer(y)
        return x + y if self.plain else y


#: Expansion, channels, blocks, stride of MobileNetV2's stages.
MOBILE_STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
    (6, 320, 1, 1),
)  # fmt: skip


class MobileNetV2(nnx.Module):
    """Sandler et al. 2018."""

    def __init__(self, *, rngs):
        self.stem, channels, blocks = ConvNorm(3, 32, 3, 2, act=nnx.relu6, rngs=rngs), 32, []
        for expand, c_o, count, stride in MOBILE_STAGES:
            for at in range(count):
                step = 1 if at else stride
                blocks.append(InvertedResidual(channels, c_o, step, expand, rngs=rngs))
                channels = c_o
        self.blocks = nnx.List(blocks)
        self.last = ConvNorm(320, 1280, 1, act=nnx.relu6, rngs=rngs)
        self.head = nnx.Linear(1280, 10, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.last(x).mean((1, 2)))


class ConvNeXtBlock(nnx.Module):
    def __init__(self, channels, *, rngs):
        self.depthwise = nnx.Conv(
            channels, channels, (7, 7), feature_group_count=channels, rngs=rngs
        )
        self.norm = nnx.LayerNorm(channels, rngs=rngs)
        self.up = nnx.Linear(channels, 4 * channels, rngs=rngs)
        self.down = nnx.Linear(4 * channels, channels, rngs=rngs)
        self.scale = nnx.Param(jnp.full(channels, 0.1))

    def __call__(self, x: Array) -> Array:
        y = self.down(nnx.gelu(self.up(self.norm(self.depthwise(x)))))
        return x + self.scale[...] * y


class ConvNeXtT(nnx.Module):
    """Liu et al. 2022, tiny: 3, 3, 9, 3 blocks of 96, 192, 384, 768 channels."""

    def __init__(self, *, rngs):
        channels, parts = 3, []
        for depth, c_o in ((3, 96), (3, 192), (9, 384), (3, 768)):
            patch = 4 if channels == 3 else 2
            if channels > 3:
                parts.append(nnx.LayerNorm(channels, rngs=rngs))
            parts.append(nnx.Conv(channels, c_o, (patch, patch), patch, padding="VALID", rngs=rngs))
            parts += [ConvNeXtBlock(c_o, rngs=rngs) for _ in range(depth)]
            channels = c_o
        self.parts, self.head = nnx.List(parts), nnx.Linear(768, 10, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        for part in self.parts:
            x = part(x)
        return self.head(x.mean((1, 2)))


class UNet(nnx.Module):
    """Ronneberger et al. 2015: four levels, maxima on the way down, 2x2 s2 on the way up."""

    def __init__(self, *, rngs, base=16):
        widths = [base, 2 * base, 4 * base, 8 * base]

        def double(c_i, c_o):
            return nnx.List([ConvNorm(c_i, c_o, 3, rngs=rngs), ConvNorm(c_o, c_o, 3, rngs=rngs)])

        self.down = nnx.List([double(a, b) for a, b in zip([3, *widths], widths, strict=False)])
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nnx.List([nnx.ConvTranspose(a, b, (2, 2), (2, 2), rngs=rngs) for a, b in pairs])
        self.merge = nnx.List([double(a, b) for a, b in pairs])
        self.head = nnx.Conv(base, 2, (1, 1), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        kept = []
        for level, double in enumerate(self.down):
            x = nnx.max_pool(x, (2, 2), (2, 2)) if level else x
            for layer in double:
                x = layer(x)
            kept.append(x)
        for up, double, skip in zip(self.up, self.merge, kept[-2::-1], strict=True):
            x = jnp.concatenate([up(x), skip], -1)
            for layer in double:
                x = layer(x)
        return self.head(x)


class WaveNet(nnx.Module):
    """van den Oord et al. 2016: gated causal convolutions of two taps, dilated 1, 2, 4, ... 512."""

    def __init__(self, *, rngs, channels=32, depth=10):
        self.inputs = nnx.Conv(1, channels, (1,), rngs=rngs)
        steps = [2**at for at in range(depth)]
        self.gates = nnx.List([
            nnx.Conv(channels, 2 * channels, (2,), padding="CAUSAL", kernel_dilation=d, rngs=rngs)
            for d in steps
        ])  # fmt: skip
        self.residual = nnx.List([nnx.Conv(channels, channels, (1,), rngs=rngs) for _ in steps])
        self.skip = nnx.List([nnx.Conv(channels, channels, (1,), rngs=rngs) for _ in steps])
        self.head = nnx.Conv(channels, 16, (1,), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x, total = self.inputs(x), 0.0
        for gate, residual, skip in zip(self.gates, self.residual, self.skip, strict=True):
            a, b = jnp.split(gate(x), 2, -1)
            y = jnp.tanh(a) * nnx.sigmoid(b)
            x, total = x + residual(y), total + skip(y)
        return self.head(nnx.relu(total))


class MambaBlock(nnx.Module):
    """Gu and Dao 2023 without the scan: projections, causal depthwise convolution, gate."""

    def __init__(self, channels, *, rngs):
        wide = 2 * channels
        self.norm = nnx.LayerNorm(channels, rngs=rngs)
        self.inputs = nnx.Linear(channels, 2 * wide, rngs=rngs)
        self.conv = nnx.Conv(
            wide, wide, (4,), padding="CAUSAL", feature_group_count=wide, rngs=rngs
        )
        self.outputs = nnx.Linear(wide, channels, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        a, gate = jnp.split(self.inputs(self.norm(x)), 2, -1)
        return x + self.outputs(nnx.silu(self.conv(a)) * nnx.silu(gate))


class Mamba(nnx.Module):
    def __init__(self, *, rngs, channels=128, depth=4):
        self.inputs = nnx.Linear(16, channels, rngs=rngs)
        self.blocks = nnx.List([MambaBlock(channels, rngs=rngs) for _ in range(depth)])
        self.head = nnx.Linear(channels, 16, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.inputs(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class SeparableNet(equinox.Module):
    """Chollet 2016, small, in Equinox: depthwise and 1x1 convolutions, maxima between stages."""

    layers: list
    head: equinox.nn.Linear

    def __init__(self, key: Array):
        keys = iter(jax.random.split(key, 32))
        self.layers, channels = [equinox.nn.Conv2d(3, 32, 3, padding=1, key=next(keys))], 32
        for c_o in (64, 128, 256):
            for c_i in (channels, c_o):
                self.layers += [
                    equinox.nn.Conv2d(c_i, c_i, 3, padding=1, groups=c_i, key=next(keys)),
                    equinox.nn.Conv2d(c_i, c_o, 1, key=next(keys)),
                    equinox.nn.Lambda(jax.nn.relu),
                ]
            self.layers.append(equinox.nn.MaxPool2d(3, 2, padding=1))
            channels = c_o
        self.head = equinox.nn.Linear(256, 10, key=next(keys))

    def __call__(self, x: Array) -> Array:
        """One image, channels first."""
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean((1, 2)))


def mobilenet_v1(x: Array) -> Array:
    """Howard et al. 2017, as Haiku ships it."""
    return haiku.nets.MobileNetV1(num_classes=10)(x, is_training=True)
