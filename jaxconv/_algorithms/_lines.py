"""Windows written out, channels first: one gather of lines, numbers that lie side by side.

What `_windows` does for channels last. A line is what one tap reads for a row of results, or for a
block of them where there is one axis only.
"""

import math

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._form import Problem
from .._geometry import Geometry
from . import _windows
from ._apart import Block, apart
from ._frame import read_frames, residues

#: Most residues of a line that are put side by side: compile time grows with them.
MOST_RESIDUES = 16


def fits(problem: Problem) -> bool:
    """Whether a kernel gradient is to be computed from lines: of channels first."""
    few = len(residues_read(problem.form.geometry)) <= MOST_RESIDUES
    return few and not problem.form.layout.channels_last


def read(geometry: Geometry, x: Array) -> Array:
    """What all windows read of images `(n, c, *spatial)`, as `(n, numbers)`: one residue of the
    last axis by its stride after the other, so that strided results read what lies side by side."""
    frames, stride, wanted = read_frames(geometry, 2), geometry.stride[-1], residues_read(geometry)

    def parts(x: Array) -> list[Array]:
        return [part.reshape(len(x), -1) for part in residues(x, frames, stride, wanted=wanted)]

    found = apart(parts, x)
    # Apart, as in one loop XLA:CPU would ask for each number which of them it is from.
    return found[0] if len(found) == 1 else apart(lambda *all: lax.concatenate(all, 1), *found)


def residues_read(geometry: Geometry) -> list[int]:
    """The residues of the last axis by its stride that taps read."""
    taps = range(geometry.window[-1])
    return sorted({a * geometry.dilation[-1] % geometry.stride[-1] for a in taps})


def starts(geometry: Geometry, channels: int, rows: int, first: int | None = None) -> Array:
    """Where lines begin in an image of `read` of so many channels: `(c * taps, lines)`, of so many
    rows of results, and of all channels or the first ones."""
    pitches, plane = _pitches(geometry), _plane(geometry)
    reach = [np.arange(k) * d for k, d in zip(geometry.window, geometry.dilation, strict=True)]
    stride, last = geometry.stride[-1], reach[-1]
    taps = [at * pitch for at, pitch in zip(reach, pitches, strict=False)]
    counts = (rows, *geometry.output[1:])
    positions = [
        np.arange(m) * (s * pitch)
        for m, s, pitch in zip(counts, geometry.stride, pitches, strict=False)
    ]
    own = np.arange(channels if first is None else first) * plane
    residue = np.searchsorted(residues_read(geometry), last % stride)
    patch = [own, *taps, residue * channels * plane + last // stride]
    shape = math.prod(map(len, patch)), math.prod(map(len, positions))
    return _windows.sums([*patch, *positions], shape)


def written_out(
    geometry: Geometry, block: Block, images: Array, starts: Array, by_image: bool = False
) -> Array:
    """The patches of a block, `(c * taps, positions of its images)`, from `read` and `starts`; by
    image, `(n, c * taps, positions)`."""
    if geometry.rank == 1:
        return _gathered(images, starts, block, 1, block.rows, by_image)
    lines = block.rows * math.prod(geometry.output[1:-1])
    step = geometry.stride[0] * _pitches(geometry)[0]
    return _gathered(images, starts[:, :lines], block, step, geometry.output[-1], by_image)


def errors(block: Block, y: Array) -> Array:
    """A block of errors `(n, c, *positions)`, as `(c, positions of its images)`."""
    row = math.prod(y.shape[3:])
    starts = jnp.asarray(np.arange(y.shape[1])[:, None] * (y.shape[2] * row), np.int32)
    return _gathered(y.reshape(len(y), -1), starts, block, row, block.rows * row)


def of_groups(
    geometry: Geometry, groups: Block, images: Array, starts: Array, channels: int
) -> Array:
    """The patches of some groups of so many channels each, `(c * taps, positions of all images)`:
    `starts` are of as many, the first ones."""
    run = geometry.output[-1]
    whole = Block(0, len(images), groups.image, 1)
    return _gathered(images, starts, whole, channels * _plane(geometry), run)


def errors_of_groups(groups: Block, y: Array, channels: int) -> Array:
    """The errors of some groups of so many channels each, `(c, positions of all images)`."""
    plane = math.prod(y.shape[2:])
    starts = jnp.asarray(np.arange(groups.images * channels)[:, None] * plane, np.int32)
    whole = Block(0, len(y), groups.image, 1)
    return _gathered(y.reshape(len(y), -1), starts, whole, channels * plane, plane)


def _plane(geometry: Geometry) -> int:
    """Numbers of a channel of one residue."""
    return math.prod(geometry.read[:-1]) * _length(geometry)


def _length(geometry: Geometry) -> int:
    """Numbers of a line of one residue."""
    return -(-geometry.read[-1] // geometry.stride[-1])


def _pitches(geometry: Geometry) -> list[int]:
    """Numbers to a step of each axis but the last."""
    sizes = (*geometry.read[:-1], _length(geometry))
    return [math.prod(sizes[axis + 1 :]) for axis in range(geometry.rank - 1)]


def _gathered(
    images: Array, starts: Array, block: Block, step: int, run: int, by_image: bool = False
) -> Array:
    """`(rows, numbers of all images)`: runs from the starts on, so far on for each row of a block
    that is before it; by image, with images ahead."""

    def place(starts: Array, image: Array, row: Array) -> tuple[Array, Array]:
        shape = (len(starts), block.images, starts.shape[1])
        at = jnp.broadcast_to((starts + row * np.int32(step))[:, None], shape)
        image += lax.broadcasted_iota(np.int32, shape, 1)
        return (image.swapaxes(0, 1), at.swapaxes(0, 1)) if by_image else (image, at)

    found = _windows.gathered(place, run, images, starts, block.image, block.row)
    return found.reshape(*found.shape[: 1 + by_image], -1)
