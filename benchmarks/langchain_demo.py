"""Ask 25 questions of the demo knowledge base through LangChain's own chains and through `OneGenRAG`.

    python benchmarks/langchain_demo.py [--model FOLDER] [--questions 25] [--k 1]

Right means: the answer equals the gold answer (exact match), and the first document found is its source.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

from langchain_classic.chains import create_retrieval_chain
from langchain_classic.chains.combine_documents import create_stuff_documents_chain
from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableParallel, RunnablePassthrough

from onegen_integrations.evaluation.metrics import exact_match
from onegen_integrations.evaluation.mini import demo_questions
from onegen_integrations.evaluation.runner import Question, evenly
from onegen_integrations.generation import final_answer
from onegen_integrations.langchain import OneGenChroma, OneGenLLM, OneGenRAG

SYSTEM = "Use the given context to answer the question. If you don't know the answer, say you don't know.\n\n{context}"

Chain = Callable[[str], dict[str, Any]]  # question -> answer, context


def chains(llm: OneGenLLM, store: OneGenChroma, k: int) -> dict[str, Chain]:
    """The chains to compare; each takes a question and gives at least `answer` and `context`."""
    retriever = store.as_retriever(search_kwargs={"k": k})
    prompt = ChatPromptTemplate.from_messages([("system", SYSTEM), ("human", "{input}")])
    join = RunnablePassthrough.assign(context=lambda given: "\n\n".join(d.page_content for d in given["context"]))
    lcel = RunnableParallel(context=retriever, input=RunnablePassthrough()) | RunnablePassthrough.assign(
        answer=join | prompt | llm | StrOutputParser()
    )
    stuffed = create_retrieval_chain(retriever, create_stuff_documents_chain(llm, prompt))
    rag = OneGenRAG(llm=llm, vectorstore=store, k=k)
    return {
        "prompt | llm | parser": lcel.invoke,
        "create_retrieval_chain": lambda question: stuffed.invoke({"input": question}),
        "OneGenRAG": lambda question: rag.invoke({"input": question}),
    }


def right(result: dict[str, Any], question: Question, answer_start: str) -> tuple[bool, bool]:
    """Whether the answer and the source are right."""
    answer = final_answer(result["answer"], answer_start, "")
    sources = [document.id for document in result["context"]]
    return bool(exact_match(answer, question.answers)), bool(sources) and sources[0] in question.gold


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model")
    parser.add_argument("--questions", type=int, default=25)
    parser.add_argument("--k", type=int, default=1)
    args = parser.parse_args()
    base = demo_questions()
    asked = evenly([question for question in base.questions if question.hops == 1], args.questions)
    llm = OneGenLLM(model=args.model, max_tokens=64)
    documents = [Document(id=p.id, page_content=p.text, metadata=dict(p.metadata)) for p in base.passages]
    store = OneGenChroma.from_documents(documents, llm, collection_name="demo")
    print(f"{'':26}{'both right':>12}{'answer':>10}{'source':>10}{'seconds':>10}   of {len(asked)}")
    for name, chain in chains(llm, store, args.k).items():
        begun = time.perf_counter()
        scores = [right(chain(question.text), question, llm.onegen.config.answer_start) for question in asked]
        both, answers, sources = (sum(map(all, scores)), *(sum(column) for column in zip(*scores, strict=True)))
        print(f"{name:26}{both:12}{answers:10}{sources:10}{time.perf_counter() - begun:10.1f}", flush=True)


if __name__ == "__main__":
    main()
