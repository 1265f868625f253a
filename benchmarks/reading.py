"""How well a checkpoint reads documents that nobody had looked at while it was made, alone and beside others.

    python benchmarks/reading.py [--model FOLDER ...]

`data/facts.jsonl` has 100 passages of true facts, `data/user.jsonl` 70 documents as people and firms have them, each
with three questions; many are about things of the same kind. The columns: the right passage found first; the answer
given in one pass, over one passage; and the answer from a prompt of LangChain's or LlamaIndex's with the 1, 2 or 4 best
passages in it, all by exact match.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

from tqdm.auto import tqdm

from onegen_integrations import OneGen
from onegen_integrations.evaluation.metrics import exact_match
from onegen_integrations.evaluation.runner import answer
from onegen_integrations.jsonl import read_objects
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


def prompt(framework: str, question: str, passages: list[Passage]) -> Messages:
    """The prompt that a framework's own chain makes of a question and of what was found for it."""
    if framework == "LangChain":
        context = "\n\n".join(passage.text for passage in passages)
        return [
            {"role": "system", "content": LANGCHAIN.replace("{context}", context)},
            {"role": "user", "content": question},
        ]
    context = "\n\n".join(f"title: {passage.title}\n\n{passage.text}" for passage in passages)
    return [{"role": "user", "content": LLAMA_INDEX.replace("{context}", context).replace("{question}", question)}]


def measure(model: OneGen, path: Path) -> dict[str, float]:
    """Shares of the questions of a file that are answered right, by the way they are asked."""
    rows = [row for _, _, row in read_objects(path, "id", "title", "text", "questions")]
    passages = {row["id"]: Passage(row["id"], row["text"], {"title": row["title"]}) for row in rows}
    asked = [(row["id"], each["question"], each["answers"]) for row in rows for each in row["questions"]]
    source = MemoryPassages(model)
    source.add(passages.values())
    right: dict[str, float] = defaultdict(float)
    for gold, question, answers in tqdm(asked, desc=path.stem, unit="question"):
        found = source.search(model.embed_queries([question]), max(map(max, PASSAGES.values())))[0]
        right["found first"] += found[0].id == gold
        said = answer(model, question, passages=source, max_new_tokens=64)
        right["one pass"] += exact_match(said.answer, answers)
        for framework, counts in PASSAGES.items():
            for count in counts:
                messages = prompt(framework, question, [passages[passage.id] for passage in found[:count]])
                said = answer(model, messages, retrieval="never", max_new_tokens=64)
                right[f"{framework} {count}"] += exact_match(said.answer, answers)
    return {name: number / len(asked) for name, number in right.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="*", default=[None], help="folders of checkpoints (default: the bundled one)")
    for folder in parser.parse_args().model:
        model = OneGen.from_pretrained(folder) if folder else OneGen.from_pretrained()
        for path in sorted(DATA.glob("*.jsonl")):
            scores = "  ".join(f"{name} {score:.3f}" for name, score in measure(model, path).items())
            print(f"{model.name}  {path.stem}: {scores}", flush=True)


if __name__ == "__main__":
    main()
