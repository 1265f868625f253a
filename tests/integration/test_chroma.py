"""Passages in an embedded Chroma database: a real one on disk, filled by a tiny random model."""

from __future__ import annotations

import json
import math
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import pytest
from tiny import CONTEXT, SENTENCES, tiny_model, tiny_tokenizer

from onegen_integrations import (
    CheckpointError,
    ContextWindowError,
    FingerprintMismatchError,
    InvalidInputError,
    OneGen,
    OneGenConfig,
    Passage,
    PassageSource,
    PassageStoreError,
)
from onegen_integrations.chroma import ChromaPassages, OneGenEmbeddingFunction, open_collection, open_database
from onegen_integrations.chroma import collection as chroma_collection
from onegen_integrations.chroma import passages as chroma_passages

TEXT = " ".join(SENTENCES[:8])


class CountingOneGen(OneGen):
    """Remembers which texts it embedded; interrupted as by Ctrl-C before it embeds more than `limit`."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.embedded = []
        self.limit = math.inf

    def embed_fragments(self, documents, **options):
        if len(self.embedded) + len(documents) > self.limit:
            signal.raise_signal(signal.SIGINT)
        self.embedded += ["".join(fragments) for fragments in documents]
        return super().embed_fragments(documents, **options)


@pytest.fixture
def model() -> CountingOneGen:
    tokenizer = tiny_tokenizer()
    return CountingOneGen(tiny_model("llama", len(tokenizer)), tokenizer, OneGenConfig.preset("mini"), name="counting")


@pytest.fixture
def database(tmp_path) -> Path:
    return tmp_path / "new" / "db"


@pytest.fixture
def source(model, database, passages) -> ChromaPassages:
    source = ChromaPassages(model, path=database)
    source.add(passages)
    model.embedded = []
    return source


def sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?] )(?=.)", text)


def many(count: int) -> list[Passage]:
    return [Passage(id=f"n{number}", text=f"Boat {number}.", metadata={"number": number}) for number in range(count)]


def rows_of(database: Path, name: str = "onegen") -> dict[str, np.ndarray]:
    """The vectors that are stored, by row id."""
    rows = open_database(database).get_collection(name, embedding_function=None).get(include=["embeddings"])
    return dict(zip(rows["ids"], rows["embeddings"], strict=True))


def found(source: PassageSource, vector: np.ndarray, k: int = 1, **options: Any) -> list[str]:
    return [passage.id for passage in source.search(vector[None], k=k, **options)[0]]


# --- searching ------------------------------------------------------------------------------------


def test_search_finds_what_an_exhaustive_search_finds_with_the_same_scores(source, source_of, model):
    queries = model.embed_queries(SENTENCES)
    for ours, theirs in zip(source.search(queries, k=8), source_of(model).search(queries, k=8), strict=True):
        assert [(p.id, p.text, p.metadata) for p in ours] == [(p.id, p.text, p.metadata) for p in theirs]
        assert [p.score for p in ours] == pytest.approx([p.score for p in theirs], abs=1e-5)


def test_generation_retrieves_from_chroma_as_from_memory(source, source_of, model, play):
    play({4: "[RQ]"})
    assert isinstance(source, PassageSource)
    options = {"retrieval": "always", "top_k": 2, "max_retrievals": 2, "max_new_tokens": 12}
    ours = model.generate(SENTENCES[0], passages=source, **options)
    theirs = model.generate(SENTENCES[0], passages=source_of(model), **options)
    assert len(ours.retrievals) == 2
    assert ours.token_ids == theirs.token_ids


def test_what_was_added_is_there_when_the_database_is_opened_again(source, model, database, passages):
    again = ChromaPassages(model, path=database)
    assert again.count() == len(passages)
    assert found(again, model.embed_documents([passages[3].text])[0]) == ["3"]


def test_no_queries_find_nothing(source, model):
    assert source.search(np.zeros((0, model.dim), np.float32), k=2) == []


def test_a_filter_leaves_only_what_passes_it(model, database):
    source = ChromaPassages(model, path=database)
    source.add(
        Passage(str(n), text, {"year": 1970 + n, "tags": ["even" if n % 2 == 0 else "odd"]})
        for n, text in enumerate(SENTENCES)
    )
    vector = model.embed_queries([SENTENCES[0]])[0]
    assert sorted(found(source, vector, 4, where={"year": {"$lt": 1973}})) == ["0", "1", "2"]
    assert sorted(found(source, vector, 5, where={"tags": {"$contains": "odd"}})) == ["1", "3", "5", "7", "9"]
    assert found(source, vector, 5, where={"year": 2000}) == []


@pytest.mark.parametrize(
    "where",
    [{}, {"year": 1, "tag": 2}, {"year": {"$above": 3}}, {"$not": 3}, {"year": None}, {"year": {"$in": []}}, "year"],
)
def test_a_filter_that_chroma_refuses_is_invalid_input(source, model, where):
    with pytest.raises(InvalidInputError, match="Chroma refuses where="):
        source.search(model.embed_queries(["Where?"]), k=1, where=where)
    with pytest.raises(InvalidInputError, match="Chroma refuses where="):
        source.ids(where)


@pytest.mark.parametrize(("k", "said"), [(0, "at least one"), (9, "only 8"), (10**12, "only 8")])
def test_a_k_out_of_range_is_invalid_input(source, model, k, said):
    with pytest.raises(InvalidInputError, match=said):
        source.search(model.embed_queries(["Where?"]), k=k)


@pytest.mark.parametrize("shape", [(48,), (1, 47), (1, 1, 48)])
def test_vectors_of_another_shape_are_invalid_input(source, shape):
    with pytest.raises(InvalidInputError, match=r"\[n, 48\]"):
        source.search(np.zeros(shape, np.float32), k=1)


def test_vectors_with_nan_are_invalid_input(source):
    with pytest.raises(InvalidInputError, match="finite"):
        source.search(np.full((1, 48), np.nan, np.float32), k=1)


def test_searching_an_empty_collection_says_that_there_are_no_passages(model, database):
    with pytest.raises(PassageStoreError, match="no passages in the collection 'onegen'"):
        ChromaPassages(model, path=database).search(model.embed_queries(["Where?"]), k=1)


# --- adding ---------------------------------------------------------------------------------------


def test_more_passages_than_one_chroma_batch_are_all_stored_and_found(model, database, capsys):
    passages = many(6000)
    source = ChromaPassages(model, path=database)
    assert source._batch_size < len(passages)
    source.add(passages, show_progress=True)
    assert "6000/6000" in capsys.readouterr().err
    assert source.count() == 6000
    everything = source.search(model.embed_queries(["Which boat?"]), k=6000)[0]
    assert {p.id: (p.text, p.metadata) for p in everything} == {p.id: (p.text, p.metadata) for p in passages}
    source.delete(f"n{number}" for number in range(5900))
    assert source.count() == 100


def test_unchanged_passages_are_not_embedded_again(source, model, passages):
    source.add([*passages, Passage("8", "A new one.")])
    assert model.embedded == ["A new one."]
    assert source.count() == 9


def test_a_changed_passage_takes_the_place_of_the_old_one(source, model, database):
    source.add([Passage("0", "Now the text is another.", {"year": 1999})])
    assert source.count() == 8
    np.testing.assert_allclose(
        rows_of(database)["0"], model.embed_documents(["Now the text is another."])[0], atol=1e-5
    )
    (hit,) = source.search(model.embed_documents(["Now the text is another."]), k=1)[0]
    assert (hit.id, hit.text, hit.metadata) == ("0", "Now the text is another.", {"year": 1999})


def test_a_changed_title_is_embedded_again(model, database):
    source = ChromaPassages(model, path=database)
    source.add([Passage("0", "Text.", {"title": "Old"})])
    source.add([Passage("0", "Text.", {"title": "New"})])
    assert model.embedded == ["Text.", "Text."]


def test_changed_metadata_replace_the_old_ones_without_embedding(model, database):
    source = ChromaPassages(model, path=database)
    vector = model.embed_documents([SENTENCES[0]])[0]
    model.embedded = []
    for metadata in ({"a": 1, "b": "x", "c": None}, {"a": 1.0, "d": [1]}, {"a": True}, {}):
        source.add([Passage("0", SENTENCES[0], metadata), Passage("1", SENTENCES[1])])
        hit = source.search(vector[None], k=1)[0][0]
        assert repr(dict(sorted(hit.metadata.items()))) == repr(metadata)
    assert found(source, vector, 1, where={"b": "x"}) == []
    assert model.embedded == [SENTENCES[0], SENTENCES[1]]


def test_the_same_passage_twice_in_one_call_is_stored_once(model, database, passages):
    source = ChromaPassages(model, path=database)
    source.add([*passages, *passages])
    assert source.count() == len(model.embedded) == len(passages)


@pytest.mark.parametrize("other", [Passage("0", "Other text."), Passage("0", SENTENCES[0], {"year": 1})])
def test_two_passages_with_one_id_are_refused_before_anything_is_embedded(model, database, passages, other):
    source = ChromaPassages(model, path=database)
    with pytest.raises(InvalidInputError, match="Two different passages have the id '0'"):
        source.add([*passages, other])
    assert source.count() == 0


@pytest.mark.parametrize(
    ("passage", "said"),
    [
        ("text", "not str"),
        (Passage("", "Text."), "non-empty string"),
        (Passage(7, "Text."), "non-empty string"),
        (Passage("\ud800", "Text."), "valid characters"),
        (Passage("a", None), "must be a string"),
        (Passage("a", "Text.", None), "must be a mapping"),
        (Passage("a", "  "), "Passage 'a' cannot be embedded"),
        (Passage("a", "\ud800"), "Passage 'a' cannot be embedded"),
    ],
)
def test_what_is_no_passage_is_invalid_input(source, passages, passage, said):
    with pytest.raises(InvalidInputError, match=said):
        source.add([*passages, passage])


def test_a_passage_that_is_too_long_is_named_and_those_before_it_stay(model, database):
    source = ChromaPassages(model, path=database)
    before = many(chroma_passages.STEP)
    with pytest.raises(ContextWindowError, match=r"Passage 'long' cannot be embedded.* takes \d+ tokens"):
        source.add([*before, Passage("short", "Short."), Passage("long", "lake " * CONTEXT)])
    assert source.count() == len(before)


def test_pending_are_the_passages_that_are_new_or_changed(source, passages):
    new = Passage("8", "A new one.")
    changed = [Passage("0", "Other text."), Passage("1", passages[1].text, {"year": 1})]
    assert source.pending([new, *changed, *passages[2:]]) == [new, *changed]
    source.add([new, *changed])
    assert source.pending([new, *changed, *passages[2:]]) == []


def test_deleting_removes_passages_and_ignores_unknown_ids(source, model, passages):
    source.delete(["0", "1", "1", "unknown"])
    source.delete([])
    assert source.count() == 6
    assert "0" not in found(source, model.embed_documents([passages[0].text])[0], 6)


def test_deleting_a_single_string_is_invalid_input(source):
    with pytest.raises(InvalidInputError, match="not one string"):
        source.delete("01")
    assert source.count() == 8


# --- interruptions --------------------------------------------------------------------------------


def test_after_ctrl_c_the_same_call_finishes_the_rest(model, tmp_path):
    passages = many(4 * chroma_passages.STEP)
    ChromaPassages(model, path=tmp_path / "whole").add(passages)
    source = ChromaPassages(model, path=tmp_path / "interrupted")
    model.embedded, model.limit = [], 2 * chroma_passages.STEP
    with pytest.raises(KeyboardInterrupt):
        source.add(passages)
    assert source.count() == 2 * chroma_passages.STEP
    model.limit = math.inf
    source.add(passages)
    assert len(model.embedded) == len(passages)
    assert_same_rows(tmp_path / "interrupted", tmp_path / "whole")


ADD_AND_TELL = """
import sys
from onegen_integrations import OneGen, Passage
from onegen_integrations.chroma import ChromaPassages
from test_chroma import many

