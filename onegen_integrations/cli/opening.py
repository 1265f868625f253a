"""The model and the passages that a command line names."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers.utils import logging

from onegen_integrations.errors import InvalidInputError, PassageStoreError
from onegen_integrations.model import OneGen
from onegen_integrations.passages import ScoredPassage, Vectors

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

    from onegen_integrations.chroma import ChromaPassages


def open_model(args: argparse.Namespace) -> OneGen:
    """The checkpoint of `--model`, `--config` and `--device`; transformers stays quiet unless `--debug` is given.

    Raises:
        InvalidInputError: the device does not exist here.
        OneGenError: see `OneGen.from_pretrained`.
    """
    if not args.debug:
        logging.disable_progress_bar()
        logging.set_verbosity_error()
    if args.device is not None:
        try:
            torch.empty(0, device=args.device)
        except (AssertionError, RuntimeError) as error:
            msg = f"--device {args.device} cannot be used here: {str(error).splitlines()[0]}"
            raise InvalidInputError(msg) from error
    return OneGen.from_pretrained(args.model, config=args.config, device=args.device)


def open_passages(args: argparse.Namespace, model: OneGen) -> ChromaPassages:
    """The collection of `--db` or `--host`, which is made where it does not exist.

    Raises:
        ImportError: Chroma is not installed.
        OneGenError: see `ChromaPassages`.
    """
    from onegen_integrations.chroma import ChromaPassages

    return ChromaPassages(model, client=_client(args), collection=args.collection)


def open_source(args: argparse.Namespace, model: OneGen) -> ChromaPassages | FilteredPassages:
    """Passages to answer from: those of `open_passages`, and of them only the ones that `--where` lets through.

    Raises:
        PassageStoreError: there are none.
    """
    from onegen_integrations.chroma.collection import store_errors

    where = f"{args.host}:{args.port}" if args.db is None else args.db
    advice = "fill it with: onegen index PATHS..."
    if args.db is not None and not (args.db.exists() and (args.db.is_file() or any(args.db.iterdir()))):
        msg = f"There is no database {where}; {advice}"
        raise PassageStoreError(msg)
    with store_errors(f"list the collections of {where}"):
        names = sorted(collection.name for collection in _client(args).list_collections())
    if args.collection not in names:
        msg = f"There is no collection {args.collection!r} in {where}, which has {names}; {advice}"
        raise PassageStoreError(msg)
    passages = open_passages(args, model)
    if passages.count() == 0:
        msg = f"The collection {args.collection!r} of {where} holds no passages; {advice}"
        raise PassageStoreError(msg)
    return passages if args.where is None else FilteredPassages(passages, args.where)


def _client(args: argparse.Namespace) -> ClientAPI:
    """Of the database in `--db`, or of the server at `--host`."""
    if args.host is None:
        from onegen_integrations.chroma import open_database

        return open_database(args.db)

    import chromadb
    from chromadb.config import Settings

    from onegen_integrations.chroma.collection import store_errors

    with store_errors(f"reach the server {args.host}:{args.port}"):
        return chromadb.HttpClient(args.host, args.port, settings=Settings(anonymized_telemetry=False))


class FilteredPassages:
    """The passages of a collection whose metadata fulfil a Chroma filter, as a `PassageSource`."""

    def __init__(self, passages: ChromaPassages, where: Mapping[str, Any]) -> None:
        self._passages = passages
        self._where = dict(where)

    def search(self, vectors: Vectors, k: int) -> Sequence[Sequence[ScoredPassage]]:
        return self._passages.search(vectors, k, where=self._where)


def answer_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `OneGen.generate` that `add_answer_options` reads, without the passages."""
    return {
        "top_k": args.top_k,
        "retrieval": args.retrieval,
        "score_threshold": args.score_threshold,
        "max_new_tokens": args.max_new_tokens,
    }
