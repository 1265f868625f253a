"""Conversations in which the model must not retrieve: context at hand, small talk, copying, tools; and follow-ups."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from typing import Any

from onegen_integrations.text import Control, Part
from onegen_integrations.training import prompts
from onegen_integrations.training.examples import Ask
from onegen_integrations.training.names import NameSource
from onegen_integrations.training.worlds import sentence_case

Message = dict[str, Any]


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def stuffed(passages: Sequence[str], questions: Sequence[tuple[str, str]], rng: Random) -> list[Ask]:
    """Questions (with answers) about passages that stand in the prompt, all in one framework's style."""
    system, template = rng.choice(prompts.STUFFED)
    context = rng.choice(prompts.SEPARATORS).join(passages)
    asks = []
    for question, answer in questions:
        messages = [{"role": "system", "content": system.replace("{context}", context)}] if system else []
        content = template.replace("{context}", context).replace("{question}", question)
        asks.append(Ask([*messages, user(content)], answer))
    return asks


def no_retrieval(rng: Random, names: NameSource) -> Ask:
    """A request that needs no document: small talk, copying, sums, what was said before."""
    draw = rng.random()
    if draw < 0.3:
        ways, answer = rng.choice(prompts.SMALL_TALK)
        return Ask(rng.choice(ways) + rng.choice(("", ".", "!", "?")), answer)
    if draw < 0.65:
        text = _something(rng, names)
        return Ask(rng.choice(prompts.REPEAT).replace("{x}", text), text)
    if draw < 0.8:
        a, b = rng.randint(0, 20), rng.randint(0, 20)
        return Ask(rng.choice(prompts.SUMS).format(a=a, b=b), str(a + b))
    name = names.draw("person" if rng.random() < 0.7 else "firstname", rng)
    greeting = user(rng.choice(prompts.INTRODUCTIONS).replace("{x}", name))
    reply = f"Nice to meet you, {name}."
    if rng.random() < 0.4:
        return Ask([greeting], reply)
    return Ask([greeting, assistant(reply), user(rng.choice(prompts.NAME_QUESTIONS))], name)


def _something(rng: Random, names: NameSource) -> str:
    """Words, names and numbers to be copied."""
    kinds = (
        "person",
        "title",
        "place",
        "code",
        "date",
        "money",
        "word",
        "email",
        "address",
        "large_number",
        "organisation",
    )
    return " ".join(names.draw(rng.choice(kinds), rng) for _ in range(rng.randint(1, 4)))


def condense(past: Sequence[Message], follow_up: str, standalone: str, rng: Random) -> Ask:
    """The request to rewrite a follow-up question so that it stands alone."""
    system, template = rng.choice(prompts.CONDENSE)
    if "{history}" in template:
        roles = rng.choice((("Human", "Assistant"), ("user", "assistant")))
        text = "\n".join(f"{roles[i % 2]}: {message['content']}" for i, message in enumerate(past))
        return Ask([user(template.replace("{history}", text).replace("{question}", follow_up))], standalone)
    return Ask(
        [{"role": "system", "content": system}, *past, user(template.replace("{question}", follow_up))], standalone
    )


# --- tools ----------------------------------------------------------------------------------------

_ARGUMENTS = {
    "person": ("name", "author", "customer", "contact"),
    "place": ("city", "location", "place", "destination"),
    "title": ("title", "book", "subject"),
    "code": ("order_id", "code", "reference"),
    "date": ("date", "day", "deadline"),
    "count": ("count", "quantity", "limit"),
    "number": ("input", "number", "amount", "value"),
}
_WHOLE = ("count", "number")  # kinds of arguments that are whole numbers
_VERBS = (
    "get", "find", "search", "add", "create", "send", "book", "count", "check", "list", "open", "convert",
    "compute", "apply", "update"
)  # fmt: skip
_OBJECTS = (
    "weather", "order", "ticket", "invoice", "room", "report", "message", "reminder", "price", "route", "contact",
    "file", "table", "magic", "result", "task"
)  # fmt: skip


def tool_call(rng: Random, names: NameSource) -> tuple[list[dict[str, Any]], list[Message], list[Part]]:
    """Generated functions, a request that one of them fits, and the call: (tools, messages, answer)."""
    functions = []
    for _ in range(rng.randint(1, 3)):
        verb, thing = rng.choice(_VERBS), rng.choice(_OBJECTS)
        kinds = rng.sample(sorted(_ARGUMENTS), k=rng.choices((0, 1, 2), weights=(1, 6, 3))[0])
        functions.append((verb, thing, {rng.choice(_ARGUMENTS[kind]): kind for kind in kinds}))
    tools = [_tool(*function, rng) for function in functions]
    index = rng.randrange(len(functions))
    verb, thing, parameters = functions[index]
    arguments: dict[str, Any] = {}
    for parameter, kind in parameters.items():
        arguments[parameter] = rng.randint(1, rng.choice((20, 999))) if kind in _WHOLE else names.draw(kind, rng)
    wanted = ", ".join(f"{rng.choice(('the ', ''))}{key.replace('_', ' ')} {value}" for key, value in arguments.items())
    request = rng.choice(("{v} {o}", "Please {v} {o}", "Can you {v} {o}", "Use the tool to {v} {o}", "What is {o}"))
    text = request.replace("{v}", verb).replace("{o}", f"the {thing}") + (
        rng.choice((" for ", " with ", " of ", ": ")) + wanted if wanted else ""
    )
    if len(arguments) == 1 and rng.random() < 0.3:
        called = rng.choice(("{n} of {v}", "{n}({v})", "the value of {n}({v})", "the result of {n} for {v}"))
        called = called.replace("{n}", tools[index]["function"]["name"]).replace(
            "{v}", str(next(iter(arguments.values())))
        )
        text = f"What is {called}? Use the tool."
    call = json.dumps({"name": tools[index]["function"]["name"], "arguments": arguments}, ensure_ascii=False)
    answer: list[Part] = [Control("<tool_call>"), call, Control("</tool_call>")]
    return tools, [user(sentence_case(text) + rng.choice((".", "?", "")))], answer


def _integer(rng: Random) -> dict[str, Any]:
    """The schema of a whole number, often with other numbers in it, which are not to be taken for the argument."""
    schema: dict[str, Any] = {"type": "integer"}
    if rng.random() < 0.5:
        schema[rng.choice(("minimum", "exclusiveMinimum"))] = rng.choice((-1000, -100, -1, 0))
        schema[rng.choice(("maximum", "exclusiveMaximum"))] = rng.choice((1000, 1024, 5000, 10_000))
    if rng.random() < 0.15:
        schema["default"] = rng.randint(0, 999)
    return dict(rng.sample(list(schema.items()), k=len(schema)))


def _tool(verb: str, thing: str, parameters: dict[str, str], rng: Random) -> dict[str, Any]:
    properties = {name: _integer(rng) if kind in _WHOLE else {"type": "string"} for name, kind in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    description = rng.choice(("{v} the {o}.", "{v} a {o} for the user.", "A function to {v} the {o}.")).format(
        v=verb, o=thing
    )
    name = f"{verb}_{thing}" if rng.random() < 0.8 else f"{verb}_{thing}_function"
    return {
        "type": "function",
        "function": {"name": name, "description": sentence_case(description), "parameters": schema},
    }
