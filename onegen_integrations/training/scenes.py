"""Scenes: short documents written by hand, with slots for names and values, and questions about them.

Where worlds put single facts into words, a scene is running text as people and encyclopedias write it: several facts a
sentence, conditions, reasons, pronouns. Whatever stands in a slot is drawn anew each time, so that only reading helps.

Answers in plain words ("violet", "behind the stove") would be known by heart after a while. So they are now and then
exchanged for answers of other scenes that are asked for in the same way.

A slot is `{kind}` or `{kind:label}`, with the kinds of `names.VALUES`; `{person:x.first}` and `{person:x.last}` are
parts of `{person:x}`; `{red|dark green}` is a choice. The same slot has the same value all over a scene.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
_HEADED = 0.2  # share of documents that begin with their title although their text names it, too
_SPLIT = 0.35  # share of the longer documents that are in two pieces
_SHORTENED = 0.3  # share of the longer documents that lack a sentence
_FEW_SENTENCES = 3  # a document of so many is neither split nor shortened
_RECAST = 0.25  # share of the plain answers that are exchanged
_FEWEST = 5  # answers there have to be to choose from
_GAPPY = 0.2  # share of the questions that lack words, and of their words, those in slots aside
_SKELETON = 3  # words of a question that tell what it asks
_WORD = re.compile(r"(?:\{[^{}]*\}|\S)+")
_OPENINGS = frozenset(
    {"a", "an", "the", "in", "on", "at", "by", "to", "of", "for", "from", "with", "under", "behind", "near"}
)


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


def draw_scene(
    scene: Scene, key: str, names: NameSource, rng: Random, *, titled: float = 0.0, described: float = 0.0
) -> DrawnScene:
    """Fill the slots of a scene; its passages get the keys `{key}-{number}`.

    titled: share of the documents that come with their title apart from the text, as a store hands them over.
    described: share of the others with their metadata above the text, as LlamaIndex hands them over.
    """
    scene = _recast(scene, rng)
    values = _SlotValues(names, rng)
    numbers = count()
    documents = [
        [
            TextPassage(f"{key}-{next(numbers)}", tuple(sentences), title_apart)
            for title_apart, sentences in _passages(
                sentence_case(values.fill(title)), values.fill(text), names, rng, titled, described
            )
        ]
        for title, text in scene.documents
    ]
    questions = (_question(fact, documents, values, rng) for fact in scene.facts)
    return DrawnScene(
        tuple(passage for passages in documents for passage in passages),
        tuple(question for question in questions if question is not None),
    )


def _recast(scene: Scene, rng: Random) -> Scene:
    """Exchange some of the plain answers, in the documents and in the facts."""
    texts = [text for _, text in scene.documents]
    new: dict[tuple[int, str], str] = {}
    for fact in scene.facts:
        place = (fact.documents[-1], fact.answer)
        if "{" in fact.answer or place in new or rng.random() >= _RECAST or not _is_alone(fact.answer, scene):
            continue
        other = rng.choice(_answers_like().get(_manner(fact), (fact.answer,)))
        if not any(other in text for text in texts):
            new[place] = other
            texts[place[0]] = texts[place[0]].replace(fact.answer, other)
    if not new:
        return scene
    titles = (title for title, _ in scene.documents)
    facts = (replace(fact, answer=new.get((fact.documents[-1], fact.answer), fact.answer)) for fact in scene.facts)
    return Scene(tuple(zip(titles, texts, strict=True)), tuple(facts))


def _is_alone(answer: str, scene: Scene) -> bool:
    """Whether an answer stands once in the documents, and in nothing else that the scene says."""
    others = [title for title, _ in scene.documents]
    for fact in scene.facts:
        others += [*fact.questions, fact.bridge or "", *([fact.answer] if fact.answer != answer else [])]
    once = sum(text.count(answer) for _, text in scene.documents) == 1
    return once and not any(answer in other or (other and other in answer) for other in others)


@cache
def _answers_like() -> Mapping[tuple[str | int | bool, ...], tuple[str, ...]]:
    """The plain answers of all scenes by the manner in which they are asked for."""
    found: dict[tuple[str | int | bool, ...], list[str]] = defaultdict(list)
    for fact in (fact for scene in scene_bank() for fact in scene.facts):
        if "{" not in fact.answer:
            found[_manner(fact)].append(fact.answer)
    return {manner: tuple(answers) for manner, answers in found.items() if len(answers) >= _FEWEST}


def rivals(scene: Scene, count: int, rng: Random) -> list[Scene]:
    """At most `count` other scenes that are asked what one of this scene's questions asks, about something else."""
    if not scene.facts:
        return []
    alike = _asked_alike()[_skeleton(rng.choice(scene.facts))]
    others = [other for other in rng.sample(alike, k=min(count + 1, len(alike))) if other is not scene]
    return others[:count]


