"""Logs on stderr: one line per event, as JSON for machines or as text for people.

A line has time, level, logger, message, the id and trace of its request (if any), the
event's own fields, and an error's traceback. No line holds an image, a header or a query.
A request's path is logged as the template of its route.
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
        except TypeError:  # for example a file name that is not UTF-8
            return json.dumps(event, default=str)


class TextFormatter(logging.Formatter):
    """Writes a record as one line, with a traceback below."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text."""
        fields = (f"{key}={value}" for key, value in _fields(record).items())
        head = (_time(record), record.levelname, record.name, record.getMessage())
        text = " ".join((*head, *fields))
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


def configure_logs(form: LogFormat, level: LogLevel) -> None:
    """Send this process's logs to stderr: ours from `level` on, others' from warning on.

    This replaces BentoML's configuration, which writes to stdout in another format.
    uvicorn's access log is off: it would repeat ours.
    """
    # No line has these, and each would cost time for every record.
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
    """Return the fields besides the message, without those that are None."""
    request = current_request()
    known = {
        "request_id": request and request.id,
        "trace_id": request and request.trace_id,
        **getattr(record, "fields", {}),
    }
    return {key: value for key, value in known.items() if value is not None}
