"""Reading and splitting of users' files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onegen_integrations import DataFormatError, InvalidInputError
from onegen_integrations.files import Document, find_files, markdown_title, read_documents, split_document


def words(text: str) -> int:
    """A count of tokens that a reader can check: runs of letters, and every other character that is no space."""
    return len(re.findall(r"\w+|[^\w\s]", text))


def read(*paths: Path) -> list[Document]:
    return list(read_documents(find_files(paths).files))


def jsonl(folder: Path, *rows: Any) -> Path:
    path = folder / "data.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def document(text: str, **fields: Any) -> Document:
    return Document(**{"id": "a.md", "root": "/notes", "source": "a.md", "place": "a.md", "text": text} | fields)


# --- finding --------------------------------------------------------------------------------------


def test_folders_are_searched_with_their_subfolders_and_names_are_relative_to_them(tmp_path: Path) -> None:
    for name in ("b.md", "sub/deep/a.txt", "C.JSONL"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert [file.name for file in find_files([tmp_path]).files] == ["C.JSONL", "b.md", "sub/deep/a.txt"]
    assert find_files([tmp_path]).folders == (tmp_path,)
    alone = find_files([tmp_path / "sub" / "deep" / "a.txt"])
    assert [(file.root, file.name) for file in alone.files] == [(tmp_path / "sub" / "deep", "a.txt")]
    assert alone.folders == ()


def test_hidden_files_are_left_out_and_other_kinds_are_reported(tmp_path: Path) -> None:
    for name in (".git/note.md", ".hidden.md", "photo.PNG", "Makefile", "note.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_files([tmp_path])
    assert [file.name for file in found.files] == ["note.md"]
    assert sorted(path.name for path in found.skipped) == ["Makefile", "photo.PNG"]


def test_a_file_reached_twice_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.md").touch()
    assert len(find_files([tmp_path, tmp_path / "a.md", tmp_path]).files) == 1


def test_two_files_of_one_name_are_refused_because_one_would_replace_the_other(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.md").touch()
    with pytest.raises(InvalidInputError, match=r"one/a\.md and .*two/a\.md would both be stored as 'a\.md'"):
        find_files([tmp_path / "one", tmp_path / "two"])
    assert [file.name for file in find_files([tmp_path]).files] == ["one/a.md", "two/a.md"]


def test_a_folder_with_nothing_to_read_is_an_error_whatever_stands_beside_it(tmp_path: Path) -> None:
    (tmp_path / "a.md").touch()
    (tmp_path / "drive").mkdir()
    with pytest.raises(InvalidInputError, match=r"No \.jsonl, \.md, \.txt files in .*drive\."):
        find_files([tmp_path / "a.md", tmp_path / "drive"])


def test_a_path_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="missing is neither a file nor a folder"):
        find_files([tmp_path / "missing"])


def test_an_unknown_suffix_is_refused_where_the_file_is_named_directly(tmp_path: Path) -> None:
    (tmp_path / "paper.pdf").touch()
    with pytest.raises(InvalidInputError, match=r"paper\.pdf has the suffix '\.pdf'.*\.jsonl, \.md, \.txt"):
        find_files([tmp_path / "paper.pdf"])


def test_a_folder_without_documents_is_an_error_that_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "paper.pdf").touch()
    with pytest.raises(InvalidInputError, match=r"No \.jsonl, \.md, \.txt files in .*1 file \(\.pdf\)"):
        find_files([tmp_path])


# --- reading --------------------------------------------------------------------------------------


def test_text_is_read_without_byte_order_mark_and_with_plain_newlines(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfOne\r\nTwo\xc3\xa9\n")
    assert read(path) == [Document("a.txt", str(tmp_path), "a.txt", str(path), "One\nTwoé\n")]


def test_blank_files_hold_no_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(" \n\n")
    assert read(tmp_path) == []


def test_a_file_that_is_not_utf8_is_named_with_the_byte(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 au lait")
    with pytest.raises(DataFormatError, match=r"latin\.txt is not UTF-8 text: byte 0xe9 at position 3"):
        read(tmp_path)


def test_nul_is_refused_with_its_position(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"ab\0c")
    with pytest.raises(DataFormatError, match=r"a\.txt holds a NUL character at position 2"):
        read(tmp_path)


def test_a_file_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    name = b"caf\xe9.txt".decode("utf-8", "surrogateescape")
    try:
        (tmp_path / name).write_text("text")
    except OSError:
        pytest.skip("this file system takes no such names")
    with pytest.raises(DataFormatError, match=r"The path .* holds the lone surrogate"):
        read(tmp_path)


def test_lines_of_jsonl_are_documents_with_their_fields(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path,
        {
            "id": "x",
            "title": " The\nTitle ",
            "text": "One",
            "metadata": {"year": 1974, "tags": ["a", 2], "deep": {"none": None}},
        },
        "",
        {"id": 7, "text": "Two\u2028still two", "url": "here", "title": None},
        {"text": "Three", "metadata": {"title": "Third"}},
    )
    metadata = {"year": 1974, "tags": ["a", 2], "deep": {"none": None}}
    root = str(tmp_path)
    assert read(path) == [
        Document("x", root, "data.jsonl", f"{path}, line 1", "One", "The Title", metadata),
        Document("7", root, "data.jsonl", f"{path}, line 3", "Two\u2028still two", "", {"url": "here"}),
        Document("data.jsonl:4", root, "data.jsonl", f"{path}, line 4", "Three", "Third"),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": "a"', "is not valid JSON: .* at column 13"),
        ("[" * 100_000, "is not valid JSON"),
        ('{"text": "a", "score": NaN}', "is not valid JSON: NaN"),
        ('["text"]', "must be a JSON object"),
        ("{}", "'text' must be a string that is not blank, not None"),
        ('{"text": "  "}', "'text' must be a string that is not blank, not '  '"),
        ('{"text": ["a"]}', "'text' must be a string"),
        ('{"text": "a", "title": 3}', "'title' must be a string, not 3"),
        ('{"text": "a", "id": ""}', "'id' must be a string that is not blank, or a whole number, not ''"),
        ('{"text": "a", "id": true}', "'id' must be a string"),
        ('{"text": "a", "metadata": []}', "'metadata' must be an object"),
        ('{"text": "a", "source": "b"}', r"\['source'\] are names that the index itself writes"),
        ('{"text": "a", "year": 1, "metadata": {"year": 2}}', "stand both in the line and in its 'metadata'"),
        (r'{"text": "a\ud800"}', r"'text' holds the lone surrogate U\+D800 at position 1"),
        (r'{"text": "a\u0000"}', "'text' holds a NUL character at position 1"),
        (r'{"text": "a", "title": "\udfff"}', r"'title' holds the lone surrogate U\+DFFF"),
    ],
)
def test_a_wrong_line_of_jsonl_is_named_with_file_line_and_reason(tmp_path: Path, line: str, reason: str) -> None:
    path = jsonl(tmp_path, {"text": "right"}, line)
    with pytest.raises(DataFormatError, match=rf"data\.jsonl, line 2:? .*{reason}"):
        read(path)


def test_an_id_that_is_used_twice_is_refused_with_both_places(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"id": "1", "text": "a"}, {"id": 1, "text": "b"})
    with pytest.raises(DataFormatError, match=r"line 2: the id '1' is taken by .*data\.jsonl, line 1"):
        read(path)


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("intro\n\n## Getting *started* ##\n# Later", "Getting *started*"),
        ("```sh\n# a comment\n```\n# Real", "Real"),
        ("~~~\n```\n# inside\n~~~\n# C#", "C#"),
        ("#hashtag\nno heading", ""),
        ("    # code", ""),
        ("```\n# never closed", ""),
    ],
)
def test_the_title_of_markdown_is_its_first_heading_outside_of_code(text: str, title: str) -> None:
    assert markdown_title(text) == title


# --- splitting ------------------------------------------------------------------------------------


def test_passages_carry_stable_ids_source_title_chunk_and_metadata() -> None:
    passages = split_document(document("One two. Three four.", title="Numbers", metadata={"year": 1}), words, 5)
    assert [p.id for p in passages] == ["a.md#1", "a.md#2"]
    assert [p.text for p in passages] == ["Numbers\nOne two.", "Numbers\nThree four."]
    assert [dict(p.metadata) for p in passages] == [
        {"year": 1, "root": "/notes", "source": "a.md", "title": "Numbers", "chunk": n} for n in (1, 2)
    ]


def test_a_chunk_that_holds_its_title_does_not_get_it_again() -> None:
    first, second = split_document(document("# Rivers\nAll rivers flow.\n\nInto the sea.", title="Rivers"), words, 9)
    assert first.text == "# Rivers\nAll rivers flow."
    assert second.text == "Rivers\nInto the sea."


def test_the_title_stays_out_of_the_text_where_the_template_has_a_place_for_it() -> None:
    [passage] = split_document(document("Some text.", title="Rivers"), words, 20, title_in_text=False)
    assert (passage.text, passage.title) == ("Some text.", "Rivers")


def test_a_title_longer_than_half_a_chunk_stays_in_the_metadata_alone() -> None:
    [passage] = split_document(document("Some text.", title="a b c d e f"), words, 10)
    assert (passage.text, passage.title) == ("Some text.", "a b c d e f")


@pytest.mark.parametrize(
    ("text", "limit", "chunks"),
    [
        ("# A\none two\n# B\nthree four", 7, ["# A\none two", "# B\nthree four"]),
        ("one two\nthree\n\nfour five", 4, ["one two\nthree", "four five"]),
        ("One two! Three four? Five six.", 4, ["One two!", "Three four?", "Five six."]),
        ("一二。三四。", 3, ["一二。", "三四。"]),
        ("one two three four", 3, ["one two three", "four"]),
    ],
)
def test_texts_are_cut_at_headings_then_paragraphs_then_sentences_then_words(
    text: str, limit: int, chunks: list[str]
) -> None:
    assert [p.text for p in split_document(document(text), words, limit)] == chunks


@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet=" \n#.!?。ab é一😀", max_size=200), limit=st.integers(2, 30))
def test_splitting_loses_nothing_and_keeps_to_the_limit(text: str, limit: int) -> None:
    passages = split_document(document(text), len, limit)
    assert "".join("".join(p.text.split()) for p in passages) == "".join(text.split())
    assert all(0 < len(p.text) <= limit for p in passages)
