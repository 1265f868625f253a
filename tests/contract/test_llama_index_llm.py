"""`OneGenLLM` keeps the contracts of LlamaIndex's LLMs. What the bundled model says is not the matter here."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from itertools import pairwise
from typing import Any

import pytest
from llama_index.core import PromptTemplate
from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ImageBlock, MessageRole, ToolCallBlock
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler, TokenCountingHandler
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import LLM
from llama_index_parts import Heard, collect, user
from pydantic import ValidationError

from onegen_integrations import InvalidInputError, OneGen
from onegen_integrations.llama_index import OneGenEmbedding, OneGenLLM

PROMPTS = [
    "Hello, who are you?",
    "What can you do for me?",
    "Who wrote Hamlet?",
    "Thanks a lot!",
    "Write down the numbers from one to twenty in words.",
]


@pytest.fixture(scope="module")
def llm(mini: OneGen) -> OneGenLLM:
    return OneGenLLM(mini, max_tokens=48)


@pytest.fixture(scope="module")
def talkative(llm: OneGenLLM) -> tuple[str, str]:
    """A prompt with a longer answer, and that answer."""
    answers = {prompt: llm.complete(prompt).text for prompt in PROMPTS}
    return max(answers.items(), key=lambda item: len(item[1]))


def essence(response: Any) -> tuple[Any, ...]:
    """What has to be the same however the same question is asked; what was forwarded depends on what is cached."""
    text = response.message.content if isinstance(response, ChatResponse) else response.text
    usage = {key: response.raw["usage"][key] for key in ("prompt_tokens", "completion_tokens", "total_tokens")}
    return text, response.raw["finish_reason"], usage, response.additional_kwargs


# --- what it is -----------------------------------------------------------------------------------


def test_it_is_a_function_calling_llm_by_its_own_name():
    assert issubclass(OneGenLLM, (BaseLLM, LLM, FunctionCallingLLM))
    assert OneGenLLM.class_name() == "OneGenLLM"


def test_nothing_is_loaded_before_it_is_needed():
    code = (
        "import sys\n"
        "from onegen_integrations.llama_index import OneGenLLM, OneGenQueryEngine\n"
        "from llama_index.core import MockEmbedding, Settings, VectorStoreIndex\n"
        "llm = OneGenLLM()\n"
        "Settings.llm, Settings.embed_model = llm, llm.as_embed_model()\n"
        "OneGenQueryEngine.from_index(VectorStoreIndex([])), VectorStoreIndex([]).as_query_engine()\n"
        "assert llm.metadata.context_window > 0 and llm.to_payload() and repr(llm)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_metadata_tell_what_engines_need(llm: OneGenLLM, mini: OneGen):
    for model in (llm, OneGenLLM(max_tokens=48)):
        metadata = model.metadata
        assert metadata.context_window == mini.context_window
        assert metadata.num_output == 48
        assert metadata.is_chat_model
        assert metadata.is_function_calling_model
        assert metadata.model_name == mini.name


def test_it_comes_back_from_its_dict():
    given = OneGenLLM(
        max_tokens=7, temperature=0.5, top_p=0.9, seed=3, stop=["x"], device="cpu", system_prompt="Short."
    )
    data = json.loads(json.dumps(given.to_dict()))
    assert data["class_name"] == "OneGenLLM"
    again = OneGenLLM.from_dict(data)
    assert again.to_dict() == given.to_dict()
    assert OneGenLLM.from_json(given.to_json()).to_dict() == given.to_dict()
    assert again.complete(PROMPTS[0]).text == given.complete(PROMPTS[0]).text


@pytest.mark.parametrize(
    "fields", [{"max_tokens": 0}, {"temperature": -1}, {"top_p": 0}, {"maximum": 3}, {"device": "cpu", "tokens": 1}]
)
def test_wrong_fields_are_refused(fields: dict[str, Any]):
    with pytest.raises(ValidationError):
        OneGenLLM(**fields)


def test_settings_beside_loaded_weights_are_refused(mini: OneGen):
    with pytest.raises(InvalidInputError, match="dtype"):
        OneGenLLM(mini, dtype="float16")


def test_the_embedding_model_shares_the_weights(llm: OneGenLLM):
    lazy = OneGenLLM()
    for model in (llm, lazy):
        embed_model = model.as_embed_model(embed_batch_size=4)
        assert isinstance(embed_model, OneGenEmbedding)
        assert embed_model.embed_batch_size == 4
        assert embed_model.onegen is model.onegen
        assert OneGenLLM(embed_model).onegen is model.onegen
    assert deepcopy(llm).onegen is llm.onegen


def test_tokens_are_counted_by_the_models_own_tokenizer(llm: OneGenLLM, mini: OneGen):
    text = "A small text, <|user|> in it."
    assert llm.tokenize(text) == mini.codec.encode_text(text)
    assert llm.tokenize("") == []


# --- one answer, however it is asked for ----------------------------------------------------------


@pytest.mark.parametrize("prompt", PROMPTS)
def test_all_eight_ways_to_ask_give_one_answer(llm: OneGenLLM, mini: OneGen, prompt: str):
    streamed = list(llm.stream_complete(prompt))
    chatted = list(llm.stream_chat(user(prompt)))
    answers = [
        llm.complete(prompt),
        streamed[-1],
        asyncio.run(llm.acomplete(prompt)),
        asyncio.run(collect(llm.astream_complete(prompt)))[-1],
        llm.chat(user(prompt)),
        chatted[-1],
        asyncio.run(llm.achat(user(prompt))),
        asyncio.run(collect(llm.astream_chat(user(prompt))))[-1],
    ]
    assert [essence(answer) for answer in answers] == [essence(answers[0])] * 8
    assert answers[0].text == mini.generate(prompt, max_new_tokens=48).text  # so no prompt is echoed
    for stream, texts in ((streamed, [r.text for r in streamed]), (chatted, [r.message.content for r in chatted])):
        assert texts == ["".join(r.delta for r in stream[: n + 1]) for n in range(len(stream))]
    assert answers[0].delta is None


def test_predict_goes_through_chat_with_the_system_prompt(llm: OneGenLLM):
    with_system = OneGenLLM(llm, max_tokens=16, system_prompt="You are terse.")
    expected = with_system.chat([ChatMessage(role=MessageRole.SYSTEM, content="You are terse."), *user("Hi, you")])
    assert with_system.predict(PromptTemplate("Hi, {who}"), who="you") == (expected.message.content or "")


def test_completion_to_prompt_is_honoured_in_every_way(llm: OneGenLLM):
    loud = OneGenLLM(llm, max_tokens=16, completion_to_prompt=lambda prompt: f"{prompt}!")
    expected = llm.complete("Hello!", max_tokens=16).text
    assert loud.complete("Hello").text == list(loud.stream_complete("Hello"))[-1].text == expected
    assert loud.complete("Hello!", formatted=True).text == expected
    assert asyncio.run(loud.acomplete("Hello")).text == expected


def test_64_concurrent_calls_do_not_mix(llm: OneGenLLM):
    prompts = [f"{PROMPTS[n % len(PROMPTS)]} ({n % 16})" for n in range(64)]
    alone = {prompt: llm.complete(prompt, max_tokens=6).text for prompt in set(prompts)}

    async def together() -> list[str]:
        return [r.text for r in await asyncio.gather(*(llm.acomplete(p, max_tokens=6) for p in prompts))]

    assert asyncio.run(together()) == [alone[prompt] for prompt in prompts]
    with ThreadPoolExecutor(16) as pool:
        streams = pool.map(lambda prompt: list(llm.stream_complete(prompt, max_tokens=6))[-1].text, prompts)
        assert list(streams) == [alone[prompt] for prompt in prompts]


async def largest_gap(work: Awaitable[Any]) -> tuple[float, float]:
    """The longest time for which a ticker did not tick while `work` was done, and how long that took; in seconds."""
    ticks = [time.perf_counter()]

    async def tick() -> None:
        while True:
            await asyncio.sleep(0.005)
            ticks.append(time.perf_counter())

    ticker = asyncio.create_task(tick())
    await work
    ticks.append(time.perf_counter())
    ticker.cancel()
    return max(after - before for before, after in pairwise(ticks)), ticks[-1] - ticks[0]


@pytest.mark.parametrize("way", ["acomplete", "achat", "astream_complete", "astream_chat"])
def test_the_event_loop_goes_on_meanwhile(llm: OneGenLLM, way: str):
    async def work() -> None:
        for number in range(8):
            text = f"Number {number}. " + "One thing, and then another thing. " * 60
            answer = getattr(llm, way)(text if way.endswith("complete") else user(text), max_tokens=16)
            if "stream" in way:
                await collect(answer)
            else:
                await answer

    gap, took = asyncio.run(largest_gap(work()))
    assert gap < took / 4


def test_closing_a_stream_stops_the_work(llm: OneGenLLM, talkative: tuple[str, str], forwards: list[int]):
    stream = llm.stream_complete(talkative[0])
    next(stream)
    stream.close()

    async def partly() -> None:
        responses = await llm.astream_chat(user(talkative[0]))
        await anext(responses)
        await responses.aclose()

    async def cancelled() -> None:
        task = asyncio.create_task(llm.acomplete(talkative[0], temperature=1.0, seed=1, stop=["@"]))
        while not forwards:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(partly())
    forwards.clear()
    asyncio.run(cancelled())
    before = len(forwards)
    time.sleep(0.3)
    assert len(forwards) == before


# --- parameters of a call -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["max_tokens", "max_new_tokens"])
def test_max_tokens_holds_for_a_call_and_for_an_object(llm: OneGenLLM, talkative: tuple[str, str], name: str):
    for response in (
        llm.complete(talkative[0], **{name: 2}),
        list(llm.stream_complete(talkative[0], **{name: 2}))[-1],
        asyncio.run(llm.acomplete(talkative[0], **{name: 2})),
        OneGenLLM(llm, **{name: 2}).complete(talkative[0]),
    ):
        assert response.raw["usage"]["completion_tokens"] == 2
        assert response.raw["finish_reason"] == "length"


def test_stop_strings_end_the_text_and_are_no_part_of_it(llm: OneGenLLM, talkative: tuple[str, str]):
    prompt, whole = talkative
    assert len(whole) > 12
    stop = whole[len(whole) // 2 : len(whole) // 2 + 5]  # wherever tokens begin and end
    expected = whole.split(stop)[0]
    stopping = OneGenLLM(llm, max_tokens=48, stop=[stop])
    assert llm.complete(prompt, stop=[stop]).text == expected
    assert llm.complete(prompt, stop=stop).text == expected
    assert stopping.complete(prompt).text == expected
    assert stopping.complete(prompt, stop=["@@@"]).text == whole
    streamed = list(llm.stream_chat(user(prompt), stop=[stop]))
    assert "".join(r.delta for r in streamed) == streamed[-1].message.content == expected


def test_sampling_is_repeatable_by_seed_and_honours_top_p(llm: OneGenLLM, talkative: tuple[str, str]):
    prompt, greedy = talkative
    sampled = [llm.complete(prompt, temperature=3.0, seed=seed).text for seed in range(4)]
    assert len(set(sampled)) > 1
    assert [llm.complete(prompt, temperature=3.0, seed=seed).text for seed in range(4)] == sampled
    assert OneGenLLM(llm, max_tokens=48, temperature=3.0, seed=2).complete(prompt).text == sampled[2]
    assert llm.complete(prompt, temperature=3.0, seed=2, top_p=1e-6).text == greedy


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"max_length": 3}, "max_length"), ({"temperature": -1}, "temperature"), ({"stop": [""]}, "stop")],
)
def test_wrong_keyword_arguments_are_refused_when_called(llm: OneGenLLM, kwargs: dict[str, Any], message: str):
    for call in (llm.complete, llm.stream_complete):
        with pytest.raises(InvalidInputError, match=message):
            call("Hello", **kwargs)
    for acall in (llm.acomplete, llm.astream_complete):
        with pytest.raises(InvalidInputError, match=message):
            asyncio.run(acall("Hello", **kwargs))


# --- messages -------------------------------------------------------------------------------------


def test_every_role_and_a_history_with_tools_are_understood(llm: OneGenLLM):
    call = ToolCallBlock(tool_call_id="1", tool_name="add", tool_kwargs='{"a": 1, "b": 2}')
    history = [
        ChatMessage(role=MessageRole.SYSTEM, content="You are helpful."),
        ChatMessage(role=MessageRole.DEVELOPER, content="You add numbers."),
        *user("What is 1 + 2?"),
        *user("Please."),
        ChatMessage(role=MessageRole.ASSISTANT, blocks=[call]),
        ChatMessage(role=MessageRole.TOOL, content="3", additional_kwargs={"tool_call_id": "1"}),
        ChatMessage(role=MessageRole.CHATBOT, content="It is 3."),
        *user("Thanks."),
    ]
    before = deepcopy(history)
    assert isinstance(llm.chat(history).message.content, str)
    assert history == before


def test_what_is_no_text_is_refused(llm: OneGenLLM):
    with pytest.raises(InvalidInputError, match="ImageBlock"):
        llm.chat([ChatMessage(role=MessageRole.USER, blocks=[ImageBlock(image=b"x")])])
    with pytest.raises(InvalidInputError, match="empty"):
        llm.chat([])


# --- usage and events -----------------------------------------------------------------------------


def test_usage_is_that_of_the_model(llm: OneGenLLM, mini: OneGen):
    response = llm.chat(user(PROMPTS[0]))
    usage, counted = response.raw["usage"], mini.generate(PROMPTS[0], max_new_tokens=48).usage
    assert usage["prompt_tokens"] == counted.prompt_tokens
    assert usage["completion_tokens"] == counted.completion_tokens
    assert usage["forwarded_tokens"] + usage["reused_tokens"] == usage["total_tokens"] - 1
    assert response.additional_kwargs == {k: usage[k] for k in ("prompt_tokens", "completion_tokens", "total_tokens")}
    json.dumps(response.raw)


def test_token_counting_handlers_read_it(llm: OneGenLLM):
    counter = TokenCountingHandler(tokenizer=lambda _text: [])
    counting = OneGenLLM(llm, max_tokens=8, callback_manager=CallbackManager([counter]))
    usages = [counting.complete(PROMPTS[0]).raw["usage"], counting.chat(user(PROMPTS[1])).raw["usage"]]
    usages.append(list(counting.stream_chat(user(PROMPTS[2])))[-1].raw["usage"])
    assert counter.prompt_llm_token_count == sum(usage["prompt_tokens"] for usage in usages)
    assert counter.completion_llm_token_count == sum(usage["completion_tokens"] for usage in usages)


CALLS: dict[str, Callable[[LLM], Any]] = {
    "complete": lambda llm: [llm.complete(PROMPTS[0])],
    "stream_complete": lambda llm: list(llm.stream_complete(PROMPTS[0])),
    "acomplete": lambda llm: [asyncio.run(llm.acomplete(PROMPTS[0]))],
    "astream_complete": lambda llm: asyncio.run(collect(llm.astream_complete(PROMPTS[0]))),
    "chat": lambda llm: [llm.chat(user(PROMPTS[0]))],
    "stream_chat": lambda llm: list(llm.stream_chat(user(PROMPTS[0]))),
    "achat": lambda llm: [asyncio.run(llm.achat(user(PROMPTS[0])))],
    "astream_chat": lambda llm: asyncio.run(collect(llm.astream_chat(user(PROMPTS[0])))),
}


@pytest.mark.parametrize("way", CALLS)
def test_each_call_fires_its_events_once(llm: OneGenLLM, heard: Heard, way: str):
    debug = LlamaDebugHandler(print_trace_on_end=False)
    responses = CALLS[way](OneGenLLM(llm, max_tokens=8, callback_manager=CallbackManager([debug])))
    kind = "LLMChat" if way.endswith("chat") else "LLMCompletion"
    expected = {f"{kind}StartEvent": 1, f"{kind}EndEvent": 1}
    if "stream" in way:
        expected[f"{kind}InProgressEvent"] = len(responses)
    assert heard.counted("LLM") == expected
    assert len(debug.get_event_pairs(CBEventType.LLM)) == 1
