"""Index the demo knowledge base into Chroma and answer questions about it, drawn anew each time."""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from onegen_integrations.cli.arguments import add_model_options, positive
from onegen_integrations.cli.index import add_with_report
from onegen_integrations.cli.output import dim, show_sources, show_stream, show_usage
from onegen_integrations.errors import FingerprintMismatchError

if TYPE_CHECKING:
    from onegen_integrations.evaluation.runner import Question

HELP = "index a small knowledge base and answer questions from it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--db", type=Path, default=Path(".demo"), metavar="DIR", help="database of the demo (default: %(default)s)"
    )
    parser.add_argument(
        "--questions", type=positive, default=6, metavar="N", help="how many to ask (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="of the questions; default: another each time")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    from onegen_integrations.chroma import ChromaPassages
    from onegen_integrations.cli.opening import open_model
    from onegen_integrations.evaluation.metrics import exact_match
    from onegen_integrations.evaluation.mini import demo_questions

    model = open_model(args)
    knowledge = demo_questions()
    print(f"{model.name} on {model.device}: one set of weights that embeds, retrieves and answers.")
    try:
        passages = ChromaPassages(model, path=args.db)
    except FingerprintMismatchError as error:
        msg = f"{args.db} is from a demo with another model; remove it, or give another folder with --db."
        raise FingerprintMismatchError(msg) from error
    add_with_report(passages, knowledge.passages)
    seed = random.SystemRandom().randrange(10_000) if args.seed is None else args.seed
    asked = draw(knowledge.questions, args.questions, random.Random(seed))
    right = 0
    for number, question in enumerate(asked, start=1):
        print(f"\n{number}. {question.text}")
        started = time.perf_counter()
        generation = show_stream(model.stream(question.text, passages=passages))
        seconds = time.perf_counter() - started
        expected = bool(exact_match(generation.answer, question.answers))
        right += expected
        print("  \N{CHECK MARK} as expected" if expected else f"  \N{BALLOT X} expected: {question.answers[0]}")
        show_sources(generation)
        show_usage(generation, seconds)
    print(f"\n{right} of {len(asked)} answers are as expected " + dim(f"(the same questions again: --seed {seed})"))
    print(f"Go on asking: onegen chat --db {args.db}")
    print('Your own files: onegen index FOLDER --db DIR, then: onegen ask "your question" --db DIR')
    return 0


def draw(questions: Sequence[Question], count: int, rng: random.Random) -> list[Question]:
    """`count` questions at random, in turn with one hop and with more while there are both."""
    one = [question for question in questions if question.hops == 1]
    more = [question for question in questions if question.hops > 1]
    one, more = rng.sample(one, len(one)), rng.sample(more, len(more))
    both = min(len(one), len(more))
    mixed = [question for pair in zip(one, more, strict=False) for question in pair]
    return [*mixed, *one[both:], *more[both:]][:count]