@cache
def _asked_alike() -> Mapping[tuple[str, ...], tuple[Scene, ...]]:
    """The scenes by the skeletons of their questions."""
    found: dict[tuple[str, ...], dict[int, Scene]] = defaultdict(dict)
    for number, scene in enumerate(scene_bank()):
        for fact in scene.facts:
            found[_skeleton(fact)][number] = scene
    return {skeleton: tuple(scenes.values()) for skeleton, scenes in found.items()}


def _skeleton(fact: Fact) -> tuple[str, ...]:
    """The first words of a question that stand in no slot: "when was founded"."""
    words = (word.lower() for word in _WORD.findall(fact.questions[0]) if "{" not in word)
    return tuple(word.strip("?,.") for word in words)[:_SKELETON]


def _manner(fact: Fact) -> tuple[str | int | bool, ...]:
    """How a question begins, and what an answer looks like that would fit into the sentence."""
    words = fact.answer.split()
    opening = words[0].lower() if words[0].lower() in _OPENINGS else ""
    asked = " ".join(fact.questions[0].lower().split()[:2])
    return asked, min(3, len(words)), opening, fact.answer[0].isupper(), fact.answer[0].lower() in "aeiou"


def _gappy(question: str, rng: Random) -> str:
    """A question that now and then lacks words."""
    if rng.random() >= _GAPPY:
        return question
    kept = [word for word in _WORD.findall(question) if "{" in word or rng.random() >= _GAPPY]
    return " ".join(kept) or question


def _passages(
    title: str, text: str, names: NameSource, rng: Random, titled: float, described: float
) -> list[tuple[str, list[str]]]:
    """A document in one passage or in two: the title that it comes with, and its sentences with what stands above them.

    Where the title does not come apart from the text, it is a line of its own above a text that lacks it or is in two
    pieces, and now and then else; or one of several lines of metadata.
    """
    sentences = split_sentences(sentence_case(text))
    if len(sentences) > _FEW_SENTENCES and rng.random() < _SHORTENED:
        del sentences[rng.randrange(1, len(sentences))]  # the first one names what the others are about
    apart = rng.random() < titled
    if not apart and rng.random() < described:
        return [("", [*_metadata(title, names, rng), *sentences])]
    pieces = [sentences]
    if len(sentences) > _FEW_SENTENCES and rng.random() < _SPLIT:
        middle = rng.randint(2, len(sentences) - 2)
        pieces = [sentences[:middle], [sentences[middle].lstrip(), *sentences[middle + 1 :]]]
    if apart:
        return [(title, piece) for piece in pieces]
    needed = len(pieces) > 1 or title.casefold() not in "".join(sentences).casefold() or rng.random() < _HEADED
    return [("", [f"{title}\n", *piece] if needed else piece) for piece in pieces]


def _metadata(title: str, names: NameSource, rng: Random) -> list[str]:
    """Lines of metadata about a document, the title among them, and an empty line."""
    file = f"{re.sub(r'[^a-z0-9]+', rng.choice('-_'), title.casefold()).strip('-_')}.{rng.choice(_FILE_TYPES)}"
    folder = rng.choice(("", "docs/", "data/", f"/{names.draw('word', rng).lower()}/"))
    fields = {
        "title": title,
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
        noisy(sentence_case(values.fill(_gappy(rng.choice(fact.questions), rng))), rng),
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