class Telling(OneGen):
    def embed_fragments(self, documents, **options):
        print("embedding", flush=True)
        return super().embed_fragments(documents, **options)

ChromaPassages(Telling.from_pretrained(sys.argv[1]), path=sys.argv[2]).add(many(int(sys.argv[3])))
"""


@pytest.mark.slow
def test_after_a_kill_the_same_call_finishes_the_rest(tiny_folder, tmp_path):
    passages = many(8 * chroma_passages.STEP)
    command = [sys.executable, "-c", ADD_AND_TELL, str(tiny_folder), str(tmp_path / "killed"), str(len(passages))]
    here = Path(__file__).parent
    path = ":".join(map(str, (here, here.parent, here.parent.parent)))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": path}) as process:
        assert process.stdout is not None
        for _ in range(4):
            assert process.stdout.readline() == "embedding\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL

    model = OneGen.from_pretrained(tiny_folder)
    source = ChromaPassages(model, path=tmp_path / "killed")
    assert source.count() >= 3 * chroma_passages.STEP
    source.add(passages)
    ChromaPassages(model, path=tmp_path / "whole").add(passages)
    assert_same_rows(tmp_path / "killed", tmp_path / "whole")


def assert_same_rows(one: Path, other: Path) -> None:
    ours, theirs = rows_of(one), rows_of(other)
    assert sorted(ours) == sorted(theirs)
    for row in ours:
        np.testing.assert_allclose(ours[row], theirs[row], atol=1e-5)


# --- metadata -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"text": "ÄöÜ \0 \U0001f6a2", "empty": "", "title": "A title"},
        {"small": 1, "zero": 0, "large": 2**63 - 1, "too large": 2**63, "too small": -(2**63) - 1, "exact": 2**53 + 1},
        {"float": 0.1 + 0.2, "whole": 1.0, "tiny": 5e-324, "nan": math.nan, "infinite": -math.inf},
        {"true": True, "false": False, "none": None},
        {"strings": ["a", ""], "ints": [1, 2], "floats": [1.0, 2.5], "bools": [True, False]},
        {
            "no list": [],
            "mixed": [1, "a"],
            "numbers": [1, 2.5],
            "nested": [[1], [2]],
            "nans": [math.nan],
            "big": [2**70],
        },
        {"dict": {"a": {"b": [1, None]}}, "no dict": {}},
        {"": 1, "#x": 2, "$and": 3, "chroma:document": 4, "chroma:x": 5, "a.b": 6, "é\0": 7},
        {"surrogate": "\ud800", "\udfff": 1, "in list": ["\ud800"]},
    ],
)
def test_metadata_come_back_as_they_were(model, database, metadata):
    source = ChromaPassages(model, path=database)
    source.add([Passage("0", SENTENCES[0], metadata)])
    hit = source.search(model.embed_queries(["Who?"]), k=1)[0][0]
    assert repr(sorted(hit.metadata.items())) == repr(sorted(metadata.items()))
    source.add([Passage("0", SENTENCES[0], metadata)])
    assert len(model.embedded) == 1


@pytest.mark.parametrize(
    "metadata",
    [
        {"tuple": (1, 2)},
        {"set": {1}},
        {"bytes": b"a"},
        {"numpy": np.float64(1.5)},
        {"number": np.int64(1)},
        {1: "a"},
        {"keys": {1: "a"}},
        {"object": object()},
        {"list": [np.nan, np.float64(1)]},
    ],
)
def test_metadata_that_would_not_come_back_as_they_are_are_refused(source, metadata):
    with pytest.raises(InvalidInputError, match=r"metadata .* of passage 'x'"):
        source.add([Passage("x", "Text.", metadata)])
    assert source.count() == 8


def test_metadata_that_hold_themselves_are_refused(source):
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(InvalidInputError, match="would not come back"):
        source.add([Passage("x", "Text.", {"endless": endless})])


def test_keys_of_the_package_are_refused(source):
    with pytest.raises(InvalidInputError, match="'onegen:content'; keys must not begin with 'onegen:'"):
        source.add([Passage("x", "Text.", {"onegen:content": "0"})])


# --- fragments ------------------------------------------------------------------------------------


@pytest.fixture
def documents() -> list[Passage]:
    return [
        Passage("all", TEXT, {"size": "large"}),
        *(Passage(f"all#{n}", f"{SENTENCES[n]} {SENTENCES[n + 1]}", {"size": "small"}) for n in range(4)),
    ]


@pytest.fixture
def fragmented(model, database, documents) -> ChromaPassages:
    source = ChromaPassages(model, path=database, fragments=sentences)
    source.add(documents)
    return source


def test_a_passage_scores_as_its_best_fragment(fragmented, model, documents):
    queries = model.embed_queries(SENTENCES)
    vectors = model.embed_fragments([sentences(document.text) for document in documents])
    for query, hits in zip(queries, fragmented.search(queries, k=5), strict=True):
        best = {document.id: float((v @ query).max()) for document, v in zip(documents, vectors, strict=True)}
        assert {hit.id: hit.score for hit in hits} == pytest.approx(best, abs=1e-5)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert all(Passage(hit.id, hit.text, hit.metadata) in documents for hit in hits)


def test_k_passages_come_back_however_many_fragments_one_of_them_has(fragmented, model):
    fragmented.add([Passage("long", "A ferry. " * 100)])
    vector = model.embed_fragments([sentences("A ferry. " * 100)])[0][50]
    assert [hit.id for hit in fragmented.search(vector[None], k=1)[0]] == ["long"]
    assert {hit.id for hit in fragmented.search(vector[None], k=6)[0]} == {
        "all",
        "all#0",
        "all#1",
        "all#2",
        "all#3",
        "long",
    }
    with pytest.raises(InvalidInputError, match="only 6"):
        fragmented.search(vector[None], k=7)


def test_filters_count_and_delete_are_about_passages(fragmented, model, database):
    assert fragmented.count() == 5
    assert len(rows_of(database)) > 5
    vector = model.embed_queries([SENTENCES[0]])[0]
    assert found(fragmented, vector, 3, where={"size": "large"}) == ["all"]
    assert sorted(fragmented.ids()) == ["all", "all#0", "all#1", "all#2", "all#3"]
    assert fragmented.ids({"size": "large"}) == ["all"]
    fragmented.delete(["all", "all#1"])
    assert fragmented.count() == 3
    assert {row.rpartition("#")[0] for row in rows_of(database)} == {"all#0", "all#2", "all#3"}


@pytest.mark.parametrize("text", ["One. ", TEXT + " One. Two. ", "Other. " * 8])
def test_a_changed_passage_replaces_all_fragments_of_the_old_one(fragmented, model, database, text):
    fragmented.add([Passage("all", text)])
    stored = {row: vector for row, vector in rows_of(database).items() if row.rpartition("#")[0] == "all"}
    expected = model.embed_fragments([sentences(text)])[0]
    assert len(stored) == len(expected)
    for number, vector in enumerate(expected):
        np.testing.assert_allclose(stored[f"all#{number}"], vector, atol=1e-5)
    assert fragmented.count() == 5


def test_fragments_that_are_not_changed_are_not_embedded_again(fragmented, model, database, documents):
    model.embedded = []
    fragmented.add(documents)
    fragmented.add([Passage(d.id, d.text, {"size": "other"}) for d in documents])
    assert model.embedded == []
    vector = model.embed_queries([SENTENCES[0]])[0]
    assert len(found(fragmented, vector, 5, where={"size": "other"})) == 5
    ChromaPassages(model, path=database, fragments=lambda text: [text[:9], text[9:]]).add(documents)
    assert len(model.embedded) == len(documents)


def test_calls_of_few_rows_write_and_find_the_same(fragmented, database, monkeypatch, model, tmp_path, documents):
    monkeypatch.setattr(chroma_collection, "MOST_NUMBERS", 5 * model.dim)
    source = ChromaPassages(model, path=tmp_path / "small", fragments=sentences)
    source.add(documents)
    assert_same_rows(tmp_path / "small", database)
    queries = model.embed_queries(SENTENCES)
    assert source.search(queries, k=5) == fragmented.search(queries, k=5)


@pytest.mark.parametrize(
    "split", [lambda text: [], lambda text: [text, text], lambda text: text.split(), lambda text: [0]]
)
def test_fragments_that_are_not_the_text_are_refused(model, database, split):
    source = ChromaPassages(model, path=database, fragments=split)
    with pytest.raises(InvalidInputError, match="joined are the text; for passage 'a'"):
        source.add([Passage("a", "Two words.")])


# --- opening --------------------------------------------------------------------------------------


def test_another_model_cannot_open_a_collection(source, tiny, database):
    with pytest.raises(FingerprintMismatchError, match="belongs to 'counting'") as caught:
        ChromaPassages(tiny("qwen2"), path=database)
    assert "another collection name" in str(caught.value)
    other = ChromaPassages(tiny("qwen2"), path=database, collection="other")
    assert other.count() == 0


def test_vectors_that_nobody_knows_the_model_of_are_refused(model, database):
    client = open_database(database)
    foreign = client.create_collection("onegen", embedding_function=None, configuration={"hnsw": {"space": "cosine"}})
    foreign.add(ids=["a"], embeddings=[[1.0] * model.dim])
    with pytest.raises(FingerprintMismatchError, match=r"holds 1 vectors but no fingerprint.*another collection name"):
        ChromaPassages(model, path=database)


def test_an_empty_collection_without_a_fingerprint_gets_one_and_keeps_its_metadata(model, database):
    client = open_database(database)
    client.create_collection("onegen", embedding_function=None, metadata={"hnsw:space": "cosine", "owner": "me"})
    open_collection(client, "onegen", model)
    metadata = client.get_collection("onegen", embedding_function=None).metadata
    assert metadata["owner"] == "me"
    assert metadata["onegen:fingerprint"] == model.fingerprint
    assert metadata["onegen:model"] == "counting"


def test_a_collection_that_compares_otherwise_is_refused(model, database):
    open_database(database).create_collection("onegen", embedding_function=None)
    with pytest.raises(PassageStoreError, match="compares by 'l2', not by 'cosine'"):
        ChromaPassages(model, path=database)


def test_vectors_of_another_dimension_are_refused(model, database):
    open_collection(open_database(database), "onegen", model).add(ids=["a"], embeddings=[[1.0, 2.0]])
    with pytest.raises(FingerprintMismatchError, match="2 dimensions, but 'counting' makes 48"):
        ChromaPassages(model, path=database)


def test_a_row_without_text_is_named(source, model, database):
    vector = model.embed_documents(["No text."])[0]
    open_collection(open_database(database), "onegen", model).add(ids=["bare"], embeddings=[vector])
    with pytest.raises(PassageStoreError, match="passage 'bare' holds no text"):
        source.search(vector[None], k=1)


def test_a_collection_keeps_to_fragments_or_none(source, fragmented_elsewhere, model, database):
    with pytest.raises(InvalidInputError, match="made without fragments; open it with no fragments="):
        ChromaPassages(model, path=database, fragments=sentences)
    with pytest.raises(InvalidInputError, match="made with fragments; open it with its fragments="):
        ChromaPassages(model, path=database, collection=fragmented_elsewhere)


@pytest.fixture
def fragmented_elsewhere(model, database) -> str:
    ChromaPassages(model, path=database, collection="fragmented", fragments=sentences)
    return "fragmented"


def test_an_empty_folder_becomes_a_database(model, tmp_path):
    assert ChromaPassages(model, path=tmp_path).count() == 0
    assert (tmp_path / "chroma.sqlite3").is_file()


def test_the_default_path_is_db_in_the_working_directory(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ChromaPassages(model)
    assert (tmp_path / "db" / "chroma.sqlite3").is_file()


def test_a_path_that_is_no_place_for_a_database_is_refused_and_left_alone(model, tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    with pytest.raises(PassageStoreError, match=r"notes\.txt is a file"):
        ChromaPassages(model, path=file)
    with pytest.raises(PassageStoreError, match="holds files, but no Chroma database"):
        ChromaPassages(model, path=tmp_path)
    with pytest.raises(PassageStoreError, match="Chroma failed to open the database"):
        ChromaPassages(model, path=file / "below")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_broken_database_is_a_store_error_with_chromas_reason(model, tmp_path):
    (tmp_path / "chroma.sqlite3").write_text("this is no database, whatever its name says " * 100)
    with pytest.raises(PassageStoreError, match="not a database") as caught:
        ChromaPassages(model, path=tmp_path)
    assert isinstance(caught.value.__cause__, chromadb.errors.ChromaError)


def test_path_and_client_together_are_refused(model, database):
    with pytest.raises(InvalidInputError, match="both given"):
        ChromaPassages(model, path=database, client=open_database(database))


@pytest.mark.parametrize("name", ["", "ab", "no spaces", "-dash"])
def test_a_name_that_chroma_refuses_is_invalid_input(model, database, name):
    with pytest.raises(InvalidInputError, match="Chroma cannot open a collection"):
        ChromaPassages(model, path=database, collection=name)


def test_a_collection_that_was_deleted_meanwhile_is_a_store_error(source, model, database, passages):
    open_database(database).delete_collection("onegen")
    for work in (
        source.count,
        lambda: source.search(model.embed_queries(["Who?"]), k=1),
        lambda: source.search(model.embed_queries(["Who?"]), k=1, where={"year": 1}),
        lambda: source.add(passages),
        lambda: source.delete(["0"]),
    ):
        with pytest.raises(PassageStoreError, match="does not exist") as caught:
            work()
        assert isinstance(caught.value.__cause__, chromadb.errors.NotFoundError)


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_without_chromadb_the_import_error_names_the_extra():
    code = """
