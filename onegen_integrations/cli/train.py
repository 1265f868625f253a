"""Train a checkpoint from nothing or from another one, or go on where an earlier run into the same folder stopped."""

from __future__ import annotations

import argparse
from pathlib import Path

from onegen_integrations.cli.arguments import fraction, positive
from onegen_integrations.errors import InvalidInputError

HELP = "train a checkpoint by its recipe"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", choices=("mini",), required=True, help="mini: the bundled checkpoint")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="checkpoints and the finished model")
    parser.add_argument("--data", type=Path, metavar="DIR", help="public data sets; without: generated text alone")
    parser.add_argument("--start", type=Path, metavar="DIR", help="a model of this recipe to train further")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all random choices (default: 0)")
    parser.add_argument("--steps", type=positive, metavar="N", help="length of the training; default: the recipe's")
    parser.add_argument("--tokens", type=positive, metavar="N", help="of one step; default: the recipe's")
    parser.add_argument("--learning-rate", type=fraction, metavar="X", help="the highest; default: the recipe's")
    parser.add_argument("--dropout", type=fraction, metavar="SHARE", help="in training; default: the recipe's")
    parser.add_argument(
        "--keep", type=fraction, metavar="SHARE", help="of the weights of --start in the average with the trained ones"
    )
    parser.add_argument(
        "--checkpoint-every", type=positive, default=250, metavar="N", help="steps between checkpoints (default: 250)"
    )
    parser.add_argument("--compile", action="store_true", help="faster steps; on a CPU it needs a C++ compiler")


def run(args: argparse.Namespace) -> int:
    if args.data is not None and not args.data.is_dir():
        msg = f"--data {args.data} is not a folder."
        raise InvalidInputError(msg)
    try:
        from onegen_integrations.training.recipe import Recipe, train_mini

        given = {name: getattr(args, name) for name in ("steps", "tokens", "learning_rate", "dropout", "keep")}
        settings = {name: value for name, value in given.items() if value is not None}
        if args.start is not None:
            settings["begin"] = 1.0  # the data as it is mixed at the end: what comes first is learned already
        folder = train_mini(
            args.output,
            data=args.data,
            start=args.start,
            recipe=Recipe(seed=args.seed, **settings),
            checkpoint_every=args.checkpoint_every,
            compiled=args.compile,
        )
    except KeyboardInterrupt:
        msg = "interrupted; run the same command again to go on from the last checkpoint"
        raise KeyboardInterrupt(msg) from None
    print(f"The model is in {folder}; try it with: onegen demo --model {folder}")
    return 0
