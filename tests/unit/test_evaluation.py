"""Reading benchmarks, measuring on them, and the recipe of the bundled checkpoint."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from onegen_integrations import ContextWindowError, DataFormatError, InvalidInputError, MemoryPassages, OneGen, Passage
from onegen_integrations.evaluation.benchmarks import chunks_for, evaluate_benchmark, read_benchmarks
from onegen_integrations.evaluation.metrics import exact_match, f1, normalize_answer
from onegen_integrations.evaluation.mini import TARGETS, demo_questions, evaluate_mini, user_questions
from onegen_integrations.evaluation.report import Row, as_json, as_table, mean_rows
from onegen_integrations.evaluation.runner import Question, QuestionSet, answer, evenly
from onegen_integrations.training.worlds import World

SQUAD = {
    "data": [
        {
            "title": "Lake_Tarn",
            "paragraphs": [
                {
                    "context": "It freezes in December.",
                    "qas": [
                        {
                            "question": " When does it freeze?",
                            "answers": [{"text": "December"}, {"text": "in December"}],
                        },
                        {"question": "What freezes?", "answers": [{"text": "It"}, {"text": "It"}]},
                    ],
                },
                {
                    "context": "It freezes in December.",
                    "qas": [{"question": "When?", "answers": [{"text": "December"}]}],
                },
            ],
        },
        {
            "title": "Ostrava",
            "paragraphs": [
                {"context": "Ostrava has a theatre.", "qas": [{"question": "Where?", "answers": [{"text": "Ostrava"}]}]}
            ],
        },
    ]
}
NQ = [
    {
        "question": f"question {number}",
        "answers": ["Oskar Bell", "Bell"],
        "ctxs": [
            {"title": "Elsewhere", "text": "Not this one.", "isgold": False},
            {"title": "Winter Ferry", "text": "Oskar Bell composed it.", "isgold": True},
        ],
    }
    for number in range(2)
]
HOTPOTQA_CORPUS = [
    {"title": "Elm", "text": "The Elm is a river."},
    {"title": "Ostrava", "text": "Ostrava lies on the Elm."},
    {"title": "Tarn", "text": "A lake."},
]
HOTPOTQA = [{"question": "Is Ostrava on a river?", "answer": "yes", "gold_titles": ["Ostrava", "Elm"]}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of public data sets, each in its published form."""
    _write(tmp_path / "squad" / "dev.json", [SQUAD])
    _write(tmp_path / "nq_open" / "dev.jsonl", NQ)
    _write(tmp_path / "hotpotqa" / "dev.corpus.jsonl", HOTPOTQA_CORPUS)
    _write(tmp_path / "hotpotqa" / "dev.questions.jsonl", HOTPOTQA)
    return tmp_path


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def lake() -> QuestionSet:
    """Four passages whose words are their own, two of which do not hold their title, and a question about each."""
    passages = (
        Passage("elm", "The river Elm rises in the Grey Hills.", {"title": "Elm"}),
        Passage("tarn", "Lake Tarn freezes from December to March.", {"title": "lake tarn"}),
        Passage("ferry", "A ferry crosses every hour, and the fare is 3 crowns.", {"title": "Timetable"}),
        Passage("theatre", "In 1988 the theatre burned down.", {"title": "Great Fire"}),
    )
    asked = {
        "elm": ("Where does the river Elm rise?", "Grey Hills"),
        "tarn": ("What freezes from December on?", "Lake Tarn"),
        "ferry": ("What is the fare of the ferry?", "3 crowns"),
        "theatre": ("When did the theatre burn down?", "1988"),
    }
    return QuestionSet("lake", passages, tuple(Question(text, (gold,), (key,)) for key, (text, gold) in asked.items()))


def _values(rows: Sequence[Row]) -> dict[str, float]:
    return {row.metric: row.value for row in rows}


# --- readers --------------------------------------------------------------------------------------


def test_squad_asks_every_question_over_the_distinct_paragraphs_of_all_articles(folder: Path) -> None:
    [squad] = read_benchmarks(folder, ["squad"])
    assert [(p.title, p.text) for p in squad.passages] == [
        ("Lake Tarn", "It freezes in December."),
        ("Ostrava", "Ostrava has a theatre."),
    ]
    first, last = squad.passages[0].id, squad.passages[1].id
    assert squad.questions == (
        Question("When does it freeze?", ("December", "in December"), (first,)),
        Question("What freezes?", ("It",), (first,)),
        Question("When?", ("December",), (first,)),
        Question("Where?", ("Ostrava",), (last,)),
    )


