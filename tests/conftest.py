"""Settings for all tests: double precision at hand, and no promotion that nobody asked for."""

import jax
import pytest

from jaxconv import _choice

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


def pytest_addoption(parser):
    parser.addoption("--algorithm", default="", help="compute by this one all that it can compute")


class Documentation:
    """Examples run as a user's session has it, with jax's own settings."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        if not isinstance(item, pytest.DoctestItem):
            return (yield)
        with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
            return (yield)


def pytest_configure(config):
    """With `--algorithm NAME`, put it first in the table: the tests then run once more by it."""
    config.pluginmanager.register(Documentation())
    if name := config.getoption("--algorithm"):
        _choice.TABLE = (_choice.Row(name, lambda problem: True, "under test"), *_choice.TABLE)


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Thousands of compiled programs would otherwise pile up in each worker, gigabytes of them."""
    yield
    jax.clear_caches()


@pytest.fixture
def quick_compile():
    """Compile without XLA's costly passes: for tests whose time is the compiling of small programs.

    Values, dtypes and lowerings are tested with full optimisation.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
