"""Streams: closing one stops the work, errors arrive with what was written, sampling repeats, text comes whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from oracle import assert_one_pass, clean_forward
from tiny import tiny_tokenizer

from onegen_integrations import Finish, MemoryPassages, OneGen, PassageSourceError, Retrieval, ScoredPassage, TextDelta
from onegen_integrations.engine.sampling import Sampler
from onegen_integrations.generation import Event

QUESTION = "Where is the novel of Lena Marsh set?"


@contextmanager
def counted_tokens(model: OneGen) -> Iterator[list[int]]:
    """How many tokens each forward pass inside the block takes."""
    counts: list[int] = []
    handle = model.model.get_decoder().register_forward_pre_hook(
        lambda _module, _args, options: counts.append(options["input_ids"].numel()), with_kwargs=True
    )
    try:
        yield counts
    finally:
        handle.remove()


# --- closing --------------------------------------------------------------------------------------


def test_nothing_is_computed_before_the_stream_is_read(tiny):
    model = tiny()
    with counted_tokens(model) as counts:
        stream = model.stream(QUESTION)
        stream.close()
    assert counts == []


@pytest.mark.parametrize("deltas", [1, 3])
def test_closing_a_stream_stops_the_work_within_a_token(tiny, play, deltas):
    model = tiny()
    play({})
    with counted_tokens(model) as counts:
        stream = model.stream(QUESTION, max_new_tokens=200)
        for _ in range(deltas):
            assert isinstance(next(stream), TextDelta)
        before = list(counts)
        stream.close()
        assert counts == before
    alone = tiny().generate(QUESTION, max_new_tokens=200)
    assert len(before) <= len(alone.token_ids) - alone.usage.prompt_tokens
    assert sum(before) < alone.usage.forwarded_tokens / 2


def test_closing_a_stream_at_a_retrieval_forwards_no_passage(tiny, source_of, play):
    model = tiny()
    source = source_of(model)
    play({2: "[RQ]"})
    with counted_tokens(model) as counts:
        stream = model.stream(QUESTION, passages=source)
        next(event for event in stream if isinstance(event, Retrieval))
        stream.close()
    prompt = tiny().generate(QUESTION, max_new_tokens=1).usage.prompt_tokens
    assert counts == [prompt, 1, 1, 1]


def test_dropping_a_stream_stops_the_work(tiny, play):
    model = tiny()
    play({})
    with counted_tokens(model) as counts:
        next(model.stream(QUESTION, max_new_tokens=200))
    assert len(counts) < 20


def test_the_beginning_of_a_closed_stream_serves_the_next_request(tiny, source_of, play):
    model = tiny()
    source = source_of(model)
    play({2: "[RQ]", 7: "[RQ]"})
    expected = tiny().generate(QUESTION, passages=source, max_new_tokens=16)
    for events in (1, 2, 4, 7):
        stream = model.stream(QUESTION, passages=source, max_new_tokens=16)
        for _ in range(events):
            next(stream)
        stream.close()
        generation = model.generate(QUESTION, passages=source, max_new_tokens=16)
        assert generation.usage.reused_tokens > 0
        assert generation.token_ids == expected.token_ids
        assert_one_pass(model.model, model.tokenizer, model.config, generation)


def test_reading_a_stream_leaves_the_callers_grad_mode_alone(tiny):
    for _ in tiny().stream(QUESTION, max_new_tokens=3):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()


# --- errors ---------------------------------------------------------------------------------------


class FailingPassages:
    """Searches as `source` does, until search number `fails_at`."""

    def __init__(self, source: MemoryPassages, fails_at: int, error: Exception) -> None:
        self.source = source
        self.left = fails_at
        self.error = error

    def search(self, vectors: np.ndarray, k: int) -> Sequence[Sequence[ScoredPassage]]:
        self.left -= 1
        if self.left == 0:
            raise self.error
        return self.source.search(vectors, k)


def collect(stream: Iterator[Event], events: list[Event]) -> None:
    for event in stream:
        events.append(event)  # noqa: PERF402 (what came before an error counts)


@pytest.mark.parametrize("error", [ConnectionError("the store is gone"), KeyError("documents")])
def test_an_error_in_the_passage_source_arrives_with_what_was_written(tiny, source_of, play, error):
    model = tiny()
    source = source_of(model)
    play({3: "[RQ]", 8: "[RQ]"})
    events = []
    with pytest.raises(PassageSourceError, match=f"failed while an answer was generated: {error}") as caught:
        collect(model.stream(QUESTION, passages=FailingPassages(source, 2, error)), events)
    partial = caught.value.partial
    assert caught.value.__cause__ is error
    assert partial.finish_reason == "error"
    assert partial.text == "".join(event.text for event in events if isinstance(event, TextDelta))
    assert partial.text
    assert len(partial.retrievals) == 1
    assert partial.token_ids[-1] == model.codec.query_id

    generation = model.generate(QUESTION, passages=source, max_new_tokens=16)
    assert len(generation.retrievals) == 2
    assert generation.token_ids[: len(partial.token_ids)] == partial.token_ids
    assert_one_pass(model.model, model.tokenizer, model.config, generation)


def test_text_that_might_have_become_a_stop_string_is_part_of_what_was_written(tiny, source_of, play):
    model = tiny()
    play(dict(enumerate([*tiny_tokenizer().tokenize("The river Elm"), "[RQ]"])))
    source = FailingPassages(source_of(model), 1, ConnectionError("gone"))
    with pytest.raises(PassageSourceError) as caught:
        model.generate(QUESTION, passages=source, stop=["Elm rises"])
    assert caught.value.partial.text == "The river Elm"


def test_a_source_may_ask_for_the_text_that_led_to_a_retrieval(tiny, source_of, play):
    class Asked:
        def __init__(self, source: MemoryPassages) -> None:
            self.source = source
            self.queries = []

        def search(self, vectors: np.ndarray, k: int) -> Sequence[Sequence[ScoredPassage]]:
            raise AssertionError

        def search_for(self, query: str, vector: np.ndarray, k: int) -> Sequence[ScoredPassage]:
            self.queries.append(query)
            return self.source.search(vector[None], k)[0]

    model = tiny()
    play({0: "[RQ]", 5: "[RQ]"})
    source = Asked(source_of(model))
    generation = model.generate(QUESTION, passages=source, max_new_tokens=10)
    assert source.queries == [retrieval.query for retrieval in generation.retrievals]
    assert source.queries[0] == QUESTION != source.queries[1]


def test_a_source_that_finds_nothing_at_all_does_not_end_the_answer(tiny, play):
    class NoPassages:
        def search(self, vectors: np.ndarray, k: int) -> list[list[ScoredPassage]]:
            return [[] for _ in vectors]

    model = tiny()
    play({1: "[RQ]"})
    generation = model.generate(QUESTION, passages=NoPassages(), max_new_tokens=8)
    assert generation.retrievals[0].passages == ()
    assert_one_pass(model.model, model.tokenizer, model.config, generation)


# --- sampling -------------------------------------------------------------------------------------


def test_a_seed_repeats_an_answer_whatever_runs_beside_it(tiny, source_of):
    model = tiny()
    options = {"passages": source_of(model), "temperature": 1.0, "max_new_tokens": 24, "max_retrievals": 2}
    expected = [model.generate(QUESTION, seed=seed, **options).token_ids for seed in range(6)]
    torch.manual_seed(99)
    model.generate("Something else.", temperature=1.5, seed=0)
    assert [model.generate(QUESTION, seed=seed, **options).token_ids for seed in range(6)] == expected
    with ThreadPoolExecutor(6) as pool:
        together = pool.map(lambda seed: model.generate(QUESTION, seed=seed, **options).token_ids, range(6))
        assert list(together) == expected
    assert len(set(expected)) == 6


def test_without_a_seed_answers_differ(tiny):
    model = tiny()
    assert len({model.generate(QUESTION, temperature=1.5, max_new_tokens=16).token_ids for _ in range(4)}) > 1


def test_sampling_leaves_the_callers_random_numbers_alone(tiny):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    tiny().generate(QUESTION, temperature=1.0, max_new_tokens=4)
    assert torch.equal(torch.rand(3), expected)


def test_temperature_zero_is_greedy_whatever_the_seed(tiny):
    model = tiny()
    greedy = model.generate(QUESTION, max_new_tokens=12).token_ids
    assert model.generate(QUESTION, max_new_tokens=12, temperature=0.0, top_p=0.3, seed=3).token_ids == greedy
    assert model.generate(QUESTION, max_new_tokens=12, temperature=1.0, top_p=1e-6, seed=3).token_ids == greedy
    for position in range(len(greedy) - 12, len(greedy)):
        scores = clean_forward(model.model, greedy[:position]).logits[-1]
        scores[list(model.codec.control_ids - model.codec.eos_ids)] = -torch.inf
        assert scores.max() - scores[greedy[position]] < 1e-4


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 1.0), (1.0, 0.6)])
def test_tokens_are_drawn_with_the_probabilities_of_the_model(temperature, top_p):
    """softmax(logits / temperature) over the fewest of the likeliest tokens that reach top_p, without the banned."""
    logits = torch.tensor([2.0, 1.5, 1.0, 0.0, -1.0, 5.0])
    banned = {5}
    weights = (logits[:5] / temperature).softmax(0)
    order = weights.argsort(descending=True)
    kept = order[: int((weights[order].cumsum(0) < top_p).sum()) + 1]
    expected = torch.zeros(6)
    expected[kept] = weights[kept] / weights[kept].sum()

    sampler = Sampler(temperature, top_p, 11, torch.device("cpu"))
    draws = Counter(sampler.choose(logits, [0], banned) for _ in range(4000))
    assert set(draws) <= set(kept.tolist())
    for token, probability in enumerate(expected.tolist()):
        assert draws[token] / 4000 == pytest.approx(
            probability, abs=4 * (probability * (1 - probability) / 4000) ** 0.5
        )


# --- text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["🙂👩‍👩‍👧 flags 🇯🇵", "日本語とEnglish、한국어", "e\u0301 ﬁ \U0010ffff 𒀀 end"])
def test_characters_of_many_tokens_arrive_whole(tiny, play, source_of, text):
    model = tiny()
    tokens = tiny_tokenizer().tokenize(text)
    play(dict(enumerate([*tokens[:5], "[RQ]", *tokens[5:], "</s>"])))
    events = list(model.stream(QUESTION, passages=source_of(model)))
    deltas = [event.text for event in events if isinstance(event, TextDelta)]
    assert "".join(deltas) == events[-1].generation.text == text
    assert not any("\ufffd" in delta for delta in deltas)
    assert len(deltas) > 2


def test_the_text_is_what_was_written_without_control_tokens_and_passages(tiny, play, source_of):
    model = tiny()
    words = tiny_tokenizer().tokenize("Lena Marsh wrote it. Answer: the town is Ostrava.")
    play(dict(enumerate([*words[:4], "[RQ]", *words[4:7], "<|tool|>", *words[7:], "</s>"])))
    generation = model.generate(QUESTION, passages=source_of(model), top_k=2)
    assert generation.text == "Lena Marsh wrote it. Answer: the town is Ostrava."
    assert generation.answer == "the town is Ostrava."
    assert generation.usage.passage_tokens > 0


@pytest.mark.parametrize("stop", ["the novel", "ovel The Qu", "Quiet", "t Harbour in 1974.", "L"])
def test_a_stop_string_ends_the_answer_and_no_part_of_it_is_emitted(tiny, play, stop):
    """The strings begin and end inside tokens."""
    model = tiny()
    text = "Lena Marsh wrote the novel The Quiet Harbour in 1974. And more."
    play(dict(enumerate(tiny_tokenizer().tokenize(text))))
    events = list(model.stream(QUESTION, stop=["never there", stop]))
    generation = events[-1].generation
    assert generation.text == text[: text.index(stop)]
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == generation.text
    assert generation.finish_reason == "stop"
    assert generation.usage.forwarded_tokens == len(generation.token_ids) - 1
    whole = model.codec.decode(generation.token_ids[generation.usage.prompt_tokens :])
    assert stop in whole
    assert len(whole) < text.index(stop) + len(stop) + 8


def test_the_beginning_of_a_stop_string_is_text_after_all_when_the_answer_ends(tiny, play):
    model = tiny()
    play(dict(enumerate([*tiny_tokenizer().tokenize("The river Elm"), "</s>"])))
    events = list(model.stream(QUESTION, stop=["Elm rises"]))
    assert events[-1].generation.text == "The river Elm"
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "The river Elm"


def test_a_stream_ends_with_exactly_one_finish(tiny, play, source_of):
    model = tiny()
    play({1: "[RQ]", 4: "[RQ]"})
    events = list(model.stream(QUESTION, passages=source_of(model), max_new_tokens=10))
    assert [isinstance(event, Finish) for event in events] == [False] * (len(events) - 1) + [True]
    assert tuple(event for event in events if isinstance(event, Retrieval)) == events[-1].generation.retrievals
    assert all(event.text for event in events if isinstance(event, TextDelta))
