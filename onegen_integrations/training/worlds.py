"""Generated worlds: entities with facts, passages that state them, and questions about them.

How facts and questions are put into words stands in the phrasing bank, one JSON file for each kind of entity. The
names and values are invented anew for each world, so a model can only answer by retrieving and reading.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from random import Random
from typing import Any

from onegen_integrations.training.examples import Readable
from onegen_integrations.training.names import VALUES, NameSource


@dataclass(frozen=True)
class Relation:
    """One property of a kind: the value type and the ways to state it, ask for it and denote it."""

    name: str
    value: str | None
    choices: tuple[str, ...]
    statements: tuple[str, ...]
    continuations: tuple[str, ...]
    questions: tuple[str, ...]
    nouns: tuple[str, ...]


@dataclass(frozen=True)
class Kind:
    """A kind of entity: how its members are called and what can be said of them."""

    name: str
    patterns: tuple[str, ...]
    lists: Mapping[str, Sequence[str]]
    openings: tuple[str, ...]
    relations: Mapping[str, Relation]

    @property
    def human(self) -> bool:
        """Whether a member may be called he or she."""
        return self.name in _HUMAN


_HUMAN = {
    "person", "ruler", "explorer", "scientist", "politician", "athlete", "painter", "composer", "writer", "neighbour",
}  # fmt: skip


@cache
def phrasing_bank() -> Mapping[str, Kind]:
    """The kinds of the phrasing bank by name."""
    folder = files("onegen_integrations.training") / "phrasings"
    domains = sorted((d for d in folder.iterdir() if d.is_dir()), key=lambda d: d.name)
    paths = [p for d in domains for p in sorted(d.iterdir(), key=lambda p: p.name) if p.name.endswith(".json")]
    kinds = (_kind(json.loads(path.read_text(encoding="utf-8"))) for path in paths)
    return {kind.name: kind for kind in kinds}


def _kind(data: Mapping[str, Any]) -> Kind:
    return Kind(
        name=data["kind"],
        patterns=tuple(data["names"]),
        lists={key: data[key] for key in ("a", "b", "c") if key in data},
        openings=tuple(data["openings"]),
        relations={name: _relation(name, relation) for name, relation in data["relations"].items()},
    )


def _relation(name: str, data: Mapping[str, Any]) -> Relation:
    value = data["value"]
    return Relation(
        name=name,
        value=value if isinstance(value, str) else value.get("kind"),
        choices=() if isinstance(value, str) else tuple(value.get("choices", ())),
        **{key: tuple(data[key]) for key in ("statements", "continuations", "questions", "nouns")},
    )


@dataclass
class Entity:
    """A named thing with its facts: relation name to value, and to another entity where the value is one."""

    kind: Kind
    name: str
    facts: dict[str, str] = field(default_factory=dict)
    links: dict[str, Entity] = field(default_factory=dict)
    passage_of: dict[str, WorldPassage] = field(default_factory=dict)


@dataclass
class WorldPassage:
    """A passage about one entity. sentences: its text in pieces, which joined give `text`; it needs no title."""

    key: str
    sentences: list[str]
    entity: Entity
    sentence_of: dict[str, int] = field(default_factory=dict)
    title: str = ""

    @property
    def text(self) -> str:
        return "".join(self.sentences)

    def answer(self, relation: str) -> str:
        """The value of a relation as it stands in the text, where a sentence may begin with it."""
        value = self.entity.facts[relation]
        return value if value in self.text else sentence_case(value)


@dataclass(frozen=True)
class Question:
    """A question with its short answer and the passages that give it, in the order of the hops.

    bridge: the entity that links the first hop to the second. sentence: which sentence of the last passage answers.
    """

    text: str
    answer: str
    passages: tuple[Readable, ...]
    bridge: str | None = None
    sentence: int = 0

    @property
    def hops(self) -> int:
        return len(self.passages)


class World:
    """A closed world of about `size` passages.

    Args:
        rng: all choices come from it.
        size: how many passages at least.
        names: where names come from.
        kinds: kinds to use; default: a random handful.
        prefix: makes passage keys unique over several worlds.
    """

    def __init__(
        self,
        rng: Random,
        size: int,
        *,
        names: NameSource | None = None,
        kinds: Iterable[str] | None = None,
        prefix: str = "",
    ) -> None:
        bank = phrasing_bank()
        self._rng = rng
        self._names = names or NameSource()
        self._prefix = prefix
        chosen = list(kinds) if kinds is not None else _linked_kinds(rng, 2 + size // 20)
        self.entities: list[Entity] = []
        self.passages: list[WorldPassage] = []
        self._taken: set[str] = set()
        while len(self.passages) < size:
            self._write(self._entity(bank[rng.choice(chosen)]))

    # --- facts ------------------------------------------------------------------------------------

    def _entity(self, kind: Kind) -> Entity:
        rng = self._rng
        entity = Entity(kind, self._fresh_name(kind))
        self.entities.append(entity)
        relations = rng.sample(sorted(kind.relations), k=min(len(kind.relations), rng.randint(2, 8)))
        for name in relations:
            self._state(entity, kind.relations[name])
        return entity

    def _state(self, entity: Entity, relation: Relation) -> None:
        rng = self._rng
        bank = phrasing_bank()
        if relation.choices:
            entity.facts[relation.name] = rng.choice(relation.choices)
            return
        value = relation.value or ""
        others = [e for e in self.entities if e.kind.name == value and e is not entity]
        if value in bank and others and rng.random() < 0.75:
            target = rng.choice(others)
            entity.facts[relation.name], entity.links[relation.name] = target.name, target
        elif value in bank:
            entity.facts[relation.name] = self._fresh_name(bank[value])
        else:
            entity.facts[relation.name] = self._names.draw(value, rng)

    def _fresh_name(self, kind: Kind) -> str:
        """A name that no other entity has; now and then one that resembles another entity's name."""
        rng = self._rng
        for _ in range(20):
            if kind.name in VALUES and rng.random() < 0.7:
                name = self._names.draw(kind.name, rng)
            else:
                name = self._names.fill(rng.choice(kind.patterns), kind.lists, rng)
            if kind.human and self.entities and rng.random() < 0.1:
                name = f"{name.split()[0]} {rng.choice(self.entities).name.split()[-1]}"
            if name.lower() not in self._taken:
                break
        self._taken.add(name.lower())
        return name

    # --- passages ---------------------------------------------------------------------------------

    def _write(self, entity: Entity) -> None:
        rng = self._rng
        relations = list(entity.facts)
        rng.shuffle(relations)
        while relations:
            count = min(len(relations), rng.choices((1, 2, 3, 4, 5), weights=(2, 3, 4, 3, 2))[0])
            self._passage(entity, [relations.pop() for _ in range(count)])

    def _passage(self, entity: Entity, relations: Sequence[str]) -> None:
        rng = self._rng
        passage = WorldPassage(f"{self._prefix}{len(self.passages)}", [], entity)
        style = rng.choices((" ", "\n", "\n- "), weights=(10, 1, 1))[0]
        if rng.random() < 0.2:
            passage.sentences.append(f"{sentence_case(entity.name)}\n")
        named = False
        if rng.random() < 0.3:
            passage.sentences.append(sentence_case(rng.choice(entity.kind.openings).replace("{s}", entity.name)))
            named = True
        for name in relations:
            relation = entity.kind.relations[name]
            continues = named and rng.random() < 0.75
            template = rng.choice(relation.continuations if continues else relation.statements)
            named = True
            sentence = sentence_case(fill(template, entity.name, entity.facts[name]))
            separator = style if passage.sentences and not passage.sentences[-1].endswith("\n") else ""
            if (
                separator == " "
                and passage.sentences[-1].endswith(".")
                and rng.random() < 0.25
                and _may_follow(sentence)
            ):
                passage.sentences[-1] = passage.sentences[-1][:-1]
                separator = rng.choice((", and ", "; ", ", while ", ", and "))
                sentence = sentence[0].lower() + sentence[1:]
            passage.sentence_of[name] = len(passage.sentences)
            passage.sentences.append(separator + sentence)
            entity.passage_of[name] = passage
        self.passages.append(passage)

    # --- questions --------------------------------------------------------------------------------

    def questions(self, passage: WorldPassage) -> list[Question]:
        """One one-hop question for each fact of a passage, each worded anew."""
        entity = passage.entity
        return [
            Question(
                noisy(self._ask(entity.kind.relations[name], entity.name), self._rng),
                passage.answer(name),
                (passage,),
                sentence=sentence,
            )
            for name, sentence in passage.sentence_of.items()
        ]

    def two_hop_questions(self, passage: WorldPassage) -> list[Question]:
        """Questions that go from a fact of this passage, whose value is an entity, to a fact of that entity."""
        rng = self._rng
        found = []
        for name in passage.sentence_of:
            target = passage.entity.links.get(name)
            if target is None or not target.passage_of:
                continue
            first = passage.entity.kind.relations[name]
            second = target.kind.relations[rng.choice(sorted(target.passage_of))]
            last = target.passage_of[second.name]
            noun = rng.choice(first.nouns).replace("{s}", passage.entity.name)
            text = noisy(self._ask(second, noun), rng)
            answer = last.answer(second.name)
            found.append(
                Question(text, answer, (passage, last), bridge=target.name, sentence=last.sentence_of[second.name])
            )
        return found

    def follow_up(self, passage: WorldPassage, relation: str) -> tuple[str, str]:
        """A question that calls the entity only by a pronoun or its kind, and the same with its name."""
        entity, rng = passage.entity, self._rng
        kind = entity.kind.name.replace("_", " ")
        pronouns = ("he", "she", "they", f"this {kind}") if entity.kind.human else ("it", f"the {kind}", f"this {kind}")
        questions = [q for q in entity.kind.relations[relation].questions if "{s}'" not in q and "{s}’" not in q]
        template = rng.choice(questions or ["What about {s}?"])
        text = rng.choice(("", "", "", "And ", "Thanks. ")) + sentence_case(
            template.replace("{s}", rng.choice(pronouns))
        )
        return text, sentence_case(template.replace("{s}", entity.name))

    def _ask(self, relation: Relation, subject: str) -> str:
        rng = self._rng
        if rng.random() < 0.12:
            noun = rng.choice(relation.nouns).replace("{s}", subject)
            asks_person = relation.value in _HUMAN
            pattern = rng.choice(("{q} is {n}?", "{n}?", "Tell me {n}.", "I would like to know {n}.", "{q}'s {n}?"))
            return sentence_case(pattern.replace("{q}", "Who" if asks_person else "What").replace("{n}", noun))
        return sentence_case(rng.choice(relation.questions).replace("{s}", subject))