def test_natural_questions_share_a_corpus_of_distinct_gold_passages(folder: Path) -> None:
    [nq] = read_benchmarks(folder, ["nq_open"])
    [passage] = nq.passages
    assert (passage.title, passage.text) == ("Winter Ferry", "Oskar Bell composed it.")
    assert [question.gold for question in nq.questions] == [(passage.id,)] * 2
    assert nq.questions[1].text == "question 1"
    assert nq.questions[1].answers == ("Oskar Bell", "Bell")


def test_hotpotqa_has_two_gold_passages_in_a_pooled_corpus(folder: Path) -> None:
    [hotpotqa] = read_benchmarks(folder, ["hotpotqa"])
    titles = {passage.id: passage.title for passage in hotpotqa.passages}
    assert sorted(titles.values()) == ["Elm", "Ostrava", "Tarn"]
    assert [titles[key] for key in hotpotqa.questions[0].gold] == ["Ostrava", "Elm"]
    assert "yes" in hotpotqa.closed_answers


def test_a_missing_folder_is_refused_with_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match=r"nowhere is no folder. Give the folder .* squad/dev.json"):
        read_benchmarks(tmp_path / "nowhere")


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "nq_open" / "dev.jsonl").unlink()
    with pytest.raises(DataFormatError, match=r"dev\.jsonl cannot be read"):
        read_benchmarks(folder)


@pytest.mark.parametrize(
    ("path", "line", "complaint"),
    [
        ("nq_open/dev.jsonl", "{broken", "line 3 is not valid JSON"),
        ("nq_open/dev.jsonl", "[1]", "line 3 must be a JSON object"),
        ("nq_open/dev.jsonl", '{"question": "?", "answers": []}', r"line 3: the fields \['ctxs'\] are missing"),
        ("nq_open/dev.jsonl", '{"question": "?", "answers": [], "ctxs": []}', "line 3 is not"),
        ("hotpotqa/dev.questions.jsonl", '{"question": "?", "answer": "", "gold_titles": ["Oz"]}', "line 2: .*'Oz'"),
        ("squad/dev.json", "more", "dev.json is not SQuAD's format"),
    ],
)
def test_what_is_wrong_with_a_file_is_named_with_its_line(folder: Path, path: str, line: str, complaint: str) -> None:
    with (folder / path).open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(DataFormatError, match=complaint):
        read_benchmarks(folder)


def test_an_unknown_benchmark_is_refused_with_the_known_ones(folder: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"\['trivia'\]; allowed are \['squad', 'nq_open', 'hotpotqa'\]"):
        read_benchmarks(folder, ["squad", "trivia"])


# --- benchmarks -----------------------------------------------------------------------------------


def test_recall_em_and_f1_are_those_of_plain_search_and_generation(
    tiny: Callable[..., OneGen], lake: QuestionSet
) -> None:
    model = tiny()
    rows = evaluate_benchmark(model, lake, max_new_tokens=12, progress=False)

    texts = [p.text for p in lake.passages[:2]] + [f"{p.title}\n{p.text}" for p in lake.passages[2:]]
    similarity = model.embed_queries([q.text for q in lake.questions]) @ model.embed_documents(texts).T
    right = np.mean(similarity.argmax(axis=1) == np.arange(4))  # question number i is about passage number i
    source = MemoryPassages(model)
    source.add(Passage(str(number), text) for number, text in enumerate(texts))
    answers = [model.generate(q.text, passages=source, max_new_tokens=12).answer for q in lake.questions]
    values = _values(rows)
    assert values["recall@1"] == right
    assert values["recall@5"] == 1  # of four passages
    assert values["EM"] == np.mean([exact_match(a, q.answers) for a, q in zip(answers, lake.questions, strict=True)])
    assert values["F1"] == np.mean([f1(a, q.answers) for a, q in zip(answers, lake.questions, strict=True)])
    assert {row.n for row in rows} == {4}


@pytest.mark.parametrize("chunk_tokens", [None, 200])
def test_titles_stand_where_the_model_looks_for_them(
    tiny: Callable[..., OneGen], lake: QuestionSet, chunk_tokens: int | None
) -> None:
    texts = [passage.text for passage in lake.passages]
    titled = [*texts[:2], f"Timetable\n{texts[2]}", f"Great Fire\n{texts[3]}"]  # where the text does not hold it
    model = tiny(document_template="<paragraph>{text}", passage_template="<paragraph>{text}")
    chunks, _ = chunks_for(model, lake.passages, chunk_tokens)
    assert [chunk.text for chunk in chunks] == titled
    model = tiny(document_template="{title}: {text}", passage_template="{title}: {text}")
    chunks, _ = chunks_for(model, lake.passages, chunk_tokens)
    assert [(chunk.title, chunk.text) for chunk in chunks] == [(p.title, p.text) for p in lake.passages]


