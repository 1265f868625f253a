"""SQuAD, Natural Questions and HotpotQA: retrieval beside BM25, and answers of one-pass RAG.

`folder` holds the development sets: `squad/dev.json` (SQuAD 1.1's own format), `nq_open/dev.jsonl` (each question with
its gold passage, as Liu et al. 2023 published them), `hotpotqa/dev.questions.jsonl` and `hotpotqa/dev.corpus.jsonl`.
Nothing of them is in this package.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType, ModuleType

from tqdm.auto import tqdm

from onegen_integrations.errors import DataFormatError, InvalidInputError
from onegen_integrations.evaluation.metrics import HOTPOTQA_CLOSED_ANSWERS, exact_match, f1, recall_at_k
from onegen_integrations.evaluation.report import Row, mean_rows
from onegen_integrations.evaluation.runner import Question, QuestionSet, answer, evenly
from onegen_integrations.files import Document, split_document
from onegen_integrations.jsonl import read_objects, read_text
from onegen_integrations.model import OneGen
from onegen_integrations.passages import MemoryPassages, Passage

_DEPTHS = (1, 5, 10)


# --- readers --------------------------------------------------------------------------------------


class _Corpus:
    """Passages without duplicates, numbered as they come."""

    def __init__(self) -> None:
        self._ids: dict[tuple[str, str], str] = {}

    def add(self, title: str, text: str) -> str:
        """The id of a passage."""
        return self._ids.setdefault((title, text), str(len(self._ids)))

    def passages(self) -> tuple[Passage, ...]:
        return tuple(Passage(key, text, {"title": title}) for (title, text), key in self._ids.items())


def read_squad(folder: Path) -> QuestionSet:
    """SQuAD 1.1 (Rajpurkar et al. 2016): every question over the paragraphs of all articles."""
    path = folder / "squad" / "dev.json"
    corpus, questions = _Corpus(), []
    text = read_text(path)
    with _expecting(str(path), "SQuAD's format"):
        for article in json.loads(text)["data"]:
            for paragraph in article["paragraphs"]:
                gold = corpus.add(article["title"].replace("_", " "), paragraph["context"])
                for item in paragraph["qas"]:
                    answers = dict.fromkeys(found["text"] for found in item["answers"])
                    questions.append(Question(item["question"].strip(), tuple(answers), (gold,)))
    return QuestionSet("squad", corpus.passages(), tuple(questions))


def read_nq_open(folder: Path) -> QuestionSet:
    """Natural Questions, open domain (Lee et al. 2019), over the gold passages of all questions (Liu et al. 2023)."""
    path = folder / "nq_open" / "dev.jsonl"
    corpus, questions = _Corpus(), []
    for place, _, row in read_objects(path, "question", "answers", "ctxs"):
        with _expecting(place, "an object whose 'ctxs' hold the gold passage"):
            gold = corpus.add(*next((ctx["title"], ctx["text"]) for ctx in row["ctxs"] if ctx["isgold"]))
            questions.append(Question(row["question"], tuple(row["answers"]), (gold,)))
    return QuestionSet("nq_open", corpus.passages(), tuple(questions))


def read_hotpotqa(folder: Path) -> QuestionSet:
    """HotpotQA (Yang et al. 2018): questions with two gold passages each, over a pooled corpus."""
    corpus = _Corpus()
    rows = [row for _, _, row in read_objects(folder / "hotpotqa" / "dev.corpus.jsonl", "title", "text")]
    ids = {row["title"]: corpus.add(row["title"], row["text"]) for row in rows}
    questions = []
    path = folder / "hotpotqa" / "dev.questions.jsonl"
    for place, _, row in read_objects(path, "question", "answer", "gold_titles"):
        unknown = sorted(set(row["gold_titles"]) - set(ids))
        if unknown:
            msg = f"{place}: the corpus has no passages with the titles {unknown}."
            raise DataFormatError(msg)
        gold = tuple(ids[title] for title in row["gold_titles"])
        questions.append(Question(row["question"], (row["answer"],), gold))
    return QuestionSet("hotpotqa", corpus.passages(), tuple(questions), HOTPOTQA_CLOSED_ANSWERS)


@contextmanager
def _expecting(where: str, form: str) -> Iterator[None]:
    """Turn what goes wrong with data of another form into a `DataFormatError`."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, StopIteration) as error:
        msg = f"{where} is not {form}: {type(error).__name__} {error}."
        raise DataFormatError(msg) from error


BENCHMARKS: Mapping[str, Callable[[Path], QuestionSet]] = MappingProxyType(
    {"squad": read_squad, "nq_open": read_nq_open, "hotpotqa": read_hotpotqa}
)


def read_benchmarks(folder: str | Path, names: Iterable[str] | None = None) -> list[QuestionSet]:
    """The named benchmarks of a folder; default: all of `BENCHMARKS`.

    Raises:
        InvalidInputError: there is no benchmark of a name.
        DataFormatError: the folder or a file in it is missing or not in the expected format.
    """
    root = Path(folder)
    wanted = list(BENCHMARKS if names is None else names)
    unknown = [name for name in wanted if name not in BENCHMARKS]
    if unknown:
        msg = f"There are no benchmarks {unknown}; allowed are {list(BENCHMARKS)}."
        raise InvalidInputError(msg)
    if not root.is_dir():
        msg = (
            f"{root} is no folder. Give the folder of the public data sets, with squad/dev.json, nq_open/dev.jsonl,"
            " hotpotqa/dev.questions.jsonl and hotpotqa/dev.corpus.jsonl in it; or leave the benchmarks out."
        )
        raise DataFormatError(msg)
    return [BENCHMARKS[name](root) for name in wanted]


# --- measuring ------------------------------------------------------------------------------------


