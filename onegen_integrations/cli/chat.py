"""Talk with a model that retrieves; the conversation is kept.

/sources shows the passages of the last answer in full, /clear forgets the conversation, /exit or ctrl-D ends,
ctrl-C stops an answer.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

from onegen_integrations.cli.arguments import add_answer_options, add_model_options, add_store_options
from onegen_integrations.cli.output import dim, report_error, show_sources, show_stream, show_usage
from onegen_integrations.errors import InvalidInputError, OneGenError

if TYPE_CHECKING:
    from onegen_integrations.generation import Generation
    from onegen_integrations.model import OneGen

HELP = "talk, with a conversation that is kept"
COMMANDS = ("/sources", "/clear", "/exit")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_store_options(parser)
    add_answer_options(parser)
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    from onegen_integrations.cli.opening import answer_options, open_model, open_source

    model = open_model(args)
    options = {"passages": open_source(args, model), **answer_options(args)}
    messages: list[dict[str, str]] = []
    last: Generation | None = None
    if sys.stdin.isatty():
        print(dim(f"{', '.join(COMMANDS)}; ctrl-D ends, ctrl-C stops an answer."))
    while (line := _read_line()) is not None:
        text = line.strip()
        if text == "/exit":
            break
        if text == "/clear":
            messages, last = [], None
            print(dim("The conversation is forgotten."))
        elif text == "/sources":
            if last is None:
                print(dim("There is no answer yet."))
            else:
                show_sources(last, whole=True)
        elif text.startswith("/") and " " not in text:
            print(f"There is no command {text}; there are {', '.join(COMMANDS)}.")
        elif text:
            messages.append({"role": "user", "content": text})
            last = _turn(model, messages, options)
            if last is None:
                messages.pop()
            else:
                messages.append({"role": "assistant", "content": last.text})
    return 0


def _turn(model: OneGen, messages: list[dict[str, str]], options: dict[str, Any]) -> Generation | None:
    """Answer the last message; None where ctrl-C stopped it, or an error a user at a terminal can go on from."""
    started = time.perf_counter()
    try:
        with closing(model.stream(messages, **options)) as events:
            generation = show_stream(events)
    except KeyboardInterrupt:
        print(dim("\n  stopped; this question is forgotten"))
        return None
    except OneGenError as error:
        if not sys.stdin.isatty():
            raise
        report_error(error)
        return None
    show_sources(generation)
    show_usage(generation, time.perf_counter() - started)
    return generation


def _read_line() -> str | None:
    """The next line of the user; None at the end."""
    if not sys.stdin.isatty():
        try:
            return sys.stdin.readline() or None
        except UnicodeDecodeError as error:
            msg = f"stdin is not UTF-8 text: {error}"
            raise InvalidInputError(msg) from error
    with suppress(ImportError):  # it gives input() editing and history, but not every platform has it
        import readline  # noqa: F401
    try:
        return input("> ")
    except KeyboardInterrupt:
        print(dim("\n  /exit or ctrl-D ends"))
        return ""
    except EOFError:
        print()
        return None
