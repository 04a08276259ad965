"""The settings of a node: the values in force, and for each where it was said.

Every source (YAML, environment, REST, flags) is kept as it was said, checked; the values in force are merged
from them anew at each change. So a change by REST never forgets what it hides, and one function checks all.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from vectorizer.errors import ConfigurationError
from vectorizer.sections import (
    BY_NAME,
    SECTIONS,
    TABLE,
    Index,
    Limits,
    Logging,
    Replication,
    Security,
    Server,
    Storage,
)
from vectorizer.setting import Setting, Value

ROLE = "replication.role"
ENABLED = "replication.enabled"
_KEY_CHARACTERS_MAX = 80
# Neither makes sense larger than the other.
_AT_MOST = (
    ("index.segment_rows", "index.segment_rows_max"),
    ("storage.journal_file_bytes", "storage.journal_bytes_max"),
)


class Source(StrEnum):
    """Where a value can be said; a later one overrides an earlier one."""

    DEFAULT = "default"
    YAML = "yaml"
    ENVIRONMENT = "environment"
    REST = "rest"
    FLAG = "flag"


class Said(NamedTuple):
    """A checked value and the place where an operator finds it: ``config.yml, line 3``."""

    value: Value
    where: str


class Effective(NamedTuple):
    """A row of the table with its value in force."""

    setting: Setting
    value: Value
    source: Source
    where: str


class Override(NamedTuple):
    """A value that hides another one."""

    name: str
    value: Value
    hidden: Value
    hidden_source: Source


@dataclass(frozen=True)
class Settings:
    """All sections, immutable. Made by :meth:`merged`, :meth:`replaced` or :func:`vectorizer.config.load`.

    ``replication.enabled`` and ``replication.role`` are settled: enabled is true exactly if the role is not
    standalone. ``remarks`` are sentences about what was passed over. ``ignore_stored`` asks the server not to
    apply what REST stored in the data directory.
    """

    server: Server = field(default_factory=Server)
    storage: Storage = field(default_factory=Storage)
    index: Index = field(default_factory=Index)
    limits: Limits = field(default_factory=Limits)
    replication: Replication = field(default_factory=Replication)
    security: Security = field(default_factory=Security)
    logging: Logging = field(default_factory=Logging)
    said: Mapping[Source, Mapping[str, Said]] = field(default_factory=dict)
    chosen: Mapping[str, tuple[Source, Said]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    ignore_stored: bool = False

    @classmethod
    def merged(
        cls,
        said: Mapping[Source, Mapping[str, Said]],
        *,
        remarks: tuple[str, ...] = (),
        ignore_stored: bool = False,
    ) -> Settings:
        """Return the settings in force when ``said`` holds, by source, what was said of each full name.

        Raises ConfigurationError if values do not go together.
        """
        said = {source: values for source, values in said.items() if values}
        chosen: dict[str, tuple[Source, Said]] = {}
        for source in Source:
            chosen |= {name: (source, value) for name, value in said.get(source, {}).items()}
        _settle_role(chosen)
        values: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
        for name, (_, (value, _)) in chosen.items():
            row = BY_NAME[name]
            values[row.section][row.key] = value
        sections = {section: table(**values[section]) for section, table in SECTIONS.items()}
        settings = cls(**sections, said=said, chosen=chosen, remarks=remarks, ignore_stored=ignore_stored)
        _check_together(settings)
        return settings

    def replaced(
        self, values: Mapping[str, Any], *, source: Source | str = Source.REST, section: str | None = None
    ) -> Settings:
        """Return these settings with typed ``values`` said anew by ``source``; what is not named stays.

        Keys are full names (``replication.log_size``) or, with ``section``, its keys in any spelling. Raises
        ConfigurationError, and nothing has changed, if a key is unknown or a value cannot be used. What a
        stronger source said keeps its effect.
        """
        source = Source(source)
        where = "REST" if source is Source.REST else source.value
        new = check_all(((key, value, where) for key, value in values.items()), section)
        old = dict(self.said.get(source, {}))
        if ENABLED not in new and ROLE in new and new[ROLE].value != "standalone":
            # A role given later than `enabled: false` by the same source is meant to have an effect.
            old.pop(ENABLED, None)
        said = {**self.said, source: old | new}
        return Settings.merged(said, remarks=self.remarks, ignore_stored=self.ignore_stored)

    def value(self, name: str) -> Value:
        """Return the value in force of a full name; KeyError if there is no such setting."""
        row = BY_NAME[name]
        value: Value = getattr(getattr(self, row.section), row.key)
        return value

    def source(self, name: str) -> Source:
        """Return which source the value in force comes from; KeyError if there is no such setting."""
        name = BY_NAME[name].name
        return self.chosen[name][0] if name in self.chosen else Source.DEFAULT

    def where(self, name: str) -> str:
        """Return the place where the value in force was said, such as ``config.yml, line 3``."""
        name = BY_NAME[name].name
        return self.chosen[name][1].where if name in self.chosen else Source.DEFAULT.value

    def __iter__(self) -> Iterator[Effective]:
        """Iterate over the whole table in its order."""
        for row in TABLE:
            yield Effective(row, self.value(row.name), self.source(row.name), self.where(row.name))

    def stored(self) -> dict[str, object]:
        """Return what REST said, by full name: what the manifest keeps and :meth:`replaced` takes again."""
        return {name: said.value for name, said in self.said.get(Source.REST, {}).items()}

    def overrides(self, source: Source = Source.REST) -> list[Override]:
        """Return the values of ``source`` in force that differ from what weaker sources say."""
        weaker = {
            key: said
            for key, said in self.said.items()
            if list(Source).index(key) < list(Source).index(source)
        }
        hidden = {
            name: (key, said.value) for key in Source if key in weaker for name, said in weaker[key].items()
        }
        found = []
        for name, said in self.said.get(source, {}).items():
            key, value = hidden.get(name, (Source.DEFAULT, BY_NAME[name].default))
            if self.source(name) is source and value != said.value:
                found.append(Override(name, said.value, value, key))
        return found

    @property
    def rest_scheme(self) -> str:
        """How this node's REST interface is spoken to, and so its peers'."""
        return "https" if self.security.tls_certificate else "http"

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about settings that can be used but are hardly meant."""
        replication = self.replication
        found = list(self.remarks)
        beat_secs, lag_secs = replication.heartbeat_interval_secs, replication.min_replicas_max_lag_secs
        if replication.enabled and beat_secs >= replication.replica_timeout_secs:
            found.append(
                f"replication.replica_timeout_secs ({replication.replica_timeout_secs:g}) is not more than "
                f"replication.heartbeat_interval_secs ({beat_secs:g}): idle links will be dropped again and "
                "again"
            )
        if replication.enabled and replication.min_replicas_to_write and beat_secs >= lag_secs:
            found.append(
                f"replication.min_replicas_max_lag_secs ({lag_secs:g}) is not more than "
                f"replication.heartbeat_interval_secs ({beat_secs:g}): writes will be refused whenever idle "
                "replicas have not been heard of for that long"
            )
        return tuple(found)


