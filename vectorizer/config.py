"""Reading the sources of the settings: the YAML file, the environment, the flags.

Whatever is wrong with a file that a person wrote becomes a ConfigurationError of one sentence. The file is
read as a tree of nodes and not as a document: nodes know their lines, and show a key that stands there twice.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from typing import Any

import yaml

from vectorizer.errors import ConfigurationError
from vectorizer.sections import BY_ENVIRONMENT, BY_NAME, SECTIONS
from vectorizer.settings import Said, Settings, Source, check_all, find, said_twice

__all__ = ["Settings", "Source", "load", "read_environment", "read_file", "read_flags"]

DEFAULT_FILE = "config.yml"
FILE_BYTES_MAX = 1 << 20
# Of our own shell scripts and tests: no settings of the server, and no reason to warn.
SCRIPT_VARIABLES = frozenset(
    f"VECTORIZER_{name}"
    for name in ("VENV", "PYTHON", "NO_SKIP", "RUN_DIR", "TEST_ROWS", "TEST_AT_ONCE", "API_KEY")
)


def load(
    file: str | None = None,
    *,
    flags: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    ignore_stored: bool = False,
) -> Settings:
    """Return the settings of all sources but REST, whose values the server adds once it has opened its data.

    ``file`` defaults to ./config.yml if that exists; ``flags`` are texts by full name; ``environment``
    defaults to the process's own. Raises ConfigurationError.
    """
    if file is None and os.path.lexists(DEFAULT_FILE):
        file = DEFAULT_FILE
    variables, remarks = read_environment(os.environ if environment is None else environment)
    said = {
        Source.YAML: {} if file is None else read_file(file),
        Source.ENVIRONMENT: variables,
        Source.FLAG: read_flags(flags or {}),
    }
    return Settings.merged(said, remarks=remarks, ignore_stored=ignore_stored)


def read_flags(flags: Mapping[str, str]) -> dict[str, Said]:
    """Return the checked values of flags, given as texts by full name."""
    said = {}
    for name, text in flags.items():
        row = BY_NAME[name]
        where = f"flag {row.flag}"
        said[name] = Said(row.parsed(text, where), where)
    return said


def read_environment(environment: Mapping[str, str]) -> tuple[dict[str, Said], tuple[str, ...]]:
    """Return the checked values of environment variables, and remarks about names that mean nothing.

    An empty variable counts as not set: compose files and units pass such for what they leave open.
    """
    said: dict[str, Said] = {}
    remarks = []
    for variable in sorted(environment):
        row = BY_ENVIRONMENT.get(variable)
        if row is None:
            if variable.startswith(("REPLICATION_", "VECTORIZER_")) and variable not in SCRIPT_VARIABLES:
                remarks.append(_unknown_variable(variable))
        elif environment[variable].strip():
            where = f"environment variable {variable}"
            new = Said(row.parsed(environment[variable], where), where)
            old = said.setdefault(row.name, new)
            if old.value != new.value:
                raise said_twice(row.name, old.where, where)
    return said, tuple(remarks)


def read_file(path: str) -> dict[str, Said]:
    """Return the checked values of a YAML file, by full name."""
    said: dict[str, Said] = {}
    sections: set[str] = set()
    for section, node, where in _pairs(_tree(path), path, path, "sections such as replication:"):
        if section not in SECTIONS:
            find(section, where)  # raises: no full name is without a section
        if section in sections:
            raise ConfigurationError(f"section {section!r} stands here twice", key=section, source=where)
        sections.add(section)
        keys = _pairs(node, path, where, f"keys of section {section!r}")
        said |= check_all(((key, _value(value, where), where) for key, value, where in keys), section)
    return said


def _unknown_variable(variable: str) -> str:
    close = difflib.get_close_matches(variable, BY_ENVIRONMENT, 1, 0.8)
    return f"environment variable {variable} is not known and has no effect" + (
        f"; did you mean {close[0]}?" if close else ""
    )


def _tree(path: str) -> yaml.Node | None:
    """Return the root of the YAML document, None if it is empty."""
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigurationError(f"cannot read the configuration: {error.strerror}", source=path) from None
    except ValueError as error:  # a NUL in the name
        raise ConfigurationError(f"cannot read the configuration: {error}", source=repr(path)) from None
    if len(data) > FILE_BYTES_MAX:
        raise ConfigurationError(f"the file is larger than {FILE_BYTES_MAX} bytes", source=path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"the file is not UTF-8 at byte {error.start}", source=path) from None
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        raise _not_yaml(error, text, path) from None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"the file is not YAML: {str(error).splitlines()[0]}", source=path) from None
    except RecursionError:
        raise ConfigurationError("the file is nested too deeply", source=path) from None


def _not_yaml(error: yaml.MarkedYAMLError, text: str, path: str) -> ConfigurationError:
    mark = error.problem_mark or error.context_mark
    message = "the file is not YAML: " + ", ".join(part for part in (error.context, error.problem) if part)
    if mark is None:
        return ConfigurationError(message, source=path)
    if "]:" in "".join(text.splitlines()[mark.line : mark.line + 1]):
        message += "; an address with brackets needs quotes"
    return ConfigurationError(message, source=f"{path}, line {mark.line + 1}")


def _pairs(node: yaml.Node | None, path: str, where: str, expected: str) -> list[tuple[str, yaml.Node, str]]:
    """Return key, value node and place of each pair of a mapping; nothing at all counts as an empty one."""
    if node is None or (isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"):
        return []
    if not isinstance(node, yaml.MappingNode):
        raise ConfigurationError(f"there is {_kind(node)} where {expected} are expected", source=where)
    pairs = []
    for key, value in node.value:
        place = f"{path}, line {key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigurationError(f"a key cannot be {_kind(key)}", source=place)
        pairs.append((key.value, value, place))
    return pairs


def _value(node: yaml.Node, where: str) -> Any:
    """Return the value of a scalar as YAML types it; of lists and mappings only that they are such."""
    if isinstance(node, yaml.MappingNode):
        return {}
    if isinstance(node, yaml.SequenceNode):
        return []
    try:
        return yaml.constructor.SafeConstructor().construct_object(node)
    except yaml.YAMLError:
        raise ConfigurationError(f"the tag {node.tag!r} is not allowed", source=where) from None
    except ValueError:  # it looks like a date or number but is none: then it is text
        return node.value


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    return "a list" if isinstance(node, yaml.SequenceNode) else "a single value"
