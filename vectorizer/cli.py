"""The command line. Exit codes: 0 done, 1 damage or failure, 2 a configuration or command of no use.

Only :func:`main` prints errors, one sentence each; a bad configuration never shows a traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from vectorizer import __version__, config, keys_command, logs, manual, openapi_command
from vectorizer.client import commands as client_commands
from vectorizer.errors import ConfigurationError
from vectorizer.sections import TABLE
from vectorizer.settings import Settings

USAGE_ERROR = 2
_COMMANDS = ("serve", "config", "check", "new-identity", "keys", "openapi", *client_commands.NAMES)
_DESCRIPTION = "A vector database that replicates from one master to any number of replicas."
_EPILOG = """\
commands:
  serve                      run the server; this is what happens without a command
  config check FILE          say whether FILE can be used as configuration
  config show                print every setting in force and where it was said
  config document FORMAT     print the manual of all settings, as yaml or markdown
  check DATA_DIR ...         verify data directories of stopped servers, and say what is found
  new-identity DATA_DIR      make the copy of a data directory a node of its own
  keys add|list|revoke       API keys of a server, which may be running
  openapi                    print the description of the REST interface (OpenAPI 3.1)
  diverged FILE              print the operations that a former master kept aside

of a running node, http://127.0.0.1:15002 unless told (docs/CLI.md):
  status [URL]               show how it is
  promote URL                make it the master
  follow URL MASTER          make it a replica
  switchover URL             hand its mastership over
  import FILE                put rows into a collection
  export COLLECTION TARGET   write a collection into a file

Without any configuration it serves as standalone on 127.0.0.1:15002, with its data in ./data. A value is
taken from a flag, else from what POST /replication/configure stored, else from the environment
(REPLICATION_ROLE, VECTORIZER_PORT ...), else from the file, else it has its default. SIGTERM stops the
server.

examples:
  vectorizer
  vectorizer --config conf/config.master.yml
  REPLICATION_ROLE=replica REPLICATION_MASTER_ADDRESS=10.0.0.1:7001 vectorizer --port 15003
  vectorizer config check /etc/vectorizer/config.yml

Exit code 2: the configuration cannot be used, or an address or the data directory is taken; one sentence
says why.
"""


class _Parser(argparse.ArgumentParser):
    """Says in one sentence what is wrong, without usage lines around it; flags are written out."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"vectorizer: {message}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``argv`` (the process's own by default) and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = _parser().parse_args(_with_command(words))
    except SystemExit as stop:  # --help, --version and errors have said what they have to say
        return stop.code if isinstance(stop.code, int) else 0
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except ConfigurationError as error:
        print(f"vectorizer: {error}", file=sys.stderr)
        return USAGE_ERROR
    except BrokenPipeError:
        # Whoever read our output has seen enough. The interpreter's own flush at exit must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _with_command(words: list[str]) -> list[str]:
    """Return the words with the command that is meant when none is given."""
    if words and (words[0] in _COMMANDS or words[0] in ("-h", "--help", "--version")):
        return words
    if words and not words[0].startswith("-"):
        return words  # a command that does not exist; the parser says which do
    return ["serve", *words]


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="vectorizer",
        usage="vectorizer [serve] [--config FILE] [--host H] [--port P] [--data-dir D] [--log-level L] "
        "[--ignore-stored]\n       vectorizer COMMAND ...",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"vectorizer {__version__}")
    commands = parser.add_subparsers(
        prog="vectorizer", metavar="COMMAND", required=True, help=argparse.SUPPRESS
    )

    serve = commands.add_parser("serve", help="run the server", description="Run the server until SIGTERM.")
    _add_sources(serve)
    serve.add_argument(
        "--ignore-stored",
        action="store_true",
        help="start without the role, addresses and settings that POST /replication/configure stored",
    )
    serve.set_defaults(run=_serve)

    configuration = commands.add_parser("config", help="check, show or document the configuration")
    actions = configuration.add_subparsers(metavar="check|show|document", required=True)
    check_file = actions.add_parser("check", help="say whether FILE can be used as configuration")
    check_file.add_argument("file", metavar="FILE")
    check_file.set_defaults(run=_check_file)
    show = actions.add_parser("show", help="print every setting in force and where it was said")
    _add_sources(show)
    show.set_defaults(run=_show)
    document = actions.add_parser("document", help="print the manual of all settings")
    document.add_argument("format", choices=("yaml", "markdown"))
    document.set_defaults(run=_document)

    check = commands.add_parser(
        "check", help="verify data directories", description="Verify data directories of stopped servers."
    )
    check.add_argument("directories", metavar="DATA_DIR", nargs="+")
    check.set_defaults(run=_check_data)

    text = "make the copy of a stopped server's data directory a node of its own"
    renew = commands.add_parser("new-identity", help=text, description=text)
    renew.add_argument("directory", metavar="DATA_DIR")
    renew.set_defaults(run=_new_identity)

    keys_command.add_parser(commands)
    openapi_command.add_parser(commands)
    client_commands.add_parsers(commands)
    return parser


def _add_sources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", metavar="FILE", help="configuration file (default: ./config.yml if it exists)"
    )
    for row in TABLE:
        if row.flag is not None:
            parser.add_argument(
                row.flag, dest=row.name, metavar=row.key.upper(), help=row.help.replace("%", "%%")
            )


def _settings(arguments: argparse.Namespace) -> Settings:
    flags = {row.name: getattr(arguments, row.name) for row in TABLE if row.flag is not None}
    return config.load(
        arguments.config,
        flags={name: text for name, text in flags.items() if text is not None},
        ignore_stored=getattr(arguments, "ignore_stored", False),
    )


def _serve(arguments: argparse.Namespace) -> int:
    settings = _settings(arguments)
    logs.configure(settings.logging.level, settings.logging.format)
    log = logs.get(__name__)
    for warning in settings.warnings:
        log.warning("configuration_doubtful", message=warning)
    # Imported late: the other commands need none of the server's rooms.
    from vectorizer.server import serve

    return serve(settings)


def _check_file(arguments: argparse.Namespace) -> int:
    settings = config.load(arguments.file, environment={})
    for warning in settings.warnings:
        print(f"{arguments.file}: warning: {warning}")
    print(f"{arguments.file}: can be used; role {settings.replication.role}")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    settings = _settings(arguments)
    rows = [
        (f"{row.setting.name} = {manual.yaml_value(row.setting, row.value)}", row.where) for row in settings
    ]
    width = max(len(text) for text, _ in rows)
    for text, place in rows:
        print(f"{text:<{width}}  # {place}")
    for warning in settings.warnings:
        print(f"# warning: {warning}")
    print("# What POST /replication/configure stored in the data directory is added when the server starts.")
    return 0


def _document(arguments: argparse.Namespace) -> int:
    print(manual.yaml_manual() if arguments.format == "yaml" else manual.markdown_manual(), end="")
    return 0


def _check_data(arguments: argparse.Namespace) -> int:
    from vectorizer.check import check_data_directory

    return max(check_data_directory(directory, sys.stdout) for directory in arguments.directories)


def _new_identity(arguments: argparse.Namespace) -> int:
    from vectorizer.identity import give_new_identity
    from vectorizer.server import new_id

    return give_new_identity(arguments.directory, new_id(), sys.stdout)
