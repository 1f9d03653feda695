"""The gallery's figures that need no network: the edge kernel's path, and the photograph."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from edge_kernel import LOGS, toy_image, train
from gallery_style import (
    BLUE,
    GREEN,
    GREY,
    PINK,
    RED,
    SEQUENTIAL,
    bar,
    picture,
    sheet,
    signed,
    strips,
    times,
)
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle

import jaxconv as jc

TRUE = np.array([1.0, -1.0])  # the edge kernel
GRAM = 6 * np.array([[3.0, 2.0], [2.0, 3.0]])  # of the notes' image: the loss is e'Ge

# The part of the 427x640 photograph that is shown: rows, columns.
ROOFS = (slice(16, 272), slice(76, 332))
WINDOWS = (4, 8, 16)  # of the pools
BLUR = 13  # taps of the filter that padding is shown with


# The edge kernel's path.


class Path(NamedTuple):
    """Log A's training, and what its closed form says of it.

    Attributes:
        kernels: before each step and at the end, `(steps + 1, 2)`.
        losses: before each step.
        values: the two eigenvalues of `GRAM`, the larger one first.
        modes: the unit eigenvectors, as columns.
        factors: by which a step multiplies each mode.
    """

    kernels: np.ndarray
    losses: np.ndarray
    values: np.ndarray
    modes: np.ndarray
    factors: np.ndarray


def path_of_log_a() -> Path:
    """Train as log A did, and take the loss's quadratic form apart."""
    log = LOGS[0]
    run = train(log)
    values, modes = np.linalg.eigh(GRAM)
    values, modes = values[::-1], modes[:, ::-1]
    modes = modes * np.sign(modes[0])  # both to the right
    return Path(
        run.params["kernel"][:, 0].astype(float), run.losses.astype(float),
        values, modes, 1 - 2 * log.rate * values,
    )  # fmt: skip


def path() -> Figure:
    """Log A over the loss's ellipses, and its loss by steps."""
    found = path_of_log_a()
    figure = sheet(4.6, "Log A zig-zags: one mode changes sign at each step, one only shrinks")
    left, right = figure.subplots(1, 2)
    _draw_ellipses(left, found)
    _draw_losses(right, found)
    return figure


def _draw_ellipses(axes: Axes, found: Path) -> None:
    """The path; a contour to each printed loss, so that every second point lies on one."""
    (west, east), (south, north) = (-1.0, 2.0), (-2.75, 0.25)
    across, up = np.meshgrid(np.linspace(west, east, 301), np.linspace(south, north, 301))
    e = np.stack([across - TRUE[0], up - TRUE[1]])
    height = np.einsum("iyx,ij,jyx->yx", e, GRAM, e)
    axes.contour(across, up, height, found.losses[1::2][::-1], colors="0.7", linewidths=0.8)
    for line, mode in enumerate(_modes(found)):
        ends = TRUE + np.outer([-2.5, 2.5], found.modes[:, line])
        text = f"eigenvalue {mode.value:.0f}: times {mode.factor:.2f} a step"
        axes.plot(*ends.T, color=mode.colour, ls=mode.dashes, label=_minus(text))
    axes.plot(*found.kernels.T, color=BLUE, marker="o", ms=4, lw=1.2, label="log A's kernel")
    axes.plot(*TRUE, color="black", marker="*", ms=11, ls="", label=_minus("edge kernel (1, -1)"))
    for step, offset in enumerate([(-4, 6), (5, 3), (-4, -12), (4, 4)]):
        axes.annotate(str(step), found.kernels[step], offset, textcoords="offset points")
    axes.set(
        title="The kernel after 0, 1, 2, ... steps;\ngrey: contours at the printed losses",
        xlabel="left entry", ylabel="right entry",
        aspect="equal", xlim=(west, east), ylim=(south, north),
    )  # fmt: skip
    axes.locator_params(nbins=7)
    axes.legend(loc="lower left", framealpha=1, fontsize=8)


class _Mode(NamedTuple):
    value: float
    factor: float
    colour: str
    dashes: str


def _modes(found: Path) -> list[_Mode]:
    pairs = zip(found.values, found.factors, (RED, GREEN), ("--", "-."), strict=True)
    return [_Mode(*pair) for pair in pairs]


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")


