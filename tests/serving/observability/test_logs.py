"""Log lines and failures, with the application in process."""

import json
import logging
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from isogon.errors import UsageError
from serving.app import create_app
from serving.observability.logs import JsonFormatter, TextFormatter, configure_logs
from serving.observability.traces import traces_are_asked_for


@pytest.fixture
def logs() -> Iterator[None]:
    """Restore the process's logging."""
    names = (
        "",
        "isogon",
        "bentoml",
        "circus",
        "uvicorn",
        "uvicorn.error",
        "uvicorn.access",
    )
    loggers = [logging.getLogger(name) for name in names]
    before = [(one.handlers, one.level, one.propagate) for one in loggers]
    flags = logging.logThreads, logging.logProcesses, logging.logMultiprocessing
    yield
    logging.logThreads, logging.logProcesses, logging.logMultiprocessing = flags
    logging.captureWarnings(False)
    for one, (handlers, level, propagate) in zip(loggers, before, strict=True):
        one.handlers, one.propagate = handlers, propagate
        one.setLevel(level)


@pytest.mark.usefixtures("logs")
def test_a_failure_is_one_line_with_its_traceback_and_request(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logs("json", "info")
    app = create_app()

    @app.get("/page/{name}/broken")  # below /page/ no key is asked for, and so no model
    async def broken(name: str) -> None:
        raise RuntimeError(f"{name} is broken")

    client = TestClient(app, raise_server_exceptions=False)
    answer = client.get("/page/this/broken", headers={"x-request-id": "seven"})
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == "seven"
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    failure, access = events
    assert failure["level"] == "error"
    assert failure["request_id"] == access["request_id"] == "seven"
    assert failure["traceback"].startswith("Traceback (most recent call last):\n")
    assert "RuntimeError: this is broken" in failure["traceback"]
    assert (access["route"], access["status"]) == ("/page/{name}/broken", 500)


def test_a_line_is_json_whatever_a_message_holds() -> None:
    record = logging.LogRecord("isogon", 20, "here", 1, "no file %s", ("\udcff",), None)
    record.fields = {"seconds": float("nan"), "path": Exception("x"), "bytes": 2**70}
    event = json.loads(JsonFormatter().format(record), parse_constant=lambda text: text)
    assert (event["message"], event["bytes"]) == ("no file \udcff", 2**70)


@pytest.mark.usefixtures("logs")
def test_the_level_decides_what_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    client = TestClient(create_app(), raise_server_exceptions=False)
    configure_logs("text", "warning")
    client.get("/page/nowhere")
    assert capsys.readouterr().err == ""
    configure_logs("text", "debug")
    client.get("/metrics")
    (line,) = capsys.readouterr().err.splitlines()
    assert " DEBUG isogon.access request request_id=" in line
    assert " method=GET route=/metrics status=200 " in line


@pytest.mark.usefixtures("logs")
def test_python_warnings_and_bentoml_are_of_the_same_form(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logging.getLogger("bentoml").handlers = [logging.StreamHandler()]
    configure_logs("json", "info")
    logging.getLogger("bentoml.serve").warning("said %d times", 2)
    logging.getLogger("bentoml.serve").info("not said")
    logging.getLogger("uvicorn.access").info("not said")
    (line,) = capsys.readouterr().err.splitlines()
    event = json.loads(line)
    assert (event["logger"], event["message"]) == ("bentoml.serve", "said 2 times")


def test_a_line_stays_one_line_whatever_is_logged() -> None:
    record = logging.LogRecord("isogon", logging.INFO, "", 0, 'a "b"\nc', None, None)
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert json.loads(line)["message"] == 'a "b"\nc'
    assert TextFormatter().format(record).endswith('a "b"\nc')


@pytest.mark.parametrize(
    ("environment", "asked"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://here:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://here:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "x"}, False),
        ({"OTEL_SDK_DISABLED": "True", "OTEL_TRACES_EXPORTER": "otlp"}, False),
    ],
)
def test_traces_are_sent_where_the_standard_variables_ask(
    environment: dict[str, str], asked: bool
) -> None:
    assert traces_are_asked_for(environment) is asked


@pytest.mark.parametrize(
    "environment",
    [
        {"OTEL_TRACES_EXPORTER": "zipkin"},
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    ],
)
def test_an_exporter_that_is_not_there_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"OTEL_.*expected .*, got '(zipkin|grpc)'"):
        traces_are_asked_for(environment)
