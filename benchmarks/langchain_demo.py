"""Ask questions of the demo knowledge base through LangChain's own chains and through `OneGenRAG`.

    python benchmarks/langchain_demo.py [--model FOLDER] [--questions 25] [--k 1]

It counts how often the right source comes first and a gold answer stands in the answer, and how often the answer is
nothing but that.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from _tally import Asked, compare
from langchain_classic.chains import create_retrieval_chain
from langchain_classic.chains.combine_documents import create_stuff_documents_chain
from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableParallel, RunnablePassthrough

from onegen_integrations.evaluation.mini import demo_questions
from onegen_integrations.evaluation.runner import evenly
from onegen_integrations.generation import final_answer
from onegen_integrations.langchain import OneGenChroma, OneGenLLM, OneGenRAG

SYSTEM = "Use the given context to answer the question. If you don't know the answer, say you don't know.\n\n{context}"


def chains(llm: OneGenLLM, store: OneGenChroma, k: int) -> dict[str, Asked]:
    """The chains to compare."""
    retriever = store.as_retriever(search_kwargs={"k": k})
    prompt = ChatPromptTemplate.from_messages([("system", SYSTEM), ("human", "{input}")])
    join = RunnablePassthrough.assign(context=lambda given: "\n\n".join(d.page_content for d in given["context"]))
    lcel = RunnableParallel(context=retriever, input=RunnablePassthrough()) | RunnablePassthrough.assign(
        answer=join | prompt | llm | StrOutputParser()
    )
    stuffed = create_retrieval_chain(retriever, create_stuff_documents_chain(llm, prompt))
    rag = OneGenRAG(llm=llm, vectorstore=store, k=k)

    def asked(run: Callable[[str], dict[str, Any]]) -> Asked:
        def ask(question: str) -> tuple[str, str | None]:
            result = run(question)
            answer = final_answer(result["answer"], llm.onegen.config.answer_start, "")
            return answer, next((document.id for document in result["context"]), None)

        return ask

    return {
        "prompt | llm | parser": asked(lcel.invoke),
        "create_retrieval_chain": asked(lambda question: stuffed.invoke({"input": question})),
        "OneGenRAG": asked(lambda question: rag.invoke({"input": question})),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder of a checkpoint (default: the bundled one)")
    parser.add_argument("--questions", type=int, default=25, help="how many, evenly spread (default: %(default)s)")
    parser.add_argument("--k", type=int, default=1, help="passages for each question (default: %(default)s)")
    args = parser.parse_args()
    base = demo_questions()
    llm = OneGenLLM(model=args.model, max_tokens=64)
    documents = [Document(id=p.id, page_content=p.text, metadata=dict(p.metadata)) for p in base.passages]
    store = OneGenChroma.from_documents(documents, llm, collection_name="demo", titles=True)
    compare(chains(llm, store, args.k), evenly([q for q in base.questions if q.hops == 1], args.questions))


if __name__ == "__main__":
    main()