def _draw_losses(axes: Axes, found: Path) -> None:
    """The loss as the sum of its two modes, and the numbers that the notes print."""
    steps = np.arange(1, len(found.losses) + 1)
    parts = found.values * ((found.kernels[:-1] - TRUE) @ found.modes) ** 2
    for part, mode in zip(parts.T, _modes(found), strict=True):
        text = f"its part of eigenvalue {mode.value:.0f}"
        axes.semilogy(steps, part, color=mode.colour, ls=mode.dashes, label=text)
    axes.semilogy(steps, found.losses, color=BLUE, marker="o", ms=4, lw=1.2, label="loss")
    printed = LOGS[0].printed_losses
    values = [float(number) for number in printed.values()]
    square = {"color": "black", "marker": "s", "ms": 8, "mfc": "none", "ls": ""}
    axes.plot([*printed], values, label="printed in the notes", **square)
    for step, number in printed.items():
        axes.annotate(number, (step, float(number)), (4, 7), textcoords="offset points")
    axes.set(
        title="The loss that each step starts from,\nand the notes' printed numbers",
        xlabel="step", ylabel="sum of squared errors",
        xticks=steps, xlim=(0.5, 11.9), ylim=(1e-3, 60),
    )  # fmt: skip
    axes.set_box_aspect(1)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left", framealpha=1, fontsize=8)


# What pooling keeps.


def edges_of(grey: Any) -> np.ndarray:
    """The strength of the edges, from Sobel's two answers."""
    down, across = (np.asarray(jc.filters.apply(grey, jc.filters.sobel(axis))) for axis in (0, 1))
    return np.hypot(down, across)


def pooling(photo: np.ndarray) -> Figure:
    """Max and average pooling of a photograph's edges; below, what moves by one pixel."""
    figure = sheet(6.3, "Max pooling keeps thin edges; average pooling fades them")
    above, below = strips(figure, [4.3, 1.6])
    _draw_pools(above, photo[ROOFS])
    _draw_tolerance(below)
    return figure


def _draw_pools(part: SubFigure, grey: np.ndarray) -> None:
    edges = edges_of(grey)
    scale = {"cmap": SEQUENTIAL, "vmin": 0, "vmax": float(np.percentile(edges, 99.8))}
    axes = part.subplots(2, 1 + len(WINDOWS))
    picture(axes[0, 0], grey, f"Photograph, {times(256)}", cmap=GREY, vmin=0, vmax=1)
    shown = picture(axes[1, 0], edges, "Its edges (Sobel)", **scale)
    for column, size in enumerate(WINDOWS, start=1):
        window = (size, size)
        for row, (name, pool) in enumerate((("Max", jc.max_pool), ("Average", jc.avg_pool))):
            pooled = pool(edges[None], window)[0]
            picture(axes[row, column], pooled, f"{name} of {times(size)}", **scale)
    bar(part, shown, axes, "edge strength", extend="max", aspect=30)


def moved_edge() -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The notes' image and the same moved by one pixel: image, edges, 2x2 maximum of these."""
    image = toy_image()
    rows = []
    for x in (image, jnp.concatenate([image[:, :1], image[:, :-1]], axis=1)):
        edges = jc.corr2d(x, jc.filters.edge().astype(x.dtype))
        rows.append((x, edges, jc.max_pool(edges[None], (2, 2), stride=1)[0]))
    return [tuple(np.asarray(a) for a in row) for row in rows]  # type: ignore[misc]


def _draw_tolerance(part: SubFigure) -> None:
    text = f"Moved by one pixel, the edge leaves its column (framed), the {times(2)} maximum stays"
    part.suptitle(text, fontsize=10, fontweight="bold")
    axes = part.subplots(1, 6, width_ratios=(8, 7, 6, 8, 7, 6))
    for place, (moved, row) in enumerate(zip(("", ", moved"), moved_edge(), strict=True)):
        names = (f"Image{moved}", "Edges, [1, \N{MINUS SIGN}1]", f"{times(2)} maximum")
        for number, (values, name) in enumerate(zip(row, names, strict=True)):
            here = axes[3 * place + number]
            scale = {"cmap": GREY, "vmin": 0, "vmax": 1} if number == 0 else signed(1.8)
            picture(here, values, name, **scale)
            if number:
                _draw_numbers(here, values)
                here.add_patch(Rectangle((0.5, -0.5), 1, len(values), fill=False, ec="black", lw=2))


