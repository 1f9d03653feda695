"""Slopes summed with a cotangent: what a gradient may be, at kinks an interval."""

from typing import NamedTuple

import numpy as np

from .differences import Slopes


class Pulled(NamedTuple):
    """What J'u may be at some entries: arrays `(cotangents, entries)`."""

    low: np.ndarray
    high: np.ndarray
    unsure: np.ndarray
    kink: np.ndarray
    terms: np.ndarray  # the size of what is summed


def pull(found: Slopes, cotangents: tuple[np.ndarray, ...]) -> Pulled:
    """The sums over outputs of dy times slope, each slope anywhere from left to right."""
    parts = [_pull_one(found, u) for u in cotangents]
    none = np.zeros((0, len(found.left)))
    arrays = zip(*parts, strict=True) if parts else [()] * len(Pulled._fields)
    return Pulled(*(np.stack(array) if array else none for array in arrays))


def _pull_one(found: Slopes, u: np.ndarray) -> tuple[np.ndarray, ...]:
    with np.errstate(invalid="ignore"):
        # An output that dy does not ask for may be as steep as it likes.
        left, right, error = (
            np.where(u != 0, u * part, 0.0) for part in (found.left, found.right, found.error)
        )
    return (
        np.minimum(left, right).sum(axis=1),
        np.maximum(left, right).sum(axis=1),
        np.abs(error).sum(axis=1),
        (found.kink & (u != 0)).any(axis=1),
        np.maximum(np.abs(left), np.abs(right)).sum(axis=1),
    )


def gather(parts: list[Pulled], cotangents: int) -> Pulled:
    """`Pulled` of several runs of entries as one."""
    none = [np.zeros((cotangents, 0))] * len(Pulled._fields)
    arrays = list(zip(*parts, strict=True)) if parts else [[array] for array in none]
    return Pulled(*(np.concatenate(array, axis=1) for array in arrays))
