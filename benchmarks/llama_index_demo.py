"""LlamaIndex over the demo knowledge base: how many questions are answered right, from the right source.

    python benchmarks/llama_index_demo.py [--questions 25]

It needs the extra `llama-index`, and no network. The framework's own engine embeds the question, retrieves, and puts
what it found into a prompt; `OneGenQueryEngine` retrieves while it answers.
"""

import argparse
import time
from tempfile import TemporaryDirectory

from llama_index.core import Document, Settings, StorageContext, VectorStoreIndex

from onegen_integrations.evaluation.metrics import exact_match
from onegen_integrations.evaluation.mini import demo_questions
from onegen_integrations.evaluation.runner import evenly
from onegen_integrations.llama_index import OneGenLLM, OneGenQueryEngine, open_vector_store

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--questions", type=int, default=25, help="how many, evenly spread (default: %(default)s)")
demo = demo_questions()
asked = evenly([question for question in demo.questions if question.hops == 1], parser.parse_args().questions)

llm = OneGenLLM(max_tokens=96)
Settings.llm, Settings.embed_model, Settings.tokenizer = llm, llm.as_embed_model(), llm.tokenize

with TemporaryDirectory() as folder:
    documents = [
        Document(id_=passage.id, text=passage.text, metadata=dict(passage.metadata)) for passage in demo.passages
    ]
    storage = StorageContext.from_defaults(vector_store=open_vector_store(llm, path=folder))
    index = VectorStoreIndex.from_documents(documents, storage_context=storage, show_progress=True)
    engines = {
        "index.as_query_engine()": index.as_query_engine(),
        "index.as_query_engine(similarity_top_k=1)": index.as_query_engine(similarity_top_k=1),
        "OneGenQueryEngine.from_index(index)": OneGenQueryEngine.from_index(index),
    }
    print(f"{llm.metadata.model_name}: {len(demo.passages)} passages, {len(asked)} questions")
    for name, engine in engines.items():
        started = time.perf_counter()
        answers = sources = both = 0
        for question in asked:
            response = engine.query(question.text)
            answer = (response.metadata or {}).get("answer", response.response)
            best = max(response.source_nodes, key=lambda node: node.score or 0.0, default=None)
            right_answer = bool(exact_match(answer, question.answers))
            right_source = best is not None and best.node.ref_doc_id in question.gold
            answers += right_answer
            sources += right_source
            both += right_answer and right_source
        seconds = time.perf_counter() - started
        print(f"{name}: right answer {answers}, right source {sources}, both {both}; {seconds:.1f} s")
