"""The command line: what each command prints, exit codes, and one sentence for every mistake."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vectorizer import __version__, manual
from vectorizer.cli import main
from vectorizer.sections import TABLE

pytestmark = pytest.mark.usefixtures("logging_as_before")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in list(os.environ):
        if variable.startswith(("VECTORIZER_", "REPLICATION_")):
            monkeypatch.delenv(variable)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command that must end with exit code 2 and one sentence, and return the sentence."""
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (sentence,) = printed.err.splitlines()
    assert sentence.startswith("vectorizer: ")
    return sentence.removeprefix("vectorizer: ")


def output(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command that must succeed and return what it printed."""
    assert main(words) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert output(capsys, "--version") == f"vectorizer {__version__}\n"


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_names_every_command_and_the_order_of_sources(
    capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    text = output(capsys, flag)
    for part in (
        "config check FILE",
        "config show",
        "config document",
        "check DATA_DIR",
        "127.0.0.1:15002",
        "SIGTERM",
    ):
        assert part in text


def test_help_of_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    text = output(capsys, "serve", "--help")
    for flag in (
        "--config FILE",
        "--host HOST",
        "--port PORT",
        "--data-dir DATA_DIR",
        "--log-level LEVEL",
        "--ignore-stored",
    ):
        assert flag in text


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["bogus"], "invalid choice: 'bogus'"),
        (["--bogus"], "unrecognized arguments: --bogus"),
        (["--conf", "x.yml"], "unrecognized arguments: --conf"),
        (["serve", "extra"], "unrecognized arguments: extra"),
        (["config"], "required: check|show|document; see vectorizer config --help"),
        (["config", "check"], "required: FILE"),
        (["config", "document", "xml"], "invalid choice: 'xml'"),
        (["check"], "required: DATA_DIR"),
        (["--port"], "--port: expected one argument"),
        (["--port", "many"], "server.port cannot be the text 'many' (from flag --port)"),
        (["serve", "--port", "70000"], "accepted: a whole number from 0 to 65535"),
        (["--host", "a b"], "server.host cannot be 'a b'"),
        (["--data-dir", ""], "storage.data_dir cannot be ''"),
        (["--log-level", "loud"], "accepted: debug, info, warning or error"),
        (
            ["--config", "missing.yml"],
            "cannot read the configuration: No such file or directory (from missing.yml)",
        ),
        (["--config", "."], "cannot read the configuration: Is a directory (from .)"),
        (["config", "show", "--config", "missing.yml"], "No such file"),
    ],
)
def test_each_mistake_is_one_sentence(
    capsys: pytest.CaptureFixture[str], words: list[str], part: str
) -> None:
    assert part in refused(capsys, *words)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (b"replication: {role: master}", "needs replication.bind_address"),
        (b"replication: {role: replica}", "needs replication.master_address"),
        (b"a: [", "the file is not YAML"),
        (b"\xff\xfe", "the file is not UTF-8"),
        (b"server: {prot: 1}", "did you mean 'server.port'?"),
    ],
)
def test_a_bad_file_is_refused_by_serve_and_check(
    capsys: pytest.CaptureFixture[str], text: bytes, part: str
) -> None:
    Path("config.yml").write_bytes(text)
    assert part in refused(capsys)
    assert part in refused(capsys, "serve")
    assert part in refused(capsys, "config", "check", "config.yml")


def test_config_check_looks_at_the_file_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPLICATION_ROLE", "nonsense")
    Path("good.yml").write_text("replication: {role: master, bind_address: 'a:1', heartbeat_interval: 60}")
    warning, verdict = output(capsys, "config", "check", "good.yml").splitlines()
    assert warning.startswith("good.yml: warning: replication.replica_timeout_secs (30)")
    assert verdict == "good.yml: can be used; role master"


def test_config_show_names_every_value_and_its_place(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("config.yml").write_text("replication:\n  log_size: 10\n")
    monkeypatch.setenv("VECTORIZER_HOST", "0.0.0.0")
    monkeypatch.setenv("VECTORIZER_PROT", "1")
    lines = output(capsys, "config", "show", "--port", "15003").splitlines()
    shown = {line.split(" = ")[0]: line for line in lines if " = " in line}
    assert list(shown) == [row.name for row in TABLE]
    assert shown["replication.log_size"].split(maxsplit=4)[2:] == ["10", "#", "config.yml, line 2"]
    assert shown["server.host"].split()[2] == '"0.0.0.0"'
    assert shown["server.host"].endswith("# environment variable VECTORIZER_HOST")
    assert shown["server.port"].endswith("# flag --port")
    assert shown["storage.fsync"].endswith("# default")
    assert any(line.startswith("# warning: environment variable VECTORIZER_PROT") for line in lines)


def test_config_document(capsys: pytest.CaptureFixture[str]) -> None:
    text = output(capsys, "config", "document", "yaml")
    assert text == manual.yaml_manual()
    assert yaml.safe_load(text)["server"]["port"] == 15002
    assert output(capsys, "config", "document", "markdown") == manual.markdown_manual()


def test_check_of_what_is_no_data_directory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "missing"]) == 2
    assert "missing" in capsys.readouterr().out


def test_serve_says_what_is_doubtful_and_why_it_does_not_start(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("data").write_text("a file where the data directory should be")
    monkeypatch.setenv("VECTORIZER_PROT", "1")
    monkeypatch.setenv("VECTORIZER_LOG_FORMAT", "text")
    assert main(["--port", "0"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "configuration_doubtful" in lines[0]
    assert "VECTORIZER_PROT" in lines[0]
    assert lines[-1].startswith("vectorizer: ")
    assert "data" in lines[-1]


def test_as_a_process_without_traceback() -> None:
    """The same by ``python -m vectorizer``: patched by gevent, with its own stdout and stderr."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "vectorizer"]
    shown = subprocess.run(
        [*command, "config", "show"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "server.port" in shown.stdout
    bad = subprocess.run(
        [*command, "--config", "x.yml"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr == "vectorizer: cannot read the configuration: No such file or directory (from x.yml)\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_seen_enough_is_no_error(unbuffered: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered}
    process = subprocess.Popen(
        [sys.executable, "-m", "vectorizer", "config", "document", "yaml"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 0
