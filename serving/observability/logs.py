"""Logs on stderr: one line per event, as JSON for machines or as text for people.

An event's line has time, level, logger, message, the request's id and trace where it
belongs to one, the event's own fields, and an error's traceback. No line holds an
image, a header or a query; a request's path is logged as its route's template.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

import orjson

from serving.observability.requests import current_request
from serving.settings import LogFormat, LogLevel


class JsonFormatter(logging.Formatter):
    """Writes a record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        event: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(event, default=str).decode()
        except TypeError:  # such as the name of a file that is no UTF-8
            return json.dumps(event, default=str)


class TextFormatter(logging.Formatter):
    """Writes a record as one line, and a traceback below."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text."""
        fields = (f"{key}={value}" for key, value in _fields(record).items())
        head = (_time(record), record.levelname, record.name, record.getMessage())
        text = " ".join((*head, *fields))
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


def configure_logs(form: LogFormat, level: LogLevel) -> None:
    """Send this process's logs to stderr: ours from `level`, others' from warning on.

    BentoML has configured its own by then, to stdout and in another form; uvicorn's
    access log would say everything twice.
    """
    # None of these is in a line, and each costs every record.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("isogon").setLevel(level.upper())
    for name in ("bentoml", "circus", "uvicorn", "uvicorn.error"):
        other = logging.getLogger(name)
        other.handlers, other.propagate = [], True
        other.setLevel(logging.WARNING)
    access = logging.getLogger("uvicorn.access")
    access.handlers, access.propagate = [], False
    logging.captureWarnings(True)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return what is known beyond the message, without what is None."""
    request = current_request()
    known = {
        "request_id": request and request.id,
        "trace_id": request and request.trace_id,
        **getattr(record, "fields", {}),
    }
    return {key: value for key, value in known.items() if value is not None}
