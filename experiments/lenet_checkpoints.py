"""A run's state on disk, with orbax: written whole or not at all, and checked when it is read.

orbax writes a checkpoint beside its place and renames it at the end, so that a process killed at
any moment leaves the checkpoints before it as they were. With each goes a record, the settings and
the metrics so far, and last of all the SHA-256 of every file: a checkpoint without these sums is
not whole, and one with others was damaged afterwards.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import orbax.checkpoint as ocp
from lenet_training import State

KEPT = 3  # the last ones
SUMS = "sha256.json"  # beside a checkpoint's files, by their names


class CheckpointError(Exception):
    """A checkpoint that must not be gone on with; the message is one line."""


class Saved(NamedTuple):
    """A checkpoint: the state, and the record that went with it."""

    state: State
    record: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run.

    Args:
        directory: where they lie; made if it is not there.
    """

    def __init__(self, directory: Path):
        logging.getLogger("absl").setLevel(logging.ERROR)  # orbax tells of every file
        self.directory = directory.resolve()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=KEPT, create=True, enable_async_checkpointing=False
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    @property
    def steps(self) -> list[int]:
        """The steps after which there is a checkpoint, the last one first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def save(self, state: State, record: dict[str, Any]) -> None:
        """Write a checkpoint; it counts from the moment it is whole."""
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state._asdict()), record=ocp.args.JsonSave(record)
        )
        for step in self.steps:
            if step >= int(state.step):  # damaged, or it would have been gone on with
                self._manager.delete(step)
        self._manager.save(int(state.step), args=items)
        directory = self.directory / str(state.step)
        half = directory / f"{SUMS}.part"
        half.write_text(json.dumps(_sums(directory)))
        os.replace(half, directory / SUMS)

    def newest(
        self, like: State, about: dict[str, Any], say: Callable[[str], None]
    ) -> Saved | None:
        """The last checkpoint that is whole, or None; damaged ones are told of.

        Args:
            like: a state of the same shapes, on the devices where the state shall be.
            about: the run's settings, which the checkpoint has to have been written with.
            say: is given a line for each damaged checkpoint.

        Raises:
            CheckpointError: for a whole checkpoint of other settings.
        """
        for step in self.steps:
            if damage := _damage(self.directory / str(step)):
                say(f"checkpoint {step} is damaged ({damage}); trying the one before")
                continue
            record = self._record(step)
            if other := _other(record, about):
                raise CheckpointError(
                    f"{self.directory / str(step)} {other}; --out for another place, or --fresh"
                )
            return Saved(self._state(step, like), record)
        return None

    def _record(self, step: int) -> dict[str, Any]:
        items = ocp.args.Composite(record=ocp.args.JsonRestore())
        return self._manager.restore(step, args=items)["record"]

    def _state(self, step: int, like: State) -> State:
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like._asdict())
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        return State(**self._manager.restore(step, args=items)["state"])

    @property
    def unfinished(self) -> bool:
        """Whether there is a run here that had not come to its end, or none that can be read."""
        if not self.steps:
            return False
        if _damage(self.directory / str(self.steps[0])):
            return True
        record = self._record(self.steps[0])
        return len(record["history"]) < record["about"]["epochs"]

    def clear(self) -> None:
        """Remove all checkpoints."""
        for step in self.steps:
            self._manager.delete(step)


def _sums(directory: Path) -> dict[str, str]:
    """The SHA-256 of each file below a directory, but for the sums themselves."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if not path.name.startswith(SUMS)
    }


def _damage(directory: Path) -> str:
    """What is wrong with a checkpoint's files, in words; "" if nothing."""
    try:
        written, found = json.loads((directory / SUMS).read_text()), _sums(directory)
    except FileNotFoundError:
        return "it was not written to its end"
    except (OSError, ValueError) as error:
        return f"{SUMS}: {error}"
    if not isinstance(written, dict) or not written:
        return f"{SUMS} is another"
    if other := [name for name in written if found.get(name) != written[name]]:
        return f"{other[0]} is {'another' if other[0] in found else 'gone'}"
    return ""


def _other(record: dict[str, Any], about: dict[str, Any]) -> str:
    """What a checkpoint's settings have that this run's have not, in words; "" if nothing."""
    written = record["about"]
    other = [name for name in about if written.get(name) != about[name]]
    theirs = ", ".join(f"{name} {written.get(name)}" for name in other)
    ours = ", ".join(f"{name} {about[name]}" for name in other)
    return f"was written with {theirs}; this run has {ours}" if other else ""
