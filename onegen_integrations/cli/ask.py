"""Answer one question from a database of passages, and show what the answer rests on."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict

from onegen_integrations.cli.arguments import add_answer_options, add_model_options, add_store_options
from onegen_integrations.cli.output import show_sources, show_stream, show_usage, sources_of

HELP = "answer one question"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("question", help="what to ask")
    parser.add_argument("--json", action="store_true", help="print one JSON object when the answer is complete")
    add_store_options(parser)
    add_answer_options(parser)
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    from onegen_integrations.cli.opening import answer_options, open_model, open_source

    model = open_model(args)
    options = {"passages": open_source(args, model), **answer_options(args)}
    started = time.perf_counter()
    if not args.json:
        generation = show_stream(model.stream(args.question, **options))
        show_sources(generation)
        show_usage(generation, time.perf_counter() - started)
        return 0
    generation = model.generate(args.question, **options)
    result = {
        "answer": generation.answer,
        "text": generation.text,
        "sources": sources_of(generation),
        "usage": asdict(generation.usage),
        "seconds": round(time.perf_counter() - started, 3),
        "finish_reason": generation.finish_reason,
    }
    print(json.dumps(result, ensure_ascii=False))
    return 0
