"""The `onegen` command. Each command is a module here; what is heavy is imported when a command runs."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

from onegen_integrations import __version__
from onegen_integrations.cli import ask, chat, demo, evaluate, index, info, train
from onegen_integrations.cli.arguments import OneLineParser
from onegen_integrations.cli.output import report_error
from onegen_integrations.errors import OneGenError

COMMANDS = (demo, index, ask, chat, info, train, evaluate)
INTERRUPTED = 130  # as shells report a process that ctrl-C ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own) and return the exit status.

    Errors are one line on stderr and status 1 (2 for wrong arguments, 130 for ctrl-C); with `--debug` they are raised.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a letter still shows the rest
    args = _parser().parse_args(argv)
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        return _fail(interrupt.args[0] if interrupt.args else "interrupted", INTERRUPTED)
    except BrokenPipeError:
        # Whoever read the output has left, as `head` does; without this Python complains again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OneGenError, ImportError, OSError) as error:
        if args.debug:
            raise
        return _fail(error, 1)
    return status


def _parser() -> argparse.ArgumentParser:
    debug = OneLineParser(add_help=False, argument_default=argparse.SUPPRESS)
    debug.add_argument("--debug", action="store_true", help="show where in the code an error comes from")
    parser = OneLineParser(
        prog="onegen", description="One language model that generates and retrieves: RAG with one set of weights."
    )
    parser.add_argument("--version", action="version", version=f"onegen-integrations {__version__}")
    parser.add_argument("--debug", action="store_true", help="show where in the code an error comes from")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in COMMANDS:
        name = module.__name__.rpartition(".")[2]
        command = commands.add_parser(name, help=module.HELP, description=module.__doc__, parents=[debug])
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def _fail(message: object, status: int) -> int:
    report_error(message)
    return status
