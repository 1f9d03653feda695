"""All checks in their order."""

from collections.abc import Callable
from typing import Any

from .closed_form import closed_form_rows
from .compare import Limits
from .diagnosis import Wrong, wrong_values
from .first_order import First, first_order
from .function import double_precision, function
from .orders import higher_orders
from .report import Report, Row
from .sample import Sample, sample
from .traced import narrowed


def run(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    closed_form: Callable[..., Any] | None,
    order: int,
    seed: int,
    limits: Limits,
) -> Report:
    """The report of `jaxconv.verify.check_gradients`, whose arguments have been checked."""
    with double_precision():
        drawn = sample(function(fn, args), limits, seed)
        first = first_order(drawn)
        rows = [_diagnosed(drawn, first, row) for row in first.rows]
        if closed_form is not None:
            rows += closed_form_rows(drawn, closed_form, first)
        if not (first.forward or first.reverse or closed_form):
            note = "fn has no derivative by jax, and there is no closed form"
            rows.append(Row("anything", "", "", "WRONG", 0, float("inf"), note=note))
        rows += higher_orders(drawn, first, order, seed)
        if any(row.verdict == "WRONG" for row in rows) and (dtype := narrowed(drawn.function)):
            note = f"fn casts float64 to {dtype} inside, which drops the digits that are compared"
            rows.insert(0, Row("precision", "float64", "", "WRONG", 0, float("inf"), note=note))
    return Report(tuple(rows), tuple(first.kinks))


def _diagnosed(drawn: Sample, first: First, row: Row) -> Row:
    """A wrong gradient by reverse mode comes from a rule of fn's own, which has slips too."""
    if row.check != "reverse" or row.verdict != "WRONG" or first.gradients is None:
        return row
    for leaf in drawn.function.arguments:
        if leaf.name == row.argument:
            wrong = Wrong(leaf, first.gradients[0][leaf.span])
            return row._replace(likely=wrong_values(drawn, first, wrong))
    return row
