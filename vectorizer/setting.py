"""One setting: its names in every source, what it accepts, and the check of a value.

The table of all settings is in :mod:`vectorizer.sections`. A value comes either typed (YAML, JSON), where
``"5"`` is not a number and ``1`` is not a truth value, or as text (environment, flags), to be parsed first.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Any, Literal

from vectorizer.address import parse_address, parse_host
from vectorizer.errors import ConfigurationError

Value = bool | int | float | str
Kind = Literal["truth", "whole", "number", "choice", "host", "address", "peer", "path", "file", "secret"]

_SECS = "_secs"
_WHOLE = re.compile(r"[+-]?[0-9]{1,30}")
_NUMBER = re.compile(r"[+-]?([0-9]{1,30}(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_TRUTHS: Mapping[str, bool] = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}
_SHOWN_CHARACTERS_MAX = 60
SECRET_BYTES_MIN = 16
SECRET_BYTES_MAX = 1024


@dataclasses.dataclass(frozen=True)
class Setting:
    """A row of the table.

    ``kind`` decides what is accepted: ``address`` is host:port, whose port may be 0 (chosen by the system);
    ``peer`` is an address to connect to; both may be empty. A ``secret`` is never shown. ``minimum`` and
    ``maximum`` belong to numbers and are inclusive. ``help`` is the consequence of the value, in whole
    sentences.
    """

    section: str
    key: str
    kind: Kind
    default: Value
    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    flag: str | None = None

    @property
    def name(self) -> str:
        """The full name: ``section.key``."""
        return f"{self.section}.{self.key}"

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every accepted form of the key inside its section, the proper one first."""
        if self.key.endswith(_SECS):
            return self.key, self.key.removesuffix(_SECS)
        return (self.key,)

    @property
    def environment(self) -> tuple[str, ...]:
        """Every accepted environment variable, the one that documents name first."""
        keys = [spelling.upper() for spelling in reversed(self.spellings)]
        short = {"replication": "REPLICATION_", "logging": "VECTORIZER_LOG_"}
        short |= dict.fromkeys(("server", "storage"), "VECTORIZER_")
        prefixes = [short[self.section]] if self.section in short else []
        prefixes.append(f"VECTORIZER_{self.section.upper()}_")
        return tuple(prefix + key for prefix in prefixes for key in keys)

    @property
    def accepted(self) -> str:
        """What is accepted, for a person."""
        match self.kind:
            case "truth":
                return "true or false"
            case "whole" | "number":
                noun = "a whole number" if self.kind == "whole" else "a number"
                return f"{noun} from {self.minimum:.15g} to {self.maximum:.15g}"
            case "choice":
                return f"{', '.join(self.choices[:-1])} or {self.choices[-1]}"
            case "host":
                return "a host name or IP address"
            case "address":
                return "host:port, such as 0.0.0.0:7001 or [::1]:7001; port 0 is chosen by the system"
            case "peer":
                return "host:port, such as 192.168.1.10:7001, node-1:7001 or [::1]:7001"
            case "path":
                return "the path of a directory"
            case "file":
                return "the path of a file, or nothing"
            case "secret":
                return f"text of {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes, or nothing"

    def parsed(self, text: str, where: str) -> Value:
        """Return the value that ``text`` (of an environment variable or flag) stands for, checked."""
        stripped = text.strip()
        value: Value = stripped
        if self.kind == "truth":
            value = _TRUTHS.get(stripped.lower(), stripped)
        elif self.kind in ("whole", "number") and _WHOLE.fullmatch(stripped):
            value = int(stripped)
        elif self.kind == "number" and _NUMBER.fullmatch(stripped):
            value = float(stripped)
        return self.checked(value, where)

    def checked(self, value: Any, where: str) -> Value:
        """Return ``value`` in its proper form: a number as float, a choice in lower case, null as no address.

        ``where`` tells the operator where the value was said. Raises ConfigurationError.
        """
        match self.kind:
            case "truth" if isinstance(value, bool):
                return value
            case "whole" if isinstance(value, int) and not isinstance(value, bool):
                return self._in_range(value, where)
            case "number" if isinstance(value, int | float) and not isinstance(value, bool):
                return float(self._in_range(value, where))
            case "choice" if isinstance(value, str) and value.lower() in self.choices:
                return value.lower()
            case "path" if isinstance(value, str) and value and _is_path(value):
                return value
            case "host" | "address" | "peer" if isinstance(value, str):
                return self._checked_host(value, where)
            case "file" if isinstance(value, str) and _is_path(value):
                return value
            case "secret" if isinstance(value, str) and _is_secret(value):
                return value
            case "address" | "peer" | "file" | "secret" if value is None:
                return ""
        raise self.refusal(value, where)

    def refusal(self, value: object, where: str, why: str = "") -> ConfigurationError:
        """Return the error that says that ``value`` cannot be used, and what can."""
        what = (
            shown(value)
            if self.kind in ("truth", "whole", "number")
            else shown(value).removeprefix("the text ")
        )
        if self.kind == "secret":  # it is not repeated where others read it
            what = "what was given"
        message = f"{self.name} cannot be {what}" + (f": {why}" if why else "")
        return ConfigurationError(message, key=self.name, source=where, accepted=self.accepted)

    def _in_range(self, value: float, where: str) -> float:
        # Compared as it came: a whole number of a thousand digits has no float.
        if self.minimum is None or self.maximum is None or not self.minimum <= value <= self.maximum:
            raise self.refusal(value, where)
        return value

    def _checked_host(self, value: str, where: str) -> str:
        try:
            if self.kind == "host":
                return parse_host(value)
            if value and parse_address(value).port == 0 and self.kind == "peer":
                raise ValueError("port 0 cannot be connected to")
        except ValueError as error:
            raise self.refusal(value, where, str(error)) from None
        return value


