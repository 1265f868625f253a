"""Text files and JSON Lines files, read strictly: what is wrong is named with file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onegen_integrations.errors import DataFormatError


def read_text(path: Path) -> str:
    """The content of a file without byte order mark, its lines ending in a plain newline.

    Raises:
        DataFormatError: it cannot be read, or is not UTF-8.
    """
    try:
        content = path.read_bytes()
        text = content.decode("utf-8")
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}."
        raise DataFormatError(msg) from error
    except UnicodeDecodeError as error:
        wrong = content[error.start]
        msg = f"{path} is not UTF-8 text: byte 0x{wrong:02x} at position {error.start}; save it as UTF-8."
        raise DataFormatError(msg) from error
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def read_objects(path: Path, *fields: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """The objects of a JSON Lines file, each with its place for messages and the number of its line.

    Raises:
        DataFormatError: the file cannot be read, or a line is neither blank nor an object with these fields.
    """
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            place = f"{path}, line {number}"
            row = _object(line, place)
            missing = [field for field in fields if field not in row]
            if missing:
                msg = f"{place}: the fields {missing} are missing; each line must be an object with {list(fields)}."
                raise DataFormatError(msg)
            yield place, number, row


def _object(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        msg = f"{place} is not valid JSON: {error.msg} at column {error.colno}."
        raise DataFormatError(msg) from error
    except (ValueError, RecursionError) as error:
        msg = f"{place} is not valid JSON: {error}."
        raise DataFormatError(msg) from error
    if not isinstance(row, dict):
        msg = f"{place} must be a JSON object, not {line.strip()!r:.40}."
        raise DataFormatError(msg)
    return row


def _refuse_constant(name: str) -> float:
    msg = f"{name} is not a JSON value"
    raise ValueError(msg)
