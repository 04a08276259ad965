"""Array files: written in parts, read back as what they are, refused when they are something else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from io import BytesIO

import numpy as np
import numpy.typing as npt
import pytest

from vectorizer.storage.npy import NpyError, npy_parts, open_npy

ARRAY = np.arange(12, dtype=np.float32).reshape(4, 3)


def file_of(*parts: npt.NDArray[np.generic], shape: tuple[int, ...] = (4, 3)) -> bytes:
    return b"".join(npy_parts(parts, np.float32, shape))


def test_numpy_reads_what_is_written_in_parts() -> None:
    content = file_of(ARRAY[:1], ARRAY[1:1], ARRAY[1:])
    np.testing.assert_array_equal(np.load(BytesIO(content)), ARRAY)


def test_parts_are_converted() -> None:
    content = file_of(ARRAY.astype(np.float64).T.copy().T)
    np.testing.assert_array_equal(open_npy(memoryview(content), np.float32, 2), ARRAY)


@pytest.mark.parametrize("shape", [(0, 3), (0, 0), (4, 3), (12, 1)])
def test_it_reads_what_numpy_writes(shape: tuple[int, int]) -> None:
    array = np.arange(shape[0] * shape[1], dtype=np.float32).reshape(shape)
    file = BytesIO()
    np.save(file, array)
    opened = open_npy(memoryview(file.getvalue()), np.float32, 2)
    assert opened.shape == shape and not opened.flags.writeable
    np.testing.assert_array_equal(opened, array)


def saved(array: npt.NDArray[np.generic]) -> bytes:
    file = BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: b"", "not a .npy file"),
        (lambda content: b"\x00" + content[1:], "not a .npy file"),
        (lambda content: content[:6] + b"\x02" + content[7:], "not a .npy file"),
        (lambda content: content[:30], "cannot be read"),
        (lambda content: content.replace(b"shape", b"shope"), "cannot be read"),
        (lambda content: content.replace(b"(4, 3)", b"[4, 3]"), "cannot be read"),
        (lambda content: content.replace(b"(4, 3)", b"(4,-3)"), "cannot be read"),
        (lambda content: content.replace(b"(4, 3)", b"(5, 3)"), "takes 60 bytes"),
        (lambda content: content.replace(b"(4, 3)", b"(9**9)"), "cannot be read"),
        (lambda content: content[:-1], "takes 48 bytes"),
        (lambda content: content + b"x", "takes 48 bytes"),
        (lambda content: saved(ARRAY.astype(np.float64)), "holds '<f8'"),
        (lambda content: saved(np.asfortranarray(ARRAY)), "C order"),
        (lambda content: saved(ARRAY.reshape(-1)), "shape is"),
    ],
)
def test_anything_else_is_refused(damage: Callable[[bytes], bytes], message: str) -> None:
    with pytest.raises(NpyError, match=message):
        open_npy(memoryview(damage(saved(ARRAY))), np.float32, 2)


READ_IN_THREADS = """
import gc, sys, threading, time
from vectorizer.storage.npy import open_npy
import numpy as np

view, failures = memoryview(sys.stdin.buffer.read()), []

def read():
    try:
        for _ in range(300):
            open_npy(view, np.float32, 2)
    except BaseException as error:
        failures.append(repr(error))

gc.callbacks.append(lambda *_: time.sleep(0))
gc.set_threshold(5)
readers = [threading.Thread(target=read) for _ in range(4)]
for reader in readers:
    reader.start()
for reader in readers:
    reader.join()
sys.exit(failures[0] if failures else 0)
"""


def test_threads_read_headers_while_garbage_is_collected() -> None:
    """What runs while garbage is collected may let another thread in, anywhere. Python's own parser, with
    which NumPy reads headers, does not bear that in 3.11. In a process without gevent: its threads are real.
    """
    command = [sys.executable, "-c", READ_IN_THREADS]
    ended = subprocess.run(command, input=saved(ARRAY), capture_output=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr.decode()
