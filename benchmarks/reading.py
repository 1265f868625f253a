"""How well a checkpoint reads documents that nobody had looked at while it was made, alone and beside others.

    python benchmarks/reading.py [--model FOLDER ...]

`data/` has 100 passages of true facts ("facts") and 70 documents as people and firms have them ("user"), each with
three questions; many are about things of the same kind. The columns: the right passage found first; the answer given in
one pass, over one passage; and the answer from a prompt of LangChain's or LlamaIndex's with the 1, 2 or 4 best passages
in it, all by exact match.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tqdm.auto import tqdm

from onegen_integrations import OneGen
from onegen_integrations.evaluation.metrics import exact_match
from onegen_integrations.evaluation.runner import QuestionSet, answer, read_question_set
from onegen_integrations.passages import MemoryPassages, Passage
from onegen_integrations.text import Messages

DATA = Path(__file__).parent / "data"
LANGCHAIN = (
    "Use the given context to answer the question. If you don't know the answer, say you don't know.\n\n{context}"
)
LLAMA_INDEX = (
    "Context information is below.\n---------------------\n{context}\n---------------------\nGiven the context"
    " information and not prior knowledge, answer the query.\nQuery: {question}\nAnswer: "
)
PASSAGES = {"LangChain": (1, 2, 4), "LlamaIndex": (1, 2)}


def prompt(framework: str, question: str, passages: Sequence[Passage]) -> Messages:
    """The prompt that a framework's own chain makes of a question and of what was found for it."""
    if framework == "LangChain":
        context = "\n\n".join(passage.text for passage in passages)
        return [
            {"role": "system", "content": LANGCHAIN.replace("{context}", context)},
            {"role": "user", "content": question},
        ]
    context = "\n\n".join(f"title: {passage.title}\n\n{passage.text}" for passage in passages)
    return [{"role": "user", "content": LLAMA_INDEX.replace("{context}", context).replace("{question}", question)}]


def measure(model: OneGen, questions: QuestionSet) -> dict[str, float]:
    """Shares of the questions that are answered right, by the way they are asked."""
    source = MemoryPassages(model)
    source.add(questions.passages)
    right: dict[str, float] = defaultdict(float)
    for question in tqdm(questions.questions, desc=questions.name, unit="question"):
        found = source.search(model.embed_queries([question.text]), max(map(max, PASSAGES.values())))[0]
        right["found first"] += found[0].id in question.gold
        said = answer(model, question.text, passages=source, max_new_tokens=64)
        right["one pass"] += exact_match(said.answer, question.answers)
        for framework, counts in PASSAGES.items():
            for count in counts:
                messages = prompt(framework, question.text, found[:count])
                said = answer(model, messages, retrieval="never", max_new_tokens=64)
                right[f"{framework} {count}"] += exact_match(said.answer, question.answers)
    return {name: number / len(questions.questions) for name, number in right.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="*", default=[None], help="folders of checkpoints (default: the bundled one)")
    for folder in parser.parse_args().model:
        model = OneGen.from_pretrained(folder) if folder else OneGen.from_pretrained()
        for name in ("facts", "user"):
            questions = read_question_set(name, DATA / f"{name}_passages.jsonl", DATA / f"{name}_questions.jsonl")
            scores = "  ".join(f"{way} {score:.3f}" for way, score in measure(model, questions).items())
            print(f"{model.name}  {name}: {scores}", flush=True)


if __name__ == "__main__":
    main()
