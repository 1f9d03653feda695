"""What `summary` says: a row for each layer, and the totals, as a table.

Here is no word about how it is found: from descriptions of layers by `_layer_summary`, from a
module's trace by `_traced_summary`.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ._sizes import ReceptiveField

Shape = tuple[int, ...]


class Row(NamedTuple):
    """What `summary` says about a layer.

    Attributes:
        name: where it is, and what it is.
        output_shape: what it gives; None for parameters of a module that is not called.
        parameters: entries of its kernel, bias, scale and so on.
        multiply_adds: as in `conv_cost`: padding counted as data, biases not, the batch counted. A
            transposed convolution multiplies each element with each tap.
        receptive_field: the part of the network's input that an output sees. None where windows
            of one size that move by whole elements do not describe it: all of it, for one.
        algorithms: what `algorithm="auto"` takes: for a convolution three names, for its output,
            input gradient and kernel gradient; for a pooling one; for all else none. `"lax"`
            stands for operations that jaxconv does not compute.
    """

    name: str
    output_shape: Shape | None
    parameters: int
    multiply_adds: int
    receptive_field: ReceptiveField | None
    algorithms: tuple[str, ...]


class Summary(NamedTuple):
    """What `summary` says about a network. `str` of it is a readable table.

    Attributes:
        rows: what it says about each layer, in the order in which they are computed.
        parameters: all of them, shared ones counted once.
        multiply_adds: all of them.
        receptive_field: that of the network's output.
    """

    rows: tuple[Row, ...]
    parameters: int
    multiply_adds: int
    receptive_field: ReceptiveField | None

    @classmethod
    def of(cls, rows: Sequence[Row], field: ReceptiveField | None) -> "Summary":
        """The summary of these rows and the field of the network's output."""
        parameters = sum(row.parameters for row in rows)
        return cls(tuple(rows), parameters, sum(row.multiply_adds for row in rows), field)

    def __str__(self) -> str:
        lines = [HEADINGS, *map(_cells, self.rows)]
        lines.append(("total", "", f"{self.parameters:,}", f"{self.multiply_adds:,}", "", ""))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if column in NUMBERS else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )

    __repr__ = __str__


HEADINGS = ("layer", "output", "parameters", "multiply-adds", "sees", "algorithm")
#: Columns that are aligned at their end.
NUMBERS = (2, 3)


def _cells(row: Row) -> tuple[str, ...]:
    field = row.receptive_field
    alike = len(set(row.algorithms)) == 1
    return (
        row.name,
        "" if row.output_shape is None else str(row.output_shape),
        f"{row.parameters:,}" if row.parameters else "",
        f"{row.multiply_adds:,}" if row.multiply_adds else "",
        "-" if field is None else "x".join(map(str, field.size)),
        " / ".join(row.algorithms[:1] if alike else row.algorithms),
    )
