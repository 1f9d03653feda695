"""Errors and limits: when two numbers count as equal, and which of many is the worst."""

import dataclasses
from typing import NamedTuple

import numpy as np

#: Extrapolated differences are good to about 1e-10 of the largest slope, in float64.
NUMERIC_RTOL = 1e-7
#: Each order more loses a digit, as gradients are differenced, which have been rounded before.
DIGIT = 10.0
#: Two ways to the same sum differ by rounding.
ANALYTIC_RTOL = 1e-10
#: An entry far below the largest of its argument is held to the error of one this much below.
SMALLEST = 1e-2
#: A difference quotient's own estimate of its error, times SAFETY, is allowed for up to this part
#: of the largest: what it cannot tell apart is not wrong, but a noisy fn is no excuse.
SAFETY, TRUSTED = 10.0, 1e-6
#: A gradient that cancels to nothing is held to the rounding of what fn itself returns.
CANCELLED = 1e-4


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the caller asked for.

    Attributes:
        rtol, atol: as given, None where not.
    """

    rtol: float | None
    atol: float | None

    def relative(self, *, analytic: bool, order: int = 1) -> float:
        """The relative error allowed between two analytic values, or to a difference quotient."""
        if self.rtol is not None:
            return self.rtol
        return ANALYTIC_RTOL if analytic else NUMERIC_RTOL * DIGIT ** (order - 1)


class Outcome(NamedTuple):
    """The worst of many comparisons.

    Attributes:
        compared: how many there were.
        error: the largest, relative.
        wrong: whether any is beyond the limit.
        at: the index of the worst in the arrays that were compared.
        got, expected: the two numbers there.
        unsure: the error of the expected number there, as far as that is known.
    """

    compared: int = 0
    error: float = 0.0
    wrong: bool = False
    at: tuple[int, ...] = ()
    got: float = np.nan
    expected: float = np.nan
    unsure: float = 0.0

    @property
    def note(self) -> str:
        """What is to be said about a wrong one's expected number."""
        if not self.wrong:
            return ""
        if np.isnan(self.expected):
            return "no slope to compare with: next to this point fn is not finite, or vertical"
        if abs(self.got - self.expected) <= SAFETY * self.unsure:
            return f"the differences themselves are only good to {self.unsure:.0e} here"
        return ""


class Compared(NamedTuple):
    """Each comparison: relative error, whether it is wrong, the nearest right value, its error."""

    error: np.ndarray
    wrong: np.ndarray
    got: np.ndarray
    expected: np.ndarray
    unsure: np.ndarray

    def worst(self) -> Outcome:
        """The largest error, and an example of it."""
        if not self.error.size:
            return Outcome()
        with np.errstate(invalid="ignore"):
            gap = np.abs(self.got - self.expected)
        gap = np.where(np.isnan(gap), np.inf, gap)
        # The error is relative to the entry, so that the largest is often that of a tiny entry;
        # the largest gap is the better example of what is wrong.
        ranked = np.where(self.wrong, gap, -1.0) if self.wrong.any() else self.error
        at = np.unravel_index(int(np.argmax(ranked)), ranked.shape)
        return Outcome(
            self.error.size,
            float(self.error.max()),
            bool(self.wrong[at]),
            tuple(int(i) for i in at),
            float(self.got[at]),
            float(self.expected[at]),
            float(self.unsure[at]),
        )


def compare(
    got: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    unsure: np.ndarray | None = None,
    *,
    rtol: float,
    atol: float | None,
    floor: float,
) -> Compared:
    """`got` against the interval from `low` to `high`, which is one number but at kinks.

    Args:
        got, low, high: arrays of one shape; along the last axis entries of one kind, whose largest
            sets a scale for all.
        unsure: the errors of low and high, if they are known.
        rtol, atol: numbers within `atol + rtol * size` are equal, size being that of the expected
            entry, at least `floor`, and at least SMALLEST of the scale or, where `unsure` is given,
            what that allows for.
        floor: the size of what may have cancelled.
    """
    with np.errstate(all="ignore"):
        expected = np.where(np.isfinite(got), np.clip(got, low, high), (low + high) / 2)
        bound = np.where(np.isfinite(expected), np.abs(expected), 0)
        scale = bound.max(axis=-1, initial=0, keepdims=True)
        least, allowed = SMALLEST * scale, atol or 0.0
        if unsure is not None:
            credit = np.fmin(SAFETY * unsure, TRUSTED * np.maximum(scale, floor / CANCELLED))
            least, allowed = credit / (rtol or np.inf), allowed + credit * (not rtol)
        size = np.maximum(np.maximum(bound, least), floor)
        gap = np.where(got == expected, 0.0, np.abs(got - expected))
        wrong = ~(gap <= allowed + rtol * size)
        error = np.where(gap == 0, 0.0, gap / size)
    error = np.where(np.isnan(error), np.inf, error)
    return Compared(
        error, wrong, got, expected, np.zeros_like(expected) if unsure is None else unsure
    )


def merge(outcomes: list[Outcome]) -> Outcome:
    """The worst of several outcomes, with the number of all."""
    if not outcomes:
        return Outcome()
    worst = max(outcomes, key=lambda outcome: (outcome.wrong, outcome.error))
    error = max(outcome.error for outcome in outcomes)
    return worst._replace(compared=sum(outcome.compared for outcome in outcomes), error=error)
