"""Ask questions of the demo knowledge base through LlamaIndex's own query engine and through `OneGenQueryEngine`.

    python benchmarks/llama_index_demo.py [--model FOLDER] [--questions 25] [--hops 1]

The framework's own engine embeds the question, retrieves, and gives the model what it found: to read passage by
passage, or with the framework's own template in one prompt. `OneGenQueryEngine` retrieves while it answers. It counts
how often a right source comes first and a gold answer stands in the answer, and how often the answer is nothing but
that.
"""

from __future__ import annotations

import argparse
from tempfile import TemporaryDirectory

from _tally import Asked, compare
from llama_index.core import Document, Settings, StorageContext, VectorStoreIndex
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.prompts.chat_prompts import CHAT_TEXT_QA_PROMPT

from onegen_integrations.evaluation.mini import demo_questions
from onegen_integrations.evaluation.runner import evenly
from onegen_integrations.llama_index import OneGenLLM, OneGenQueryEngine, open_vector_store


def asked(engine: BaseQueryEngine) -> Asked:
    def ask(question: str) -> tuple[str, str | None]:
        response = engine.query(question)
        best = max(response.source_nodes, key=lambda node: node.score or 0.0, default=None)
        answer = (response.metadata or {}).get("answer", str(response))
        return answer, best.node.ref_doc_id if best else None

    return ask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder of a checkpoint (default: the bundled one)")
    parser.add_argument("--questions", type=int, default=25, help="how many, evenly spread (default: %(default)s)")
    parser.add_argument("--hops", type=int, default=1, help="passages that a question needs (default: %(default)s)")
    args = parser.parse_args()
    base = demo_questions()
    llm = OneGenLLM(model=args.model, max_tokens=96)
    Settings.llm, Settings.embed_model, Settings.tokenizer = llm, llm.as_embed_model(), llm.tokenize
    with TemporaryDirectory() as folder:
        documents = [Document(id_=p.id, text=p.text, metadata=dict(p.metadata)) for p in base.passages]
        storage = StorageContext.from_defaults(vector_store=open_vector_store(llm, path=folder))
        index = VectorStoreIndex.from_documents(documents, storage_context=storage, show_progress=True)
        ways = {
            "index.as_query_engine()": asked(index.as_query_engine()),
            "index.as_query_engine(similarity_top_k=10)": asked(index.as_query_engine(similarity_top_k=10)),
            "index.as_query_engine(), LlamaIndex's prompt": asked(
                index.as_query_engine(text_qa_template=CHAT_TEXT_QA_PROMPT)
            ),
            "OneGenQueryEngine.from_index(index)": asked(OneGenQueryEngine.from_index(index)),
        }
        compare(ways, evenly([q for q in base.questions if q.hops == args.hops], args.questions))


if __name__ == "__main__":
    main()
