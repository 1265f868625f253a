"""One pass: every token goes through the model once, and the query vectors are those of a clean full forward."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from oracle import assert_one_pass, clean_forward
from tiny import SENTENCES, tiny_model, tiny_tokenizer

from onegen_integrations import (
    ContextWindowError,
    Finish,
    InvalidInputError,
    MemoryPassages,
    OneGen,
    Passage,
    Retrieval,
    TextDelta,
)

QUESTION = "Where is the novel of Lena Marsh set?"
PROMPTS = (
    "Who?",
    QUESTION,
    "The river Elm flows into a lake. " * 2 + "Which one is it?",
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who wrote it?"},
        {"role": "assistant", "content": "Answer: Lena Marsh"},
        {"role": "user", "content": "And where is it set?"},
    ],
)


def script(hops: int, first: int = 3, every: int = 4) -> dict[int, str]:
    return {first + every * hop: "[RQ]" for hop in range(hops)}


@pytest.mark.parametrize("prompt", PROMPTS, ids=["short", "question", "long", "chat"])
@pytest.mark.parametrize("hops", range(5))
def test_every_token_is_forwarded_once_and_every_query_vector_is_read_in_place(
    tiny, source_of, play, passage_attention, prompt, hops
):
    model = tiny(passage_attention=passage_attention)
    source = source_of(model)
    play(script(hops))
    for top_k in range(1, 5):
        generation = tiny(passage_attention=passage_attention).generate(
            prompt, passages=source, top_k=top_k, max_new_tokens=24
        )
        assert [len(r.passages) for r in generation.retrievals] == [top_k] * hops
        assert generation.usage.reused_tokens == 0
        assert_one_pass(model.model, model.tokenizer, model.config, generation)


def test_query_tokens_at_the_first_choice_and_right_after_a_passage_are_in_place(
    tiny, source_of, play, passage_attention
):
    model = tiny(passage_attention=passage_attention)
    play({0: "[RQ]", 1: "[RQ]", 2: "[RQ]", 4: "[RQ]"})
    generation = model.generate(QUESTION, passages=source_of(model), max_new_tokens=10)
    assert len(generation.retrievals) == 4
    assert_one_pass(model.model, model.tokenizer, model.config, generation)


def test_retrieval_always_searches_at_once_with_the_vector_of_embed_queries(tiny, source_of, play, passage_attention):
    model = tiny(passage_attention=passage_attention)
    play(script(2))
    generation = model.generate(QUESTION, passages=source_of(model), retrieval="always", max_new_tokens=20)
    first = generation.retrievals[0]
    assert len(generation.retrievals) == 3
    assert first.position == generation.usage.prompt_tokens
    assert first.query == QUESTION
    np.testing.assert_allclose(first.vector, model.embed_queries([QUESTION])[0], atol=1e-5)
    assert_one_pass(model.model, model.tokenizer, model.config, generation)


def with_likeliest_token(model: OneGen, token: str) -> OneGen:
    """The same model, but right after `QUESTION` its head makes `token` the likeliest by far."""
    prompt = model.generate(QUESTION, max_new_tokens=1).token_ids[:-1]
    weights = copy.deepcopy(model.model)
    row = torch.tensor(clean_forward(model.model, prompt).vector(-1)) * 100
    weights.get_output_embeddings().weight.data[model.codec.token_id(token)] = row
    return OneGen(weights, model.tokenizer, model.config)


def test_the_model_itself_decides_to_retrieve(tiny, source_of):
    model = with_likeliest_token(tiny(), "[RQ]")
    source = source_of(model)
    generation = model.generate(QUESTION, passages=source, max_new_tokens=4)
    assert generation.retrievals[0].position == generation.usage.prompt_tokens
    assert model.generate(QUESTION, passages=source, retrieval="never", max_new_tokens=4).retrievals == ()


@pytest.mark.parametrize("token", ["[RD]", "<paragraph>", "</paragraph>"])
def test_the_model_cannot_write_what_only_passages_and_documents_hold(tiny, source_of, token):
    model = with_likeliest_token(tiny(), token)
    generation = model.generate(QUESTION, passages=source_of(model), max_retrievals=0, max_new_tokens=4)
    assert model.codec.token_id(token) not in generation.token_ids
    sampled = model.generate(QUESTION, temperature=1.0, seed=1, max_new_tokens=4)
    assert model.codec.token_id(token) not in sampled.token_ids


def test_what_is_found_is_what_the_query_vector_is_nearest_to(tiny, source_of, passages):
    model = tiny()
    generation = model.generate(QUESTION, passages=source_of(model), retrieval="always", top_k=3, max_new_tokens=4)
    scores = model.embed_documents([p.text for p in passages]) @ model.embed_queries([QUESTION])[0]
    found = generation.retrievals[0].passages
    assert [p.id for p in found] == [passages[i].id for i in np.argsort(-scores)[:3]]
    np.testing.assert_allclose([p.score for p in found], np.sort(scores)[::-1][:3], atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"retrieval": "never"}, {"max_retrievals": 0}, {"passages": None}],
    ids=["never", "limit 0", "no source"],
)
def test_no_query_token_is_written_where_retrieval_is_off(tiny, source_of, play, options):
    model = tiny()
    play(script(4))
    generation = model.generate(QUESTION, **({"passages": source_of(model), "max_new_tokens": 20} | options))
    assert generation.retrievals == ()
    assert model.codec.query_id not in generation.token_ids
    assert_one_pass(model.model, model.tokenizer, model.config, generation)


@pytest.mark.parametrize("retrieval", ["auto", "always"])
def test_max_retrievals_is_kept(tiny, source_of, play, retrieval):
    model = tiny()
    play(script(4))
    generation = model.generate(
        QUESTION, passages=source_of(model), retrieval=retrieval, max_retrievals=2, max_new_tokens=24
    )
    assert len(generation.retrievals) == 2
    assert_one_pass(model.model, model.tokenizer, model.config, generation)


def test_where_nothing_reaches_the_score_threshold_an_empty_passage_is_spliced(
    tiny, source_of, play, passage_attention
):
    model = tiny(passage_attention=passage_attention)
    play(script(2))
    generation = model.generate(QUESTION, passages=source_of(model), score_threshold=1.1, max_new_tokens=12)
    assert [r.passages for r in generation.retrievals] == [(), ()]
    assert_one_pass(model.model, model.tokenizer, model.config, generation)


def test_score_threshold_keeps_the_passages_that_reach_it(tiny, source_of):
    model = tiny()
    options = {"passages": source_of(model), "retrieval": "always", "max_new_tokens": 4}
    every = model.generate(QUESTION, top_k=4, **options).retrievals[0].passages
    kept = model.generate(QUESTION, top_k=4, score_threshold=every[1].score - 1e-6, **options).retrievals[0].passages
    assert [p.id for p in kept] == [p.id for p in every[:2]]


def test_a_reused_prefix_changes_nothing_but_the_counts(tiny, source_of, play, passage_attention):
    model = tiny(passage_attention=passage_attention)
    source = source_of(model)
    play(script(3))
    for prompt in (QUESTION, QUESTION + " Which river is near?", QUESTION):
        options = {"passages": source, "top_k": 2, "max_new_tokens": 20}
        fresh = tiny(passage_attention=passage_attention).generate(prompt, **options)
        generation = model.generate(prompt, **options)
        assert generation.token_ids == fresh.token_ids
        assert_one_pass(model.model, model.tokenizer, model.config, generation)
    assert generation.usage.reused_tokens == generation.usage.prompt_tokens - 1


def test_a_reused_prefix_ends_where_answers_part(tiny, source_of, play):
    """The second request shares the prompt, and nothing of the passages that the first one saw."""
    model = tiny()
    other = MemoryPassages(model)
    other.add([Passage(id="x", text="Nothing is known about this, it seems.")])
    play(script(2))
    model.generate(QUESTION, passages=source_of(model), max_new_tokens=16)
    generation = model.generate(QUESTION, passages=other, max_new_tokens=16)
    assert generation.usage.reused_tokens > 0
    assert_one_pass(model.model, model.tokenizer, model.config, generation)


def test_beginnings_are_kept_up_to_the_number_of_positions_asked_for(tiny):
    model = tiny()
    length = len(model.generate(QUESTION, max_new_tokens=4).token_ids)

    def reused(kept: int) -> list[bool]:
        small = OneGen(model.model, model.tokenizer, model.config, prefix_cache_tokens=kept)
        prompts = (QUESTION, QUESTION, "The river Elm?", QUESTION)
        usages = [small.generate(prompt, max_new_tokens=4).usage for prompt in prompts]
        return [usage.reused_tokens > 2 for usage in usages]  # 2: the beginning that every prompt has

    assert reused(0) == [False, False, False, False]
    assert reused(length) == [False, True, False, False]
    assert reused(10 * length) == [False, True, False, True]


def test_a_chat_goes_on_from_the_turn_before(tiny, source_of, play):
    model = tiny()
    source = source_of(model)
    play({})
    chat = [{"role": "user", "content": QUESTION}]
    first = model.generate(chat, retrieval="never", max_new_tokens=8)
    chat += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "And who wrote it?"}]
    play(script(1))
    second = model.generate(chat, passages=source, max_new_tokens=12)
    assert second.usage.reused_tokens >= first.usage.prompt_tokens
    assert_one_pass(model.model, model.tokenizer, model.config, second)


def test_the_answer_is_the_same_however_it_runs(tiny, source_of, play, passage_attention):
    model = tiny(passage_attention=passage_attention)
    source = source_of(model)
    play(script(2))
    options = {"passages": source, "top_k": 2, "max_new_tokens": 20}
    alone = [tiny(passage_attention=passage_attention).generate(prompt, **options) for prompt in PROMPTS]

    for prompt, expected in zip(PROMPTS, alone, strict=True):
        events = list(model.stream(prompt, **options))
        assert "".join(e.text for e in events if isinstance(e, TextDelta)) == expected.text
        assert isinstance(events[-1], Finish)
        assert events[-1].generation.token_ids == expected.token_ids
    repeated = [model.generate(prompt, **options) for prompt in PROMPTS]
    vectors = model.embed_documents(SENTENCES)
    with ThreadPoolExecutor(8) as pool:
        embedded = [pool.submit(model.embed_documents, SENTENCES) for _ in range(6)]
        threaded = list(pool.map(lambda prompt: model.generate(prompt, **options), PROMPTS * 4))
    for future in embedded:
        np.testing.assert_allclose(future.result(), vectors, atol=1e-5)
    for expected, generation in zip(alone * 5, repeated + threaded, strict=True):
        assert generation.token_ids == expected.token_ids
        assert generation.text == expected.text
        assert_one_pass(model.model, model.tokenizer, model.config, generation)


def test_streams_that_take_turns_do_not_touch_each_other(tiny, source_of, play):
    model = tiny()
    options = {"passages": source_of(model), "max_new_tokens": 16}
    play(script(2))
    expected = [tiny().generate(prompt, **options).token_ids for prompt in PROMPTS]
    streams = {number: model.stream(prompt, **options) for number, prompt in enumerate(PROMPTS)}
    finished = {}
    while streams:
        for number, stream in list(streams.items()):
            event = next(stream)
            if isinstance(event, Finish):
                finished[number] = event.generation.token_ids
                del streams[number]
    assert [finished[number] for number in range(len(PROMPTS))] == expected


def test_the_model_ends_the_answer(tiny, source_of, play):
    model = tiny()
    play({1: "[RQ]", 5: "</s>"})
    generation = model.generate(QUESTION, passages=source_of(model), max_new_tokens=20)
    assert generation.finish_reason == "stop"
    assert generation.token_ids[-1] == model.tokenizer.eos_token_id
    assert generation.usage.completion_tokens == 6
    assert generation.usage.forwarded_tokens == len(generation.token_ids) - 1


def test_an_answer_also_ends_at_the_end_tokens_of_the_checkpoint(tiny, play, monkeypatch):
    """Chat models name several in their generation config; an ordinary token there, by mistake, ends nothing."""
    words = tiny_tokenizer().tokenize(" the town")
    ends = tiny_tokenizer().convert_tokens_to_ids(["<|user|>", words[0]])
    monkeypatch.setattr(tiny_model("llama", len(tiny_tokenizer())).generation_config, "eos_token_id", ends)
    play(dict(enumerate([*words, "<|user|>"])))
    generation = tiny().generate(QUESTION)
    assert generation.finish_reason == "stop"
    assert generation.text == "the town"


def test_max_new_tokens_counts_what_the_model_writes_and_not_the_passages(tiny, source_of, play):
    model = tiny()
    play(script(2))
    generation = model.generate(QUESTION, passages=source_of(model), top_k=3, max_new_tokens=13)
    assert generation.finish_reason == "length"
    assert generation.usage.completion_tokens == 13
    assert generation.usage.passage_tokens > 13


def test_the_context_window_ends_the_answer_and_is_filled_to_the_last_position(tiny, play):
    model = tiny()
    play({})
    generation = model.generate("long story " * 60, max_new_tokens=10_000)
    assert generation.finish_reason == "length"
    assert len(generation.token_ids) == model.context_window
    assert_one_pass(model.model, model.tokenizer, model.config, generation)


def test_a_prompt_that_does_not_fit_is_refused_at_once_with_its_length(tiny):
    model = tiny()
    with pytest.raises(ContextWindowError, match=r"prompt takes \d+ tokens.*holds 1024"):
        model.stream("long story " * 400)


def test_bad_options_and_prompts_are_refused_before_the_stream_is_read(tiny):
    model = tiny()
    for options in ({"top_k": 0}, {"stop": ["a", ""]}):
        with pytest.raises(InvalidInputError):
            model.stream(QUESTION, **options)
    for prompt in ("", "a\0b", [], ["Who?"]):
        with pytest.raises(InvalidInputError):
            model.stream(prompt)


def test_the_query_of_a_retrieval_is_the_text_that_led_to_it(tiny, source_of, play):
    model = tiny()
    play({0: "[RQ]", 5: "[RQ]", 6: "[RQ]", 10: "[RQ]"})
    chat = [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": QUESTION},
    ]
    events = list(model.stream(chat, passages=source_of(model), max_new_tokens=12))
    since, expected = "", []
    for event in events:
        if isinstance(event, TextDelta):
            since += event.text
        elif isinstance(event, Retrieval):
            expected.append(since.strip() or QUESTION)
            since = ""
    assert [r.query for r in events[-1].generation.retrievals] == expected
    assert expected[0] == expected[2] == QUESTION
    assert len(set(expected)) == 3
