"""The recipe that measures the bundled checkpoint: what it has to do, on data that it has never seen.

Worlds are drawn anew with every run; the demo knowledge base and the user documents are written by hand, and training
never reads them.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from tqdm.auto import tqdm

from onegen_integrations.evaluation.benchmarks import bm25_library, evaluate_benchmark, read_benchmarks
from onegen_integrations.evaluation.metrics import exact_match, recall_at_k
from onegen_integrations.evaluation.report import Row, mean_rows
from onegen_integrations.evaluation.runner import Question, QuestionSet, answer, evenly, read_question_set
from onegen_integrations.model import OneGen
from onegen_integrations.passages import MemoryPassages, Passage
from onegen_integrations.text import Messages
from onegen_integrations.training import dialogues
from onegen_integrations.training.names import NameSource
from onegen_integrations.training.worlds import World

TARGETS: Mapping[tuple[str, str], float] = MappingProxyType(
    {
        ("worlds", "recall@1"): 0.97,
        ("worlds", "EM, one hop"): 0.95,
        ("worlds", "EM, two hops"): 0.90,
        ("stuffed prompts", "EM"): 0.85,
        ("no retrieval needed", "share without a retrieval"): 0.95,
        ("demo", "recall@1"): 0.90,
        ("demo", "EM, one hop"): 0.85,
        ("demo", "EM, two hops"): 0.70,
        ("user documents", "recall@1"): 0.80,
        ("user documents", "EM, one hop"): 0.60,
    }
)

_PACKAGE = Path(__file__).parents[1]
_ASKED = MappingProxyType({1: 60, 2: 40})  # questions of each number of hops that are answered in a world
_DIALOGUES = 20  # stuffed prompts in a world, and requests that need no retrieval
_STUFFED_PASSAGES = 4
_MAX_NEW_TOKENS = 96
_HOPS = MappingProxyType({1: "one hop", 2: "two hops"})

_Scores = defaultdict[tuple[str, str], list[float]]


def evaluate_mini(
    model: OneGen,
    *,
    seed: int | None = None,
    worlds: int = 10,
    passages: int = 300,
    data: str | Path | None = None,
    limit: int | None = None,
    chunk_tokens: int | None = 512,
    progress: bool = True,
) -> list[Row]:
    """Measure a checkpoint in the bundled one's formats; the first row is the seed, the last the seconds it took.

    Recall@1 is that of one-hop questions over all passages of their corpus. Answers are greedy, with `retrieval="auto"`
    and one passage a retrieval; "hops right" is the share of them that retrieved as often as the question has hops.

    Args:
        model: the checkpoint to measure.
        seed: the worlds are drawn from it; None draws one.
        worlds: how many worlds.
        passages: of one world, about.
        data: folder of the public data sets, for the published benchmarks; see `benchmarks`.
        limit: answer at most so many questions of each kind, in each world and in each set; recall is over all of them.
        chunk_tokens: see `evaluate_benchmark`.
        progress: show progress bars.

    Raises:
        DataFormatError: `data` does not hold the benchmarks.
        ImportError: `data` is given and the package bm25s is not installed.
    """
    started = time.perf_counter()
    seed = random.SystemRandom().randrange(1_000_000) if seed is None else seed
    benchmarks = []
    if data is not None:
        bm25_library()
        benchmarks = read_benchmarks(data)
    scores: _Scores = defaultdict(list)
    for number in tqdm(range(worlds), desc=f"Worlds of seed {seed}", unit="world", disable=not progress):
        _measure_world(scores, model, random.Random(f"evaluate-{seed}-{number}"), passages, limit)
    for questions in (demo_questions(), user_questions()):
        _measure_questions(scores, model, questions, {1: limit, 2: limit}, progress=progress)
    rows = mean_rows(scores, TARGETS)
    for benchmark in benchmarks:
        rows += evaluate_benchmark(
            model,
            benchmark,
            chunk_tokens=chunk_tokens,
            limit=limit,
            max_new_tokens=_MAX_NEW_TOKENS,
            progress=progress,
        )
    return [Row("run", "seed", seed), *rows, Row("run", "seconds", round(time.perf_counter() - started, 1))]


def demo_questions() -> QuestionSet:
    """The demo knowledge base with its questions."""
    folder = _PACKAGE / "demo"
    return read_question_set("demo", folder / "passages.jsonl", folder / "questions.jsonl")


def user_questions() -> QuestionSet:
    """Documents as people have them - rules, notes, manuals - with their questions."""
    folder = _PACKAGE / "evaluation" / "data"
    return read_question_set("user documents", folder / "user_documents.jsonl", folder / "user_questions.jsonl")


def _measure_world(scores: _Scores, model: OneGen, rng: random.Random, passages: int, limit: int | None) -> None:
    """Questions, stuffed prompts and requests that need no retrieval, all in a new world."""
    world = World(rng, passages, names=NameSource())
    asked = {hops: count if limit is None else min(count, limit) for hops, count in _ASKED.items()}
    source = _measure_questions(scores, model, _world_questions(world), asked, progress=False)
    for _ in range(_DIALOGUES if limit is None else min(_DIALOGUES, limit)):
        messages, gold = _stuffed(world, rng)
        generation = answer(model, messages, retrieval="never", max_new_tokens=_MAX_NEW_TOKENS)
        scores["stuffed prompts", "EM"].append(exact_match(generation.answer, [gold]))
        request = dialogues.no_retrieval(rng, NameSource())
        generation = answer(model, request.prompt, passages=source, max_new_tokens=_MAX_NEW_TOKENS)
        scores["no retrieval needed", "share without a retrieval"].append(float(not generation.retrievals))


def _measure_questions(
    scores: _Scores, model: OneGen, questions: QuestionSet, asked: Mapping[int, int | None], *, progress: bool
) -> MemoryPassages:
    """Recall@1 of all one-hop questions, and the answers to `asked[hops]` of each kind; returns the passage source."""
    name = questions.name
    source = MemoryPassages(model)
    source.add(questions.passages)
    by_hops = {hops: [q for q in questions.questions if q.hops == hops] for hops in asked}
    found = source.search(model.embed_queries([question.text for question in by_hops[1]]), 1)
    for question, best in zip(by_hops[1], found, strict=True):
        scores[name, "recall@1"].append(recall_at_k([passage.id for passage in best], question.gold, 1))
    sample = [question for hops, count in asked.items() for question in evenly(by_hops[hops], count)]
    for question in tqdm(sample, desc=name.capitalize(), unit="answer", disable=not progress):
        generation = answer(model, question.text, passages=source, max_new_tokens=_MAX_NEW_TOKENS)
        hops = _HOPS[question.hops]
        scores[name, f"EM, {hops}"].append(exact_match(generation.answer, question.answers))
        scores[name, f"hops right, {hops}"].append(float(len(generation.retrievals) == question.hops))
    return source


def _world_questions(world: World) -> QuestionSet:
    questions = [
        Question(question.text, (question.answer,), tuple(passage.key for passage in question.passages))
        for passage in world.passages
        for question in (*world.questions(passage), *world.two_hop_questions(passage))
    ]
    return QuestionSet("worlds", tuple(Passage(p.key, p.text) for p in world.passages), tuple(questions))


def _stuffed(world: World, rng: random.Random) -> tuple[str | Messages, str]:
    """A question with its passage among others of the same world, in some framework's prompt style; and its answer."""
    passages = rng.sample(world.passages, k=min(_STUFFED_PASSAGES, len(world.passages)))
    question = rng.choice(world.questions(rng.choice(passages)))
    [ask] = dialogues.stuffed([passage.text for passage in passages], [(question.text, question.answer)], rng)
    return ask.prompt, question.answer
