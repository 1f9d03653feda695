"""The networks of `models_jax.py` in torch, layer for layer, for the times beside them."""

import torch
from torch import Tensor, nn


def conv_norm(c_i, c_o, window, stride=1, groups=1, act: type[nn.Module] | None = nn.ReLU):
    layers = [
        nn.Conv2d(c_i, c_o, window, stride, window // 2, groups=groups, bias=False),
        nn.BatchNorm2d(c_o),
    ]
    return nn.Sequential(*layers, *([act()] if act else []))


class BasicBlock(nn.Module):
    def __init__(self, c_i, c_o, stride):
        super().__init__()
        self.body = nn.Sequential(conv_norm(c_i, c_o, 3, stride), conv_norm(c_o, c_o, 3, act=None))
        plain = stride == 1 and c_i == c_o
        self.short = nn.Identity() if plain else conv_norm(c_i, c_o, 1, stride, act=None)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.short(x))


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def resnet18() -> nn.Module:
    sizes = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2)]
    sizes += [(256, 256, 1), (256, 512, 2), (512, 512, 1)]
    blocks = [BasicBlock(*size) for size in sizes]
    stem = [conv_norm(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, *blocks, Mean(), nn.Linear(512, 10))


class InvertedResidual(nn.Module):
    def __init__(self, c_i, c_o, stride, expand):
        super().__init__()
        wide = c_i * expand
        self.body = nn.Sequential(
            *([conv_norm(c_i, wide, 1, act=nn.ReLU6)] if expand > 1 else []),
            conv_norm(wide, wide, 3, stride, wide, act=nn.ReLU6),
            conv_norm(wide, c_o, 1, act=None),
        )
        self.plain = stride == 1 and c_i == c_o

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.plain else self.body(x)


def mobilenet_v2(stages) -> nn.Module:
    blocks: list[nn.Module] = [conv_norm(3, 32, 3, 2, act=nn.ReLU6)]
    channels = 32
    for expand, c_o, count, stride in stages:
        for at in range(count):
            blocks.append(InvertedResidual(channels, c_o, 1 if at else stride, expand))
            channels = c_o
    last = [conv_norm(320, 1280, 1, act=nn.ReLU6), Mean(), nn.Linear(1280, 10)]
    return nn.Sequential(*blocks, *last)


class LayerNorm(nn.LayerNorm):
    """Over the channels of `(n, c, h, w)`."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.mix = nn.Sequential(
            nn.LayerNorm(channels),
            nn.Linear(channels, 4 * channels),
            nn.GELU("tanh"),
            nn.Linear(4 * channels, channels),
        )
        self.scale = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.scale * self.mix(self.depthwise(x).permute(0, 2, 3, 1))
        return x + y.permute(0, 3, 1, 2)


def convnext_t() -> nn.Module:
    channels, parts = 3, []
    for depth, c_o in ((3, 96), (3, 192), (9, 384), (3, 768)):
        patch = 4 if channels == 3 else 2
        parts += [LayerNorm(channels)] if channels > 3 else []
        parts += [nn.Conv2d(channels, c_o, patch, patch)]
        parts += [ConvNeXtBlock(c_o) for _ in range(depth)]
        channels = c_o
    return nn.Sequential(*parts, Mean(), nn.Linear(768, 10))


class UNet(nn.Module):
    def __init__(self, base=16):
        super().__init__()
        widths = [base, 2 * base, 4 * base, 8 * base]

        def double(c_i, c_o):
            return nn.Sequential(conv_norm(c_i, c_o, 3), conv_norm(c_o, c_o, 3))

        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        levels = zip([3, *widths], widths, strict=False)
        self.down = nn.ModuleList([double(a, b) for a, b in levels])
        self.up = nn.ModuleList([nn.ConvTranspose2d(a, b, 2, 2) for a, b in pairs])
        self.merge = nn.ModuleList([double(a, b) for a, b in pairs])
        self.head = nn.Conv2d(base, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for level, double in enumerate(self.down):
            x = double(torch.max_pool2d(x, 2) if level else x)
            kept.append(x)
        for up, double, skip in zip(self.up, self.merge, kept[-2::-1], strict=True):
            x = double(torch.cat([up(x), skip], 1))
        return self.head(x)


class WaveNet(nn.Module):
    def __init__(self, channels=32, depth=10):
        super().__init__()
        self.inputs = nn.Conv1d(1, channels, 1)
        steps = [2**at for at in range(depth)]
        self.gates = nn.ModuleList(
            [nn.Conv1d(channels, 2 * channels, 2, dilation=d) for d in steps]
        )
        self.residual = nn.ModuleList([nn.Conv1d(channels, channels, 1) for _ in steps])
        self.skip = nn.ModuleList([nn.Conv1d(channels, channels, 1) for _ in steps])
        self.head = nn.Conv1d(channels, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inputs(x)
        total = torch.zeros(())
        for at, gate in enumerate(self.gates):
            padded = nn.functional.pad(x, (2**at, 0))
            a, b = gate(padded).chunk(2, 1)
            y = torch.tanh(a) * torch.sigmoid(b)
            x, total = x + self.residual[at](y), total + self.skip[at](y)
        return self.head(torch.relu(total))


class MambaBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        wide = 2 * channels
        self.norm, self.inputs = nn.LayerNorm(channels), nn.Linear(channels, 2 * wide)
        self.conv = nn.Conv1d(wide, wide, 4, groups=wide)
        self.outputs = nn.Linear(wide, channels)

    def forward(self, x: Tensor) -> Tensor:
        a, gate = self.inputs(self.norm(x)).chunk(2, -1)
        mixed = self.conv(nn.functional.pad(a.transpose(1, 2), (3, 0))).transpose(1, 2)
        silu = nn.functional.silu
        return x + self.outputs(silu(mixed) * silu(gate))


def mamba(channels=128, depth=4) -> nn.Module:
    blocks = [MambaBlock(channels) for _ in range(depth)]
    return nn.Sequential(nn.Linear(16, channels), *blocks, nn.Linear(channels, 16))
