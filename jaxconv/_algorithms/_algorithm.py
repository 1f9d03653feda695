"""What an algorithm is; nothing about any single one."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jax import Array

from .._form import Problem

#: `(problem, *operands) -> result`.
Map = Callable[..., Array]


def _fits_all(problem: Problem) -> str | None:
    del problem
    return None


class Algorithm(NamedTuple):
    """A name, the maps it computes, and which problems it refuses.

    Attributes:
        name: what callers ask for.
        maps: a function `(problem, *operands) -> result` for each map it has.
        refuses: the reason why it cannot do a problem, or None when it can.
        symbolic: whether it can do without knowing the batch size (`jax.export`).
    """

    name: str
    maps: Mapping[str, Map]
    refuses: Callable[[Problem], Any] = _fits_all
    symbolic: bool = False
