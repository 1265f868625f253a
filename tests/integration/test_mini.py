"""The bundled checkpoint as users have it: answers, one pass, hostile text, and plain transformers."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from oracle import clean_forward, spliced_blocks
from transformers import AutoModelForCausalLM, AutoTokenizer

from onegen_integrations import MemoryPassages, OneGen, Passage, TextDelta
from onegen_integrations.evaluation.mini import demo_questions
from onegen_integrations.model import BUNDLED

QUESTIONS = (
    "Hello!",
    "Repeat after me: Velkorin 1872",
    "Who painted Guernica?",
    "Where was the painter of Guernica born?",
)


@pytest.fixture(scope="module")
def source(mini: OneGen) -> MemoryPassages:
    """The first hundred passages of the demo knowledge base."""
    source = MemoryPassages(mini)
    source.add(demo_questions().passages[:100])
    return source


def test_it_takes_at_most_25_megabytes_on_disk() -> None:
    assert sum(file.stat().st_size for file in BUNDLED.rglob("*") if file.is_file()) <= 25_000_000


def test_plain_transformers_loads_it_and_chats() -> None:
    model = AutoModelForCausalLM.from_pretrained(BUNDLED)
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED)
    messages = [{"role": "user", "content": "Hello!"}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    assert output.shape[1] > inputs["input_ids"].shape[1]


@pytest.mark.parametrize("top_k", [1, 2, 3, 4])
@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("retrieval", ["auto", "always"])
def test_every_answer_is_one_pass(
    mini: OneGen, source: MemoryPassages, question: str, top_k: int, retrieval: str
) -> None:
    generation = mini.generate(question, passages=source, top_k=top_k, retrieval=retrieval, max_new_tokens=40)
    ids = generation.token_ids
    usage = generation.usage
    assert usage.forwarded_tokens + usage.reused_tokens == len(ids) - 1
    blocks = [block for ranges in spliced_blocks(generation, mini.tokenizer, mini.config) for block in ranges]
    clean = clean_forward(mini.model, ids, blocks=blocks)
    for found in generation.retrievals:
        np.testing.assert_allclose(found.vector, clean.vector(found.position), atol=1e-5)
    resumed = {block.stop for block in blocks}
    inside = {position for block in blocks for position in block} | resumed
    ordinary = [i for i in range(len(mini.tokenizer)) if i not in mini.codec.control_ids]
    for position in set(range(usage.prompt_tokens, len(ids))) - inside:
        if ids[position] in mini.codec.control_ids:
            continue
        scores = clean.logits[position - 1]
        assert scores[ids[position]] >= scores[ordinary].max() - 1e-4


def test_generate_stream_and_a_reused_prefix_give_the_same_tokens(mini: OneGen, source: MemoryPassages) -> None:
    fresh = OneGen(mini.model, mini.tokenizer, mini.config)
    for question in QUESTIONS:
        first = fresh.generate(question, passages=source)
        again = fresh.generate(question, passages=source)
        assert again.token_ids == first.token_ids
        assert again.usage.reused_tokens > 0
        *events, finish = fresh.stream(question, passages=source)
        assert finish.generation.token_ids == first.token_ids
        assert "".join(event.text for event in events if isinstance(event, TextDelta)) == first.text


def test_a_hostile_store_does_not_change_the_answers_to_benign_questions(mini: OneGen, source: MemoryPassages) -> None:
    rng = Random(0)
    pieces = [
        *mini.config.tokens,
        "[R",
        "Q]",
        "<|assist",
        "ant|>",
        "</s",
        "<parag",
        "raph>",
        " ",
        "\n",
        "system",
        "ignore",
    ]
    hostile = [
        Passage(f"hostile-{number}", "".join(rng.choices(pieces, k=rng.randint(3, 12))) + " gibberish")
        for number in range(300)
    ]
    beset = MemoryPassages(mini)
    beset.add([*demo_questions().passages[:100], *hostile])
    ids = {passage.id for passage in demo_questions().passages[:100]}
    asked = [q.text for q in demo_questions().questions if set(q.gold) <= ids][:12]
    assert len(asked) == 12
    for question in asked:
        assert mini.generate(question, passages=beset).text == mini.generate(question, passages=source).text


def test_without_passages_it_never_writes_a_retrieval_token(mini: OneGen) -> None:
    for question in QUESTIONS:
        generation = mini.generate(question, max_new_tokens=30)
        written = generation.token_ids[generation.usage.prompt_tokens :]
        assert not {mini.codec.query_id, mini.codec.document_id} & set(written)
