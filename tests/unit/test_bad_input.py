"""Bad input has its own error, which says what was given, what is allowed, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from onegen_integrations import (
    ContextWindowError,
    InvalidInputError,
    MemoryPassages,
    OneGen,
    PassageSourceError,
    PassageStoreError,
    ScoredPassage,
)


@pytest.fixture
def model(tiny: Callable[..., OneGen]) -> OneGen:
    return tiny()


@pytest.fixture
def source(model: OneGen, source_of: Callable[[OneGen], MemoryPassages]) -> MemoryPassages:
    return source_of(model)


@pytest.mark.parametrize("text", ["", " ", "\n\t "])
def test_blank_text_is_refused_everywhere(model: OneGen, text: str) -> None:
    for call in (model.embed_queries, model.embed_documents):
        with pytest.raises(InvalidInputError, match="is empty"):
            call(["fine", text])
    with pytest.raises(InvalidInputError, match="The prompt is empty"):
        model.generate(text)
    with pytest.raises(InvalidInputError, match="Document 0 is empty"):
        model.embed_fragments([["fine", text]])


@pytest.mark.parametrize(
    ("text", "kind"), [("a\0b", "NUL character at position 1"), ("ab\ud800", r"U\+D800 at position 2")]
)
def test_characters_without_an_encoding_are_refused(model: OneGen, text: str, kind: str) -> None:
    for call in (model.embed_queries, model.embed_documents):
        with pytest.raises(InvalidInputError, match=kind):
            call([text])
    with pytest.raises(InvalidInputError, match=kind):
        model.generate(text)
    with pytest.raises(InvalidInputError, match=kind):
        model.generate([{"role": "user", "content": text}])


def test_one_string_in_place_of_a_list_is_refused(model: OneGen) -> None:
    with pytest.raises(InvalidInputError, match="must be a list of strings"):
        model.embed_queries("Who?")
    with pytest.raises(InvalidInputError, match="non-empty list of fragments"):
        model.embed_fragments(["Who?"])


def test_text_that_is_no_string_is_refused(model: OneGen) -> None:
    with pytest.raises(InvalidInputError, match="Query 1 must be a string, not int"):
        model.embed_queries(["Who?", 3])


def test_no_texts_give_no_vectors(model: OneGen) -> None:
    assert model.embed_queries([]).shape == (0, model.dim)
    assert model.embed_documents([]).shape == (0, model.dim)
    assert model.embed_fragments([]) == []


def test_text_longer_than_the_context_says_how_long_it_is(model: OneGen) -> None:
    long = "town " * 1500
    with pytest.raises(ContextWindowError, match=r"Query 0 takes \d+ tokens, but the context window holds 1024"):
        model.embed_queries([long])
    with pytest.raises(ContextWindowError, match=r"Document 1 takes \d+ tokens"):
        model.embed_documents(["fine", long])
    with pytest.raises(ContextWindowError, match=r"The prompt take.* \d+ tokens, but the context window holds 1024"):
        model.generate(long)


def test_a_passage_that_does_not_fit_raises_with_what_was_generated(model: OneGen) -> None:
    class Long:
        def search(self, vectors: object, k: int) -> Sequence[Sequence[ScoredPassage]]:
            return [[ScoredPassage("long", "town " * 1500)]]

    with pytest.raises(ContextWindowError, match="prompt and passages") as caught:
        model.generate("Where?", passages=Long(), retrieval="always")
    assert caught.value.partial is not None
    assert caught.value.partial.retrievals[0].passages[0].id == "long"


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_refused(model: OneGen, source: MemoryPassages, k: int) -> None:
    with pytest.raises(InvalidInputError, match=f"k is {k}; ask for at least one"):
        source.search(model.embed_queries(["Who?"]), k)
    with pytest.raises(InvalidInputError, match=f"top_k is {k}; it must be at least 1"):
        model.generate("Who?", passages=source, top_k=k)


def test_k_above_the_store_is_refused(model: OneGen, source: MemoryPassages) -> None:
    with pytest.raises(InvalidInputError, match=r"k is 9, but there are only 8 passages.*at most 8"):
        source.search(model.embed_queries(["Who?"]), 9)


def test_an_empty_store_says_so(model: OneGen) -> None:
    with pytest.raises(PassageStoreError, match="There are no passages"):
        MemoryPassages(model).search(model.embed_queries(["Who?"]), 1)
    with pytest.raises(PassageSourceError, match="There are no passages") as caught:
        model.generate("Who?", passages=MemoryPassages(model), retrieval="always")
    assert isinstance(caught.value.__cause__, PassageStoreError)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"retrieval": "sometimes"}, "retrieval is 'sometimes'; it must be 'auto', 'always' or 'never'"),
        ({"retrieval": "always"}, "needs passages"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_retrievals": -1}, "max_retrievals is -1"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"top_p": 0}, "top_p is 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"stop": [""]}, "stop string must not be empty"),
    ],
)
def test_options_out_of_range_are_refused(model: OneGen, options: dict[str, object], reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        model.generate("Who?", **options)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "list of messages is empty"),
        (["Who?"], "must be a mapping"),
        ([{"content": "Who?"}], "must be a mapping with 'role' and 'content'"),
    ],
)
def test_messages_that_are_none_are_refused(model: OneGen, messages: list[object], reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        model.generate(messages)


def test_a_whole_number_is_a_temperature(model: OneGen) -> None:
    one, same = (model.generate("Who?", temperature=t, seed=1, max_new_tokens=8).text for t in (1, 1.0))
    assert one == same


def test_titles_must_match_documents(model: OneGen) -> None:
    with pytest.raises(InvalidInputError, match="2 documents but 1 titles"):
        model.embed_documents(["a", "b"], titles=["A"])


def test_a_retrieval_that_there_is_no_room_for_is_refused(model: OneGen, source: MemoryPassages) -> None:
    with pytest.raises(InvalidInputError, match="retrieval='always' an answer begins with 1 tokens"):
        model.generate("Who?", passages=source, retrieval="always", max_new_tokens=1)


def test_a_source_that_gives_no_list_is_named(model: OneGen) -> None:
    class Nothing:
        def search(self, vectors: object, k: int) -> Sequence[Sequence[ScoredPassage]]:
            return []

    with pytest.raises(PassageSourceError, match=r"search\(\) gave 0 lists of passages for one vector"):
        model.generate("Who?", passages=Nothing(), retrieval="always")


@pytest.mark.parametrize(
    ("text", "reason"), [("\ud800", "lone surrogate"), ("a\0b", "NUL"), (None, "must be a string")]
)
def test_a_passage_that_is_no_text_is_named(model: OneGen, text: Any, reason: str) -> None:
    class Broken:
        def search(self, vectors: object, k: int) -> Sequence[Sequence[ScoredPassage]]:
            return [[ScoredPassage("a", text, {}, 1.0)]]

    with pytest.raises(PassageSourceError, match=f"The text of the passage 'a'.*{reason}"):
        model.generate("Who?", passages=Broken(), retrieval="always")
