"""The training data of the bundled checkpoint, drawn anew in each step: worlds, scenes, dialogues, real text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import count, cycle, islice
from random import Random

from torch.utils.data import Dataset

from onegen_integrations.text import TextCodec
from onegen_integrations.training import dialogues, prompts
from onegen_integrations.training.examples import Ask, ExampleBuilder, Hop
from onegen_integrations.training.names import NameSource
from onegen_integrations.training.real_text import Paragraph, Reading, RealText
from onegen_integrations.training.scenes import DrawnScene, Scene, draw_scene, rivals, scene_bank
from onegen_integrations.training.sequences import Batch, TrainingSequence, pack
from onegen_integrations.training.worlds import Question, World, WorldPassage, noisy

# Shares of the tokens of a step at points of the training, in between which they go over linearly. Language, copying
# and worlds come first; scenes and questions about real text fade in.
_SCHEDULE: tuple[tuple[float, dict[str, float]], ...] = (
    (0.0, {"drill": 0.15, "world": 0.3, "two_hop": 0.06, "stuffed": 0.06, "plain": 0.03, "text": 0.4}),
    (
        0.08,
        {
            "drill": 0.05, "world": 0.22, "two_hop": 0.08, "scene": 0.1, "scene_hops": 0.03, "stuffed": 0.07,
            "follow_up": 0.02, "plain": 0.02, "condense": 0.01, "nothing": 0.01, "squad": 0.04, "cloze": 0.05,
            "text": 0.3,
        },
    ),
    (
        0.35,
        {
            "drill": 0.01, "world": 0.13, "two_hop": 0.06, "scene": 0.24, "scene_hops": 0.1, "stuffed": 0.11,
            "follow_up": 0.02, "plain": 0.015, "condense": 0.015, "nothing": 0.01, "tool": 0.03, "squad": 0.08,
            "cloze": 0.06, "text": 0.12,
        },
    ),
    (
        1.0,
        {
            "drill": 0.005, "world": 0.08, "two_hop": 0.04, "scene": 0.33, "scene_hops": 0.125, "stuffed": 0.265,
            "follow_up": 0.02, "plain": 0.015, "condense": 0.015, "nothing": 0.01, "tool": 0.035, "squad": 0.04,
            "cloze": 0.015, "text": 0.005,
        },
    ),
)  # fmt: skip
_REAL = ("squad", "cloze", "text")
_WORLD_TOKENS = 7000  # a step has a new world for each so many tokens
_TEXT_WEIGHT = 0.2  # of the next-token loss over plain text, beside 1 for answers
_READING_WEIGHT = 0.1  # of the next-token loss over passages of real text, beside 1 for answers
_MOST_DRAWS = 200  # of one kind in a step: where a tokenizer makes all of them too long for a row, the kind is left out
_LONG_STEPS = 0.2  # share of the steps with long rows
_TITLED = 0.5  # share of the documents of scenes, and of prompts of paragraphs, that come with their titles
_DESCRIBED = 0.2  # share of the others with metadata above the text
_STUFFED_WORLDS = 0.2  # share of the prompts with documents that have those of a world
_STUFFED_PARAGRAPHS = 0.12  # share of those that have paragraphs of real text
_RANKED = 0.75  # share of the prompts with documents, worlds aside, in which the one that answers comes first
_TWINS = 0.4  # share of the scenes with others beside them that have themselves there, drawn anew
_ACCOMPANIED = 0.12  # share of the scenes' documents that are spliced in with one beside them
_MOST_STUFFED = 5  # documents in a prompt
_MOST_ASKED = 8  # questions about them
_SHORT_WORD = 2  # a word of more letters can tell what a question is about
_WINDOWS = (60, 200, 350, 450, 700)  # characters of a paragraph that are taken as a passage
_PROSE = (200, 1400)  # characters of plain text, from and to


def shares(progress: float, *, real_text: bool) -> dict[str, float]:
    """Share of each kind of data at `progress` in [0, 1]; without real text the others take its place."""
    later = next((i for i, (at, _) in enumerate(_SCHEDULE) if progress < at), None)
    if later is None:
        mixed = dict(_SCHEDULE[-1][1])
    else:
        (start, first), (end, second) = _SCHEDULE[later - 1 : later + 1]
        mixed = _between(first, second, (progress - start) / (end - start))
    if not real_text:
        mixed = {name: share for name, share in mixed.items() if name not in _REAL}
    total = sum(mixed.values())
    return {name: share / total for name, share in mixed.items() if share > 0}


def _tells(question: Question, scenes: Sequence[DrawnScene]) -> bool:
    """Whether a question has a word by which to tell the scene that it is about from the others."""
    texts = [" ".join(f"{p.title} {p.text}" for p in drawn.passages).casefold() for drawn in scenes]
    own = next(text for text, drawn in zip(texts, scenes, strict=True) if question.passages[0] in drawn.passages)
    others = [text for text in texts if text is not own]
    words = (word.strip("?.,'’").removesuffix("'s") for word in question.text.casefold().split())
    return not others or any(w in own and not any(w in text for text in others) for w in words if len(w) > _SHORT_WORD)


def _between(first: dict[str, float], second: dict[str, float], at: float) -> dict[str, float]:
    return {name: (1 - at) * first.get(name, 0.0) + at * second.get(name, 0.0) for name in first | second}


class MiniData(Dataset[Batch]):
    """Batches by step number, a pure function of seed and step: training resumes exactly where it stopped.

    Args:
        codec: renders and encodes.
        steps: number of steps.
        tokens: tokens of one step, about.
        context: the model's context window.
        seed: all choices come from it.
        begin: where on the schedule of shares the first step stands.
        real_text: the data sets of a folder, or None for generated data alone.
        row: capacity of one row of a batch; every fifth step has rows of twice that, for long sequences.
    """

    def __init__(
        self,
        codec: TextCodec,
        *,
        steps: int,
        tokens: int,
        context: int,
        seed: int,
        begin: float = 0.0,
        real_text: RealText | None = None,
        row: int = 448,
    ) -> None:
        self._codec = codec
        self._steps = steps
        self._tokens = tokens
        self._context = context
        self._seed = seed
        self._begin = begin
        self._real = real_text
        self._row = row
        self._names = NameSource(real_text.names if real_text else None)

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> Batch:
        if not 0 <= step < self._steps:
            raise IndexError(step)
        draw = _Draw(Random(f"{self._seed}-{step}"), self._codec, self._names, self._real, self._context)
        row = self._row * (2 if draw.rng.random() < _LONG_STEPS else 1)
        sequences: list[TrainingSequence] = []
        progress = self._begin + (1 - self._begin) * step / self._steps
        mixed = shares(progress, real_text=self._real is not None)
        worlds = max(1, round(self._tokens / _WORLD_TOKENS))
        for number in range(worlds):
            draw.new_world(number)
            for name, share in mixed.items():
                left = share * self._tokens / worlds
                for sequence in islice(draw.source(name), _MOST_DRAWS):
                    if len(sequence) > row:
                        continue
                    left -= len(sequence)
                    # Rounding by chance keeps the shares right where a sequence is longer than what is left.
                    if left < 0 and draw.rng.random() < -left / len(sequence):
                        break
                    sequences.append(sequence)
                    if left <= 0:
                        break
        if not sequences:  # of a step too small for any kind, chance can leave nothing
            sequences.append(next(draw.source("world")))
        return pack(sequences, row, self._codec.tokenizer.pad_token_id)


class _Draw:
    """Makes the sequences of one step: many about one world, so that negatives are neighbours, then the next world."""

    def __init__(self, rng: Random, codec: TextCodec, names: NameSource, real: RealText | None, context: int) -> None:
        self.rng = rng
        self._names = names
        self._real = real
        self._build = ExampleBuilder(codec, rng, context)
        self._numbers = count()
        self._world: World
        self._unread: list[WorldPassage] = []
        self._scene_parts: list[TrainingSequence] = []
        # Articles in turn: if one came twice in a step, its paragraphs could be their own negatives.
        self._articles = cycle(rng.sample(real.articles, k=len(real.articles)) if real else ())
        self._paragraphs: list[Paragraph] = []

    def new_world(self, number: int) -> None:
        self._world = World(self.rng, 64, names=self._names, prefix=f"{number}-")
        self._unread = []

    def source(self, name: str) -> Iterator[TrainingSequence]:
        """An endless stream of sequences of one kind of data."""
        make: Callable[[str], TrainingSequence | None] = getattr(self, f"_make_{name}")
        while True:
            sequence = make(f"{name}{next(self._numbers)}")
            if sequence is not None:
                sequence.source = name
                yield sequence

    def _make_drill(self, key: str) -> TrainingSequence:
        if self.rng.random() < 0.3:
            return self._build.repeat_drill(self.rng.randint(8, 48))
        return self._build.lookup_drill(key, self.rng.randint(2, 7))

    def _make_world(self, _key: str) -> TrainingSequence:
        """All facts of a passage; now and then with passages beside it that have nothing to do with the question."""
        passages = [self._next_passage()]
        if self.rng.random() < 0.12:
            passages += self.rng.sample(self._world.passages, k=self.rng.randint(1, 3))
            passages = list({passage.key: passage for passage in passages}.values())
            self.rng.shuffle(passages)
        asks = [
            Ask(question.text, question.answer, index, question.sentence)
            for index, passage in enumerate(passages)
            for question in self._world.questions(passage)
        ]
        return self._build.one_hop(passages, asks)

    def _make_two_hop(self, _key: str) -> TrainingSequence | None:
        questions = self._world.two_hop_questions(self.rng.choice(self._world.passages))
        if not questions:
            return None
        return self._hops(self.rng.choice(questions))

    def _hops(self, question: Question) -> TrainingSequence:
        first, last = question.passages
        hops = [
            Hop(first, f"First: {question.bridge}.", str(question.bridge)),
            Hop(last, f"Answer: {question.answer}", question.answer),
        ]
        return self._build.multi_hop(question.text, hops)

    def _make_scene(self, key: str) -> TrainingSequence | None:
        """One document of a scene with all that is asked of it; its other documents follow in later calls.

        Now and then a document that is easily taken for it is spliced in beside it.
        """
        if not self._scene_parts:
            drawn = self._draw(scene := self.rng.choice(scene_bank()), key)
            for passage in drawn.passages:
                scenes = [drawn]
                if self.rng.random() < _ACCOMPANIED:
                    scenes += [self._draw(other, f"{key}-beside") for other in self._beside(scene, 1)]
                passages = [passage, *(self.rng.choice(other.passages) for other in scenes[1:])]
                self.rng.shuffle(passages)
                asks = [
                    Ask(question.text, question.answer, passages.index(passage), question.sentence)
                    for question in drawn.questions
                    if question.passages == (passage,) and _tells(question, scenes)
                ]
                if asks:
                    self._scene_parts.append(self._build.one_hop(passages, asks))
        return self._scene_parts.pop() if self._scene_parts else None

    def _make_scene_hops(self, key: str) -> TrainingSequence | None:
        drawn = self._draw(self.rng.choice(scene_bank()), key)
        questions = [question for question in drawn.questions if question.hops > 1]
        return self._hops(self.rng.choice(questions)) if questions else None

    def _draw(self, scene: Scene, key: str, titled: float = _TITLED, described: float = _DESCRIBED) -> DrawnScene:
        return draw_scene(scene, key, self._names, self.rng, titled=titled, described=described)

    def _make_stuffed(self, key: str) -> TrainingSequence | None:
        """Documents in one prompt, and questions about them."""
        draw = self.rng.random()
        if draw < _STUFFED_WORLDS:
            return self._stuffed_world()
        if draw < _STUFFED_WORLDS + _STUFFED_PARAGRAPHS and self._real is not None:
            return self._stuffed_paragraphs(self._real, key)
        return self._stuffed_scenes(key)

    def _stuffed_world(self) -> TrainingSequence | None:
        stated = self.rng.sample(self._world.passages, k=self.rng.randint(1, _MOST_STUFFED))
        pairs = [(q.text, q.answer) for passage in stated for q in self._world.questions(passage)]
        return self._stuffed([passage.text for passage in stated], pairs)

    def _stuffed_paragraphs(self, real: RealText, key: str) -> TrainingSequence | None:
        """A paragraph with its questions, passages about other things beside it; all with their titles, or none."""
        length = self.rng.choice(_WINDOWS)
        paragraph = self.rng.choice(self.rng.choice(real.articles))
        reading = real.reading(self.rng, key, paragraph, length)
        titled = self.rng.random() < _TITLED
        documents = [(paragraph.title, reading.passage.text)]
        documents += [real.excerpt(self.rng, length) for _ in range(self.rng.randint(1, 3))]
        texts = [f"title: {title}\n\n{text}" if titled else text for title, text in documents]
        if self.rng.random() >= _RANKED:
            self.rng.shuffle(texts)
        return self._stuffed(texts, [(ask.question, ask.answer) for ask in reading.asked])

    def _stuffed_scenes(self, key: str) -> TrainingSequence | None:
        """Documents of a scene, and beside them others that could be taken for them."""
        described = self.rng.choice((0.0, 0.0, 1.0))  # a framework writes all documents of a prompt alike
        scene = self.rng.choice(scene_bank())
        scenes = [
            self._draw(each, f"{key}-{number}", 0.0, described)
            for number, each in enumerate([scene, *self._beside(scene, self.rng.randint(0, 3))])
        ]
        passages = [passage for drawn in scenes for passage in drawn.passages]
        self.rng.shuffle(passages)
        if self.rng.random() < _RANKED:  # a retriever puts the passage that answers first, if it can
            first = self.rng.choice(scenes[0].passages)
            passages = [first, *(passage for passage in passages if passage is not first)]
            questions = [question for question in scenes[0].questions if question.passages == (first,)]
        else:
            questions = [question for drawn in scenes for question in drawn.questions]
        passages = passages[: self.rng.randint(1, _MOST_STUFFED)]
        pairs = [(q.text, q.answer) for q in questions if set(q.passages) <= set(passages) and _tells(q, scenes)]
        return self._stuffed([passage.text for passage in passages], pairs)

    def _beside(self, scene: Scene, count: int) -> list[Scene]:
        """Scenes whose documents are easily taken for those of `scene`: itself with other names, or its rivals."""
        return [scene] * min(count, 1) if self.rng.random() < _TWINS else rivals(scene, count, self.rng)

    def _stuffed(self, texts: list[str], pairs: list[tuple[str, str]]) -> TrainingSequence | None:
        if not pairs:
            return None
        pairs = self.rng.sample(pairs, k=min(len(pairs), _MOST_ASKED))
        return self._build.plain(dialogues.stuffed(texts, pairs, self.rng))

    def _make_follow_up(self, _key: str) -> TrainingSequence:
        passage = self._next_passage()
        asks = []
        for relation, sentence in passage.sentence_of.items():
            follow_up, _ = self._world.follow_up(passage, relation)
            prompt = [*self._past(passage), dialogues.user(follow_up)]
            asks.append(Ask(prompt, passage.answer(relation), 0, sentence))
        return self._build.one_hop([passage], asks)

    def _make_condense(self, _key: str) -> TrainingSequence:
        passage = self.rng.choice(self._world.passages)
        follow_up, standalone = self._world.follow_up(passage, self.rng.choice(sorted(passage.sentence_of)))
        return self._build.plain([dialogues.condense(self._past(passage), follow_up, standalone, self.rng)])

    def _make_plain(self, _key: str) -> TrainingSequence:
        return self._build.plain([dialogues.no_retrieval(self.rng, self._names)])

    def _make_nothing(self, _key: str) -> TrainingSequence:
        """A search that found nothing: an empty passage."""
        question = self.rng.choice(self._world.questions(self.rng.choice(self._world.passages)))
        return self._build.nothing_found(question.text, prompts.UNKNOWN)

    def _make_tool(self, _key: str) -> TrainingSequence:
        tools, messages, answer = dialogues.tool_call(self.rng, self._names)
        return self._build.plain([Ask(messages, answer, tools=tools)])

    def _make_squad(self, key: str) -> TrainingSequence | None:
        """Paragraphs of one article after another, so that negatives are about the same things."""
        if self._real is None:
            return None
        if not self._paragraphs:
            article = next(self._articles)
            self._paragraphs = self.rng.sample(article, k=min(len(article), 12))
        return self._reading(self._real.reading(self.rng, key, self._paragraphs.pop(), self.rng.choice(_WINDOWS)))

    def _make_cloze(self, key: str) -> TrainingSequence | None:
        return self._reading(self._real.cloze(self.rng, key, self.rng.choice(_WINDOWS)) if self._real else None)

    def _make_text(self, _key: str) -> TrainingSequence | None:
        if self._real is None:
            return None
        return self._build.text(self._real.prose(self.rng, self.rng.randint(*_PROSE)), _TEXT_WEIGHT)

    def _reading(self, reading: Reading | None) -> TrainingSequence | None:
        if reading is None:
            return None
        asks = [Ask(noisy(ask.question, self.rng), ask.answer, 0, ask.sentence) for ask in reading.asked]
        return self._build.one_hop([reading.passage], asks, passage_weight=_READING_WEIGHT)

    def _past(self, passage: WorldPassage) -> list[dialogues.Message]:
        """A question about the passage's entity and its answer, to stand before a follow-up."""
        question = self.rng.choice(self._world.questions(passage))
        return [dialogues.user(question.text), dialogues.assistant(question.answer)]

    def _next_passage(self) -> WorldPassage:
        """Every passage of the world in turn, so that no question is asked twice in a step if it can be avoided.

        The passages about one entity follow each other: they are the negatives that differ only in what they state.
        """
        if not self._unread:
            by_entity: dict[str, list[WorldPassage]] = defaultdict(list)
            for passage in self._world.passages:
                by_entity[passage.entity.name].append(passage)
            entities = list(by_entity.values())
            self.rng.shuffle(entities)
            self._unread = [passage for passages in entities for passage in passages]
        return self._unread.pop()
