"""Chroma databases, and collections in them that belong to one model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import chromadb
import httpx
import numpy as np
from chromadb.api import ClientAPI
from chromadb.api.collection_configuration import CreateCollectionConfiguration, CreateHNSWConfiguration
from chromadb.config import Settings
from chromadb.errors import InvalidArgumentError
from numpy.typing import ArrayLike

from onegen_integrations.errors import FingerprintMismatchError, InvalidInputError, OneGenError, PassageStoreError

if TYPE_CHECKING:
    from onegen_integrations.model import OneGen

SPACE: Final = "cosine"
FINGERPRINT = "onegen:fingerprint"
MODEL = "onegen:model"
FRAGMENTS = "onegen:fragments"
TITLES = "onegen:titles"
MOST_NUMBERS = 2**20  # in the vectors of one call: a Chroma server refuses requests of more than 40 MB
_SAME = 0.999  # cosine of two vectors that one model has made of one text, in whatever arithmetic
_ANOTHER = "use another collection name and add the passages there."


def client_of(path: str | Path | None, client: ClientAPI | None) -> ClientAPI:
    """The client that is given, or one of the database in a folder; default: `db` in the working directory.

    Raises:
        InvalidInputError: both are given.
        PassageStoreError: as `open_database`.
    """
    if path is not None and client is not None:
        msg = f"path={str(path)!r} and client= are both given; give the one or the other."
        raise InvalidInputError(msg)
    return open_database("db" if path is None else path) if client is None else client


def open_database(path: str | Path) -> ClientAPI:
    """A client of the Chroma database in a folder; a folder that is new or empty becomes one. It sends no telemetry.

    Raises:
        PassageStoreError: `path` is a file, a folder that holds other things, or cannot be opened by Chroma.
    """
    folder = Path(path)
    with store_errors(f"open the database {path}"):
        if folder.exists() and not folder.is_dir():
            msg = f"{path} is a file; give the folder of a Chroma database, or a new one."
            raise PassageStoreError(msg)
        if folder.is_dir() and any(folder.iterdir()) and not (folder / "chroma.sqlite3").is_file():
            msg = f"{path} holds files, but no Chroma database; give the folder of one, or a new or empty folder."
            raise PassageStoreError(msg)
        # Chroma keeps open databases by the path as it is given, whatever the working directory is by then.
        return chromadb.PersistentClient(str(folder.resolve()), settings=Settings(anonymized_telemetry=False))


def open_collection(
    client: ClientAPI,
    name: str,
    model: OneGen,
    *,
    fragments: bool = False,
    titles: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> chromadb.Collection:
    """Open the collection `name`, or create it, so that it holds vectors of `model` and of no other.

    The collection compares by cosine similarity and has no embedding function of its own. Its metadata hold the
    fingerprint and the name of the model, and what vectors are made of; an empty collection without a fingerprint gets
    them.

    Args:
        client: of the database.
        name: 3 to 512 letters, digits, `.`, `_` and `-`.
        model: makes all vectors of the collection.
        fragments: whether passages have one vector for each fragment; a collection keeps to one way.
        titles: whether the vectors of a collection that is created are made of titles and texts, see `has_titles`.
        metadata: further entries for a collection that is created.

    Raises:
        FingerprintMismatchError: the collection holds vectors of another model, or of an unknown one.
        PassageStoreError: it compares in another way than by cosine similarity, or Chroma failed.
        InvalidInputError: the name is not allowed, or the collection treats fragments otherwise.
    """
    mine = {FINGERPRINT: model.fingerprint, MODEL: model.name, FRAGMENTS: fragments, TITLES: titles}
    with store_errors(f"open the collection {name!r}"):
        try:
            collection = client.get_or_create_collection(
                name,
                embedding_function=None,
                configuration=CreateCollectionConfiguration(hnsw=CreateHNSWConfiguration(space=SPACE)),
                metadata={**(metadata or {}), **mine},
            )
        except InvalidArgumentError as error:
            msg = f"Chroma cannot open a collection {name!r}: {error}"
            raise InvalidInputError(msg) from error
        _check_space(collection)
        found: Mapping[str, Any] = collection.metadata or {}
        if FINGERPRINT not in found:
            _check_empty(collection)
            kept = {key: value for key, value in found.items() if not key.startswith("hnsw:")}  # Chroma refuses them
            collection.modify(metadata={**kept, **mine})
        else:
            _check_model(collection, model)
            _check_fragments(collection, fragments=fragments)
    return collection


def space_of(collection: chromadb.Collection) -> str:
    """How a collection compares: "cosine", "l2" or "ip"."""
    configuration = collection.configuration_json
    return str((configuration.get("hnsw") or configuration.get("spann") or {}).get("space", "l2"))


def has_titles(collection: chromadb.Collection) -> bool:
    """Whether the vectors of a collection are made of the `title` in the metadata and the text, not of text alone."""
    return bool((collection.metadata or {}).get(TITLES))


def rows_per_call(client: ClientAPI, model: OneGen) -> int:
    """How many rows with vectors of `model` may be written at once.

    Raises:
        PassageStoreError: Chroma failed.
    """
    with store_errors("tell its batch size"):
        return max(1, min(client.get_max_batch_size(), MOST_NUMBERS // model.dim))


def check_owner(collection: chromadb.Collection, model: OneGen) -> None:
    """Make sure that what a collection holds was made by `model`: by its fingerprint, or else by a sample of it.

    A collection that something else than this package has made has no fingerprint. Then the text of one of its rows is
    embedded again, and has to give the vector that is stored.

    Raises:
        FingerprintMismatchError: it was made by another model.
        PassageStoreError: Chroma failed.
    """
    with store_errors(f"read the collection {collection.name!r}"):
        if FINGERPRINT in (collection.metadata or {}):
            _check_model(collection, model)
            return
        row = collection.get(limit=1, include=["documents", "embeddings"])
        texts, vectors = row["documents"], row["embeddings"]
    if vectors is not None and len(vectors):
        check_sample(f"The collection {collection.name!r}", model, (texts or [""])[0] or "", vectors[0])


def check_sample(where: str, model: OneGen, text: str, vector: ArrayLike) -> None:
    """Make sure that a stored vector is the one that `model` makes of its text.

    Raises:
        FingerprintMismatchError: it is another one; the message begins with `where`.
    """
    stored = np.asarray(vector, dtype=np.float32)
    if text and stored.shape == (model.dim,):
        mine = model.embed_documents([text])[0]
        if float(stored @ mine) > _SAME * float(np.linalg.norm(stored)):
            return
    msg = f"{where} holds vectors that {model.name!r} has not made, so it cannot search there; {_ANOTHER}"
    raise FingerprintMismatchError(msg)


@contextmanager
def store_errors(what: str) -> Iterator[None]:
    """Turn whatever Chroma raises while it tries to do `what` into a `PassageStoreError`.

    Chroma has no base class of its errors: a lost server, a full disk and a refused argument are of many kinds.
    """
    try:
        yield
    except OneGenError:
        raise
    except Exception as error:
        msg = f"Chroma failed to {what}: {type(error).__name__}: {error}"
        if isinstance(error, httpx.TransportError):
            msg += ". The server cannot be reached; once it can, make the same call again."
        raise PassageStoreError(msg) from error


@contextmanager
def filter_errors(where: object) -> Iterator[None]:
    """Turn Chroma's refusal of the filter `where` into an `InvalidInputError`."""
    try:
        yield
    except (TypeError, ValueError, InvalidArgumentError) as error:
        if where is None:
            raise
        msg = f"Chroma refuses where={where!r}: {error}"
        raise InvalidInputError(msg) from error


