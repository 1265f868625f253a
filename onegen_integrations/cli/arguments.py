"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NoReturn


class OneLineParser(argparse.ArgumentParser):
    """Reports wrong arguments in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"onegen: {message}; see {self.prog} --help\n")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument("--model", metavar="CHECKPOINT", help="folder or hub id; default: the bundled checkpoint")
    group.add_argument("--config", metavar="PRESET", help="for checkpoints without onegen_config.json: multi_hop, ...")
    group.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: a GPU where there is one")


def add_store_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("passages")
    place = group.add_mutually_exclusive_group(required=True)
    place.add_argument("--db", type=Path, metavar="DIR", help="folder of the Chroma database")
    place.add_argument("--host", help="Chroma server, instead of a folder")
    group.add_argument("--port", type=positive, default=8000, help="of the Chroma server (default: %(default)s)")
    group.add_argument("--collection", default="onegen", help="in the database (default: %(default)s)")


def add_answer_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("answer")
    group.add_argument("--top-k", type=positive, default=1, metavar="K", help="passages of one retrieval (default: 1)")
    group.add_argument(
        "--retrieval",
        choices=("auto", "always", "never"),
        default="auto",
        help="auto: the model decides (default); always: retrieve at once; never",
    )
    group.add_argument("--score-threshold", type=float, metavar="COSINE", help="leave out passages that score less")
    group.add_argument("--where", type=json_object, metavar="JSON", help="Chroma's filter over metadata")
    group.add_argument(
        "--max-new-tokens", type=positive, default=256, metavar="N", help="length of an answer (default: 256)"
    )


def fraction(text: str) -> float:
    """A number from 0 to less than 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1:
        msg = f"{text!r} is not a number from 0 to less than 1"
        raise argparse.ArgumentTypeError(msg)
    return number


def positive(text: str) -> int:
    """A whole number from 1."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        msg = f"{text!r} is not a whole number from 1"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def json_object(text: str) -> dict[str, Any]:
    """A JSON object that is not empty."""
    try:
        value = json.loads(text)
    except ValueError as error:
        msg = f"{text!r} is not JSON ({error})"
        raise argparse.ArgumentTypeError(msg) from error
    if not isinstance(value, dict) or not value:
        msg = f"{text!r} is not a JSON object with a condition, such as " + '{"source": "guide.md"}'
        raise argparse.ArgumentTypeError(msg)
    return value
