"""Arrays as `.npy` files (format 1.0 of NumPy), written in parts and read as memory backed by the file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt

_MAGIC = b"\x93NUMPY\x01\x00"
_PREFIX_BYTES = len(_MAGIC) + 2
_HEADER = re.compile(
    r"\{'descr': '([^']*)', 'fortran_order': (False|True), "
    r"'shape': \(((?:[0-9]{1,18}, ?)*[0-9]{0,18})\), \} *\n"
)
"""As NumPy writes it. NumPy itself evaluates the text as Python, whose parser in 3.11 is not for threads: if
garbage is collected meanwhile and another thread evaluates something, that ends in a SystemError.
"""


class NpyError(ValueError):
    """The bytes are not the array that is expected; the text says how."""


def npy_parts(
    parts: Iterable[npt.NDArray[Any]], dtype: npt.DTypeLike, shape: tuple[int, ...]
) -> Iterator[memoryview]:
    """The bytes of an array file whose rows come in parts; each part is converted on its own."""
    header = BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    )
    yield memoryview(header.getvalue())
    for part in parts:
        if part.size:
            yield np.ascontiguousarray(part, dtype).data.cast("B")


def open_npy(view: memoryview, dtype: npt.DTypeLike, dimensions: int) -> npt.NDArray[Any]:
    """The array in the bytes of a file, read-only, without a copy; NpyError if it is not of this kind."""
    if len(view) < _PREFIX_BYTES or bytes(view[: len(_MAGIC)]) != _MAGIC:
        raise NpyError("it is not a .npy file of format 1.0")
    start = _PREFIX_BYTES + int.from_bytes(view[len(_MAGIC) : _PREFIX_BYTES], "little")
    header = _HEADER.fullmatch(bytes(view[_PREFIX_BYTES:start]).decode("latin-1"))
    if header is None:
        raise NpyError("its .npy header cannot be read")
    descr, fortran, lengths = header.groups()
    expected = np.dtype(dtype)
    if descr != expected.str or fortran != "False":
        raise NpyError(f"it holds {descr!r}, not {expected.str!r} in C order")
    shape = tuple(int(length) for length in lengths.split(",") if length.strip())
    if len(shape) != dimensions:
        raise NpyError(f"its shape is {shape!r}, not of {dimensions} dimensions")
    size = int(np.prod(np.array(shape, dtype=object)) * expected.itemsize)
    if len(view) != start + size:
        raise NpyError(f"its shape {shape!r} takes {size} bytes, the file has {len(view) - start}")
    return np.ndarray(shape, expected, buffer=view, offset=start)
