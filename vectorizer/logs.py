"""Logs: one event, one line, to stderr, as text or JSON.

An event is a short word that never changes (``link_up``); what varies goes into fields. Whatever a field
holds, a call never raises, and a line stays one line of bounded length: peers and clients decide about parts
of many values, and must be able neither to stop the server through its log nor to forge or flood it.

The lines go through the standard library's ``logging``, the process's own register of outputs, so that what
libraries report comes out in the same form. The lock that is held while a line is written is the operating
system's, not gevent's: native threads log too, and a contended lock must not switch greenlets.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal, TextIO

import orjson

from vectorizer.native_lock import NativeRLock

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["text", "json"]
Listener = Callable[[float, str, str, dict[str, str]], None]
"""Called with Unix seconds, level, event and fields as text, in any thread; must not raise."""

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_ORJSON_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
# What JSON may hold as it is, but some readers take for the end of a line.
_LINE_BREAKS = re.compile("[\x80-\x9f\u2028\u2029]")
_JSON_TYPES = (bool, int, float, list, dict, tuple, type(None))
_PACKAGE = "vectorizer"
VALUE_CHARACTERS_MAX = 4096
KINDS_MAX = 1024


class Log:
    """Where a module sends its events; made by :func:`get`."""

    __slots__ = ("_logger",)

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, event: str, /, **fields: object) -> None:
        """Log what only somebody who hunts a bug wants to see."""
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        """Log a change of state: a role, a link, a sync, a start, a stop."""
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        """Log what went wrong and was dealt with: a refusal, a lost link, a file moved aside."""
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        """Log what an operator has to act on."""
        self._write(logging.ERROR, event, fields)

    def _write(self, level: int, event: str, fields: dict[str, object]) -> None:
        # Not isEnabledFor(): on a miss of its cache it takes a lock that gevent has patched.
        if level >= self._logger.getEffectiveLevel():
            name = self._logger.name
            message = _Message(event, fields)
            self._logger.handle(logging.LogRecord(name, level, "", 0, message, None, None))


class Recurring:
    """Warnings that a stranger can cause as often as he likes: the 1st, 2nd, 4th, 8th ... of a kind is said.

    A kind is an event with its reason, from one host; at most KINDS_MAX are told apart, the oldest are
    forgotten.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._counts: dict[tuple[str, str, str], int] = {}

    def warning(self, event: str, /, host: str, reason: str = "", **fields: object) -> None:
        """Log it, unless it has been said often enough; a field tells how often it has happened."""
        kind = event, host, reason
        count = self._counts.pop(kind, 0) + 1
        self._counts[kind] = count
        if len(self._counts) > KINDS_MAX:
            del self._counts[next(iter(self._counts))]
        if not count & (count - 1):
            if reason:
                fields = {"reason": reason, **fields}
            self._log.warning(event, **fields, so_far=count)


class _Message:
    """Event and fields of a record; as a string, what a foreign handler shows."""

    __slots__ = ("event", "fields")

    def __init__(self, event: str, fields: dict[str, object]) -> None:
        self.event = event
        self.fields = fields

    def __str__(self) -> str:
        return _text_of(self.event, self.fields)


class LineHandler(logging.Handler):
    """Writes each record as one line to ``stream``, or to what is ``sys.stderr`` at that moment.

    Events below ``minimum`` are left out. Counts the lines that it cannot write, and says so in the next one
    that it can.
    """

    def __init__(self, stream: TextIO | None, format: Format, minimum: int) -> None:
        super().__init__()
        self.stream = stream
        self.minimum = minimum
        self.render = json_line if format == "json" else text_line
        self.lines_lost = 0

    def createLock(self) -> None:
        self.lock = NativeRLock()

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= self.minimum or not isinstance(record.msg, _Message)

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.msg, _Message):
            event, fields = record.msg.event, record.msg.fields
        else:
            event, fields = _foreign_message(record), {"logger": record.name}
        if self.lines_lost:
            fields = {**fields, "log_lines_lost": self.lines_lost}
        line = self.render(record.created, record.levelname.lower(), _shortened(event), fields)
        try:
            stream = sys.stderr if self.stream is None else self.stream
            stream.write(line + "\n")
            stream.flush()
        except (OSError, ValueError):  # a full disk or closed pipe behind stderr; a closed stream
            self.lines_lost += 1
        else:
            self.lines_lost = 0


