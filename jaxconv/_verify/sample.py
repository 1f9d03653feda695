"""Where a function is looked at: sampled entries, random directions and cotangents.

Also the slopes there, which every check of first derivatives is compared with.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from .compare import CANCELLED, Compared, Limits, compare
from .differences import Slopes, chunks, random_direction, slopes
from .function import Function, Leaf, leaf_at
from .pulled import Pulled, gather, pull
from .report import Kink
from .traced import Traced, trace

#: Entries of one argument that are moved one by one: all of a small one, else a random sample;
#: fewer, but not below the second number, where the output is so large that this is much work.
ENTRIES, LEAST_ENTRIES, VALUES = 100, 10, 4_000_000
#: Random directions and random cotangents, and cotangents of a single output.
RANDOM, SINGLE = 2, 6


@dataclasses.dataclass(frozen=True)
class Sample:
    """A function, and all the random choices of a check.

    Attributes:
        function: what is checked.
        limits: the caller's tolerances.
        value, jvp, vjp: the function and its derivatives at flat vectors, compiled.
        centre: its value at the arguments.
        live: which outputs are finite there; the others are left out of everything.
        entries: for each argument's leaf, the sampled indices into the flat vector.
        directions: vectors like the arguments.
        cotangents: vectors like the output; the first ones random, then single outputs.
    """

    function: Function
    limits: Limits
    value: Callable[..., Any]
    jvp: Callable[..., Any]
    vjp: Callable[..., Any]
    centre: np.ndarray
    live: np.ndarray
    entries: tuple[np.ndarray, ...]
    directions: tuple[np.ndarray, ...]
    cotangents: tuple[np.ndarray, ...]

    @functools.cached_property
    def traced(self) -> Traced | None:
        """The function from inside, wanted only where something is wrong."""
        return trace(self.function)

    @property
    def size(self) -> float:
        """The largest of the values."""
        return float(np.abs(self.centre[self.live]).max(initial=0))

    def floor(self, leaf: Leaf | None = None) -> float:
        """The size of a derivative whose parts are as large as the values, and cancel."""
        return CANCELLED * self.size / (self.unit(leaf) if leaf else 1.0)

    def unit(self, leaf: Leaf) -> float:
        """How large an argument is, at least 1."""
        return float(np.abs(self.function.point[leaf.span]).max(initial=1.0))

    def against(self, pulled: Pulled, k: int, got: np.ndarray, leaf: Leaf | None) -> Compared:
        """A gradient for the k-th cotangent, at the entries of `pulled`, against it."""
        terms = pulled.terms[k]
        largest = terms[np.isfinite(terms)].max(initial=0)
        return compare(
            got,
            pulled.low[k],
            pulled.high[k],
            pulled.unsure[k],
            rtol=self.limits.relative(analytic=False),
            atol=self.limits.atol,
            floor=max(self.floor(leaf), CANCELLED * float(largest)),
        )

    def slopes(self, directions: list[Any]) -> Slopes:
        """Difference quotients, 0 in outputs that are left out."""
        found = slopes(self.value, self.function.point, directions)
        for field in dataclasses.fields(Slopes):
            getattr(found, field.name)[:, ~self.live] = 0
        return found


def sample(function: Function, limits: Limits, seed: int) -> Sample:
    """Choose entries, directions and cotangents at random."""
    rng = np.random.default_rng(seed)
    value = function.compiled(function.flat)
    centre = value(function.point)
    live = np.isfinite(centre)
    entries = []
    most = int(np.clip(VALUES // max(centre.size, 1), LEAST_ENTRIES, ENTRIES))
    for leaf in function.arguments:
        chosen = rng.permutation(leaf.size)[:most]
        entries.append(leaf.start + np.sort(chosen))
    directions = [random_direction(rng, function.point) for _ in range(RANDOM)]
    cotangents = [np.where(live, rng.normal(size=centre.size), 0.0) for _ in range(RANDOM)]
    for output in rng.permutation(np.flatnonzero(live))[:SINGLE]:
        cotangents.append(np.zeros(centre.size))
        cotangents[-1][output] = 1.0
    return Sample(
        function,
        limits,
        value,
        function.compiled(function.jvp),
        function.compiled(function.vjp),
        centre,
        live,
        tuple(entries),
        tuple(directions),
        tuple(cotangents),
    )


def columns(sample: Sample, entries: np.ndarray, cotangents: tuple[np.ndarray, ...]) -> Pulled:
    """`pull` along single entries, as many at a time as fit."""
    parts = []
    for part in chunks(len(entries), len(sample.centre)):
        found = sample.slopes([int(index) for index in entries[part]])
        parts.append(pull(found, cotangents))
    return gather(parts, len(cotangents))


def named_kinks(sample: Sample, entries: np.ndarray, found: Slopes) -> list[Kink]:
    """The kinks along single entries, by name."""
    function, kinks = sample.function, []
    for at, output in np.argwhere(found.kink):
        source = leaf_at(function.arguments, int(entries[at]))
        target = leaf_at(function.outputs, int(output))
        kinks.append(
            Kink(
                source.name,
                source.entry(int(entries[at])),
                target.name,
                target.entry(int(output)),
                float(found.left[at, output]),
                float(found.right[at, output]),
                bool(found.jump[at, output]),
            )
        )
    return kinks
