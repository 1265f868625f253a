"""Function calling and structured output of `OneGenLLM`: always valid, and the same however they are asked for."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any

import pytest
from llama_index.core import PromptTemplate
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ToolCallBlock
from llama_index.core.program import FunctionCallingProgram
from llama_index.core.tools import FunctionTool
from llama_index.core.types import PydanticProgramMode
from llama_index_parts import Heard, collect, user
from pydantic import BaseModel, Field

from onegen_integrations import InvalidInputError, OneGen
from onegen_integrations.llama_index import OneGenLLM

PROMPT = "Hello, who are you?"


class City(BaseModel):
    name: str
    population: int = Field(ge=0, le=99)


class Trip(BaseModel):
    """A trip."""

    first: City
    rainy: bool


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


ADD = FunctionTool.from_defaults(add)
NOW = FunctionTool.from_defaults(lambda: "noon", name="now", description="Tell the time.")


@pytest.fixture(scope="module")
def llm(mini: OneGen) -> OneGenLLM:
    return OneGenLLM(mini, max_tokens=96)


# --- function calling -----------------------------------------------------------------------------


def test_a_required_call_is_valid_and_the_same_in_every_way(llm: OneGenLLM):
    streamed = list(llm.stream_chat_with_tools([ADD, NOW], "What is 3 plus 4?", tool_required=True))
    responses = [
        llm.chat_with_tools([ADD, NOW], "What is 3 plus 4?", tool_required=True),
        asyncio.run(llm.achat_with_tools([ADD, NOW], "What is 3 plus 4?", tool_required=True)),
        streamed[-1],
        asyncio.run(collect(llm.astream_chat_with_tools([ADD, NOW], "What is 3 plus 4?", tool_required=True)))[-1],
    ]
    calls = [[(c.tool_name, c.tool_kwargs) for c in llm.get_tool_calls_from_response(r)] for r in responses]
    assert calls == [calls[0]] * 4
    [(name, arguments)] = calls[0]
    assert name in {"add", "now"}
    assert set(arguments) == ({"a", "b"} if name == "add" else set())
    assert llm.get_tool_calls_from_response(responses[0])[0].tool_id
    growing = [r.message.additional_kwargs.get("tool_calls", [{"function": {"arguments": ""}}]) for r in streamed]
    arguments_so_far = [calls[0]["function"]["arguments"] for calls in growing]
    assert all(after.startswith(before) for before, after in pairwise(arguments_so_far))
    assert json.loads(arguments_so_far[-1]) == arguments
    assert "".join(r.delta for r in streamed) == (responses[0].message.content or "")


@pytest.mark.parametrize("choice", ["now", {"type": "function", "function": {"name": "now"}}])
def test_a_tool_can_be_named(llm: OneGenLLM, choice: Any):
    response = llm.chat_with_tools([ADD, NOW], "What is 3 plus 4?", tool_choice=choice)
    [call] = llm.get_tool_calls_from_response(response)
    assert (call.tool_name, call.tool_kwargs) == ("now", {})


def test_any_means_required(llm: OneGenLLM):
    assert llm.get_tool_calls_from_response(llm.chat_with_tools([ADD], "What is 3 plus 4?", tool_choice="any"))


def test_without_a_call_the_caller_decides_whether_it_is_an_error(llm: OneGenLLM):
    response = llm.chat_with_tools([ADD], PROMPT, tool_choice="none")
    assert llm.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []
    with pytest.raises(InvalidInputError, match="called no tool"):
        llm.get_tool_calls_from_response(response)


def test_predict_and_call_calls_the_tool(llm: OneGenLLM):
    response = llm.predict_and_call([ADD], "What is 3 plus 4?", tool_required=True)
    [output] = response.sources
    assert output.raw_output == add(**output.raw_input["kwargs"])
    assert asyncio.run(llm.apredict_and_call([ADD], "What is 3 plus 4?", tool_required=True)).response == str(response)


def test_one_call_is_kept_where_several_are_not_allowed(llm: OneGenLLM):
    calls = [ToolCallBlock(tool_call_id=str(n), tool_name="add", tool_kwargs={"a": n, "b": n}) for n in range(3)]
    legacy = [{"id": str(n)} for n in range(3)]

    def response() -> ChatResponse:
        message = ChatMessage(role="assistant", blocks=list(calls), additional_kwargs={"tool_calls": list(legacy)})
        return ChatResponse(message=message)

    one = llm._validate_chat_with_tools_response(response(), [ADD])
    assert [call.tool_id for call in llm.get_tool_calls_from_response(one)] == ["0"]
    assert one.message.additional_kwargs == {"tool_calls": [{"id": "0"}]}
    several = llm._validate_chat_with_tools_response(response(), [ADD], allow_parallel_tool_calls=True)
    assert len(llm.get_tool_calls_from_response(several)) == 3


# --- structured output ----------------------------------------------------------------------------

TRIP = PromptTemplate("A trip to {city}, population 7, in the rain.")


def test_structured_predict_gives_an_object_in_every_way(llm: OneGenLLM, heard: Heard):
    trip = llm.structured_predict(Trip, TRIP, city="Ostrava")
    assert isinstance(trip, Trip)
    assert heard.counted("LLMStructuredPredict") == {
        "LLMStructuredPredictStartEvent": 1,
        "LLMStructuredPredictEndEvent": 1,
    }
    assert asyncio.run(llm.astructured_predict(Trip, TRIP, city="Ostrava")) == trip
    partial = list(llm.stream_structured_predict(Trip, TRIP, city="Ostrava"))
    assert len(partial) > 1
    assert partial[-1] == trip
    assert asyncio.run(collect(llm.astream_structured_predict(Trip, TRIP, city="Ostrava")))[-1] == trip


def test_a_structured_llm_answers_in_the_form_asked_for(llm: OneGenLLM):
    structured = llm.as_structured_llm(Trip)
    trip = structured.chat(user("A trip to Ostrava.")).raw
    assert isinstance(trip, Trip)
    assert Trip.model_validate_json(structured.complete("A trip to Ostrava.").text) == trip
    assert asyncio.run(structured.achat(user("A trip to Ostrava."))).raw == trip
    assert list(structured.stream_chat(user("A trip to Ostrava.")))[-1].raw == trip


def test_the_frameworks_own_programs_work_too(llm: OneGenLLM):
    functions = OneGenLLM(llm, max_tokens=68, pydantic_program_mode=PydanticProgramMode.FUNCTION)
    program = FunctionCallingProgram.from_defaults(Trip, prompt=TRIP, llm=functions)
    assert isinstance(program(city="Ostrava"), Trip)
    assert isinstance(functions.structured_predict(Trip, TRIP, city="Ostrava"), Trip)


def test_llm_kwargs_reach_the_model(llm: OneGenLLM):
    with pytest.raises(InvalidInputError, match="max_new_tokens"):
        llm.structured_predict(Trip, TRIP, llm_kwargs={"max_tokens": 3}, city="Ostrava")
