"""Vectors: those of a clean full forward of the published layout, whatever else is in the batch."""

from __future__ import annotations

import random
import re
from itertools import pairwise

import numpy as np
import pytest
from oracle import clean_forward
from tiny import SENTENCES, tiny_tokenizer

from onegen_integrations import OneGen

FRAGMENTS = (
    ["Ostrava lies above the sea."],
    ["The ferry crosses the lake.", " It costs 3 crowns.", " Boats are moved by sledge."],
    ["Lena", " Marsh", " wrote", " it", "."],
    ["A long first fragment about the river Elm and the town on it, with a number, 4,190.", " Short."],
)


def ids_of(text: str) -> list[int]:
    return tiny_tokenizer()(text, add_special_tokens=False).input_ids


def vector_at_the_end_of(model: OneGen, text: str) -> np.ndarray:
    return clean_forward(model.model, ids_of(text)).vector(-1)


def test_a_query_vector_is_the_hidden_state_at_the_query_token_after_the_prompt(tiny, architecture):
    model = tiny(architecture)
    vectors = model.embed_queries(SENTENCES[:3])
    for sentence, vector in zip(SENTENCES, vectors, strict=False):
        expected = vector_at_the_end_of(model, f"<s><|user|>{sentence}<|assistant|>[RQ]")
        np.testing.assert_allclose(vector, expected, atol=1e-5)


def test_a_query_vector_is_the_one_that_generate_searches_with(tiny, architecture, source_of):
    model = tiny(architecture)
    options = {"passages": source_of(model), "retrieval": "always", "max_new_tokens": 2}
    for sentence, vector in zip(SENTENCES, model.embed_queries(SENTENCES), strict=True):
        np.testing.assert_allclose(model.generate(sentence, **options).retrievals[0].vector, vector, atol=1e-5)


@pytest.mark.parametrize("suffix", ["Search: [RQ]", "<|tool|>[RQ]", " a[RQ]"])
def test_a_query_vector_is_the_one_of_generate_whatever_leads_to_the_query_token(tiny, source_of, suffix):
    model = tiny(query_suffix=suffix, prompt_template="Q: {prompt} A:")
    retrieval = model.generate("Who?", passages=source_of(model), retrieval="always", max_new_tokens=12).retrievals[0]
    np.testing.assert_allclose(retrieval.vector, model.embed_queries(["Who?"])[0], atol=1e-5)


def test_an_isolated_fragment_is_read_behind_the_text_up_to_its_end(tiny, architecture):
    """One pass over the document gives what a pass over each beginning of it gives: document tokens see, unseen."""
    model = tiny(architecture)
    for fragments, vectors in zip(FRAGMENTS, model.embed_fragments(FRAGMENTS), strict=True):
        assert len(vectors) == len(fragments)
        for end, vector in enumerate(vectors[:-1], start=1):
            expected = vector_at_the_end_of(model, "<paragraph>" + "".join(fragments[:end]) + "[RD]")
            np.testing.assert_allclose(vector, expected, atol=1e-5)
        whole = vector_at_the_end_of(model, "<paragraph>" + "".join(fragments) + "</paragraph>[RD]")
        np.testing.assert_allclose(vectors[-1], whole, atol=1e-5)


def test_an_isolated_document_takes_one_pass_with_hidden_document_tokens(tiny, architecture):
    """The same, against one masked forward with the document tokens in place."""
    model = tiny(architecture)
    for fragments, vectors in zip(FRAGMENTS, model.embed_fragments(FRAGMENTS), strict=True):
        whole = ids_of("<paragraph>" + "".join(fragments) + "</paragraph>")
        ends = [len(ids_of("<paragraph>" + "".join(fragments[:end]))) for end in range(1, len(fragments))] + [
            len(whole)
        ]
        ids, places, observers = [], [], []
        for start, end in pairwise([0, *ends]):
            ids += [*whole[start:end], model.codec.document_id]
            places += range(start, end + 1)
            observers.append(len(ids) - 1)
        clean = clean_forward(model.model, ids, observers=observers, positions=places)
        for observer, vector in zip(observers, vectors, strict=True):
            np.testing.assert_allclose(vector, clean.vector(observer), atol=1e-5)


