"""Show what a checkpoint is: its size, vectors, tokens and fingerprint."""

from __future__ import annotations

import argparse

from onegen_integrations import __version__
from onegen_integrations.cli.arguments import add_model_options

HELP = "show what a checkpoint is"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    from onegen_integrations.cli.opening import open_model

    model = open_model(args)
    weights = list(model.model.parameters())
    memory = sum(weight.numel() * weight.element_size() for weight in weights)
    facts = {
        "package": f"onegen-integrations {__version__}",
        "checkpoint": model.name,
        "parameters": f"{sum(weight.numel() for weight in weights):,}",
        "weights in memory": f"{memory / 2**20:,.1f} MiB ({str(model.model.dtype).removeprefix('torch.')})",
        "dimension": str(model.dim),
        "context window": f"{model.context_window:,} tokens",
        "fingerprint": model.fingerprint,
        "device": str(model.device),
        "retrieval tokens": f"{model.config.query_token} (query), {model.config.document_token} (document)",
        "passage attention": model.config.passage_attention,
    }
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")
    return 0
