"""The JSON reader of the failover scripts finds what Python's reader finds, with every awk there is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scripts.shell import SCRIPTS, shell

AWKS = [words for words in (["mawk"], ["gawk"], ["busybox", "awk"], ["awk"]) if shutil.which(words[0])]


def flatten_program() -> str:
    found = re.search(r"    awk '\n(.*?)\n    '\n", (SCRIPTS / "rest").read_text(), re.DOTALL)
    assert found is not None
    return found.group(1)


def flat(document: Any, path: str = "") -> Iterator[str]:
    """The lines that flatten prints."""
    if isinstance(document, dict | list):
        items = document.items() if isinstance(document, dict) else enumerate(document)
        for key, value in items:
            yield from flat(value, f"{path}.{key}" if path else str(key))
    elif document is None:
        yield f"{path}\t"
    else:
        yield f"{path}\t{document if isinstance(document, str) else json.dumps(document)}"


def flatten(awk: list[str], text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*awk, flatten_program()], input=text, capture_output=True, text=True, encoding="utf-8", timeout=20
    )


WORDS = st.text(st.sampled_from('ab"\\/:,{}[] é☃'), max_size=6)
KEYS = st.text(st.sampled_from("abc_"), min_size=1, max_size=4)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), WORDS, st.sampled_from([0.5, -1.5e-07, 1e22]))
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("awk", AWKS, ids=" ".join)
@settings(max_examples=25, deadline=None)
@given(document=DOCUMENTS, indent=st.sampled_from([None, 2]))
def test_every_scalar_is_printed_with_its_path(awk: list[str], document: Any, indent: int | None) -> None:
    printed = flatten(awk, json.dumps(document, ensure_ascii=False, indent=indent))
    assert printed.returncode == 0, printed.stderr
    assert printed.stdout == "".join(f"{line}\n" for line in flat(document))


@pytest.mark.parametrize("awk", AWKS, ids=" ".join)
@pytest.mark.parametrize(
    "text", ["", "{", '{"a"', '{"a":1', "[1,", '{"a":1}}', '"x', "[1 2]", "<html></html>"]
)
def test_what_is_no_json_fails_and_ends(awk: list[str], text: str) -> None:
    assert flatten(awk, text).returncode != 0


def test_field_prints_the_value_at_a_path_and_nothing_for_another() -> None:
    lines = '{"a": {"b": "c d"}, "e": null}'
    told = shell(
        f""". "$ROOT/scripts/rest"; for p in a.b a.x e; do echo '{lines}' | flatten | field $p; done"""
    )
    assert told.stdout == "c d\n\n"


@pytest.mark.parametrize(
    ("given_url", "url", "host"),
    [
        ("127.0.0.1:15002", "http://127.0.0.1:15002", "127.0.0.1"),
        ("http://node-1.internal:15002/", "http://node-1.internal:15002", "node-1.internal"),
        ("http://[::1]:15002", "http://[::1]:15002", "[::1]"),
    ],
)
def test_urls_as_people_write_them(given_url: str, url: str, host: str) -> None:
    told = shell(f""". "$ROOT/scripts/rest"; as_url '{given_url}'; host_of "$(as_url '{given_url}')" """)
    assert told.stdout.split() == [url, host]


def test_a_quote_in_an_address_never_reaches_the_json() -> None:
    assert shell(""". "$ROOT/scripts/rest"; json_string 'a"b'""").returncode != 0