import sys
sys.modules["chromadb"] = None
try:
    import onegen_integrations.chroma
except ImportError as error:
    print(error)
"""
    assert "install onegen-integrations[chroma]" in run_python(code)


def test_importing_the_adapter_does_not_import_torch():
    assert run_python("import sys, onegen_integrations.chroma; print('torch' in sys.modules)") == "False\n"


# --- the embedding function -----------------------------------------------------------------------


def test_chroma_embeds_documents_and_queries_each_in_their_way(model, database, passages):
    client = open_database(database)
    collection = client.create_collection("docs", embedding_function=OneGenEmbeddingFunction(model=model))
    texts = [passage.text for passage in passages]
    collection.add(ids=[passage.id for passage in passages], documents=texts)
    assert collection.configuration_json["hnsw"]["space"] == "cosine"
    stored = rows_of(database, "docs")
    np.testing.assert_allclose(np.stack([stored[p.id] for p in passages]), model.embed_documents(texts), atol=1e-5)
    by_text = collection.query(query_texts=["Who wrote it?"], n_results=3)
    by_vector = collection.query(query_embeddings=model.embed_queries(["Who wrote it?"]), n_results=3)
    assert by_text["ids"] == by_vector["ids"]
    assert by_text["distances"][0] == pytest.approx(by_vector["distances"][0], abs=1e-5)


def test_a_collection_restores_its_function_from_the_checkpoint(tiny_folder, database):
    client = open_database(database)
    made = client.create_collection("docs", embedding_function=OneGenEmbeddingFunction(checkpoint=tiny_folder))
    made.add(ids=["a", "b"], documents=list(SENTENCES[:2]))
    restored = client.get_collection("docs")
    expected = made.query(query_texts=[SENTENCES[5]], n_results=2)
    assert restored.query(query_texts=[SENTENCES[5]], n_results=2) == expected


def test_nothing_is_loaded_before_a_text_is_embedded(database):
    function = OneGenEmbeddingFunction(checkpoint="/no/such/folder", config="mini", dtype="float32")
    assert OneGenEmbeddingFunction.name() == "onegen"
    assert not function.is_legacy()
    collection = open_database(database).create_collection("docs", embedding_function=function)
    assert collection.configuration["embedding_function"].get_config() == function.get_config()
    with pytest.raises(CheckpointError, match="/no/such/folder"):
        collection.add(ids=["a"], documents=["Text."])


def test_the_configuration_is_json_and_builds_the_same_function(model, tiny_folder):
    for function in (
        OneGenEmbeddingFunction(model=model),
        OneGenEmbeddingFunction(checkpoint=tiny_folder, config=OneGenConfig.preset("mini"), device="cpu"),
        OneGenEmbeddingFunction(config="mini", revision="main", adapter=Path("adapter")),
    ):
        config = json.loads(json.dumps(function.get_config()))
        assert OneGenEmbeddingFunction.build_from_config(config).get_config() == function.get_config() == config


def test_a_restored_function_refuses_weights_that_did_not_make_the_vectors(tiny, tiny_folder):
    config = OneGenEmbeddingFunction(model=tiny("qwen2")).get_config() | {"checkpoint": str(tiny_folder)}
    with pytest.raises(FingerprintMismatchError, match="or give the model itself"):
        OneGenEmbeddingFunction.build_from_config(config)(["Text."])


def test_a_collection_does_not_change_over_to_another_model(tiny, model, database):
    collection = open_database(database).create_collection(
        "docs", embedding_function=OneGenEmbeddingFunction(model=model)
    )
    collection.modify(configuration={"embedding_function": OneGenEmbeddingFunction(model=tiny())})
    for other in (OneGenEmbeddingFunction(model=tiny("qwen2")), OneGenEmbeddingFunction(checkpoint="other")):
        with pytest.raises(FingerprintMismatchError, match="were made by"):
            collection.modify(configuration={"embedding_function": other})


def test_model_and_checkpoint_together_are_refused(model):
    with pytest.raises(InvalidInputError, match="both given"):
        OneGenEmbeddingFunction(model=model, checkpoint="x")