def _check_space(collection: chromadb.Collection) -> None:
    space = space_of(collection)
    if space != SPACE:
        msg = f"The collection {collection.name!r} compares by {space!r}, not by {SPACE!r}; {_ANOTHER}"
        raise PassageStoreError(msg)


def _check_empty(collection: chromadb.Collection) -> None:
    stored = collection.count()
    if stored:
        msg = (
            f"The collection {collection.name!r} holds {stored} vectors but no fingerprint, so nobody knows which model"
            f" made them; {_ANOTHER}"
        )
        raise FingerprintMismatchError(msg)


def _check_model(collection: chromadb.Collection, model: OneGen) -> None:
    found = collection.metadata[FINGERPRINT]
    if found != model.fingerprint:
        msg = (
            f"The collection {collection.name!r} belongs to {collection.metadata.get(MODEL)!r} (fingerprint {found});"
            f" its vectors mean nothing to {model.name!r} (fingerprint {model.fingerprint}). Open it with that model,"
            f" or {_ANOTHER}"
        )
        raise FingerprintMismatchError(msg)
    dimension = collection.get_model().dimension
    if dimension not in (None, model.dim):
        msg = (
            f"The collection {collection.name!r} holds vectors of {dimension} dimensions, but {model.name!r} makes"
            f" {model.dim}: something else wrote them; {_ANOTHER}"
        )
        raise FingerprintMismatchError(msg)


def _check_fragments(collection: chromadb.Collection, *, fragments: bool) -> None:
    if bool(collection.metadata.get(FRAGMENTS)) != fragments:
        made, wanted = ("without", "no") if fragments else ("with", "its")
        msg = (
            f"The collection {collection.name!r} was made {made} fragments; open it with {wanted} fragments=, or"
            f" {_ANOTHER}"
        )
        raise InvalidInputError(msg)
