"""Hostile input in CI: 20,000 inputs of the fuzzer, and documents that Hypothesis puts together."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bson
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile import __main__ as command
from tests.hostile import requesting
from tests.hostile.mutation import frames, sealed
from tests.hostile.targets import NAMES, TARGETS

ROOT = Path(__file__).resolve().parents[2]
INPUTS = 20_000
QUIET = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

WHOLE = st.integers(-(2**63), 2**63 - 1)
LEAF = st.none() | st.booleans() | WHOLE | st.floats() | st.text(max_size=20) | st.binary(max_size=20)
KEYS = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=8)
ANYTHING = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4)
)
JSON_LEAF = (
    st.none()
    | st.booleans()
    | WHOLE
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
)
JSON = st.recursive(
    JSON_LEAF,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)


def test_the_command_knows_all_targets() -> None:
    assert command.TARGETS == NAMES


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_fuzzer_finds_nothing() -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris has no wheel for this Python or system")
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile", "--inputs", str(INPUTS), "--corruptions", "0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"


@pytest.mark.parametrize("name", sorted(set(TARGETS) - {"frames"}))
@QUIET
@given(data=st.data())
def test_any_field_may_hold_anything(name: str, data: st.DataObject) -> None:
    """Frames with right checksums, in whose documents a field is of any type and size."""
    target = TARGETS[name]
    seed = data.draw(st.sampled_from([seed for seed in target.seeds() if list(frames(seed))]))
    pieces = [seed[start:end] for start, end in frames(seed)]
    number = data.draw(st.integers(0, len(pieces) - 1))
    try:
        document: dict[str, Any] = bson.decode(pieces[number][8:])
    except bson.errors.InvalidBSON:
        return
    document[data.draw(st.sampled_from(sorted(document)))] = data.draw(ANYTHING)
    pieces[number] = sealed(bson.encode(document))
    target.make()(b"".join(pieces))


@pytest.fixture(scope="module")
def application() -> Iterator[Any]:
    return requesting.take()


@pytest.mark.parametrize("seed", range(8))
@QUIET
@given(data=st.data())
def test_any_field_of_a_request_may_hold_anything(application: Any, seed: int, data: st.DataObject) -> None:
    head, _, body = requesting.json_seeds()[seed].partition(b"\n\n")
    document = orjson.loads(body)
    document[data.draw(st.sampled_from(sorted(document)) | st.text(max_size=5))] = data.draw(JSON)
    application(head + b"\n\n" + orjson.dumps(document))
