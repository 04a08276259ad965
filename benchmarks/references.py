"""References: what this machine gives to programs that do nothing but the one thing.

Each is measured anew beside the rows that name it, in about a second.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import orjson

from benchmarks import data
from benchmarks.bare import ECHO_BYTES
from benchmarks.load import Load, drive
from benchmarks.measurement import Bench, Reference, Watch, percentile
from benchmarks.nodes import ROOT, free_port, wait_until
from benchmarks.rest_client import HOST, connect, request_bytes

DISK_PIECE = 1 << 20
PIPE_PIECE = 1 << 18
REDIS_VALUE = 512
REDIS_PIPELINE = 1000


@contextlib.contextmanager
def bare(kind: str) -> Iterator[int]:
    """The port of a bare process of ``benchmarks.bare``."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.bare", kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def echo(bench: Bench) -> Mapping[str, float]:
    """Ping-pong of 600 bytes between two bare processes, one at a time."""
    message = bytes(ECHO_BYTES)
    micros: list[float] = []
    with bare("echo") as port, connect(port) as sock:
        for _ in range(bench.scaled(10_000)):
            began = time.perf_counter()
            sock.sendall(message)
            sock.recv(ECHO_BYTES, socket.MSG_WAITALL)
            micros.append((time.perf_counter() - began) * 1e6)
    return {"echo p50 µs": percentile(micros, 50), "echo p99 µs": percentile(micros, 99)}


def http1(bench: Bench) -> Mapping[str, float]:
    """128 floats as JSON to a bare Bottle app on gevent's server, one keep-alive client."""
    load = _http(1, bench.scaled(4000))
    times = load.latencies_ms
    return {
        "http1 /s": load.rate,
        "http1 p50 ms": percentile(times, 50),
        "http1 p99 ms": percentile(times, 99),
    }


def http8(bench: Bench) -> Mapping[str, float]:
    """The same with eight clients."""
    return {"http8 /s": _http(8, bench.scaled(8000)).rate}


def _http(clients: int, count: int) -> Load:
    body = orjson.dumps({"vector": data.clusters(1)[0].tolist()})
    with bare("http") as port:
        drive(port, [request_bytes("POST", "/", body)] * 200, clients)
        return drive(port, [request_bytes("POST", "/", body)] * count, clients)


def pipe(bench: Bench) -> Mapping[str, float]:
    """A bare gevent sender and receiver, both with CRC32."""
    from gevent import socket as green

    piece = os.urandom(PIPE_PIECE)
    count = bench.scaled(2048, 256)
    with bare("pipe") as port, green.create_connection((HOST, port)) as sock:
        watch, checksum = Watch(), 0
        for _ in range(count):
            checksum = zlib.crc32(piece, checksum)
            sock.sendall(piece)
        sock.shutdown(socket.SHUT_WR)
        if int.from_bytes(sock.recv(4), "big") != checksum:
            raise OSError("the bare receiver has another checksum")
        return {"pipe MB/s": count * PIPE_PIECE / watch.seconds / 1e6}


def disk(bench: Bench) -> Mapping[str, float]:
    """Sequential write and fsync, and one small write with fdatasync, where the nodes have their data."""
    path = bench.directory / "disk-reference"
    piece = os.urandom(DISK_PIECE)
    count = bench.scaled(256, 16)
    with path.open("wb", buffering=0) as file:
        watch = Watch()
        for _ in range(count):
            file.write(piece)
        os.fsync(file.fileno())
        rate = count * DISK_PIECE / watch.seconds / 1e6
        millis: list[float] = []
        for number in range(bench.scaled(200, 50)):
            began = time.perf_counter()
            os.pwrite(file.fileno(), piece[:4096], number * 4096)
            os.fdatasync(file.fileno())
            millis.append((time.perf_counter() - began) * 1e3)
    path.unlink()
    return {"disk MB/s": rate, "fdatasync ms": percentile(millis, 50)}


def redis(bench: Bench) -> Mapping[str, float]:
    """redis-server as primary and replica: HSET of 512-byte values pipelined by 1,000 until the replica has
    all, nothing on disk. Missing where it is not installed."""
    if shutil.which("redis-server") is None:
        return {}
    count = bench.scaled(200_000, REDIS_PIPELINE) // REDIS_PIPELINE
    value = os.urandom(REDIS_VALUE)
    pipelines = [
        b"".join(
            _resp(b"HSET", b"v%09d" % (number * REDIS_PIPELINE + row), b"v", value)
            for row in range(REDIS_PIPELINE)
        )
        for number in range(count)
    ]
    with _redis(bench.directory) as primary, _redis(bench.directory, primary), connect(primary) as sock:
        wait_until(lambda: b"state=online" in _info(sock), "the redis replica is online")
        watch = Watch()
        for pipeline in pipelines:
            sock.sendall(pipeline)
            _read(sock, b":1\r\n" * REDIS_PIPELINE)
        sock.sendall(_resp(b"WAIT", b"1", b"60000"))
        _read(sock, b":1\r\n")
        return {"redis /s": count * REDIS_PIPELINE / watch.seconds}


@contextlib.contextmanager
def _redis(directory: Path, primary: int | None = None) -> Iterator[int]:
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", HOST, "--save", "", "--dir", str(directory)]
    if primary is not None:
        command += ["--replicaof", HOST, str(primary)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: _listens(port), "redis listens")
            yield port
        finally:
            process.kill()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), connect(port):
        return True
    return False


def _resp(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def _info(sock: socket.socket) -> bytes:
    sock.sendall(_resp(b"INFO", b"replication"))
    return sock.recv(1 << 16)


def _read(sock: socket.socket, expected: bytes) -> None:
    answer = b""
    while len(answer) < len(expected):
        piece = sock.recv(1 << 16)
        if not piece:
            break
        answer += piece
    if answer != expected:
        raise OSError(f"redis answered {answer[:100]!r}")


REFERENCES: Mapping[str, Reference] = {
    "echo": echo,
    "http1": http1,
    "http8": http8,
    "pipe": pipe,
    "disk": disk,
    "redis": redis,
}
