"""Derivatives from values alone: extrapolated central differences, one-sided ones, kinks.

Along a direction d, with steps h_k = h_0 / RATIO^k, a smooth function has

    (f(x + h d) - f(x - h d)) / 2h = f'd + c_1 h^2 + c_2 h^4 + ...

and Neville's tableau removes one power of h^2 after the other (Ridders 1982; Numerical Recipes,
section 5.7). The same tableau in powers of h gives the slope on one side alone, from the values at
x + h_k d without the one at x. Where the two sides differ there is a kink, and where the values on
the two sides do not meet there is a jump.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

#: Steps 1/4, 1/16, ..., 6e-8, times the size of the argument: powers of two, which floats add
#: without rounding.
FIRST, RATIO, STEPS = 0.25, 4.0, 12
#: Powers of h that are removed at most; beyond them rounding gains nothing.
DEPTH = 6
#: Values that are held at a time: STEPS * columns * outputs on each side.
CHUNK = 400_000
#: What rounding leaves in a value, relative to the largest: a few units in the last place.
ROUNDING = 4 * float(np.finfo(np.float64).eps)
#: Two slopes that differ by less than this are one slope, roughly found.
KINK = 1e-5
#: Estimates that are less sure than this are tried again with steps of another size.
UNSURE = 1e-8

#: An entry of the argument, or a vector.
Direction = int | np.ndarray


@dataclasses.dataclass(frozen=True)
class Slopes:
    """Derivatives of all outputs along several directions: arrays `(directions, outputs)`.

    Attributes:
        left, right: the slopes on the two sides of a kink; elsewhere both are the derivative.
        error: the estimate's own opinion of its error.
        kink: where left and right differ, or the values jump.
        jump: where the values jump.
    """

    left: np.ndarray
    right: np.ndarray
    error: np.ndarray
    kink: np.ndarray
    jump: np.ndarray

    @property
    def low(self) -> np.ndarray:
        """The least slope that is right."""
        return np.minimum(self.left, self.right)

    @property
    def high(self) -> np.ndarray:
        """The greatest slope that is right."""
        return np.maximum(self.left, self.right)


def chunks(count: int, outputs: int) -> Iterator[slice]:
    """Directions that are worked on together."""
    width = max(1, CHUNK // (STEPS * max(outputs, 1)))
    return (slice(start, start + width) for start in range(0, count, width))


def random_direction(rng: np.random.Generator, point: np.ndarray) -> np.ndarray:
    """A random vector that moves each entry by about its size, at least 1.

    Its entries are multiples of powers of two, so that steps along it are not rounded either.
    """
    size = 2.0 ** np.floor(np.log2(np.maximum(np.abs(point), 1.0)))
    return np.round(rng.normal(size=point.shape) * 64) / 64 * size


def slopes(
    f: Callable[[np.ndarray], np.ndarray],
    point: np.ndarray,
    directions: Sequence[Direction],
    floor: float = 0.0,
) -> Slopes:
    """The derivatives of `f` along `directions`, each taken on its own.

    Args:
        f: a map between vectors.
        point: where.
        directions: vectors, or indices of entries.
        floor: the size of what may have cancelled in `f`'s values, whose rounding is left in them.
    """
    centre = f(point)
    rounding = ROUNDING * max(float(np.abs(centre[np.isfinite(centre)]).max(initial=0)), floor)
    sizes = [_sizes(point, direction) for direction in directions]
    units = np.array([size for size, _ in sizes])
    found = _slopes(f, point, directions, centre, units, rounding)
    # A function may live on a smaller scale than its argument's: log near 0, a sine of 1e6.
    scale = np.abs(found.right).max(axis=1, initial=0, keepdims=True)
    unsure = ~(found.error <= UNSURE * scale + ROUNDING * np.abs(centre)) & np.isfinite(centre)
    again = [i for i, (size, other) in enumerate(sizes) if unsure[i].any() and other < size]
    if again:
        some, units = [directions[i] for i in again], np.array([sizes[i][1] for i in again])
        _improve(found, again, _slopes(f, point, some, centre, units, rounding))
    return found


def _sizes(point: np.ndarray, direction: Direction) -> tuple[float, float]:
    """The unit of the steps, a power of two, and a smaller one for a second attempt."""
    moved = point[direction : direction + 1] if isinstance(direction, int) else point
    values = np.abs(moved[np.isfinite(moved) & (moved != 0)])
    greatest, least = 2.0 ** np.floor(np.log2([values.max(initial=1.0), values.min(initial=1.0)]))
    if isinstance(direction, int):
        return float(greatest), float(least)
    return 1.0, float(least / greatest)  # a random direction has the entries' sizes in it


def _improve(found: Slopes, at: list[int], finer: Slopes) -> None:
    """Take over what the second attempt knows better."""
    better = ~(found.error[at] <= finer.error)
    for field in dataclasses.fields(Slopes):
        old, new = getattr(found, field.name), getattr(finer, field.name)
        old[at] = np.where(better, new, old[at])


def _slopes(
    f: Any, point: Any, directions: Any, centre: np.ndarray, units: np.ndarray, rounding: float
) -> Slopes:
    steps = FIRST * RATIO ** -np.arange(STEPS)[:, None] * units
    right = np.empty((STEPS, len(directions), len(centre)))
    left, slipped = np.empty_like(right), np.zeros((STEPS, len(directions), 1))
    for at, direction in enumerate(directions):
        for k, h in enumerate(steps[:, at]):
            ahead, behind = _moved(point, direction, h), _moved(point, direction, -h)
            with np.errstate(all="ignore"):  # a step may leave the domain of an f in NumPy
                right[k, at], left[k, at] = f(ahead), f(behind)
            slipped[k, at] = np.abs((ahead - point) + (behind - point)).max(initial=0)
    # Outputs that no step has changed have the derivative 0, and most outputs of a convolution
    # do not see a given input.
    seen = np.zeros(len(centre), bool)
    for values in (right, left):
        seen |= ~(values == centre).all(axis=(0, 1))
    parts = _estimate(
        centre[seen], right[..., seen], left[..., seen], steps[..., None], rounding, slipped
    )
    full = [np.zeros(right.shape[1:], part.dtype) for part in parts]
    for whole, part in zip(full, parts, strict=True):
        whole[:, seen] = part
    found = Slopes(*full)
    np.maximum(found.error, rounding / steps[0][:, None], out=found.error)
    return found


def _moved(point: np.ndarray, direction: Direction, step: float) -> np.ndarray:
    if not isinstance(direction, int):
        return point + step * direction
    moved = point.copy()
    moved[direction] += step
    return moved


def _estimate(
    centre: Any, right: Any, left: Any, h: Any, rounding: float, slipped: Any
) -> tuple[np.ndarray, ...]:
    """`Slopes`' fields from the values at all steps, arrays `(steps, directions, outputs)`."""
    with np.errstate(all="ignore"):
        gaps = h[:-1] - h[1:]
        quotients = (right - left) / (2 * h)
        # Of the values, and of the steps where the argument is too large to be moved by so little.
        noise = (rounding + slipped * np.abs(quotients)) / h
        beside = 2 * (noise * h)[1:] / gaps
        # What rounding may do is known from the largest of the values. In smaller ones it often
        # does less, but never less than to themselves.
        least = np.abs(centre) * ROUNDING / rounding
        central, error = extrapolate(quotients, noise, 2, least)
        up, up_error = extrapolate((right[:-1] - right[1:]) / gaps, beside, 1, least)
        down, down_error = extrapolate((left[1:] - left[:-1]) / gaps, beside, 1, least)
        apart = np.abs(up - down)
        sure = 10 * (up_error + down_error) + KINK * np.maximum(np.abs(up), np.abs(down))
        jump = _jump(centre, right, rounding) | _jump(centre, left, rounding)
        kink = (apart > sure) | jump
        return (
            np.where(kink, down, central),
            np.where(kink, up, central),
            np.where(kink, up_error + down_error, error),
            kink,
            jump,
        )