def evaluate_benchmark(
    model: OneGen,
    benchmark: QuestionSet,
    *,
    chunk_tokens: int | None = None,
    limit: int | None = None,
    max_new_tokens: int = 256,
    progress: bool = True,
) -> list[Row]:
    """Recall of the model's vectors and of BM25 over the whole corpus, EM and F1 of one-pass RAG (greedy, top_k 1).

    Recall@k is the mean share of a question's gold passages within the first k; HotpotQA has two for each question.
    Where the model's template has no place for titles, they stand before the texts that do not hold them; BM25 always
    sees them so. A cut passage ranks where its best chunk does.

    Args:
        model: the checkpoint to measure.
        benchmark: a corpus with questions.
        chunk_tokens: longer texts are cut into chunks of so many tokens, as `onegen index` cuts files, and a row says
            how many were; None: none is.
        limit: answer at most so many questions, evenly spread; recall is over all of them.
        max_new_tokens: of one answer.
        progress: show progress bars.

    Raises:
        ContextWindowError: a passage does not fit the model and was not to be cut.
        ImportError: the package bm25s is not installed, or langchain-text-splitters where passages are to be cut.
    """
    questions = benchmark.questions
    texts = [question.text for question in questions]
    chunks, cut = chunks_for(model, benchmark.passages, chunk_tokens)
    depth = _search_depth(chunks)
    by_bm25 = _bm25_search(chunks, texts, depth)
    source = MemoryPassages(model)
    source.add(chunks, show_progress=progress)
    by_vector = source.search(model.embed_queries(texts, show_progress=progress), depth)

    scores: dict[tuple[str, str], list[float]] = defaultdict(list)
    systems: dict[str, Sequence[Sequence[Passage]]] = {"": by_vector, "BM25 ": by_bm25}
    for system, rankings in systems.items():
        for question, ranking in zip(questions, rankings, strict=True):
            passages = list(dict.fromkeys(chunk.metadata["passage"] for chunk in ranking))
            for k in _DEPTHS:
                scores[benchmark.name, system + _recall_name(k, question)].append(
                    recall_at_k(passages, question.gold, k)
                )
    broken_off = 0
    answered = evenly(questions, limit)
    for question in tqdm(answered, desc=benchmark.name, unit="answer", disable=not progress):
        generation = answer(model, question.text, passages=source, max_new_tokens=max_new_tokens)
        broken_off += generation.finish_reason == "error"
        scores[benchmark.name, "EM"].append(exact_match(generation.answer, question.answers))
        word_f1 = f1(generation.answer, question.answers, closed=benchmark.closed_answers)
        scores[benchmark.name, "F1"].append(word_f1)
    return [
        *mean_rows(scores),
        Row(benchmark.name, "answers broken off, context full", broken_off, n=len(answered)),
        Row(benchmark.name, "passages cut into chunks", cut, n=len(benchmark.passages)),
    ]


def _recall_name(k: int, question: Question) -> str:
    gold = len(set(question.gold))
    return f"recall@{k}" if gold == 1 else f"recall@{k} of {gold} gold passages"


def chunks_for(model: OneGen, passages: Sequence[Passage], chunk_tokens: int | None) -> tuple[list[Passage], int]:
    """The passages as the model reads them, each with the id of its passage in `metadata`; and how many were cut."""
    if chunk_tokens is not None and chunk_tokens < 1:
        msg = f"chunk_tokens is {chunk_tokens}; give at least 1, or None to cut nothing."
        raise InvalidInputError(msg)
    title_in_text = "{title}" not in model.config.document_template

    def count_tokens(text: str) -> int:
        return len(model.codec.encode_text(text))

    def texts_of(passage: Passage) -> list[str]:
        if chunk_tokens is None:
            return [_titled(passage) if title_in_text else passage.text]
        document = Document(id=passage.id, root="", source="", place="", text=passage.text, title=passage.title)
        pieces = split_document(document, count_tokens, chunk_tokens, title_in_text=title_in_text)
        return [piece.text for piece in pieces]

    chunks, cut = [], 0
    for passage in passages:
        texts = texts_of(passage)
        cut += len(texts) > 1
        for number, text in enumerate(texts):
            chunks.append(Passage(f"{passage.id}#{number}", text, {"title": passage.title, "passage": passage.id}))
    return chunks, cut


def _titled(passage: Passage) -> str:
    holds_it = passage.title.casefold() in passage.text.casefold()
    return passage.text if holds_it else f"{passage.title}\n{passage.text}"


def _search_depth(chunks: Sequence[Passage]) -> int:
    """How many chunks to search for, so that they come from enough passages."""
    most = max(Counter(chunk.metadata["passage"] for chunk in chunks).values())
    return min(len(chunks), max(_DEPTHS) * most)


def bm25_library() -> ModuleType:
    """Raises:
    ImportError: the package bm25s is not installed.
    """
    try:
        import bm25s
    except ImportError as error:
        msg = "The benchmarks compare with BM25 and need the package bm25s; install onegen-integrations[evaluate]."
        raise ImportError(msg) from error
    return bm25s


def _bm25_search(passages: Sequence[Passage], queries: Sequence[str], k: int) -> list[list[Passage]]:
    """The k best passages for each query, best first.

    BM25 in Lucene's variant with k1 = 1.5 and b = 0.75, English stop words left out, no stemming: the defaults of bm25s
    (Lù 2024).
    """
    bm25s = bm25_library()
    retriever = bm25s.BM25()
    texts = [_titled(passage) for passage in passages]
    retriever.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
    words = bm25s.tokenize(list(queries), return_ids=False, show_progress=False)
    found = retriever.retrieve(words, k=k, show_progress=False).documents
    return [[passages[int(i)] for i in row] for row in found]
