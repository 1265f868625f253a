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
from random import Random
from typing import Any

from onegen_integrations.training.names import NameSource
from onegen_integrations.training.real_text import TextPassage, split_sentences
from onegen_integrations.training.worlds import Question, noisy, sentence_case

_SLOT = re.compile(r"\{([^{}]+)\}")
_TITLED = 0.2  # share of documents that carry their title although their text names it, too


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


def draw_scene(scene: Scene, key: str, names: NameSource, rng: Random) -> DrawnScene:
    """Fill the slots of a scene; its passages get the keys `{key}-{number}`."""
    values = _SlotValues(names, rng)
    passages = tuple(
        TextPassage(f"{key}-{number}", tuple(_sentences(values.fill(title), values.fill(text), rng)))
        for number, (title, text) in enumerate(scene.documents)
    )
    questions = (_question(fact, passages, values, rng) for fact in scene.facts)
    return DrawnScene(passages, tuple(question for question in questions if question is not None))


def _sentences(title: str, text: str, rng: Random) -> list[str]:
    """The text in sentences, its title in a line of its own above them where the text lacks it, and now and then else.

    The package splits files into passages in that way.
    """
    sentences = split_sentences(sentence_case(text))
    titled = title.casefold() not in text.casefold() or rng.random() < _TITLED
    return [f"{sentence_case(title)}\n", *sentences] if titled else sentences


def _question(fact: Fact, passages: Sequence[TextPassage], values: _SlotValues, rng: Random) -> Question | None:
    """The question, or None where the values drawn have torn its answer apart."""
    read = tuple(passages[number] for number in fact.documents)
    answer = _as_it_stands(values.fill(fact.answer), read[-1].text)
    bridge = _as_it_stands(values.fill(fact.bridge), read[0].text) if fact.bridge is not None else None
    if answer is None or (fact.bridge is not None and bridge is None):
        return None
    sentence = next((i for i, text in enumerate(read[-1].sentences) if answer in text), 0)
    text = noisy(sentence_case(values.fill(rng.choice(fact.questions))), rng)
    return Question(text, answer, read, bridge, sentence)


def _as_it_stands(answer: str, text: str) -> str | None:
    """The answer as the text writes it, where a sentence may begin with it."""
    return next((form for form in (answer, sentence_case(answer)) if form in text), None)


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
