"""The log: what happened, and fields; for people to read, or as JSON for programs."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Literal

logger = logging.getLogger("chat")


def log(level: int, event: str, **fields: object) -> None:
    """Write down that *event* happened."""
    logger.log(level, event, extra={"fields": fields})


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = f"{_time_of(record)} {record.levelname.lower()} {record.getMessage()}"
        for name, value in _fields_of(record).items():
            line += f" {name}={_quote(str(value))}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        head = {
            "time": _time_of(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "event": record.getMessage(),
        }
        if record.exc_info:
            head["exception"] = self.formatException(record.exc_info)
        return json.dumps({**_fields_of(record), **head}, ensure_ascii=False, default=str)


def _time_of(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _fields_of(record: logging.LogRecord) -> dict[str, object]:
    fields: dict[str, object] = getattr(record, "fields", {})
    return fields


def _quote(value: str) -> str:
    """A value that could be taken for more than one, or for a line, goes in quotes."""
    plain = value and value.isprintable() and not set(value) & set(' "=')
    return value if plain else json.dumps(value)


def configure(style: Literal["text", "json"]) -> None:
    """Write the log to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonFormatter() if style == "json" else _TextFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logger.setLevel(logging.INFO)