def check_all(entries: Iterable[tuple[str, Any, str]], section: str | None) -> dict[str, Said]:
    """Return typed (key, value, where) entries checked, by full name.

    Raises ConfigurationError for an unknown key, a value that cannot be used, and a setting said twice.
    """
    found: dict[str, Said] = {}
    for key, value, where in entries:
        row = find(key if section is None else f"{section}.{key}", where)
        if row.name in found:
            raise said_twice(row.name, found[row.name].where, where)
        found[row.name] = Said(row.checked(value, where), where)
    return found


def find(name: str, where: str) -> Setting:
    """Return the setting of a full name in any spelling, or raise ConfigurationError with the nearest one."""
    if name in BY_NAME:
        return BY_NAME[name]
    section = name.rpartition(".")[0]
    keys = {row.key for row in TABLE if row.section == section} or set(SECTIONS)
    nearest = nearest_name(name)
    raise ConfigurationError(
        f"unknown key {name[:_KEY_CHARACTERS_MAX]!r}",
        key=name,
        source=where,
        accepted=None if nearest else ", ".join(sorted(keys)),
        nearest=nearest,
    )


def nearest_name(name: str) -> str | None:
    """Return the full name (or section) that ``name`` was most likely meant to be."""
    key = name.rpartition(".")[2]
    elsewhere = [row.name for row in TABLE if key in row.spellings]
    if elsewhere:
        return elsewhere[0]
    known = [*BY_NAME, *SECTIONS]
    close = difflib.get_close_matches(name[:_KEY_CHARACTERS_MAX], known, 1, 0.7)
    if not close:
        by_key = {spelling: row.name for row in TABLE for spelling in row.spellings}
        close = [by_key[key] for key in difflib.get_close_matches(key[:_KEY_CHARACTERS_MAX], by_key, 1, 0.7)]
    if not close:
        return None
    return BY_NAME[close[0]].name if close[0] in BY_NAME else close[0]


