"""What the gallery's figures have in common: their size, letters, colours, and how they are saved.

A figure is drawn 8 inches wide and shown in the README 800 pixels wide, where 8 points are 11
pixels. Signed numbers go from purple to orange with white for 0, others from dark blue to yellow;
both are told apart by the colour-blind, as are the lines' colours.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from PIL import Image

WIDTH = 8.0  # inches
DPI = 150  # 1200 pixels: sharp on fine screens too
BLUE, RED, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"  # Okabe and Ito's
SIGNED, SEQUENTIAL, GREY = "PuOr", "viridis", "gray"
LETTERS: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 9,
    "image.interpolation": "nearest",
    "axes.linewidth": 0.6,
}


@contextmanager
def style() -> Iterator[None]:
    """matplotlib's own settings but for `LETTERS`, whatever the user's are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(LETTERS)
        yield


def sheet(height: float, title: str, **options: Any) -> Figure:
    """An empty figure of a height in inches, with its title."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained", **options)
    figure.suptitle(title, fontsize=12, fontweight="bold")
    return figure


def strips(figure: Figure, heights: list[float]) -> list[SubFigure]:
    """Parts of a figure one below the other."""
    return list(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])


def picture(axes: Axes, values: Any, title: str = "", **options: Any) -> Any:
    """An image without ticks; returns what a colour bar is drawn for."""
    shown = axes.imshow(np.asarray(values), **options)
    axes.set(xticks=[], yticks=[], title=title)
    return shown


def signed(bound: float) -> dict[str, Any]:
    """Colours for numbers from -bound to bound."""
    return {"cmap": SIGNED, "vmin": -bound, "vmax": bound}


def largest(values: Any) -> float:
    """The largest absolute value, which a scale centred on 0 is made for."""
    return float(np.abs(values).max()) or 1.0


def bar(figure: Figure | SubFigure, shown: Any, axes: Any, label: str = "", **options: Any) -> Any:
    """A colour bar of a few ticks."""
    options = {"pad": 0.02, **options}
    found = figure.colorbar(shown, ax=axes, label=label, **options)
    found.ax.locator_params(nbins=4)
    found.outline.set_linewidth(0.4)  # type: ignore[operator]
    return found


def tile(maps: Any, columns: int, gap: int) -> np.ndarray:
    """Maps `(h, w, c)` side by side in rows, with gaps, which are NaN, between them."""
    maps = np.moveaxis(np.asarray(maps, float), -1, 0)
    rows = -(-len(maps) // columns)
    missing = np.full((rows * columns - len(maps), *maps.shape[1:]), np.nan)
    room = [(0, 0), (0, gap), (0, gap)]
    framed = np.pad(np.concatenate([maps, missing]), room, constant_values=np.nan)
    _, height, width = framed.shape
    framed = framed.reshape(rows, columns, height, width).swapaxes(1, 2)
    return framed.reshape(rows * height, columns * width)[: rows * height - gap, : -gap or None]


def times(height: int, width: int | None = None) -> str:
    """A size in words: "2 x 2", with the right sign."""
    return f"{height}\N{MULTIPLICATION SIGN}{height if width is None else width}"


def encode(figure: Figure) -> bytes:
    """A figure as a PNG of at most 256 colours, without dates or names of programs.

    The palette is chosen from the colours that occur, each counted by the logarithm of its pixels:
    with every pixel counted, a white page leaves a colour map's ends to a few colours.
    """
    drawn, out = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    pixels = np.asarray(Image.open(drawn).convert("RGB"), np.int32)
    codes, places, counts = np.unique(
        pixels @ [1 << 16, 1 << 8, 1], return_inverse=True, return_counts=True
    )
    colours = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=-1)
    weighted = np.repeat(colours, np.log2(2 * counts).astype(int), axis=0)
    few = Image.fromarray(weighted[None].astype(np.uint8)).quantize(254, kmeans=2)
    chosen = np.array((few.getpalette() or [])[: 3 * 254]).reshape(-1, 3)
    palette = np.concatenate([chosen, [[0, 0, 0], [255, 255, 255]]])  # these two exactly
    # Pillow's own choice of the nearest colour is off by a few levels, on white too.
    nearest = np.square(colours[:, None] - palette).sum(axis=-1).argmin(axis=-1)
    small = Image.fromarray(nearest[places].reshape(pixels.shape[:2]).astype(np.uint8))
    small.putpalette(palette.astype(np.uint8).tobytes())
    small.save(out, format="png", optimize=True)
    return out.getvalue()
