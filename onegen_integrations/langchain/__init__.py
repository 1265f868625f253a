"""LangChain: one set of weights as chat model, as embeddings, and as a chain that retrieves while it answers."""

from importlib.util import find_spec

if find_spec("langchain_core") is None or find_spec("langchain_chroma") is None:
    msg = (
        "onegen_integrations.langchain needs the packages langchain-core and langchain-chroma; install"
        " onegen-integrations[langchain]."
    )
    raise ImportError(msg)

from onegen_integrations.langchain.embeddings import OneGenEmbeddings
from onegen_integrations.langchain.llm import OneGenLLM
from onegen_integrations.langchain.rag import OneGenRAG
from onegen_integrations.langchain.sources import VectorStorePassages
from onegen_integrations.langchain.vectorstore import OneGenChroma

__all__ = ["OneGenChroma", "OneGenEmbeddings", "OneGenLLM", "OneGenRAG", "VectorStorePassages"]
