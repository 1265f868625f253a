"""LlamaIndex: one set of weights as LLM, as embedding model, and as a query engine that retrieves while it answers."""

from importlib.util import find_spec

if find_spec("llama_index") is None or find_spec("llama_index.core") is None:
    msg = (
        "onegen_integrations.llama_index needs the package llama-index-core; install onegen-integrations[llama-index]."
    )
    raise ImportError(msg)
if find_spec("llama_index.vector_stores") is None or find_spec("llama_index.vector_stores.chroma") is None:
    msg = (
        "onegen_integrations.llama_index needs the package llama-index-vector-stores-chroma; install"
        " onegen-integrations[llama-index]."
    )
    raise ImportError(msg)

from onegen_integrations.llama_index.chat_engine import OneGenChatEngine
from onegen_integrations.llama_index.chroma import OneGenChromaVectorStore, open_vector_store
from onegen_integrations.llama_index.context import ContextMessage
from onegen_integrations.llama_index.embedding import OneGenEmbedding
from onegen_integrations.llama_index.llm import OneGenLLM
from onegen_integrations.llama_index.query_engine import OneGenQueryEngine
from onegen_integrations.llama_index.retrieval import PassageRetriever

__all__ = [
    "ContextMessage",
    "OneGenChatEngine",
    "OneGenChromaVectorStore",
    "OneGenEmbedding",
    "OneGenLLM",
    "OneGenQueryEngine",
    "PassageRetriever",
    "open_vector_store",
]