def test_bm25_ranks_the_same_corpus(tiny: Callable[..., OneGen], lake: QuestionSet) -> None:
    unknown = Question("Qwertz?", ("none",), ("elm",))  # BM25 knows none of its words
    rows = evaluate_benchmark(
        tiny(), QuestionSet("lake", lake.passages, (*lake.questions, unknown)), max_new_tokens=1, progress=False
    )
    assert _values(rows)["BM25 recall@1"] >= 4 / 5
    assert _values(rows)["BM25 recall@5"] == 1


def test_right_answers_get_full_marks_and_closed_ones_none_in_part(
    tiny: Callable[..., OneGen], lake: QuestionSet
) -> None:
    model = tiny(document_template="{title}: {text}", passage_template="{title}: {text}")  # has a place for titles
    source = MemoryPassages(model)
    source.add(lake.passages)
    said = [model.generate(q.text, passages=source, max_new_tokens=12).answer for q in lake.questions]
    assert all(normalize_answer(text) for text in said)
    asked = tuple(Question(q.text, ("no", text), q.gold) for q, text in zip(lake.questions, said, strict=True))
    lake = QuestionSet("lake", lake.passages, asked)
    values = _values(evaluate_benchmark(model, lake, max_new_tokens=12, progress=False))
    assert values["EM"] == values["F1"] == 1

    near = tuple(Question(q.text, (f"{text} zzz",), q.gold) for q, text in zip(lake.questions, said, strict=True))
    for closed, in_part in ((frozenset(), True), (frozenset(map(normalize_answer, said)), False)):
        near_set = QuestionSet("lake", lake.passages, near, closed)
        values = _values(evaluate_benchmark(model, near_set, max_new_tokens=12, progress=False))
        assert (values["EM"], values["F1"] > 0) == (0, in_part)


def test_a_passage_beyond_the_context_is_refused_unless_it_is_to_be_cut(
    tiny: Callable[..., OneGen], lake: QuestionSet
) -> None:
    long = Passage("hills", "The hills are grey. " * 300 + "A hermit called Quist lives there.", {"title": "Hills"})
    asked = (
        Question("Where does Quist live?", ("there",), ("hills",)),
        Question(
            "What are the grey hills?", ("grey",), ("tarn",)
        ),  # whose passage comes after every chunk of the hills
    )
    hills = QuestionSet("hills", (*lake.passages, long), (*lake.questions, *asked))
    with pytest.raises(ContextWindowError):
        evaluate_benchmark(tiny(), hills, max_new_tokens=1, progress=False)

    rows = evaluate_benchmark(tiny(), hills, chunk_tokens=100, max_new_tokens=1, progress=False)
    [cut] = [row for row in rows if row.metric == "passages cut into chunks"]
    assert (cut.value, cut.n) == (1, 5)
    assert _values(rows)["BM25 recall@1"] == 5 / 6  # Quist by the last of many chunks
    assert _values(rows)["BM25 recall@5"] == 1  # all chunks together count as one of the five passages
    assert _values(rows)["recall@5"] == 1
    with pytest.raises(InvalidInputError, match="chunk_tokens is 0"):
        evaluate_benchmark(tiny(), hills, chunk_tokens=0, progress=False)


def test_recall_of_two_gold_passages_says_that_it_is_a_share(tiny: Callable[..., OneGen], folder: Path) -> None:
    [hotpotqa] = read_benchmarks(folder, ["hotpotqa"])
    values = _values(evaluate_benchmark(tiny(), hotpotqa, max_new_tokens=4, progress=False))
    assert values["BM25 recall@1 of 2 gold passages"] == 0.5
    assert values["recall@1 of 2 gold passages"] <= 0.5
    assert values["recall@5 of 2 gold passages"] == 1


