"""The images that `lenet.py` learns from: scikit-learn's digits, or four IDX files.

Both come as `Data`: images of one size with grey levels in [0, 1], labels from 0 to 9, and a part
held out of training. The IDX format (LeCun, http://yann.lecun.com/exdb/mnist) is a magic number, a
size per axis, each a big-endian 32-bit integer, then the bytes; MNIST and Fashion-MNIST are
published in it.
"""

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

CLASSES = 10
SIDE = 28  # pixels; digits of 8x8 are enlarged to the size that LeNet-5 was drawn for
HELD_OUT = 360  # of the 1,797 digits

#: Kinds of IDX file: the magic number (unsigned bytes; 3 axes or 1) and what it holds.
MAGIC = {0x803: "images", 0x801: "labels"}


class DataError(Exception):
    """Data that cannot be used; the message is one line."""


class Images(NamedTuple):
    """Labelled images.

    Attributes:
        images: grey levels in [0, 1], `(n, height, width)`, float32.
        labels: classes from 0 to 9, `(n,)`, int32.
    """

    images: np.ndarray
    labels: np.ndarray


class Data(NamedTuple):
    """What is trained on and what is held out.

    Attributes:
        name: for the reader.
        train, held_out: the two parts, of one image size.
    """

    name: str
    train: Images
    held_out: Images


def digits(seed: int) -> Data:
    """scikit-learn's 1,797 handwritten digits, 8x8 enlarged to 28x28; the seed draws 360 of them
    to be held out, as many of each class as its share."""
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    small, labels = load_digits(return_X_y=True)
    grey = np.asarray(small, np.float32).reshape(-1, 8, 8) / 16
    bilinear = Image.Resampling.BILINEAR
    large = [np.asarray(Image.fromarray(one).resize((SIDE, SIDE), bilinear)) for one in grey]
    whole = Images(np.stack(large), np.asarray(labels, np.int32))
    train, held_out = train_test_split(
        np.arange(len(labels)), test_size=HELD_OUT, random_state=seed, stratify=labels
    )
    parts = (Images(*(array[part] for array in whole)) for part in (train, held_out))
    return Data("digits (scikit-learn)", *parts)


def read_directory(directory: Path) -> Data:
    """MNIST's or Fashion-MNIST's four files, plain or gzipped; the `t10k` pair is held out.

    Raises:
        DataError: for a missing, damaged or unfitting file, in one line that names it.
    """
    if not os.path.isdir(directory):
        raise DataError(f"{str(directory)!r} is not a directory")
    train, held_out = (_pair(directory, part) for part in ("train", "t10k"))
    sizes = [part.images.shape[1:] for part in (train, held_out)]
    if sizes[0] != sizes[1]:
        raise DataError(f"{directory}: train images are {sizes[0]}, t10k images {sizes[1]}")
    return Data(directory.resolve().name, train, held_out)


def _pair(directory: Path, part: str) -> Images:
    paths = [_find(directory, f"{part}-images", 3), _find(directory, f"{part}-labels", 1)]
    images, labels = read_idx(paths[0], "images"), read_idx(paths[1], "labels")
    if len(images) != len(labels):
        raise DataError(
            f"{paths[0]} holds {len(images)} images, but {paths[1].name} {len(labels)} labels"
        )
    if labels.max() >= CLASSES:
        place = int((labels >= CLASSES).argmax())
        raise DataError(
            f"{paths[1]}: labels are 0 to {CLASSES - 1}; number {place} is {labels[place]}"
        )
    return Images(images.astype(np.float32) / 255, labels.astype(np.int32))


def _find(directory: Path, stem: str, axes: int) -> Path:
    names = [f"{stem}{dot}idx{axes}-ubyte{end}" for dot in "-." for end in ("", ".gz")]
    for name in names:
        if (directory / name).is_file():
            return directory / name
    raise DataError(f"{directory} has no file {names[0]} or {names[1]}")


def read_idx(path: Path, kind: str) -> np.ndarray:
    """One IDX file of unsigned bytes, gzipped if its name ends in `.gz`.

    Args:
        path: the file.
        kind: `"images"`, three axes, or `"labels"`, one.

    Raises:
        DataError: for a file that cannot be read, has another magic number, is shorter or longer
            than its sizes say, or is empty.
    """
    content = _read(path)
    if len(content) < 4:
        raise DataError(f"{path} is truncated: {len(content)} bytes, no magic number")
    (magic,) = struct.unpack(">I", content[:4])
    if MAGIC.get(magic) != kind:
        wanted = next(number for number, held in MAGIC.items() if held == kind)
        found = MAGIC.get(magic, "not MNIST's")
        raise DataError(
            f"{path}: the magic number of {kind} is 0x{wanted:08x}; got 0x{magic:08x} ({found})"
        )
    axes = magic & 0xFF
    header = 4 + 4 * axes
    if len(content) < header:
        raise DataError(f"{path} is truncated: {len(content)} bytes, its header has {header}")
    shape = struct.unpack(f">{axes}I", content[4:header])
    needed, found = math.prod(shape), len(content) - header
    if found != needed:
        trouble = "is truncated" if found < needed else "is too long"
        raise DataError(f"{path} {trouble}: sizes {shape} need {needed} bytes; got {found}")
    if not needed:
        raise DataError(f"{path} is empty: sizes {shape}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise DataError(f"{path} is damaged: not a whole gzip file ({reason})") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