def _draw_numbers(axes: Axes, values: np.ndarray) -> None:
    for (row, column), value in np.ndenumerate(values):
        text = f"{value:.0f}".replace("-", "\N{MINUS SIGN}")
        axes.text(column, row, text, ha="center", va="center", fontsize=8)


# What lies outside.


class Border(NamedTuple):
    """One way to treat the border.

    Attributes:
        name: for the reader.
        padding: pixels on each side.
        mode: what they are filled with.
    """

    name: str
    padding: int
    mode: str


HALF = (BLUR - 1) // 2
BORDERS = (
    Border("valid: none", 0, "zeros"),
    Border("same, zeros", HALF, "zeros"),
    Border("full, zeros", 2 * HALF, "zeros"),
    Border("same, reflect", HALF, "reflect"),
    Border("same, replicate", HALF, "replicate"),
    Border("same, circular", HALF, "circular"),
)


def bordered(grey: Any, border: Border) -> tuple[np.ndarray, np.ndarray]:
    """The padded image, by a window of one pixel; and the strength of its blurred edges."""
    x = jnp.asarray(grey)[None]
    blur = jc.filters.gaussian((BLUR, 1), BLUR / 6) * jc.filters.gaussian((1, BLUR), BLUR / 6)
    slope = (jnp.arange(BLUR) - HALF).astype(blur.dtype)
    kernels = jnp.stack([blur * slope[:, None], blur * slope[None]])[:, None].astype(x.dtype)
    fill = {"padding": border.padding, "padding_mode": border.mode}
    padded = jc.conv(x, jnp.ones((1, 1, 1, 1), x.dtype), **fill)[0]
    down, across = np.asarray(jc.conv(x, kernels, **fill))
    return np.asarray(padded), np.hypot(down, across)


def padding_modes(photo: np.ndarray) -> Figure:
    """A part of the photograph with six borders, and the edges that a filter sees of each."""
    grey = np.asarray(jc.avg_pool(photo[ROOFS][None], (4, 4))[0])
    figure = sheet(6.7, "Zeros and circular padding make edges that are not in the photograph")
    grid = figure.subplots(3, 5, width_ratios=(1, 1, 0.05, 1, 1))
    for spacer in grid[:, 2]:
        spacer.remove()
    pairs = [bordered(grey, border) for border in BORDERS]
    top = max(float(edges.max()) for _, edges in pairs)
    places = [(row, column) for column in (0, 3) for row in range(3)]
    shown = None
    for (row, column), border, (padded, edges) in zip(places, BORDERS, pairs, strict=True):
        left, right = grid[row, column : column + 2]
        _draw_framed(left, padded, grey.shape, cmap=GREY, vmin=0, vmax=1)
        shown = _draw_framed(right, edges, grey.shape, cmap=SEQUENTIAL, vmin=0, vmax=top)
        left.set_title(border.name, fontweight="bold")
        right.set_title("edges, {}\N{MULTIPLICATION SIGN}{}".format(*edges.shape))
    text = f"Left of each pair the padded image, right what filters of {times(BLUR)} see of it; "
    figure.supxlabel(text + "pink: the photograph's border", fontsize=9)
    bar(figure, shown, [*grid[:, :2].ravel(), *grid[:, 3:].ravel()], "edge strength", aspect=40)
    return figure


def _draw_framed(axes: Axes, values: np.ndarray, size: tuple[int, ...], **options: Any) -> Any:
    """An image in its place around the original, whose border is drawn; all in one frame."""
    (height, width), (h, w) = size, values.shape
    before = (h - height) / 2, (w - width) / 2
    extent = (-before[1], width + before[1], height + before[0], -before[0])
    axes.set_facecolor("0.93")
    shown = picture(axes, values, extent=extent, **options)
    axes.add_patch(Rectangle((0, 0), width, height, fill=False, ec=PINK, lw=1.5))
    room = 2 * HALF + 1
    axes.set(xlim=(-room, width + room), ylim=(height + room, -room))
    return shown