def _may_follow(sentence: str) -> bool:
    """Whether a sentence may be joined to the one before it: it begins with a word that is no name."""
    return sentence.split(" ", 1)[0] in {
        "It",
        "Its",
        "The",
        "This",
        "In",
        "At",
        "On",
        "With",
        "A",
        "An",
        "There",
        "From",
    }


def _linked_kinds(rng: Random, count: int) -> list[str]:
    """Some kinds, and with each of them one that it has a relation to, so that facts can be chained."""
    bank = phrasing_bank()
    chosen: list[str] = []
    for name in rng.sample(sorted(bank), k=min(len(bank), count)):
        linked = sorted({r.value for r in bank[name].relations.values() if r.value and r.value in bank} - {name})
        chosen += [name, rng.choice(linked)] if linked else [name]
    return chosen


def noisy(question: str, rng: Random) -> str:
    """A question as hurried people type it: now and then in lower case, without a mark, with a lead-in."""
    draw = rng.random()
    if draw < 0.08:
        return question[0].lower() + question[1:]
    if draw < 0.14:
        return question.rstrip("?.")
    if draw < 0.20:
        return rng.choice(("Question: ", "Quick question: ", "Please answer: ", "Hello! ", "One thing: ")) + question
    return question


def fill(template: str, subject: str, value: str) -> str:
    return template.replace("{s}", subject).replace("{v}", value)


def sentence_case(text: str) -> str:
    """Upper-case the first letter; nothing else changes."""
    return text[:1].upper() + text[1:]
