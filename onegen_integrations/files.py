"""Users' files as passages: finding, reading and splitting plain text, Markdown and JSON Lines."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onegen_integrations.errors import DataFormatError, InvalidInputError
from onegen_integrations.jsonl import read_objects, read_text
from onegen_integrations.passages import Passage
from onegen_integrations.text import check_text

SUFFIXES = (".jsonl", ".md", ".txt")
RESERVED_METADATA = frozenset({"root", "source", "chunk"})

# Where a document is cut, the best place first: before a Markdown heading, between paragraphs, lines, sentences, words.
SEPARATORS = [r"\n(?=#{1,6} )", r"\n\n", r"\n", r"(?<=[.!?]) |(?<=[。！？])", " ", ""]


@dataclass(frozen=True)
class SourceFile:
    """A file to read.

    root: absolute path of the folder that was given, or that holds the file that was given; links are not followed.
    name: the file's path relative to `root`, with forward slashes.
    """

    path: Path
    root: Path
    name: str


@dataclass(frozen=True)
class FoundFiles:
    """What `find_files` found.

    folders: absolute paths of those that were given. skipped: files in them whose suffix is not one of `SUFFIXES`.
    """

    files: tuple[SourceFile, ...]
    folders: tuple[Path, ...]
    skipped: tuple[Path, ...]


@dataclass(frozen=True)
class Document:
    """A text file, or one line of a JSON Lines file, before it is split.

    root, source: folder and name of its file, as of a `SourceFile`. place: where it was read, for messages.
    """

    id: str
    root: str
    source: str
    place: str
    text: str
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


def find_files(paths: Iterable[str | Path]) -> FoundFiles:
    """Files among `paths`, and those in folders and their subfolders, in order of name; hidden ones are left out.

    Raises:
        InvalidInputError: a path does not exist, a file named directly has an unknown suffix, a folder has nothing to
            read, or two files have the same name relative to the paths given.
        OSError: a folder cannot be read.
    """
    files: dict[Path, SourceFile] = {}
    folders: list[Path] = []
    skipped: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            folders.append(_absolute(path))
            below = list(_files_below(path))
            readable = [file for file in below if file.suffix.lower() in SUFFIXES]
            others = [file for file in below if file.suffix.lower() not in SUFFIXES]
            if not readable:
                there = f" ({kinds_of(others)} there cannot be read)" if others else ""
                msg = f"No {', '.join(SUFFIXES)} files in {path}{there}."
                raise InvalidInputError(msg)
            for file in readable:
                files.setdefault(file.resolve(), SourceFile(file, folders[-1], file.relative_to(path).as_posix()))
            skipped += others
        elif not path.is_file():
            msg = f"{path} is neither a file nor a folder; give the path of a document or of a folder of documents."
            raise InvalidInputError(msg)
        elif path.suffix.lower() not in SUFFIXES:
            msg = f"{path} has the suffix {path.suffix!r}; files that can be read end in {', '.join(SUFFIXES)}."
            raise InvalidInputError(msg)
        else:
            files.setdefault(path.resolve(), SourceFile(path, _absolute(path.parent), path.name))
    _check_names(files.values())
    return FoundFiles(tuple(files.values()), tuple(folders), tuple(skipped))


def kinds_of(paths: Iterable[Path]) -> str:
    """How many files, of which kinds: "3 files (.pdf, .png)"."""
    listed = list(paths)
    kinds = ", ".join(sorted({path.suffix.lower() or "no suffix" for path in listed}))
    return f"{len(listed)} {'file' if len(listed) == 1 else 'files'} ({kinds})"


def read_documents(files: Iterable[SourceFile]) -> Iterator[Document]:
    """The documents in files: each line of a JSON Lines file, or the whole of any other; blank ones are left out.

    A line is an object with `text`, and if wanted `id`, `title` and `metadata`; its other fields count as metadata.

    Raises:
        DataFormatError: a file cannot be read or is not UTF-8, a line is not as above, or an id is used twice; the
            message names the place.
    """
    places: dict[str, str] = {}
    for file in files:
        for document in _documents_of(file):
            if document.id in places:
                msg = f"{document.place}: the id {document.id!r} is taken by {places[document.id]}; make it unique."
                raise DataFormatError(msg)
            places[document.id] = document.place
            yield document


def _documents_of(file: SourceFile) -> Iterator[Document]:
    whole = str(file.root / file.name)
    _check_characters(whole, f"The path {whole!r}")
    if file.path.suffix.lower() == ".jsonl":
        for place, number, row in read_objects(file.path):
            yield _document_of_row(row, place, file, number)
        return
    content = read_text(file.path)
    _check_characters(content, str(file.path))
    if content.strip():
        title = markdown_title(content) if file.path.suffix.lower() == ".md" else ""
        yield Document(file.name, str(file.root), file.name, str(file.path), content, title)


def markdown_title(text: str) -> str:
    """The first `#` heading of a Markdown text outside of fenced code; empty where there is none."""
    fence = ""
    for line in text.split("\n"):
        mark = re.match(r" {0,3}(```+|~~~+)", line)
        if fence:
            if mark and mark[1].startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
        elif mark:
            fence = mark[1]
        elif heading := re.match(r" {0,3}#{1,6}[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*$", line):
            return heading[1]
    return ""


def split_document(
    document: Document, count_tokens: Callable[[str], int], chunk_tokens: int, *, title_in_text: bool = True
) -> list[Passage]:
    """Cut a document into passages of at most `chunk_tokens`, at the best places there are.

    A passage's id is the document's with the number of the chunk, from 1; its metadata are the document's with
    `root`, `source`, `title` and `chunk`.

    Args:
        document: what to cut.
        count_tokens: how many tokens the model sees in a text.
        chunk_tokens: limit of the text of a passage, with a title that is put in front of it.
        title_in_text: put the title in front of chunks that do not hold it, if it takes no more than half of them.

    Raises:
        ImportError: langchain-text-splitters is not installed.
    """
    try:
        from langchain_text_splitters import RecursiveCharacterTextSplitter
    except ImportError as error:
        msg = "Splitting files needs langchain-text-splitters; install onegen-integrations[chroma]."
        raise ImportError(msg) from error
    heading = f"{document.title}\n" if title_in_text and document.title else ""
    reserved = count_tokens(heading) if heading else 0
    if reserved > chunk_tokens // 2:
        heading, reserved = "", 0
    splitter = RecursiveCharacterTextSplitter(
        SEPARATORS,
        keep_separator="end",
        is_separator_regex=True,
        chunk_size=chunk_tokens - reserved,
        chunk_overlap=0,
        length_function=count_tokens,
    )
    passages = []
    for number, chunk in enumerate(splitter.split_text(document.text), start=1):
        text = chunk if document.title.casefold() in chunk.casefold() else heading + chunk
        own = {"root": document.root, "source": document.source, "chunk": number}
        own |= {"title": document.title} if document.title else {}
        passages.append(Passage(f"{document.id}#{number}", text, {**document.metadata, **own}))
    return passages


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 (resolve() would follow links)


def _files_below(folder: Path) -> Iterator[Path]:
    """Files of a folder and its subfolders in order of name, without hidden ones."""

    def stop(error: OSError) -> None:
        raise error

    for place, folders, names in os.walk(folder, onerror=stop):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))


def _check_names(files: Iterable[SourceFile]) -> None:
    """Raises:
    InvalidInputError: two files share a name, so that the passages of one would take the place of the other's.
    """
    known: dict[str, Path] = {}
    for file in files:
        if file.name in known:
            msg = (
                f"{known[file.name]} and {file.path} would both be stored as {file.name!r}; give a folder that holds"
                " both, or index them into different collections."
            )
            raise InvalidInputError(msg)
        known[file.name] = file.path


def _document_of_row(row: dict[str, Any], place: str, file: SourceFile, number: int) -> Document:
    text, given_id, metadata = row.pop("text", None), row.pop("id", None), row.pop("metadata", None)
    if not isinstance(text, str) or not text.strip():
        msg = f"{place}: 'text' must be a string that is not blank, not {text!r:.40}."
        raise DataFormatError(msg)
    if not isinstance(given_id, str | int | None) or isinstance(given_id, bool) or not str(given_id).strip():
        msg = f"{place}: 'id' must be a string that is not blank, or a whole number, not {given_id!r:.40}."
        raise DataFormatError(msg)
    if not isinstance(metadata, dict | None):
        msg = f"{place}: 'metadata' must be an object, not {metadata!r:.40}."
        raise DataFormatError(msg)
    if twice := sorted(row.keys() & (metadata or {}).keys()):
        msg = f"{place}: {twice} stand both in the line and in its 'metadata'; leave them in one place."
        raise DataFormatError(msg)
    fields = row | (metadata or {})
    if taken := sorted(RESERVED_METADATA & fields.keys()):
        msg = f"{place}: {taken} are names that the index itself writes; give these fields other names."
        raise DataFormatError(msg)
    title = fields.pop("title", None)
    if not isinstance(title, str | None):
        msg = f"{place}: 'title' must be a string, not {title!r:.40}."
        raise DataFormatError(msg)
    document_id = f"{file.name}:{number}" if given_id is None else str(given_id)
    for name, value in (("text", text), ("title", title or ""), ("id", document_id)):
        _check_characters(value, f"{place}: {name!r}")
    title = " ".join((title or "").split())
    return Document(document_id, str(file.root), file.name, place, text, title, fields)


def _check_characters(text: str, what: str) -> None:
    """Raises:
    DataFormatError: `text` holds characters that have no UTF-8 form, or NUL.
    """
    try:
        check_text(text, what, allow_empty=True)
    except InvalidInputError as error:
        raise DataFormatError(str(error)) from error
