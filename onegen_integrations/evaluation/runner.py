"""Sets of questions over a closed corpus, and how a model answers them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from onegen_integrations.errors import ContextWindowError
from onegen_integrations.generation import Generation
from onegen_integrations.jsonl import read_objects
from onegen_integrations.model import OneGen
from onegen_integrations.passages import Passage
from onegen_integrations.text import Messages

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Question:
    """text; answers: all that count as right; gold: ids of the passages that it takes to answer."""

    text: str
    answers: tuple[str, ...]
    gold: tuple[str, ...]

    @property
    def hops(self) -> int:
        return len(self.gold)


@dataclass(frozen=True)
class QuestionSet:
    """A corpus and questions about it.

    closed_answers: normalised answers that are right or wrong as a whole, see `metrics.f1`.
    """

    name: str
    passages: tuple[Passage, ...]
    questions: tuple[Question, ...]
    closed_answers: frozenset[str] = frozenset()


def read_question_set(name: str, passages: Path, questions: Path) -> QuestionSet:
    """Read a corpus (`{"id", "title", "text"}`) and its questions (`{"question", "answer", "aliases", "sources"}`).

    Raises:
        DataFormatError: a file cannot be read, or a line of it is not of that form.
    """
    corpus = [
        Passage(row["id"], row["text"], {"title": row["title"]})
        for _, _, row in read_objects(passages, "id", "title", "text")
    ]
    asked = [
        Question(row["question"], (row["answer"], *row["aliases"]), tuple(row["sources"]))
        for _, _, row in read_objects(questions, "question", "answer", "aliases", "sources")
    ]
    return QuestionSet(name, tuple(corpus), tuple(asked))


def evenly(items: Sequence[_Item], limit: int | None) -> list[_Item]:
    """At most `limit` of the items, evenly spread over all: the same ones each time."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[i * len(items) // limit] for i in range(limit)]


def answer(model: OneGen, prompt: str | Messages, **options: Any) -> Generation:
    """The greedy answer; what there was of it where passages that it retrieved did not fit (`finish_reason` "error").

    Raises:
        ContextWindowError: the prompt alone does not fit.
    """
    try:
        return model.generate(prompt, **options)
    except ContextWindowError as error:
        if error.partial is None:
            raise
        return error.partial