class Listening(logging.Handler):
    """Hands each event from info on to a listener until it is closed; made by :func:`listen`."""

    def __init__(self, listener: Listener) -> None:
        super().__init__(logging.INFO)
        self._listener = listener

    def createLock(self) -> None:
        self.lock = NativeRLock()

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.msg, _Message):
            texts = {
                _encodable(name): _encodable(_value_text(value)) for name, value in record.msg.fields.items()
            }
            self._listener(record.created, record.levelname.lower(), _encodable(record.msg.event), texts)

    def close(self) -> None:
        logging.getLogger(_PACKAGE).removeHandler(self)
        super().close()


def listen(listener: Listener) -> Listening:
    """Call ``listener`` with the events of this process from info on, whatever is written of them."""
    package = logging.getLogger(_PACKAGE)
    if package.getEffectiveLevel() > logging.INFO:
        package.setLevel(logging.INFO)
    listening = Listening(listener)
    package.addHandler(listening)
    return listening


def get(name: str) -> Log:
    """Return the log of the module ``name`` (its ``__name__``)."""
    if name != _PACKAGE and not name.startswith(_PACKAGE + "."):
        name = f"{_PACKAGE}.{name}"
    return Log(logging.getLogger(name))


def configure(level: Level, format: Format, stream: TextIO | None = None) -> None:
    """Send all events of at least ``level`` to ``stream`` (stderr), those of libraries from warnings on.

    A second call replaces what the first one set.
    """
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, LineHandler):
            root.removeHandler(handler)
    root.addHandler(LineHandler(stream, format, _LEVELS[level]))
    root.setLevel(logging.WARNING)
    # Listeners hear of everything from info on.
    logging.getLogger(_PACKAGE).setLevel(min(_LEVELS[level], logging.INFO))


def text_line(created: float, level: str, event: str, fields: dict[str, object]) -> str:
    """Return ``time level event key=value ...``; ``created`` is in Unix seconds."""
    return f"{_time(created)} {level:<7} {_text_of(event, fields)}"


def json_line(created: float, level: str, event: str, fields: dict[str, object]) -> str:
    """Return an object with time, level, event and the fields; a field of one of these names gets a ``_``."""
    document: dict[str, object] = {"time": _time(created), "level": level, "event": _encodable(event)}
    for name, value in fields.items():
        document[_encodable(name) + "_" * (name in ("time", "level", "event"))] = orjson.Fragment(
            _json_of(value)
        )
    line = orjson.dumps(document).decode()
    return line if line.isascii() else _LINE_BREAKS.sub(lambda found: f"\\u{ord(found[0]):04x}", line)


def _time(created: float) -> str:
    return datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _text_of(event: str, fields: dict[str, object]) -> str:
    words = [_word(event)]
    words += [f"{_word(name)}={_word(_value_text(value))}" for name, value in fields.items()]
    return " ".join(words)


def _value_text(value: object) -> str:
    if isinstance(value, str):
        return _shortened(value)
    json_text = _json_text(value) if isinstance(value, _JSON_TYPES) else None
    return _shortened(_described(value) if json_text is None else json_text)


def _word(text: str) -> str:
    """Return ``text`` as it is if it cannot be misread, otherwise in quotes with escapes."""
    if not text.isprintable():
        return json.dumps(text).replace("\x7f", "\\u007f")
    if text and not any(character in text for character in ' "\\='):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _json_of(value: object) -> str:
    text = _json_text(value)
    if text is None or len(text) > VALUE_CHARACTERS_MAX:
        text = orjson.dumps(_encodable(_shortened(_described(value) if text is None else text))).decode()
    return text


def _json_text(value: object) -> str | None:
    """Return ``value`` as compact JSON, or None if it holds what JSON cannot say."""
    try:
        return orjson.dumps(value, default=_described, option=_ORJSON_OPTIONS).decode()
    except orjson.JSONEncodeError:
        return None


def _described(value: object) -> str:
    """Return any object as text: bytes as UTF-8 or hexadecimal digits, the rest by its own ``str``."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        data = bytes(value)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return data.hex()
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - the class of the field decides what its __str__ raises
        return f"<{type(value).__name__} that raises {type(error).__name__}>"


def _shortened(text: str) -> str:
    if len(text) <= VALUE_CHARACTERS_MAX:
        return text
    return f"{text[:VALUE_CHARACTERS_MAX]}... ({len(text)} characters)"


def _encodable(text: str) -> str:
    """Return ``text`` without lone surrogates, which UTF-8 cannot carry."""
    return text.encode("utf-8", "backslashreplace").decode()


def _foreign_message(record: logging.LogRecord) -> str:
    """Return what a library said; its arguments may not fit its format."""
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001 - see _described
        return f"{_described(record.msg)} ({type(error).__name__} while formatting)"
