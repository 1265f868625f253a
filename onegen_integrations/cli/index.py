"""Index text (.txt), Markdown (.md) and JSON Lines (.jsonl) files and folders into a Chroma database.

Lines of JSON Lines files are objects with "text" and, if wanted, "id", "title" and "metadata". Passages are known by
the path of their file relative to PATH, or by the id of their line: what is unchanged is not embedded again, what is no
longer in a file or folder is removed, and a second run goes on where an interrupted one stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a file, or a folder with its subfolders")
    parser.add_argument(
        "--chunk-tokens",
        type=positive,
        default=CHUNK_TOKENS,
        metavar="N",
        help="longest text of a passage, in the model's tokens (default: %(default)s)",
    )
    parser.add_argument(
        "--moved",
        action="store_true",
        help="the files were elsewhere when they were indexed before: take the place of what was stored from there",
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
    stored = _Stored(store, found)
    taken = stored.taken(passages)
    if taken and not args.moved:
        key, origin = next(iter(taken.items()))
        msg = (
            f"The passage {key!r} is stored already, from {origin.file}. If that file was moved, add --moved; else"
            " index a folder that holds both, or give another --collection."
        )
        raise InvalidInputError(msg)
    add_with_report(store, passages)
    stored.remove_stale(passages, {origin.root for origin in taken.values()})
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


class _Stored:
    """What the database holds already, by the files that it was read from.

    Args:
        store: the passages.
        found: what is read now.
    """

    def __init__(self, store: ChromaPassages, found: FoundFiles) -> None:
        self._store = store
        self._files = {file.root / file.name for file in found.files}
        self._folders = set(found.folders)
        self._origins = {
            key: origin for key, metadata in store.metadata().items() if (origin := _origin(metadata)) is not None
        }

    def taken(self, passages: Iterable[Passage]) -> dict[str, _Origin]:
        """Those of `passages` whose ids are taken by passages of files that are not read now, with these files."""
        known = {passage.id: self._origins[passage.id] for passage in passages if passage.id in self._origins}
        return {key: origin for key, origin in known.items() if not self._is_read(origin.file)}

    def remove_stale(self, passages: Iterable[Passage], moved: Collection[Path]) -> None:
        """Remove what is not among `passages` but stored from the files that are read now, or from files that are gone.

        Gone are files that do not exist any more, of the folders that are read and of those that have `moved`.
        """
        current = {passage.id for passage in passages}
        stale = [
            key
            for key, (root, file) in self._origins.items()
            if key not in current
            and (file in self._files or ((self._is_read(file) or root in moved) and not file.exists()))
        ]
        if stale:
            self._store.delete(stale)
            print(f"Removed {len(stale)} passages that are no longer in these files.")

    def _is_read(self, file: Path) -> bool:
        return file in self._files or any(folder in self._folders for folder in file.parents)


class _Origin(NamedTuple):
    """Where a passage was read: the folder that was given, and the file."""

    root: Path
    file: Path


def _origin(metadata: Mapping[str, Any]) -> _Origin | None:
    """Of a passage that this command has stored."""
    root, source = metadata.get("root"), metadata.get("source")
    return _Origin(Path(root), Path(root, source)) if isinstance(root, str) and isinstance(source, str) else None
