"""The gallery's figures of a trained LeNet: its kernels, maps, receptive fields, gradients.

Everything that a figure shows and that can be known in two ways is computed in both and compared
before it is drawn; `DisagreementError` tells of a difference.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from gallery_style import (
    GREY,
    RED,
    SEQUENTIAL,
    bar,
    largest,
    picture,
    sheet,
    signed,
    strips,
    tile,
    times,
)
from jax import Array
from lenet_networks import LeNet
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle

from jaxconv import geometry, gradients

SIDE = 28  # pixels of an image
#: What each layer does, for `geometry.receptive_field`: window, stride, padding.
LAYERS = {
    "C1": ((5, 5), 1, 2),
    "S2": ((2, 2), 2, 0),
    "C3": ((5, 5), 1, 0),
    "S4": ((2, 2), 2, 0),
    "C5": ((5, 5), 1, 0),
}
#: The position of each layer whose receptive field is drawn: the middle, or next to it.
MIDDLE = {"C1": 13, "S2": 6, "C3": 4, "S4": 2, "C5": 0}
TOLERANCE = 1e-4  # of a float32 gradient, over its largest entry
STEP = 0.2  # of ink, where the step along dX changes it most
SHOWN = 2  # maps of C3 whose kernels are drawn


class DisagreementError(Exception):
    """Two ways to the same numbers that came to different ones."""


def field(layer: str) -> geometry.ReceptiveField:
    """What an element of a layer sees of the image."""
    names = list(LAYERS)
    return geometry.receptive_field([LAYERS[name] for name in names[: names.index(layer) + 1]])


# Kernels.


def kernels(before: LeNet, after: LeNet) -> Figure:
    """C1's kernels and those of the maps of C3 that changed most, at the start and learned."""
    first = [np.asarray(network.c1.kernel[...])[:, :, 0] for network in (before, after)]
    third = [np.asarray(network.c3.kernel[...]) for network in (before, after)]
    moved = np.square(third[1] - third[0]).sum(axis=(0, 1, 2))
    chosen = np.sort(np.argsort(moved)[-SHOWN:])
    blocks = [(f"C1, whose maps have one kernel each; {_change(*first)}", first)]
    for number in chosen:
        pair = [kernel[..., number] for kernel in third]
        name = f"C3, map {number + 1} of 16, of the {SHOWN} that changed most; {_change(*pair)}"
        blocks.append((name, pair))
    figure = sheet(8.6, "C1's kernels stay near their start; C3's grow larger and smoother")
    parts = strips(figure, [1] * len(blocks))
    for part, (name, pair) in zip(parts, blocks, strict=True):
        part.suptitle(name, fontsize=10)
        axes = part.subplots(2, 6)
        bound = largest(first if pair is first else [kernel[..., chosen] for kernel in third])
        shown, colours = None, signed(bound)
        for row, (word, kernel) in enumerate(zip(("at the start", "learned"), pair, strict=True)):
            axes[row, 0].set_ylabel(word)
            for column in range(6):
                shown = picture(axes[row, column], kernel[..., column], **colours)
        bar(part, shown, axes, "weight", aspect=25)
    return figure


def _change(before: np.ndarray, after: np.ndarray) -> str:
    """How far kernels went, in words."""
    return f"|change| = {np.linalg.norm(after - before) / np.linalg.norm(before):.1f} |start|"


# Feature maps.


