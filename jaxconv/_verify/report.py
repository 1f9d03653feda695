"""What a check found: rows, kinks, and the table as plain text. Nothing is computed here."""

import dataclasses
import math
import textwrap
from typing import NamedTuple

WIDTH = 100
#: What stands in place of an argument where all of them are moved together.
TOGETHER = "all, along random vectors"
#: Of each kind of line, how many are printed; the rest is counted.
SHOWN = 8
#: The table's columns and their widths.
COLUMNS = {
    "check": 30, "against": 11, "argument": 25, "compared": 8, "error": 7, "limit": 5, "": 9,
}  # fmt: skip


class Row(NamedTuple):
    """One check of one argument.

    Attributes:
        check: what was checked: `"forward"`, `"reverse"`, `"closed form"`, `"adjoint"`,
            `"order 2: fwd over rev"` and so on.
        against: what it was compared with: `"differences"`, `"reverse"`, `"forward"`, `"shape"`.
        argument: its name, or what stands for all of them.
        verdict: `"ok"`, `"WRONG"`, `"none"` (fn has no such mode) or `"not given"`.
        compared: how many numbers.
        error: the largest error, relative; infinite where there is no number to compare.
        limit: the relative error up to which numbers count as equal.
        entry: the worst entry's multi-index in the argument.
        output: the output whose derivative it is, `""` where several are summed with dy.
        got: the value that was checked, at the worst entry.
        expected: the value that is right there; at a kink the nearest of those that are.
        note: what else is to be said.
        likely: the slip that explains a wrong row, `""` if none is known to.
    """

    check: str
    against: str
    argument: str
    verdict: str
    compared: int = 0
    error: float = 0.0
    limit: float = 0.0
    entry: tuple[int, ...] | None = None
    output: str = ""
    got: float = math.nan
    expected: float = math.nan
    note: str = ""
    likely: str = ""


class Kink(NamedTuple):
    """A derivative that does not exist, because its two sides differ.

    Attributes:
        argument, entry: the number that is moved.
        output, output_entry: the number that has two slopes.
        left, right: the slopes; any gradient from one to the other is right.
        jump: whether the output's values jump as well.
    """

    argument: str
    entry: tuple[int, ...]
    output: str
    output_entry: tuple[int, ...]
    left: float
    right: float
    jump: bool


@dataclasses.dataclass(frozen=True, repr=False)
class Report:
    """The outcome of `check_gradients`; true if it is ok, `str` of it is a table.

    Attributes:
        rows: every check of every argument.
        kinks: where fn has no derivative: ties, corners, jumps. Named, never counted as wrong.
    """

    rows: tuple[Row, ...]
    kinks: tuple[Kink, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.wrong

    @property
    def wrong(self) -> tuple[Row, ...]:
        """The rows that are, in the order in which they are to be looked at."""
        rows = [row for row in self.rows if row.verdict == "WRONG"]
        first = ("values", "precision", "closed form")
        return tuple(
            sorted(
                rows, key=lambda row: first.index(row.check) if row.check in first else len(first)
            )
        )

    @property
    def likely(self) -> tuple[str, ...]:
        """The slips that explain what is wrong, each once."""
        return tuple(dict.fromkeys(row.likely for row in self.wrong if row.likely))

    @property
    def max_error(self) -> float:
        """The largest relative error of all rows."""
        return max((row.error for row in self.rows), default=0.0)

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        lines = [*self._verdict(), "", *self._table(), *self._kinks(), *self._notes()]
        return "\n".join(line.rstrip() for line in lines)

    __repr__ = __str__

    def _verdict(self) -> list[str]:
        if self.ok:
            compared = sum(row.compared for row in self.rows)
            return [f"gradients agree: {compared} comparisons, largest error {self.max_error:.1e}"]
        # One line for each gradient: that differences say the same as reverse mode, and random
        # vectors the same as single entries, is no news.
        told = {(row.check, row.argument): row for row in reversed(self.wrong)}
        single = {check for check, argument in told if argument != TOGETHER}
        rows = [
            row
            for row in reversed(told.values())
            if row.argument != TOGETHER or row.check not in single
        ]
        lines = []
        for row in rows[:SHOWN]:
            lines += _wrapped("wrong: ", _sentence(row))
            lines += _wrapped("likely: ", row.likely) if row.likely else []
        return lines + _more(len(rows), "wrong")

    def _table(self) -> list[str]:
        heads = [dict(zip(COLUMNS, COLUMNS, strict=True))]
        cells = [
            {
                "check": row.check,
                "against": row.against,
                "argument": row.argument,
                "compared": str(row.compared) if row.compared else "",
                "error": f"{row.error:.1e}" if row.compared else "",
                "limit": f"{row.limit:.0e}" if row.compared else "",
                "": row.verdict,
            }
            for row in self.rows
        ]
        return [
            " ".join(_fitted(line[name], width, name) for name, width in COLUMNS.items())
            for line in [*heads, *cells]
        ]

    def _kinks(self) -> list[str]:
        if not self.kinks:
            return []
        lines = ["", "no derivative at these kinks; any slope from left to right counts as right:"]
        for kink in self.kinks[:SHOWN]:
            place = f"{kink.argument}{_index(kink.entry)}"
            output = f"{kink.output}{_index(kink.output_entry)}"
            jump = ", and a jump" if kink.jump else ""
            slopes = f"left {kink.left:.6g}, right {kink.right:.6g}{jump}"
            lines += _wrapped("  ", f"{output} along {place}: {slopes}")
        return lines + _more(len(self.kinks), "kinks")

    def _notes(self) -> list[str]:
        notes = dict.fromkeys(
            f"{row.check}{f' of {row.argument}' if row.argument else ''}: {row.note}"
            for row in self.rows
            if row.note and row.verdict != "WRONG"
        )
        lines = [line for note in list(notes)[:SHOWN] for line in _wrapped("  ", note)]
        return ["", "notes:", *lines, *_more(len(notes), "notes")] if notes else []


def _sentence(row: Row) -> str:
    """A wrong row in words."""
    where = row.check
    if row.argument:
        where += f" of {row.argument}{_index(row.entry)}"
    if row.output:
        where += f" in {row.output}"
    if row.entry is None and math.isnan(row.got) and math.isnan(row.expected):
        return f"{where}: {row.note}"
    numbers = f"got {row.got:.8g}"
    if not math.isnan(row.expected):
        numbers += f", expected {row.expected:.8g}"
    return f"{where}: {numbers}{f'; {row.note}' if row.note else ''}"


def _index(entry: tuple[int, ...] | None) -> str:
    return f"[{', '.join(map(str, entry))}]" if entry else ""


def _wrapped(start: str, text: str) -> list[str]:
    """A paragraph whose first line starts with `start`."""
    indent = " " * max(len(start), 2)
    return textwrap.wrap(
        text, WIDTH, initial_indent=start, subsequent_indent=indent, break_on_hyphens=False
    )


def _more(count: int, what: str) -> list[str]:
    return [f"  ... and {count - SHOWN} more {what}"] if count > SHOWN else []


def _fitted(text: str, width: int, name: str) -> str:
    if len(text) > width:
        half = (width - 3) // 2
        text = f"{text[: width - 3 - half]}...{text[len(text) - half :]}"
    return text.rjust(width) if name in ("compared", "error", "limit") else text.ljust(width)
