"""What the commands print: answers while they are written, their sources and token counts."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onegen_integrations.generation import Event, Generation

SNIPPET = 88  # characters of a passage in a list of sources


def show_stream(events: Iterable[Event]) -> Generation:
    """Print an answer while it is written; returns it with everything in it."""
    from onegen_integrations.generation import Finish, TextDelta

    for event in events:
        if isinstance(event, TextDelta):
            print(printable(event.text), end="", flush=True)
        elif isinstance(event, Finish):
            print()
            return event.generation
    msg = "A stream ended without its last event."
    raise AssertionError(msg)


def show_sources(generation: Generation, *, whole: bool = False) -> None:
    """Print the passages that each retrieval found, with scores; `whole`: with all of their text."""
    for number, source in enumerate(sources_of(generation), start=1):
        text = printable(" ".join(source["text"].split()))
        shown = text if whole or len(text) <= SNIPPET else text[:SNIPPET].rstrip() + " ..."
        print(dim(f"  [{number}] {source['score']:.3f}  {printable(source['id'])}  {shown}"))
    if not generation.retrievals:
        print(dim("  nothing was retrieved"))


def show_usage(generation: Generation, seconds: float) -> None:
    """Print how much work an answer was, and whether it was cut off."""
    usage = generation.usage
    reused = f" ({usage.reused_tokens} reused)" if usage.reused_tokens else ""
    cut = "; stopped at the limit of tokens" if generation.finish_reason == "length" else ""
    print(dim(f"  {usage.forwarded_tokens} tokens forwarded{reused}, {seconds:.2f} s{cut}"))


def sources_of(generation: Generation) -> list[dict[str, Any]]:
    """The passages of an answer as JSON values, in the order of its retrievals, best first."""
    return [
        {
            "retrieval": number,
            "query": retrieval.query,
            "id": passage.id,
            "score": round(passage.score, 6),
            "text": passage.text,
            "metadata": dict(passage.metadata),
        }
        for number, retrieval in enumerate(generation.retrievals, start=1)
        for passage in retrieval.passages
    ]


def report_error(error: object) -> None:
    """Print an error in one line on stderr."""
    print("onegen:", " ".join(str(error).split()), file=sys.stderr)


def printable(text: str) -> str:
    """Text of users and models without the characters that steer a terminal."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\N{REPLACEMENT CHARACTER}", text)


def dim(text: str) -> str:
    """Set back on a terminal, unless NO_COLOR asks for none; plain elsewhere."""
    plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return text if plain else f"\x1b[2m{text}\x1b[0m"
