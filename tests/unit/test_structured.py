"""Constrained answers: with any weights they are valid, fit the room there is, and stream in pieces that add up."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection
from dataclasses import replace
from itertools import pairwise
from typing import Any

import jsonschema
import pytest
from tiny import tiny_model, tiny_tokenizer
from torch import Tensor

from onegen_integrations import InvalidInputError, MemoryPassages, OneGen, OneGenConfig, Passage, ToolCallDelta
from onegen_integrations.engine.sampling import Sampler
from onegen_integrations.generation import Finish

SCHEMAS: list[dict[str, Any]] = [
    {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}, "required": ["a", "b"]},
    {"type": "array", "items": {"type": "number"}, "minItems": 2},
    {"enum": ["red", "dark green", "blue"]},
    {"anyOf": [{"type": "null"}, {"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"]}]},
    {"type": "string", "pattern": "^[a-c]{2,5}-[0-9]+$"},
    {
        "type": "object",
        "properties": {"tree": {"$ref": "#/$defs/Node"}},
        "required": ["tree"],
        "$defs": {
            "Node": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "next": {"$ref": "#/$defs/Node"}},
                "required": ["name"],
            }
        },
    },
]
CITY = {
    "type": "function",
    "function": {
        "name": "find_city",
        "description": "Find a city.",
        "parameters": {
            "type": "object",
            "properties": {"name": {"$ref": "#/$defs/Name"}},
            "required": ["name"],
            "$defs": {"Name": {"type": "string"}},
        },
    },
}
SUM = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"terms": {"type": "array", "items": {"$ref": "#/$defs/Name"}}},
            "required": ["terms"],
            "$defs": {"Name": {"type": "integer"}},
        },
    },
}
PARAMETERS = {tool["function"]["name"]: tool["function"]["parameters"] for tool in (CITY, SUM)}


@pytest.fixture(scope="module", params=["marks that are tokens", "marks that are text", "no marks"])
def model(request: pytest.FixtureRequest) -> OneGen:
    tokenizer = tiny_tokenizer()
    templates = {
        "marks that are tokens": "<tool_call>{call}</tool_call>",
        "marks that are text": "CALL:\n{call}\nEND",
        "no marks": "{call}",
    }
    config = replace(OneGenConfig.preset("mini"), tool_call_template=templates[request.param])
    return OneGen(tiny_model("llama", len(tokenizer)), tokenizer, config)


@pytest.mark.parametrize("temperature", [0.0, 2.0])
@pytest.mark.parametrize("schema", SCHEMAS, ids=range(len(SCHEMAS)))
def test_text_is_valid_and_ends_in_time(model: OneGen, schema: dict[str, Any], temperature: float) -> None:
    for room in (60, 100):
        generation = model.generate(
            "Say something.", json_schema=schema, max_new_tokens=room, temperature=temperature, seed=room
        )
        jsonschema.validate(json.loads(generation.text), schema)
        assert generation.finish_reason in ("stop", "length")
        assert generation.usage.completion_tokens <= room
        assert generation.usage.forwarded_tokens + generation.usage.reused_tokens == len(generation.token_ids) - 1


@pytest.mark.parametrize("choice", ["required", "find_city", "add"])
def test_a_call_is_valid_and_no_text(model: OneGen, choice: str) -> None:
    for seed in range(3):
        generation = model.generate(
            "Call one.", tools=[CITY, SUM], tool_choice=choice, max_new_tokens=120, temperature=2.0, seed=seed
        )
        [call] = generation.tool_calls
        assert choice in ("required", call.name)
        jsonschema.validate(call.arguments, PARAMETERS[call.name])
        assert generation.text == ""
        assert generation.finish_reason in ("tool_calls", "length")


def test_what_was_ended_for_want_of_room_says_so(model: OneGen) -> None:
    whole = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": False}
    assert model.generate("Say something.", json_schema=whole).finish_reason == "stop"
    cut = model.generate("Say something.", json_schema=SCHEMAS[0], max_new_tokens=60)
    assert cut.finish_reason == "length"  # random weights do not close their strings
    jsonschema.validate(json.loads(cut.text), SCHEMAS[0])


def test_a_call_that_would_not_fit_is_not_begun(model: OneGen, monkeypatch: pytest.MonkeyPatch) -> None:
    if not model.config.tool_call_template.startswith("<tool_call>"):
        pytest.skip("only marks that are tokens let a model call by itself")
    start = model.codec.token_id("<tool_call>")
    choose, seen = Sampler.choose, []

    def watched(self: Sampler, logits: Tensor, ids: list[int], banned: Collection[int], allowed: Any = None) -> int:
        seen.append(start in banned)
        return choose(self, logits, ids, {*banned, start, model.tokenizer.eos_token_id}, allowed)

    monkeypatch.setattr(Sampler, "choose", watched)
    generation = model.generate("Hello", tools=[CITY], max_new_tokens=60)
    assert (generation.tool_calls, generation.finish_reason) == ((), "length")
    assert seen == sorted(seen)  # from some place on it is banned
    assert seen[0] is False
    room = len(seen) - seen.index(True)
    calling = model.generate("Hello", tools=[CITY], tool_choice="required", max_new_tokens=room + 1)
    assert calling.tool_calls


def test_the_pieces_of_a_call_add_up(model: OneGen) -> None:
    options = {"tools": [CITY, SUM], "tool_choice": "required", "max_new_tokens": 120, "temperature": 2.0, "seed": 5}
    events = list(model.stream("Call one.", **options))
    deltas = [event for event in events if isinstance(event, ToolCallDelta)]
    assert [delta.name is not None for delta in deltas] == [True] + [False] * (len(deltas) - 1)
    [call] = next(event for event in events if isinstance(event, Finish)).generation.tool_calls
    assert json.loads("".join(delta.arguments for delta in deltas)) == call.arguments
    assert deltas[0].name == call.name


def test_a_model_that_decides_by_itself_needs_a_mark(model: OneGen, request: pytest.FixtureRequest) -> None:
    if "tokens" in request.node.name:
        generation = model.generate("Hello", tools=[CITY], max_new_tokens=60, temperature=2.0, seed=1)
        assert generation.text or generation.tool_calls
    else:
        with pytest.raises(InvalidInputError, match="tool_call_template"):
            model.generate("Hello", tools=[CITY])


def test_without_tools_a_mark_is_never_written(model: OneGen) -> None:
    marks = {model.codec.token_id(token) for token in ("<tool_call>", "</tool_call>")}
    if model.config.tool_call_template.startswith("<tool_call>"):
        for seed in range(5):
            generation = model.generate("Hello", max_new_tokens=60, temperature=5.0, seed=seed)
            assert not marks & set(generation.token_ids)


def test_json_behind_a_retrieval(model: OneGen) -> None:
    source = MemoryPassages(model)
    source.add([Passage("a", "The capital of Norvia is Tolmar.")])
    generation = model.generate(
        "What is the capital?", passages=source, retrieval="always", json_schema=SCHEMAS[0], max_new_tokens=80
    )
    assert generation.retrievals[0].passages[0].id == "a"
    jsonschema.validate(json.loads(generation.text), SCHEMAS[0])


def test_stream_and_generate_agree(model: OneGen) -> None:
    options = {"json_schema": SCHEMAS[0], "max_new_tokens": 60}
    text = model.generate("Say something.", **options).text
    events = list(model.stream("Say something.", **options))
    assert "".join(event.text for event in events if hasattr(event, "text")) == text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tools": [{"name": "x"}]}, "A tool must be"),
        ({"tools": [CITY], "tool_choice": "find_town"}, "find_town.*find_city"),
        ({"tool_choice": "required"}, "needs tools"),
        ({"tools": [CITY], "tool_choice": "required", "json_schema": SCHEMAS[0]}, "both given"),
        ({"json_schema": {"type": "string", "pattern": "("}}, "cannot be enforced"),
        ({"json_schema": SCHEMAS[0], "max_new_tokens": 3}, "Raise max_new_tokens"),
    ],
)
def test_bad_input_says_what_to_do(model: OneGen, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        model.generate("Hello", **options)


def test_tools_are_told_to_a_template_that_knows_none() -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.chat_template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    codec = OneGen(tiny_model("llama", len(tokenizer)), tokenizer, OneGenConfig.preset("mini")).codec
    parts = codec.prompt("Hello", tools=[CITY])
    assert sum("find_city" in part for part in parts if isinstance(part, str)) == 1
    known = OneGen(tiny_model("llama", len(tokenizer)), tiny_tokenizer(), OneGenConfig.preset("mini")).codec
    told = [part for part in known.prompt("Hello", tools=[CITY]) if isinstance(part, str) and "find_city" in part]
    assert len(told) == 1
    assert all(a != b for a, b in pairwise(parts))


def test_a_model_that_has_called_by_itself_may_end(model: OneGen, monkeypatch: pytest.MonkeyPatch) -> None:
    if not model.config.tool_call_template.startswith("<tool_call>"):
        pytest.skip("only marks that are tokens let a model call by itself")
    wanted = [model.codec.token_id("<tool_call>"), model.tokenizer.eos_token_id]
    choose = Sampler.choose

    def calling(self: Sampler, logits: Tensor, ids: list[int], banned: Collection[int], allowed: Any = None) -> int:
        if allowed is not None:
            return choose(self, logits, ids, banned, allowed)
        token = wanted.pop(0)
        assert token not in banned
        return token

    monkeypatch.setattr(Sampler, "choose", calling)
    generation = model.generate("Hello", tools=[CITY], max_new_tokens=80)
    assert [call.name for call in generation.tool_calls] == ["find_city"]
    assert (generation.text, generation.finish_reason) == ("", "length")  # random weights never close the string
