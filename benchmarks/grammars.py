"""Compare grammar libraries for constrained decoding: time to prepare a tokenizer and a schema, and time of one mask.

    pip install llguidance xgrammar outlines-core
    python benchmarks/grammars.py [TOKENIZER_FOLDER]

Each library follows the same JSON text token by token. Medians of several runs, in one process; a library that is not
installed is left out.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from onegen_integrations.config import BUNDLED

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "kind": {"enum": ["reader", "writer", "editor"]},
        "tags": {"type": "array", "items": {"type": "string"}},
        "address": {
            "type": "object",
            "properties": {"street": {"type": "string"}, "number": {"type": "integer"}},
            "required": ["street", "number"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "age", "kind", "tags", "address"],
    "additionalProperties": False,
}
VALUE = {
    "name": "Ann",
    "age": 31,
    "kind": "writer",
    "tags": ["a", "bc"],
    "address": {"street": "Mill Lane", "number": 14},
}
REPEATS = 5

Follower = tuple[Callable[[], Any], Callable[[int], Any]]  # make the next mask; accept a token


def llguidance(tokenizer: PreTrainedTokenizerBase) -> Callable[[], Follower]:
    from llguidance import LLMatcher
    from llguidance.hf import from_tokenizer

    tokens = from_tokenizer(tokenizer)
    grammar = LLMatcher.grammar_from_json_schema(SCHEMA)

    def start() -> Follower:
        matcher = LLMatcher(tokens, grammar)
        return matcher.compute_bitmask, matcher.consume_token

    return start


def xgrammar(tokenizer: PreTrainedTokenizerBase) -> Callable[[], Follower]:
    import xgrammar

    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer)
    compiler = xgrammar.GrammarCompiler(info, cache_enabled=False)

    def start() -> Follower:
        matcher = xgrammar.GrammarMatcher(compiler.compile_json_schema(json.dumps(SCHEMA)))
        mask = xgrammar.allocate_token_bitmask(1, info.vocab_size)
        return lambda: matcher.fill_next_token_bitmask(mask), matcher.accept_token

    return start


def outlines_core(tokenizer: PreTrainedTokenizerBase) -> Callable[[], Follower]:
    from outlines_core import Guide, Index, Vocabulary
    from outlines_core.json_schema import build_regex_from_schema

    ids: dict[bytes, list[int]] = {}
    for token_id in range(len(tokenizer)):
        if token_id not in tokenizer.all_special_ids:
            ids.setdefault(tokenizer.decode([token_id]).encode(), []).append(token_id)
    vocabulary = Vocabulary(tokenizer.eos_token_id, ids)

    def start() -> Follower:
        guide = Guide(Index(build_regex_from_schema(json.dumps(SCHEMA)), vocabulary))
        return guide.get_tokens, guide.advance

    return start


def continuing(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer for text in the middle of an output, before which none of the libraries expects a space."""
    state = tokenizer.backend_tokenizer.to_str().replace('"add_prefix_space":true', '"add_prefix_space":false')
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(state), eos_token=tokenizer.eos_token)


def measure(name: str, make: Callable[[PreTrainedTokenizerBase], Callable[[], Follower]], folder: str) -> None:
    """Print one row; a text that a library refuses ends its run early, which the last column shows."""
    tokenizer = continuing(AutoTokenizer.from_pretrained(folder))
    ids = tokenizer(json.dumps(VALUE), add_special_tokens=False).input_ids
    prepare, compiled, masks, followed = [], [], [], 0
    for _ in range(REPEATS):
        begun = time.perf_counter()
        start = make(tokenizer)
        prepared = time.perf_counter()
        mask, accept = start()
        mask()
        prepare.append(prepared - begun)
        compiled.append(time.perf_counter() - prepared)
        followed = 0
        for token_id in ids:
            begun = time.perf_counter()
            mask()
            masks.append(time.perf_counter() - begun)
            try:
                if accept(token_id) is False:
                    break
            except ValueError:
                break
            followed += 1
    figures = [1e3 * statistics.median(prepare), 1e3 * statistics.median(compiled), 1e6 * statistics.median(masks)]
    print(f"{name:15}{figures[0]:12.1f}{figures[1]:12.1f}{figures[2]:12.1f}{followed:8} of {len(ids)}")


if __name__ == "__main__":
    folder = sys.argv[1] if len(sys.argv) > 1 else str(BUNDLED)
    print(f"{'library':15}{'tokenizer/ms':>12}{'schema/ms':>12}{'mask/us':>12}   tokens followed")
    for module, follower in (("llguidance", llguidance), ("xgrammar", xgrammar), ("outlines_core", outlines_core)):
        if find_spec(module) is None:
            print(f"{module:15} is not installed")
        else:
            measure(module, follower, folder)
