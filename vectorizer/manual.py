"""The manual of all settings, printed from the table: conf/config.yml and docs/CONFIGURATION.md."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator

from vectorizer.sections import SECTIONS, TABLE
from vectorizer.setting import Setting, Value
from vectorizer.settings import ENABLED

_COLUMNS = 100
_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))

_YAML_HEAD = """\
# The configuration of Vectorizer, and its manual: every key with its default and what it brings
# about.
#
# Printed by `vectorizer config document yaml`; `vectorizer config check FILE` tells whether a file
# can be used. A file needs only the keys that differ. Without --config the server reads
# ./config.yml if it exists.
#
# A value is taken from a flag, else from what POST /replication/configure stored, else from the
# environment, else from the file, else it has its default. Each key names its variable here;
# VECTORIZER_<SECTION>_<KEY> works for all of them. Sizes are in bytes. Times are in seconds and may
# be fractions; _secs may be left out of a key.
"""

_MARKDOWN_HEAD = """\
# Configuration

Printed by `vectorizer config document markdown` from the table that also checks every value;
[conf/config.yml](../conf/config.yml) is the same as a file to copy.

## Where a value comes from

The first of these that says it:

1. a flag of the command line (`--host`, `--port`, `--data-dir`, `--log-level`);
2. what `POST /replication/configure` stored in the data directory (`--ignore-stored` starts without it);
3. the environment;
4. the YAML file: `--config FILE`, else `./config.yml` if it exists;
5. the default.

`vectorizer config show` prints every value in force with the place where it was said; `GET
/replication/status` does so for replication while the server runs. At the start each stored value that
hides another one is logged.

All spellings work everywhere: a key that ends in `_secs` may be written without it
(`heartbeat_interval`), in YAML, in REST and in the environment. Every key has the variable
`VECTORIZER_<SECTION>_<KEY>`; shorter ones are in the tables. An empty variable counts as not set. An
unknown variable that begins with `REPLICATION_` or `VECTORIZER_` is reported and passed over.

Whatever else is wrong ends the start with exit code 2 and one sentence: the key, where it was said, what
is accepted and the nearest key that exists. Unknown keys, keys said twice, numbers in quotes and values
out of range are wrong. `vectorizer config check FILE` tells so without starting anything.

A role other than `standalone` enables replication. An explicit `enabled: false` in the file or in the
environment keeps the node standalone whatever role stands beside it; only a role given later by REST
overrides it.

Addresses are `host:port` with a host name, an IPv4 address or an IPv6 address in brackets
(`"[::1]:7001"`, in YAML with quotes). Host names are looked up anew at each connection. Sizes are in
bytes, times in seconds; times may be fractions.
"""


def yaml_manual() -> str:
    """Return conf/config.yml: valid YAML in which every key has its default."""
    return "\n".join(_yaml_lines()) + "\n"


def markdown_manual() -> str:
    """Return docs/CONFIGURATION.md."""
    return _MARKDOWN_HEAD + "".join(_markdown_section(section) for section in SECTIONS)


def yaml_value(row: Setting, value: Value) -> str:
    """Return a value as YAML reads it back: text in quotes, numbers without needless digits."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return f"{value:.15g}"
        case str() if row.kind == "secret" and value:
            return '"(not shown)"'
        case str():
            return value if row.kind == "choice" else json.dumps(value, ensure_ascii=False)


def _yaml_lines() -> Iterator[str]:
    yield _YAML_HEAD.rstrip()
    for section, table in SECTIONS.items():
        yield ""
        yield f"# {table.__doc__}"
        yield f"{section}:"
        for row in _rows(section):
            yield from _comment(row.help)
            yield from _comment(f"Accepted: {row.accepted}. Environment: {row.environment[0]}")
            # An explicit false would take the effect from any role that is said elsewhere.
            off = "# " if row.name == ENABLED else ""
            size = _size(row)
            yield f"  {off}{row.key}: {yaml_value(row, row.default)}" + (f"  # {size}" if size else "")
            yield ""


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        text, _COLUMNS, initial_indent="  # ", subsequent_indent="  # ", break_on_hyphens=False
    )


def _markdown_section(section: str) -> str:
    lines = ["", f"## {section}", "", str(SECTIONS[section].__doc__), ""]
    lines += [
        "| key | default | accepted | environment | what it brings about |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in _rows(section):
        size = _size(row)
        default = f"`{yaml_value(row, row.default)}`" + (f" ({size})" if size else "")
        variables = f"`{row.environment[0]}`" + (f", `{row.flag}`" if row.flag else "")
        lines.append(f"| `{row.key}` | {default} | {row.accepted} | {variables} | {row.help} |")
    return "\n".join(lines) + "\n"


def _rows(section: str) -> list[Setting]:
    return [row for row in TABLE if row.section == section]


def _size(row: Setting) -> str:
    """Return the default of a size in a unit that can be read, or nothing."""
    if "_bytes" in row.key and isinstance(row.default, int):
        for factor, unit in _UNITS:
            if row.default >= factor and row.default % factor == 0:
                return f"{row.default // factor} {unit}"
    return ""