def said_twice(name: str, first: str, second: str) -> ConfigurationError:
    """Return the error about a setting that one source says two times."""
    return ConfigurationError(f"{name} is said twice, first in {first}", key=name, source=second)


def _settle_role(chosen: dict[str, tuple[Source, Said]]) -> None:
    """Make ``enabled`` and ``role`` agree in ``chosen``, so that nobody has to look at both."""
    if ROLE not in chosen and ENABLED not in chosen:
        return
    role_source, role = chosen.get(ROLE, (Source.DEFAULT, Said("standalone", "default")))
    enabled_source, enabled = chosen.get(ENABLED, (Source.DEFAULT, Said(False, "default")))
    said_by_rest = role_source is Source.REST and enabled_source in (Source.YAML, Source.ENVIRONMENT)
    if enabled_source is not Source.DEFAULT and enabled.value is False and not said_by_rest:
        chosen[ROLE] = enabled_source, Said("standalone", enabled.where)
    elif role.value == "standalone" or enabled.value is False:
        chosen[ENABLED] = role_source, Said(role.value != "standalone", role.where)


def _check_together(settings: Settings) -> None:
    replication = settings.replication
    needed = {"master": "replication.bind_address", "replica": "replication.master_address"}.get(
        replication.role
    )
    if needed is not None and not settings.value(needed):
        raise ConfigurationError(
            f"{ROLE} {replication.role} needs {needed}",
            key=needed,
            source=settings.where(ROLE),
            accepted=BY_NAME[needed].accepted,
        )
    if settings.security.replication_secret and settings.security.replication_secret_file:
        first, second = "security.replication_secret", "security.replication_secret_file"
        raise said_twice("the replication secret", settings.where(first), settings.where(second))
    _check_tls(settings)
    for smaller, larger in _AT_MOST:
        low, high = settings.value(smaller), settings.value(larger)
        if low > high:  # type: ignore[operator]  # both are numbers
            culprit = smaller if settings.source(smaller) is not Source.DEFAULT else larger
            raise ConfigurationError(
                f"{smaller} ({low}) cannot be more than {larger} ({high})",
                key=culprit,
                source=settings.where(culprit),
            )


def _check_tls(settings: Settings) -> None:
    security, replication = settings.security, settings.replication
    missing = "security.tls_key" if security.tls_certificate else "security.tls_certificate"
    why = ""
    if bool(security.tls_certificate) != bool(security.tls_key):
        why = "certificate and key go together"
    elif security.replication_tls and replication.enabled and replication.bind_address:
        why = "" if security.tls_certificate else "replicas are let in, and by replication_tls they want one"
    if why:
        raise ConfigurationError(
            f"{missing} is missing: {why}",
            key=missing,
            source=settings.where("security.replication_tls"),
            accepted=BY_NAME[missing].accepted,
        )
