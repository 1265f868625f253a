"""Scenes: short documents written by hand, with slots for names and values, and questions about them.

Where worlds put single facts into words, a scene is running text as people and encyclopedias write it: several facts a
sentence, conditions, reasons, pronouns. Whatever stands in a slot is drawn anew each time, so that only reading helps.

A slot is `{kind}` or `{kind:label}`, with the kinds of `names.VALUES`; `{person:x.first}` and `{person:x.last}` are
parts of `{person:x}`; `{red|dark green}` is a choice. The same slot has the same value all over a scene.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import count
from random import Random
from typing import Any

from onegen_integrations.training.names import NameSource
from onegen_integrations.training.real_text import TextPassage, split_sentences
from onegen_integrations.training.worlds import Question, noisy, sentence_case

_FILE_TYPES = ("md", "txt", "pdf", "html", "docx")
_SLOT = re.compile(r"\{([^{}]+)\}")
_TITLED = 0.2  # share of documents that carry their title although their text names it, too
_SPLIT = 0.35  # share of the longer documents that are in two pieces
_FEW_SENTENCES = 3  # a document of so many is not split


@dataclass(frozen=True)
class Fact:
    """What is asked: the answer, the ways to ask for it, and the documents that it takes, in the order of the hops.

    bridge: what the first of two documents gives to find the second by.
    """

    answer: str
    questions: tuple[str, ...]
    documents: tuple[int, ...]
    bridge: str | None = None


@dataclass(frozen=True)
class Scene:
    """Documents, each a title and a text, and facts that are asked for; all with slots."""

    documents: tuple[tuple[str, str], ...]
    facts: tuple[Fact, ...]


@dataclass(frozen=True)
class DrawnScene:
    """A scene with its slots filled; `questions` are worded by one of their ways each."""

    passages: tuple[TextPassage, ...]
    questions: tuple[Question, ...]


@cache
def scene_bank() -> tuple[Scene, ...]:
    """All scenes of the package."""
    folder = files("onegen_integrations.training") / "scenes"
    paths = sorted((p for p in folder.iterdir() if p.name.endswith(".jsonl")), key=lambda p: p.name)
    return tuple(
        _scene(json.loads(line)) for path in paths for line in path.read_text(encoding="utf-8").splitlines() if line
    )


def _scene(data: Mapping[str, Any]) -> Scene:
    return Scene(
        tuple((document["title"], document["text"]) for document in data["documents"]),
        tuple(
            Fact(fact["answer"], tuple(fact["questions"]), tuple(fact["documents"]), fact.get("bridge"))
            for fact in data["questions"]
        ),
    )


def draw_scene(scene: Scene, key: str, names: NameSource, rng: Random, *, described: float = 0.0) -> DrawnScene:
    """Fill the slots of a scene; its passages get the keys `{key}-{number}`.

    described: share of the documents with their metadata above the text, as LlamaIndex hands them over.
    """
    values = _SlotValues(names, rng)
    numbers = count()
    documents = [
        [
            TextPassage(f"{key}-{next(numbers)}", tuple(sentences))
            for sentences in _pieces(values.fill(title), values.fill(text), names, rng, described)
        ]
        for title, text in scene.documents
    ]
    questions = (_question(fact, documents, values, rng) for fact in scene.facts)
    return DrawnScene(
        tuple(passage for passages in documents for passage in passages),
        tuple(question for question in questions if question is not None),
    )


def _pieces(title: str, text: str, names: NameSource, rng: Random, described: float) -> list[list[str]]:
    """A document in sentences, in one piece or in two, each with what stands above it.

    That is the title, in a line of its own, where the text lacks it or is in two pieces, and now and then else; the
    package splits files into passages in that way. Some have lines of metadata there instead.
    """
    sentences = split_sentences(sentence_case(text))
    if rng.random() < described:
        return [[*_metadata(title, names, rng), *sentences]]
    heading = f"{sentence_case(title)}\n"
    if len(sentences) > _FEW_SENTENCES and rng.random() < _SPLIT:
        middle = rng.randint(2, len(sentences) - 2)
        return [[heading, *sentences[:middle]], [heading, sentences[middle].lstrip(), *sentences[middle + 1 :]]]
    titled = title.casefold() not in text.casefold() or rng.random() < _TITLED
    return [[heading, *sentences] if titled else sentences]


def _metadata(title: str, names: NameSource, rng: Random) -> list[str]:
    """Lines of metadata about a document, the title among them, and an empty line."""
    file = f"{re.sub(r'[^a-z0-9]+', rng.choice('-_'), title.casefold()).strip('-_')}.{rng.choice(_FILE_TYPES)}"
    folder = rng.choice(("", "docs/", "data/", f"/{names.draw('word', rng).lower()}/"))
    fields = {
        "title": sentence_case(title),
        rng.choice(("source", "file_name", "file_path", "url")): folder + file,
        rng.choice(("page", "page_label", "chunk", "section", "id")): names.draw("number", rng),
        rng.choice(("author", "created_by")): names.draw("person", rng),
        rng.choice(("date", "last_modified_date")): names.draw("date", rng),
        rng.choice(("topic", "category", "tags")): names.draw("word", rng).lower(),
    }
    others = rng.sample(sorted(fields.keys() - {"title"}), k=rng.randint(0, 3))
    keys = rng.sample(["title", *others], k=1 + len(others))
    lines = [f"{key}: {fields[key]}\n" for key in keys]
    return [*lines[:-1], lines[-1] + "\n"]


def _question(
    fact: Fact, documents: Sequence[Sequence[TextPassage]], values: _SlotValues, rng: Random
) -> Question | None:
    """The question, or None where no piece of a document states its answer, or two of them do."""
    wanted = (fact.answer,) if fact.bridge is None else (fact.bridge, fact.answer)
    read = []
    for number, text in zip(fact.documents, wanted, strict=True):
        stated = _stated(values.fill(text), documents[number])
        if stated is None:
            return None
        read.append(stated)
    (_, bridge), (passage, answer) = read[0], read[-1]
    return Question(
        noisy(sentence_case(values.fill(rng.choice(fact.questions))), rng),
        answer,
        tuple(passage for passage, _ in read),
        bridge if len(read) > 1 else None,
        next((i for i, sentence in enumerate(passage.sentences) if answer in sentence), 0),
    )


def _stated(value: str, pieces: Sequence[TextPassage]) -> tuple[TextPassage, str] | None:
    """The one piece that states a value, and the value as it is written there, where a sentence may begin with it."""
    for form in (value, sentence_case(value)):
        found = [piece for piece in pieces if form in piece.text]
        if found:
            return (found[0], form) if len(found) == 1 else None
    return None


class _SlotValues:
    """The values of one scene's slots, drawn when they are first needed, no two alike."""

    def __init__(self, names: NameSource, rng: Random) -> None:
        self._names = names
        self._rng = rng
        self._values: dict[str, str] = {}

    def fill(self, template: str) -> str:
        return _SLOT.sub(lambda match: self._value(match[1]), template)

    def _value(self, slot: str) -> str:
        if "|" in slot:
            return self._values.setdefault(slot, self._rng.choice(slot.split("|")))
        whole, _, part = slot.partition(".")
        if whole not in self._values:
            self._values[whole] = self._fresh(whole.partition(":")[0])
        value = self._values[whole]
        return {"first": value.split()[0], "last": value.split()[-1]}.get(part, value)

    def _fresh(self, kind: str) -> str:
        taken = set(self._values.values())
        value = self._names.draw(kind, self._rng)
        for _ in range(20):
            if value not in taken:
                break
            value = self._names.draw(kind, self._rng)
        return value
