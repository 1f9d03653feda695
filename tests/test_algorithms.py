"""Every algorithm through every case: its three projections against the form, in both layouts."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import CONV, assert_close, ids

import jaxconv as jc
from jaxconv import _algorithms
from jaxconv._form import PROJECTIONS, Problem

pytestmark = pytest.mark.usefixtures("quick_compile")

NAMES = [name for name in jc.algorithms() if name != "direct"]


def forced(name, projection, form, operands):
    """One projection by one algorithm, whatever the table says; None where it refuses."""
    algorithm = _algorithms.REGISTER[name]
    shapes = tuple(operand.shape for operand in operands)
    problem = Problem(projection, form, shapes, "cpu")
    if projection not in algorithm.maps or algorithm.refuses(problem):
        return None
    return algorithm.maps[projection](problem, *operands)


def the_form(case, dtype, last=False):
    """The static form of a case, as `conv` makes it."""
    operands = case.arrays(dtype)[:2]
    options = dict(case.options)
    if last:
        operands = cases.last(operands[0], case.rank), cases.kernel_last(operands[1])
        options["layout"] = cases.LAYOUTS[case.rank]
    jaxpr = jax.make_jaxpr(lambda x, w: jc.conv(x, w, **options))(*operands)
    found = [eqn for eqn in jaxpr.jaxpr.eqns if eqn.primitive.name == "jaxconv_output"]
    return found[0].params["form"], tuple(var.aval.shape for var in found[0].invars)


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("case", CONV, ids=ids(CONV))
@pytest.mark.parametrize("name", NAMES)
def test_projections_equal_the_form(name, case, last):
    form, (image, _) = the_form(case, "float64", last)
    x, w, _ = case.arrays()
    x = cases.one_batch(x, case.rank)
    oracle = oracles.conv_form(x.shape[2:], w.shape[2:], **case.options)
    y = np.cos(oracle.project("y", x=x, w=w))
    arrays = {"x": x, "y": y, "w": w}
    want = {array: oracle.project(array, **{k: v for k, v in arrays.items() if k != array})
            for array in arrays}  # fmt: skip

    def placed(array, value):
        if not last:
            return jnp.asarray(value)
        return cases.kernel_last(value) if array == "w" else cases.last(value, case.rank)

    computed = 0
    for projection, (a, b, result) in PROJECTIONS.items():
        operands = placed(a, arrays[a]), placed(b, arrays[b])
        got = jax.jit(lambda *operands: forced(name, projection, form, operands))(*operands)
        if got is not None:
            computed += 1
            assert got.dtype == np.float64
            assert_close(got, placed(result, want[result]), 1e-12)
    if not computed:
        pytest.skip("refused, see test_refusals_are_few")