def feature_maps(network: LeNet, image: np.ndarray, label: int) -> Figure:
    """One image through all layers."""
    made = {
        name: np.asarray(out[0])
        for name, out in network.layers(jnp.asarray(image)[None, ..., None]).items()
    }
    figure = sheet(
        9.2, f"A handwritten {label} through LeNet-5: fewer pixels, more maps, a wider view"
    )
    heights = (1.25, 1.25, 1.2, 1.65, 1.65, 0.55, 0.5, 1.35)
    axes = figure.subplots(8, 2, width_ratios=(1.35, 5), height_ratios=heights)
    rows = {"image": image[..., None], **made}
    for (words, canvas), (name, values) in zip(axes, rows.items(), strict=True):
        words.axis("off")
        text = _describe(name, values)
        words.text(0, 0.5, name, va="bottom", fontsize=11, fontweight="bold")
        words.text(0, 0.45, text, va="top", fontsize=8.5)
        if name == "output":
            _draw_probabilities(canvas, values)
            continue
        canvas.axis("off")
        grid = _laid_out(values)
        shown = picture(canvas, grid, cmap=GREY if name == "image" else SEQUENTIAL, vmin=0)
        canvas.set_anchor("W")
        bar(figure, shown, canvas, aspect=9, panchor=False)
    return figure


def _describe(name: str, values: np.ndarray) -> str:
    """A row's shape and what an element of it sees."""
    if name in LAYERS:
        height, width, maps = values.shape
        size, _ = field(name).size
        sees = f"sees {times(size)} pixels" + (", all" if size > SIDE else "")
        return f"{maps} maps of {times(height, width)}\n{sees}"
    if name == "image":
        return f"{times(SIDE)} pixels"
    return f"{len(values)} numbers"


