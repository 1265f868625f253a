"""Measure a checkpoint by a recipe; every run draws new worlds unless a seed is given."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from onegen_integrations.cli.arguments import add_model_options, positive

HELP = "measure a checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recipe", choices=("mini",), required=True, help="mini: what the bundled checkpoint has to do"
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", help="of the worlds that are drawn; default: another each time"
    )
    parser.add_argument("--worlds", type=positive, default=10, metavar="N", help="how many (default: %(default)s)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="public data sets, for the published benchmarks")
    parser.add_argument("--limit", type=positive, metavar="N", help="answer at most so many questions of each kind")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    from onegen_integrations.cli.opening import open_model
    from onegen_integrations.evaluation.mini import evaluate_mini
    from onegen_integrations.evaluation.report import as_json, as_table

    rows = evaluate_mini(
        open_model(args),
        seed=args.seed,
        worlds=args.worlds,
        data=args.data,
        limit=args.limit,
        progress=sys.stderr.isatty(),
    )
    print((as_json if args.json else as_table)(rows))
    return 0
