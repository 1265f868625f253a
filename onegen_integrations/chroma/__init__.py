"""Chroma: passages and their vectors on disk or on a server, and OneGen as Chroma's embedding function."""

from importlib.util import find_spec

if find_spec("chromadb") is None:
    msg = "onegen_integrations.chroma needs the package chromadb; install onegen-integrations[chroma]."
    raise ImportError(msg)

from onegen_integrations.chroma.collection import (
    check_owner,
    check_sample,
    client_of,
    open_collection,
    open_database,
    rows_per_call,
)
from onegen_integrations.chroma.embedding_function import OneGenEmbeddingFunction
from onegen_integrations.chroma.passages import ChromaPassages

__all__ = [
    "ChromaPassages",
    "OneGenEmbeddingFunction",
    "check_owner",
    "check_sample",
    "client_of",
    "open_collection",
    "open_database",
    "rows_per_call",
]