def _jump(centre: np.ndarray, side: np.ndarray, rounding: float) -> np.ndarray:
    """Whether the values do not come nearer to the centre's as the step shrinks 16-fold."""
    last, before = (np.abs(side[k] - centre) for k in (-1, -3))
    return (last > 100 * rounding) & (last > before / 2)


def extrapolate(
    quotients: np.ndarray, noise: np.ndarray, power: int, least: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The limit of difference quotients for steps that shrink by RATIO, and its error.

    Of the tableau's entries the surest is taken, coming from the smallest steps: larger ones are
    less noisy, but may lie beyond a kink or a bump. So an entry counts only if it agrees with what
    is known already, to that one's error.

    Args:
        quotients: `(steps, ...)`, with an error in powers of `h^power`.
        noise: what rounding may do to them at most, `(steps, ...)` or broadcast against it.
        power: 2 for central differences, 1 for one-sided ones.
        least: the part of it that rounding does at least.

    Returns:
        Value and error, each `quotients.shape[1:]`; NaN where the smallest steps give NaN, or grow
        from step to step as beside a vertical tangent.
    """
    tableau = [quotients]
    for order in range(1, min(DEPTH, len(quotients) - 1) + 1):
        last = tableau[-1]
        tableau.append(last[1:] + (last[1:] - last[:-1]) / (RATIO ** (power * order) - 1))
    noise = noise * np.fmax(np.fmin(2 * _scatter(quotients, noise), 1.0), least)
    value = np.where(_diverges(quotients, noise), np.nan, quotients[-1])
    error = np.abs(value - quotients[-2]) + noise[-1]
    for k in range(len(quotients) - 1, 0, -1):
        for order in range(1, min(k, DEPTH) + 1):
            found, fine, coarse = (
                tableau[order][k - order],
                tableau[order - 1][k - order + 1],
                tableau[order - 1][k - order],
            )
            spread = np.maximum(np.abs(found - fine), np.abs(found - coarse)) + noise[k]
            better = (spread < error) & (np.abs(found - value) <= error + spread)
            value = np.where(better, found, value)
            error = np.where(better, spread, error)
    return value, error


def _scatter(quotients: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """By how much the last quotients differ, as a part of the noise they may have."""
    apart = np.abs(quotients[1:] - quotients[:-1]) / np.broadcast_to(noise, quotients.shape)[1:]
    return apart[-3:].max(axis=0)


def _diverges(quotients: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Whether the last three grow and grow: |h|^-p with p above 0.07 does."""
    sizes = np.abs(quotients[-3:])
    growing = (sizes[2] > 1.1 * sizes[1]) & (sizes[1] > 1.1 * sizes[0])
    return growing & (np.abs(quotients[-1] - quotients[-2]) > 100 * noise[-1])
