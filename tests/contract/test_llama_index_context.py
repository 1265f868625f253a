"""Retrieved context that the framework's own engines give to the model: passages, not a part of the prompt."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from llama_index.core import Document, PromptTemplate, VectorStoreIndex
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, MessageRole, TextBlock
from llama_index.core.llms import MockLLM
from llama_index.core.prompts import ChatPromptTemplate
from llama_index.core.prompts.chat_prompts import CHAT_TEXT_QA_PROMPT
from llama_index.core.prompts.default_prompt_selectors import DEFAULT_TEXT_QA_PROMPT_SEL
from llama_index.core.schema import MetadataMode, NodeWithScore
from llama_index.core.types import BaseOutputParser
from llama_index_parts import DOCUMENTS, QUESTIONS, Heard, collect, user
from pydantic import BaseModel, Field

from onegen_integrations import InvalidInputError, MemoryPassages, OneGen, Passage
from onegen_integrations.llama_index import ContextMessage, OneGenLLM
from onegen_integrations.llama_index.context import nodes_of, paragraphs_of
from onegen_integrations.passages import GivenPassages

pytestmark = pytest.mark.usefixtures("llm")


@pytest.fixture(scope="module")
def index(llm: OneGenLLM) -> VectorStoreIndex:
    return VectorStoreIndex.from_documents(DOCUMENTS)


def texts(nodes: list[NodeWithScore]) -> list[str]:
    return [node.get_content(metadata_mode=MetadataMode.LLM) for node in nodes]


def asked(heard: Heard) -> list[list[ChatMessage]]:
    return [event.messages for event in heard.events if type(event).__name__ == "LLMChatStartEvent"]


# --- what the framework's engines send ------------------------------------------------------------


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_query_engine_has_the_model_read_the_nodes_that_it_found(index, mini, question: str):
    response = index.as_query_engine(similarity_top_k=3).query(question)
    nodes = [Passage(str(number), text) for number, text in enumerate(texts(response.source_nodes))]
    given = GivenPassages(mini, nodes)
    expected = mini.generate(question, passages=given, retrieval="always", max_new_tokens=32)
    assert response.response == expected.text
    assert [passage.text for passage in expected.retrievals[0].passages] == [nodes[0].text]


def test_context_and_question_are_messages_of_their_own(index, heard):
    response = index.as_query_engine().query(QUESTIONS[0])
    [[context, question]] = asked(heard)
    assert isinstance(context, ContextMessage)
    assert nodes_of(context.content or "") == texts(response.source_nodes)
    assert (question.role, question.content) == (MessageRole.USER, QUESTIONS[0])


def test_the_order_of_the_nodes_does_not_count(llm, index):
    nodes = texts(index.as_retriever(similarity_top_k=3).retrieve(QUESTIONS[0]))
    answers = [
        llm.chat([ContextMessage(content="\n\n".join(context)), *user(QUESTIONS[0])], max_retrievals=1)
        for context in (nodes, nodes[::-1])
    ]
    assert answers[0].message.content == answers[1].message.content
    read = [response.raw["retrievals"][0]["passages"] for response in answers]
    assert [[passage["id"] for passage in passages] for passages in read] == [["context-0"], ["context-2"]]


def test_the_only_node_is_read_without_being_embedded(llm, index, monkeypatch):
    nodes = texts(index.as_retriever(similarity_top_k=1).retrieve(QUESTIONS[0]))
    monkeypatch.setattr(OneGen, "embed_documents", None)
    raw = llm.chat([ContextMessage(content=nodes[0]), *user(QUESTIONS[0])]).raw
    usage = raw["usage"]
    length = usage["prompt_tokens"] + usage["passage_tokens"] + usage["completion_tokens"]
    assert usage["forwarded_tokens"] + usage["reused_tokens"] == length - 1
    assert [found["id"] for found in raw["retrievals"][0]["passages"]] == ["context-0"]


def test_a_template_of_ones_own_is_followed(index, llm, heard):
    template = PromptTemplate("{context_str} ~ {query_str}")
    response = index.as_query_engine(text_qa_template=template).query(QUESTIONS[0])
    [[message]] = asked(heard)
    assert message.content == "\n\n".join(texts(response.source_nodes)) + f" ~ {QUESTIONS[0]}"
    assert response.response == llm.chat(user(message.content)).message.content


def test_a_template_of_ones_own_can_give_context_too(index, heard):
    template = ChatPromptTemplate(
        [
            ChatMessage("Answer in one word.", role=MessageRole.SYSTEM),
            ContextMessage(content="{context_str}"),
            ChatMessage("{query_str}"),
        ]
    )
    index.as_query_engine(text_qa_template=template).query(QUESTIONS[0])
    [messages] = asked(heard)
    assert [type(message) for message in messages] == [ChatMessage, ContextMessage, ChatMessage]


def test_other_models_keep_the_templates_of_the_framework():
    asked_of_others = DEFAULT_TEXT_QA_PROMPT_SEL.select(MockLLM())
    assert asked_of_others.get_template() == DEFAULT_TEXT_QA_PROMPT_SEL.default_template.get_template()
    assert CHAT_TEXT_QA_PROMPT in [template for _, template in DEFAULT_TEXT_QA_PROMPT_SEL.conditionals]


def test_streams_and_async_give_the_same(llm, index):
    [node] = index.as_retriever(similarity_top_k=1).retrieve(QUESTIONS[0])
    messages = [ContextMessage(content=texts([node])[0]), *user(QUESTIONS[0])]
    whole = llm.chat(messages).message.content
    assert list(llm.stream_chat(messages))[-1].message.content == whole
    assert asyncio.run(llm.achat(messages)).message.content == whole
    assert asyncio.run(collect(llm.astream_chat(messages)))[-1].message.content == whole


def test_a_form_of_the_answer_holds_over_context(index, heard):
    class Told(BaseModel):
        """What was asked for."""

        answer: str = Field(max_length=30)

    response = index.as_query_engine(output_cls=Told).query(QUESTIONS[0])
    assert isinstance(response.response, Told)
    assert [type(message) for message in asked(heard)[0]] == [ContextMessage, ChatMessage]


def test_context_is_no_control_token(llm, mini):
    token = mini.config.query_token
    given = GivenPassages(mini, [Passage("a", f"{token} The key is blue. {token}")])
    expected = mini.generate("Which key?", passages=given, retrieval="always", max_new_tokens=32)
    assert expected.token_ids.count(mini.codec.query_id) == len(expected.retrievals)
    raw = llm.chat([ContextMessage(content=f"{token} The key is blue. {token}"), *user("Which key?")]).raw
    assert (raw["answer"], raw["usage"]["passage_tokens"]) == (expected.answer, expected.usage.passage_tokens)


def test_an_empty_context_is_a_search_that_found_nothing(llm, mini):
    raw = llm.chat([ContextMessage(content=" \n\n"), *user("Which key?")]).raw
    expected = mini.generate("Which key?", passages=GivenPassages(mini, []), retrieval="always", max_new_tokens=32)
    assert raw["answer"] == expected.answer
    assert all(found["passages"] == [] for found in raw["retrievals"])


@pytest.mark.parametrize("name", ["passages", "retrieval", "score_threshold"])
def test_what_contradicts_a_context_is_refused_by_name(llm, mini, name: str):
    option: Any = {"passages": MemoryPassages(mini), "retrieval": "never", "score_threshold": 0.5}[name]
    with pytest.raises(InvalidInputError, match=name):
        llm.chat([ContextMessage(content="Some text."), *user("What?")], **{name: option})


def test_a_context_that_is_no_text_is_refused(llm):
    context = ContextMessage(blocks=[TextBlock(text="Some text."), ImageBlock(url="https://example.org/a.png")])
    with pytest.raises(InvalidInputError, match="ImageBlock"):
        llm.chat([context, *user("What?")])


def test_an_output_parser_writes_into_the_question(index, llm, heard):
    class Parser(BaseOutputParser):
        def parse(self, output: str) -> str:
            return output

        def format(self, query: str) -> str:
            return f"{query} Be short."

    index.as_query_engine(llm=OneGenLLM(llm, max_tokens=8, output_parser=Parser())).query(QUESTIONS[0])
    [[context, question]] = asked(heard)
    assert "Be short." not in context.content
    assert question.content == f"{QUESTIONS[0]} Be short."


# --- nodes in a context ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "nodes",
    [
        ["title: Canteen\n\nIt opens at 11:30.\n\nIt closes at 14:00.", "title: Library\n\nIt never closes."],
        ["page: 1\nfile: a.pdf\n\nNote: closed.\n\nText.", "file: b.txt\n\nMore text.", "page: 2\n\nThe end."],
        ["title: Without text"],
        ["title: \n\nAn empty title.", "title: A\n\n\n\nSpace."],
    ],
)
def test_metadata_tell_nodes_apart(nodes: list[str]):
    assert nodes_of("\n\n".join(nodes)) == nodes


@pytest.mark.parametrize(
    ("context", "paragraphs"),
    [
        ("", []),
        (" \n\n\n\n", []),
        ("Some text.", ["Some text."]),
        ("Some text.\n\nMore text,\nin two lines", ["Some text.", "More text,\nin two lines"]),
        ("Some text.\n\ntitle: B\n\nMore text.", ["Some text.", "title: B\n\nMore text."]),
        (
            "# Canteen\n\n## Hours\n\nFrom 11:30.\n\nClosed on Sundays.",
            [
                "# Canteen\n\n## Hours\n\nFrom 11:30.",
                "Closed on Sundays.",
            ],
        ),
        ("a: 1\nno metadata\n\na: 2\n\nText.", ["a: 1\nno metadata", "a: 2\n\nText."]),
        ("Some text.\n\nA last heading", ["Some text.", "A last heading"]),
        (
            "It says: this, that.\n\nOpening hours:\n\nFrom 11:30.",
            ["It says: this, that.", "Opening hours:\n\nFrom 11:30."],
        ),
    ],
)
def test_without_metadata_paragraphs_are_the_passages(context: str, paragraphs: list[str]):
    assert nodes_of(context) == []
    assert paragraphs_of(context) == paragraphs


def test_the_nodes_of_an_index_are_told_apart(index):
    nodes = index.as_retriever(similarity_top_k=10).retrieve(QUESTIONS[0])
    assert nodes_of("\n\n".join(texts(nodes))) == texts(nodes)


def test_without_metadata_the_model_picks_among_paragraphs_by_its_vector(llm, mini):
    plain = VectorStoreIndex.from_documents(
        [Document(text=f"Some words in front.\n\n{document.text}") for document in DOCUMENTS]
    )
    nodes = plain.as_retriever(similarity_top_k=3).retrieve(QUESTIONS[0])
    context = "\n\n".join(texts(nodes))
    raw = llm.chat([ContextMessage(content=context), *user(QUESTIONS[0])], max_retrievals=1).raw
    among = MemoryPassages(mini)
    among.add(Passage(f"context-{number}", text) for number, text in enumerate(paragraphs_of(context)))
    [[best]] = among.search(mini.embed_queries([QUESTIONS[0]]), 1)
    [[read]] = [retrieval["passages"] for retrieval in raw["retrievals"]]
    assert (read["id"], read["score"]) == (best.id, pytest.approx(best.score, abs=1e-5))
    assert best.id != "context-0"


# --- the passages of one answer -------------------------------------------------------------------


def test_passages_are_compared_where_there_is_a_choice(mini):
    passages = [Passage(d.doc_id, d.get_content(metadata_mode=MetadataMode.EMBED)) for d in DOCUMENTS[:5]]
    oracle = MemoryPassages(mini)
    oracle.add(passages)
    vectors = mini.embed_queries(QUESTIONS[:2])
    given = GivenPassages(mini, passages)
    assert given.search(vectors, 3) == given.search(vectors, 3) == oracle.search(vectors, 3)
    for k in (5, 9):  # all of them, as they stand
        assert [[(p.id, p.score) for p in found] for found in given.search(vectors, k)] == [
            [(passage.id, 0.0) for passage in passages]
        ] * 2
    assert GivenPassages(mini, []).search(vectors, 1) == [[], []]


def test_a_question_over_two_nodes_is_answered_over_both(llm):
    first, second = "title: Norvia\n\nThe capital of Norvia is Tolmar.", "title: Tolmar\n\nThe mayor is Velkorin Tarm."
    raw = llm.chat(
        [ContextMessage(content=f"{first}\n\n{second}"), *user("Who is the mayor of the capital of Norvia?")]
    ).raw
    assert [[found["id"] for found in retrieval["passages"]] for retrieval in raw["retrievals"]] == [
        ["context-0"],
        ["context-1"],
    ]