def setting(
    default: Value,
    help: str,
    *,
    kind: Kind | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
    flag: str | None = None,
) -> Any:
    """Return the field of a section's dataclass, with its row of the table as metadata.

    The kind follows from the default where it is not said: bool, int, float, or the choices.
    """
    if kind is None:
        kind = "choice" if choices else _kind_of(default)
    row: dict[str, Any] = {"kind": kind, "default": default, "help": help, "flag": flag}
    row |= {"minimum": minimum, "maximum": maximum, "choices": choices}
    return dataclasses.field(default=default, metadata=row, repr=kind != "secret")


def settings_of(section: str, table: type[Any]) -> tuple[Setting, ...]:
    """Return the rows of ``table``, the dataclass of ``section``."""
    fields = dataclasses.fields(table)
    return tuple(Setting(section=section, key=field.name, **field.metadata) for field in fields)


def _is_path(value: str) -> bool:
    """Whether the system can be asked for it; a name that is not UTF-8 there is a path all the same."""
    try:
        return b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:  # a lone surrogate, which YAML can say
        return False


def _is_secret(value: str) -> bool:
    try:
        return not value or SECRET_BYTES_MIN <= len(value.encode()) <= SECRET_BYTES_MAX
    except UnicodeEncodeError:
        return False


def shown(value: object) -> str:
    """Return a value as an operator would recognise it, in at most a few words."""
    match value:
        case None:
            return "empty"
        case bool():
            return "true" if value else "false"
        case str():
            short = value if len(value) <= _SHOWN_CHARACTERS_MAX else value[:_SHOWN_CHARACTERS_MAX] + "..."
            return f"the text {short!r}"
        case int():
            return str(value) if abs(value) < 10**30 else "a number of more than 30 digits"
        case float():
            return repr(value)
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case _:
            return f"a {type(value).__name__}"


def _kind_of(default: Value) -> Kind:
    match default:
        case bool():
            return "truth"
        case int():
            return "whole"
        case float():
            return "number"
        case str():
            raise TypeError("a text setting says its kind")