def _laid_out(values: np.ndarray) -> np.ndarray:
    """The maps of a layer in rows of at most 8; numbers alone as a strip, or as two."""
    if values.ndim == 3 and values.shape[0] > 1:
        return tile(values, min(values.shape[2], 8 if values.shape[2] > 6 else 6), 1)
    numbers = values.ravel()
    return tile(numbers[None, None], len(numbers) // 2, 0)


def _draw_probabilities(axes: Axes, logits: np.ndarray) -> None:
    """The softmax of the logits, by its logarithm: the others' are small, and not equal."""
    chances = np.asarray(jax.nn.softmax(logits), float)
    shown = axes.bar(range(10), chances, color=["0.6"] * 10)
    shown[int(chances.argmax())].set_color(RED)
    axes.set(yscale="log", xticks=range(10), xlabel="digit", ylabel="probability")
    lowest = max(int(np.log10(chances.min() + 1e-30)) - 1, -30)
    axes.set(ylim=(10.0**lowest, 1e4), yticks=10.0 ** np.arange(0, lowest - 1, lowest // 3))
    best = int(chances.argmax())
    axes.text(best, chances[best] * 3, f"{chances[best]:.4f}", ha="center")


# Receptive fields.


class Seen(NamedTuple):
    """What one element of a layer depends on.

    Attributes:
        start: row and column of the first pixel, by `geometry.receptive_field`; the padding counts.
        size: rows and columns, likewise.
        slopes: the mean size of the element's derivative in each pixel, `(28, 28)`.
    """

    start: tuple[int, int]
    size: tuple[int, int]
    slopes: np.ndarray


def seen(network: LeNet, images: np.ndarray, layer: str) -> Seen:
    """The receptive field of a layer's middle element, by geometry and by `jax.grad`.

    A rectified unit at zero has no derivative; so all maps of the layer are asked, on all images.

    Raises:
        DisagreementError: if the pixels with a derivative are not the rectangle, as far as that is
            inside.
    """
    place = MIDDLE[layer]

    def element(image: Array, number: Array) -> Array:
        return network.layers(image[None, ..., None])[layer][0, place, place, number]

    each_map = jax.vmap(jax.grad(element), in_axes=(None, 0))
    numbers = jnp.arange({"C1": 6, "S2": 6, "C3": 16, "S4": 16, "C5": 120}[layer])
    slopes = jax.jit(jax.vmap(each_map, in_axes=(0, None)))(jnp.asarray(images), numbers)
    mean = np.asarray(jnp.mean(jnp.abs(slopes), axis=(0, 1)))
    found = field(layer)
    start = tuple(s + place * jump for s, jump in zip(found.start, found.jump, strict=True))
    result = Seen(start, found.size, mean)  # type: ignore[arg-type]
    if not np.array_equal(mean != 0, rectangle(result)):
        raise DisagreementError(f"{layer}'s receptive field is not where its derivatives are")
    return result


def rectangle(of: Seen) -> np.ndarray:
    """Which pixels are in a receptive field, `(28, 28)`."""
    rows, columns = (
        (np.arange(SIDE) >= first) & (np.arange(SIDE) < first + size)
        for first, size in zip(of.start, of.size, strict=True)
    )
    return rows[:, None] & columns


def receptive_field(network: LeNet, images: np.ndarray) -> Figure:
    """What the middle of each layer sees, on the first image; and how much each pixel counts."""
    figure = sheet(3.8, "Each layer sees more of the digit, until one element sees all of it")
    axes = figure.subplots(2, len(LAYERS))
    shown = None
    for (top, bottom), layer in zip(axes.T, LAYERS, strict=True):
        found = seen(network, images, layer)
        picture(top, images[0], f"{layer} sees {times(*found.size)}", cmap=GREY, vmin=0, vmax=1)
        slopes = found.slopes / found.slopes.max()
        shown = picture(
            bottom, np.where(slopes > 0, slopes, np.nan), cmap=SEQUENTIAL, vmin=0, vmax=1
        )
        for here in (top, bottom):
            _draw_rectangle(here, found)
        _, jump = field(layer).jump
        bottom.set_xlabel(f"step {jump} pixel{'s' * (jump > 1)}")
    axes[0, 0].set_ylabel("by geometry")
    axes[1, 0].set_ylabel("by jax.grad")
    bar(figure, shown, axes[1], "mean |derivative|,\nlargest = 1", aspect=12)
    figure.supxlabel(
        "Orange: what the middle element of a layer sees; hatched: the padding around the image",
        fontsize=9,
    )
    return figure


def _draw_rectangle(axes: Axes, found: Seen) -> None:
    corner = (found.start[1] - 0.5, found.start[0] - 0.5)
    frame = Rectangle((-2.5, -2.5), SIDE + 4, SIDE + 4, fc="white", ec="0.6", hatch="////", lw=0)
    axes.add_patch(frame).set_zorder(-1)
    axes.add_patch(Rectangle((-0.5, -0.5), SIDE, SIDE, fc="white", zorder=-0.5))
    axes.add_patch(Rectangle(corner, *found.size[::-1], fill=False, ec=RED, lw=2))
    axes.set(xlim=(-3.5, SIDE + 2.5), ylim=(SIDE + 2.5, -3.5))


# Gradients.


class Slopes(NamedTuple):
    """The arrays of one layer and one image, channels last.

    Attributes:
        x: the image, `(1, 28, 28, 1)`.
        kernel: C1's, `(5, 5, 1, 6)`.
        delta: the loss's gradient in C1's output before its nonlinearity, `(1, 28, 28, 6)`.
        kernel_grad: `dW[p] = corr(X, delta[p])`.
        input_grad: `dX = sum_p full(rot180 W[p], delta[p])`.
    """

    x: Array
    kernel: Array
    delta: Array
    kernel_grad: Array
    input_grad: Array


def slopes_of_c1(network: LeNet, image: np.ndarray, label: int) -> Slopes:
    """C1's gradients by the notes' closed forms, from its delta.

    Raises:
        DisagreementError: if `jax.grad` gives others.
    """
    x = jnp.asarray(image)[None, ..., None]
    graph, weights = nnx.split(network)

    def loss(weights: Any, x: Array, added: Array) -> Array:
        """With something added to C1's output, the derivative in which is delta."""
        copy: Any = nnx.merge(graph, weights)
        copy.c1 = _Added(copy.c1, added)
        return optax.softmax_cross_entropy_with_integer_labels(copy(x)[0], jnp.asarray(label))

    nothing = jnp.zeros((*x.shape[:3], 6), x.dtype)
    by_jax, dx, delta = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(weights, x, nothing)
    kernel = network.c1.kernel[...]
    options: dict[str, Any] = {"padding": 2, "layout": "NHWC"}
    found = Slopes(
        x, kernel, delta,
        gradients.conv_kernel_grad(x, delta, kernel.shape, **options),
        gradients.conv_input_grad(delta, kernel, x.shape, **options),
    )  # fmt: skip
    for name, ours, theirs in (
        ("dW", found.kernel_grad, by_jax["c1"]["kernel"][...]),
        ("dX", found.input_grad, dx),
    ):
        if float(jnp.abs(ours - theirs).max()) > TOLERANCE * largest(theirs):
            raise DisagreementError(f"{name} by the closed form is not jax.grad's")
    return found


class _Added(nnx.Module):
    """A layer, and something added to what it gives."""

    def __init__(self, layer: Any, added: Array):
        self.layer, self.added = layer, nnx.data(added)

    def __call__(self, x: Array) -> Array:
        return self.layer(x) + self.added


def hardest(network: LeNet, images: np.ndarray, labels: np.ndarray) -> int:
    """The number of the image with the largest loss, whose gradients are worth looking at."""
    logits = network(jnp.asarray(images)[..., None])
    return int(optax.softmax_cross_entropy_with_integer_labels(logits, labels).argmax())


def gradients_of_c1(network: LeNet, image: np.ndarray, label: int) -> Figure:
    """X, W, delta, dW and dX of C1, with their formulas; and a step along dX."""
    found = slopes_of_c1(network, image, label)
    figure = sheet(7.4, f"What would make the network see a {label} here: C1's gradients")
    rows = strips(figure, [2.1, 1, 1, 1])
    _draw_images(rows[0], network, found, label)
    maps = (
        ("W[p], the kernels of H[p] = corr(X, W[p])", found.kernel[:, :, 0], "weight"),
        ("\u03b4[p] = \u2202loss / \u2202H[p], 0 where the ReLU is off", found.delta[0], "\u03b4"),
        ("dW[p] = corr(X, \u03b4[p])", found.kernel_grad[:, :, 0], "\u2202loss / \u2202weight"),
    )
    for part, (title, values, name) in zip(rows[1:], maps, strict=True):
        part.suptitle(title, fontsize=10)
        axes, shown = part.subplots(1, 6), None
        for number, here in enumerate(axes):
            shown = picture(here, values[..., number], **signed(largest(values)))
            here.set_ylabel(f"p = {number + 1}")
        bar(part, shown, axes, name, aspect=10)
    text = "X is padded by 2, full's outer 2 pixels are left out; dW and dX equal jax.grad's"
    figure.supxlabel(text, fontsize=9)
    return figure


def _draw_images(part: SubFigure, network: LeNet, found: Slopes, label: int) -> None:
    """The image, the loss's gradient in it, and the image after a step against that."""
    step = STEP / largest(found.input_grad)
    images = jnp.concatenate([found.x, found.x - step * found.input_grad])
    chances = np.asarray(jax.nn.softmax(network(images)))
    taken = [f"taken for {chance.argmax()}\np({label}) = {chance[label]:.3f}" for chance in chances]
    axes = part.subplots(1, 3)
    ink = {"cmap": GREY, "vmin": -STEP, "vmax": 1 + STEP}
    shown = picture(axes[0], images[0, ..., 0], f"X: a {label}, {taken[0]}", **ink)
    bar(part, shown, axes[0], "ink", shrink=0.8)
    dx = found.input_grad[0, ..., 0]
    title = "dX = \u2211\u209a full(rot180 W[p], \u03b4[p])\norange: ink lowers the loss"
    shown = picture(axes[1], dx, title, **signed(largest(dx)))
    bar(part, shown, axes[1], "\u2202loss / \u2202ink", shrink=0.8)
    shown = picture(axes[2], images[1, ..., 0], f"X \u2212 {step:.2g} dX: {taken[1]}", **ink)
    bar(part, shown, axes[2], "ink", shrink=0.8)