def test_the_last_fragment_has_the_vector_of_the_document(tiny, architecture):
    model = tiny(architecture)
    documents = model.embed_documents(["".join(fragments) for fragments in FRAGMENTS])
    for vectors, document in zip(model.embed_fragments(FRAGMENTS), documents, strict=True):
        np.testing.assert_allclose(vectors[-1], document, atol=1e-5)


def test_causal_fragments_follow_the_published_layout(tiny, architecture):
    """A prompt that quotes the document token, the title, and a document token behind every sentence."""
    model = tiny(
        architecture,
        passage_attention="causal",
        document_template="Output it after the '[RD]' token. \nHere:\nwiki title: {title}\ncontent: {text}",
        title_template="{title}",
    )
    titles = ["Ostrava", "", "The ferry", "a title that spells [RD]"]
    vectors = model.embed_fragments(FRAGMENTS, titles=titles)
    assert [len(found) for found in vectors] == [len(fragments) for fragments in FRAGMENTS]
    for fragments, title, found in zip(FRAGMENTS[:3], titles, vectors, strict=False):
        text = f"Output it after the '[RD]' token. \nHere:\nwiki title: {title}\ncontent: "
        text += "".join(fragment + "[RD]" for fragment in fragments)
        ids = ids_of(text)
        clean = clean_forward(model.model, ids)
        quoted, *reads = [i for i, token in enumerate(ids) if token == model.codec.document_id]
        for position, vector in zip(reads, found, strict=True):
            np.testing.assert_allclose(vector, clean.vector(position), atol=1e-5)
            assert np.abs(vector - clean.vector(quoted)).max() > 1e-3


def test_a_vector_does_not_depend_on_the_batch(tiny, architecture, passage_attention):
    model = tiny(architecture, passage_attention=passage_attention)
    generator = random.Random(1)
    texts = [" ".join(generator.choices(SENTENCES, k=generator.randint(1, 6))) for _ in range(12)] + ["a", "Yes."]
    alone = np.concatenate([model.embed_documents([text]) for text in texts])
    queries = np.concatenate([model.embed_queries([text]) for text in texts])
    for batch_tokens in (1, 300, 100_000):
        batched = OneGen(model.model, model.tokenizer, model.config, max_batch_tokens=batch_tokens)
        for _ in range(2):
            order = generator.sample(range(len(texts)), k=len(texts))
            shuffled = [texts[i] for i in order]
            np.testing.assert_allclose(batched.embed_documents(shuffled), alone[order], atol=1e-5)
            np.testing.assert_allclose(batched.embed_queries(shuffled), queries[order], atol=1e-5)


def test_fragments_do_not_depend_on_the_batch(tiny, architecture, passage_attention):
    model = tiny(architecture, passage_attention=passage_attention)
    together = model.embed_fragments([*FRAGMENTS, ["x"] * 40])
    for fragments, vectors in zip(FRAGMENTS, together, strict=False):
        np.testing.assert_allclose(vectors, model.embed_fragments([fragments])[0], atol=1e-5)


def test_fragments_that_end_inside_a_token_keep_their_number_and_the_document_its_vector(tiny):
    model = tiny()
    letters = [re.findall(r"\s*\S", sentence) for sentence in SENTENCES[:3]]
    documents = model.embed_documents(SENTENCES[:3])
    for fragments, vectors, document in zip(letters, model.embed_fragments(letters), documents, strict=True):
        assert len(vectors) == len(fragments)
        np.testing.assert_allclose(vectors[-1], document, atol=1e-5)


def test_vectors_are_unit_length_float32_and_as_wide_as_the_model(tiny):
    model = tiny()
    for vectors in (
        model.embed_queries(SENTENCES),
        model.embed_documents(SENTENCES),
        model.embed_fragments([["a", "b"]])[0],
    ):
        assert vectors.dtype == np.float32
        assert vectors.shape[1] == model.dim == 48
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
