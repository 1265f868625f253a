"""Index text (.txt), Markdown (.md) and JSON Lines (.jsonl) files and folders into a Chroma database.

Lines of JSON Lines files are objects with "text" and, if wanted, "id", "title" and "metadata". Passages are known by
the path of their file relative to PATH, or by the id of their line: what is unchanged is not embedded again, what is no
longer in a file or folder is removed, and a second run goes on where an interrupted one stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onegen_integrations.cli.arguments import add_model_options, add_store_options, positive
from onegen_integrations.errors import InvalidInputError

if TYPE_CHECKING:
    from onegen_integrations.chroma import ChromaPassages
    from onegen_integrations.files import FoundFiles, SourceFile
    from onegen_integrations.model import OneGen
    from onegen_integrations.passages import Passage

HELP = "read files into a database of passages"
CHUNK_TOKENS = 200
SMALLEST_CHUNK = 16
SOURCES_AT_ONCE = 100  # of which a database is asked for its passages


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a file, or a folder with its subfolders")
    parser.add_argument(
        "--chunk-tokens",
        type=positive,
        default=CHUNK_TOKENS,
        metavar="N",
        help="longest passage, in the model's tokens (default: %(default)s)",
    )
    add_store_options(parser)
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    from onegen_integrations.files import find_files, kinds_of

    found = find_files(args.paths)  # what is wrong with the paths shows before a model is loaded

    from onegen_integrations.cli.opening import open_model, open_passages

    model = open_model(args)
    passages = _read(found.files, model, args.chunk_tokens)
    store = open_passages(args, model)
    _check_not_taken(store, passages)
    add_with_report(store, passages)
    _remove_stale(store, found, passages)
    if found.skipped:
        print(f"Skipped {kinds_of(found.skipped)}, which cannot be read.")
    return 0


def add_with_report(store: ChromaPassages, passages: Sequence[Passage]) -> None:
    """Embed passages and store them, with a progress bar on a terminal, and print how many of them were new.

    Raises:
        KeyboardInterrupt: ctrl-C; its message says how much is done.
    """
    before = store.count()
    pending = len(store.pending(passages))
    try:
        if pending:
            print(f"Indexing {pending} of {len(passages)} passages ...", flush=True)
        store.add(passages, show_progress=sys.stderr.isatty())
    except KeyboardInterrupt:
        done = len(passages) - len(store.pending(passages))
        msg = f"interrupted; {done} of {len(passages)} passages are indexed, run the same command again to finish"
        raise KeyboardInterrupt(msg) from None
    new = store.count() - before
    unchanged = len(passages) - pending
    print(f"{len(passages)} passages: {new} new, {pending - new} changed, {unchanged} unchanged.", flush=True)


def _read(files: Iterable[SourceFile], model: OneGen, chunk_tokens: int) -> list[Passage]:
    """The passages of files, as long as the model and the user allow."""
    from tqdm import tqdm

    from onegen_integrations.files import read_documents, split_document

    longest = model.context_window // 2  # the other half is for the question and the answer
    if not SMALLEST_CHUNK <= chunk_tokens <= longest:
        msg = f"--chunk-tokens is {chunk_tokens}; with {model.name} it must be from {SMALLEST_CHUNK} to {longest}."
        raise InvalidInputError(msg)
    title_in_text = "{title}" not in model.config.passage_template

    def count_tokens(text: str) -> int:
        return len(model.codec.encode_text(text))

    return [
        passage
        for document in tqdm(read_documents(files), desc="Reading", unit="document", disable=None)
        for passage in split_document(document, count_tokens, chunk_tokens, title_in_text=title_in_text)
    ]


def _check_not_taken(store: ChromaPassages, passages: Iterable[Passage]) -> None:
    """Raises:
    InvalidInputError: a passage would take the place of one from another file, which is still there.
    """
    files = {passage.id: _file_of(passage) for passage in passages}
    for stored in store.get(files):
        there, here = _file_of(stored), files[stored.id]
        if there is not None and there != here and there.is_file():
            msg = (
                f"The passage {stored.id!r} of {here} is stored already, from {there}. Index a folder that holds both"
                " files, or give another --collection."
            )
            raise InvalidInputError(msg)


def _file_of(passage: Passage) -> Path | None:
    """The file that a passage was read from, if it was read from one by this command."""
    root, source = passage.metadata.get("root"), passage.metadata.get("source")
    return Path(root, source) if isinstance(root, str) and isinstance(source, str) else None


def _remove_stale(store: ChromaPassages, found: FoundFiles, passages: Iterable[Passage]) -> None:
    """Remove what an earlier run has stored from these folders and files, and what is no longer among `passages`."""
    current = {passage.id for passage in passages}
    stale = [key for where in _read_places(found) for key in store.ids(where) if key not in current]
    if stale:
        store.delete(stale)
        print(f"Removed {len(stale)} passages that are no longer in these files.")


def _read_places(found: FoundFiles) -> Iterator[dict[str, Any]]:
    """Chroma's filters for all that is stored from the folders, and from the single files, that were given."""
    if found.folders:
        yield {"root": {"$in": [str(folder) for folder in found.folders]}}
    names: dict[Path, list[str]] = defaultdict(list)
    for file in found.files:
        if file.root not in found.folders:
            names[file.root].append(file.name)
    for root, sources in names.items():
        for start in range(0, len(sources), SOURCES_AT_ONCE):
            here = {"source": {"$in": sources[start : start + SOURCES_AT_ONCE]}}
            yield {"$and": [{"root": str(root)}, here]}
