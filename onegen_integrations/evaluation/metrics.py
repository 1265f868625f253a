"""Scores of answers and of retrieval, as the published evaluation scripts compute them."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass

HOTPOTQA_CLOSED_ANSWERS = frozenset({"yes", "no", "noanswer"})

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower case, no ASCII punctuation, no articles, single spaces.

    Source: `normalize_answer` of SQuAD's evaluation script (Rajpurkar et al. 2016), which HotpotQA's (Yang et al. 2018)
    shares.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(prediction: str, golds: Iterable[str]) -> float:
    """1 where the prediction equals one of the gold answers after normalisation, else 0 (EM of SQuAD and HotpotQA)."""
    return float(normalize_answer(prediction) in map(normalize_answer, golds))


def f1(prediction: str, golds: Iterable[str], *, closed: Collection[str] = ()) -> float:
    """Harmonic mean of the precision and recall of normalised words, the best over the gold answers.

    Source: SQuAD's evaluation script, version 1.1. HotpotQA's differs in one thing: an answer of a closed set
    (`closed=HOTPOTQA_CLOSED_ANSWERS`) is right or wrong as a whole.
    """
    predicted = normalize_answer(prediction)
    return max((_word_f1(predicted, normalize_answer(gold), closed) for gold in golds), default=0.0)


def _word_f1(predicted: str, gold: str, closed: Collection[str]) -> float:
    if predicted != gold and (predicted in closed or gold in closed):
        return 0.0
    return micro_scores(predicted.split(), gold.split()).f1


def match(prediction: str, golds: Iterable[str]) -> float:
    """1 where a gold answer stands in the prediction, letter for letter, else 0.

    Source: the `match` metric of Self-RAG's evaluation (Asai et al. 2023), after PopQA's (Mallen et al. 2023).
    """
    return float(any(gold in prediction for gold in golds))


def recall_at_k(ranked: Sequence[Hashable], gold: Collection[Hashable], k: int) -> float:
    """Share of the gold ids among the first `k` ranked ones (Manning et al. 2008, chapter 8).

    With one gold id it is 1 or 0. With more than `k` of them it cannot reach 1.
    """
    distinct = set(gold)
    return len(distinct.intersection(ranked[:k])) / len(distinct)


@dataclass(frozen=True)
class MicroScores:
    """Precision, recall and F1, each 0 where it would be 0 / 0."""

    precision: float
    recall: float
    f1: float


def micro_scores(predicted: Iterable[Hashable], gold: Iterable[Hashable]) -> MicroScores:
    """Micro-averaged scores over two multisets: an item that is gold twice has to be predicted twice.

    Items of several documents carry their document's id, as in entity linking: (document, surface form, entity id).
    Source: the micro scores of entity-linking benchmarks (Cornolti et al. 2013).
    """
    found, wanted = Counter(predicted), Counter(gold)
    right = (found & wanted).total()
    precision = right / found.total() if found else 0.0
    recall = right / wanted.total() if wanted else 0.0
    return MicroScores(precision, recall, 2 * precision * recall / (precision + recall) if right else 0.0)