def test_a_limit_answers_fewer_questions_spread_over_the_whole_set(
    tiny: Callable[..., OneGen], lake: QuestionSet
) -> None:
    assert evenly(range(10), 4) == [0, 2, 5, 7]
    assert evenly("abc", 5) == evenly("abc", None) == ["a", "b", "c"]
    rows = evaluate_benchmark(tiny(), lake, limit=2, max_new_tokens=1, progress=False)
    asked = {row.metric: row.n for row in rows if "recall" not in row.metric}
    assert asked == {"EM": 2, "F1": 2, "answers broken off, context full": 2, "passages cut into chunks": 4}
    assert {row.n for row in rows if "recall" in row.metric} == {len(lake.questions)}


def test_an_answer_without_room_for_its_passages_is_scored_as_far_as_it_got(
    tiny: Callable[..., OneGen], play: Callable[[Mapping[int, str]], None]
) -> None:
    model = tiny()
    source = MemoryPassages(model)
    source.add([Passage("long", "The hills are grey. " * 50)])
    play({0: "[RQ]", 4: "[RQ]", 8: "[RQ]"})
    generation = answer(model, "What are the hills?", passages=source)
    assert generation.finish_reason == "error"
    assert generation.retrievals
    with pytest.raises(ContextWindowError):
        answer(model, "What are the hills? " * 300)


def test_without_bm25s_the_benchmarks_name_the_extra_to_install(
    tiny: Callable[..., OneGen], lake: QuestionSet, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ImportError, match=r"onegen-integrations\[evaluate\]"):
        evaluate_benchmark(tiny(), lake, progress=False)
    with pytest.raises(ImportError, match=r"onegen-integrations\[evaluate\]"):
        evaluate_mini(tiny(), data=folder, progress=False)


# --- the recipe -----------------------------------------------------------------------------------


def test_no_two_entities_of_a_world_go_by_the_same_name() -> None:
    """So a question of a world has one passage that answers it."""
    for seed in range(3):
        names = [normalize_answer(entity.name) for entity in World(Random(seed), 300).entities]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("read", [demo_questions, user_questions])
def test_hand_written_questions_are_answered_by_their_last_source(read: Callable[[], QuestionSet]) -> None:
    questions = read()
    texts = {passage.id: passage.text for passage in questions.passages}
    assert len(texts) == len(questions.passages)
    for question in questions.questions:
        last = texts[question.gold[-1]].lower()
        assert any(gold.lower() in last for gold in question.answers), question


def test_the_recipe_measures_everything_that_has_a_target(tiny: Callable[..., OneGen], folder: Path) -> None:
    rows = evaluate_mini(tiny(), seed=5, worlds=2, passages=12, limit=2, data=folder, progress=False)
    by_key = {(row.name, row.metric): row for row in rows}
    assert {key: row.target for key, row in by_key.items() if row.target is not None} == TARGETS
    assert all(0 <= by_key[key].value <= 1 for key in TARGETS)
    assert by_key["stuffed prompts", "EM"].n == 4  # two in each of two worlds
    assert by_key["demo", "EM, two hops"].n == 2
    assert by_key["user documents", "recall@1"].n == 100
    assert {row.name for row in rows} >= {"squad", "nq_open", "hotpotqa"}
    assert (rows[0].metric, rows[0].value, rows[-1].metric) == ("seed", 5, "seconds")


def test_the_same_seed_measures_the_same(tiny: Callable[..., OneGen]) -> None:
    options = {"worlds": 1, "passages": 12, "limit": 1, "progress": False}
    first, again, other = (evaluate_mini(tiny(), seed=seed, **options)[1:-1] for seed in (5, 5, 6))
    assert first == again
    assert {row.n for row in first if row.metric == "recall@1"} != {row.n for row in other if row.metric == "recall@1"}


# --- reports --------------------------------------------------------------------------------------

ROWS = [
    Row("run", "seed", 7),
    *mean_rows(
        {("worlds", "EM"): [1.0, 1.0, 0.0, 1.0], ("demo", "EM"): [0.0]}, {("worlds", "EM"): 0.75, ("demo", "EM"): 0.5}
    ),
]


def test_rows_as_a_table() -> None:
    assert as_table(ROWS).split("\n") == [
        "part    metric  value  target  reached  n",
        "run     seed        7                   1",
        "worlds  EM      0.750    0.75      yes  4",
        "demo    EM      0.000    0.50       no  1",
    ]


def test_rows_as_json() -> None:
    seed, worlds, _ = json.loads(as_json(ROWS))
    assert seed == {"name": "run", "metric": "seed", "value": 7, "target": None, "n": 1, "reached": None}
    assert worlds == {"name": "worlds", "metric": "EM", "value": 0.75, "target": 0.75, "n": 4, "reached": True}
