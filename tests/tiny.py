"""Tiny random models of several architectures, and a tokenizer like that of the bundled checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from onegen_integrations import OneGenConfig
from onegen_integrations.training.tokenizer import train_tokenizer

WINDOW = 8  # shorter than every prompt
CONTEXT = 1024
_SIZE: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": CONTEXT,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
ARCHITECTURES: dict[str, Callable[..., PreTrainedConfig]] = {
    "llama": LlamaConfig,
    "llama-eager": lambda **size: LlamaConfig(**size, attn_implementation="eager"),
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "mistral-sliding": lambda **size: MistralConfig(**size, sliding_window=WINDOW),
    "gemma2-sliding": lambda **size: Gemma2Config(**size, sliding_window=WINDOW, layer_types=_MIXED),
    "gemma3-sliding": lambda **size: Gemma3TextConfig(**size, sliding_window=WINDOW, layer_types=_MIXED),
}

SENTENCES = (
    "Lena Marsh wrote the novel The Quiet Harbour in 1974.",
    "The Quiet Harbour is set in Ostrava, a town on the river Elm.",
    "Ostrava lies 212 metres above the sea and has 4,190 inhabitants.",
    "The river Elm rises in the Grey Hills and flows into Lake Tarn.",
    "Lake Tarn freezes from December to March; boats are then moved by sledge.",
    "Oskar Bell composed the opera Winter Ferry for the theatre in Ostrava.",
    "A ferry crosses the lake every hour, and the fare is 3 crowns.",
    "In 1988 the theatre burned down, and it was rebuilt within two years.",
    "Who wrote the novel? Where is it set? What is the height of the town?",
    "Answer: the town is Ostrava. I don't know. Tell me more about it, please.",
)


@cache
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """The bundled checkpoint's kind of tokenizer, trained on a few sentences."""
    return train_tokenizer(iter(SENTENCES), 420, OneGenConfig.preset("mini"), CONTEXT)


@cache
def tiny_model(architecture: str, vocabulary: int) -> PreTrainedModel:
    """Random weights, large enough that every token moves the hidden states of all later ones."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(ARCHITECTURES[architecture](**_SIZE, vocab_size=vocabulary))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    return model.eval()


@cache
def metaspace_tokenizer(
    added: tuple[str, ...], prefix: Literal["first", "every run"], chat_template: str | None = None
) -> PreTrainedTokenizerFast:
    """A tokenizer of Llama 2's kind, with byte fallback and special tokens added behind the vocabulary.

    prefix: where a space is put in front of the text: at its very start, or (the older form) after every special token.
    """
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    learned = json.loads(trained.to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\n", "\n\n", *learned["vocab"]]
    model = models.BPE(
        vocab={piece: number for number, piece in enumerate(pieces)},
        merges=[("\n", "\n"), *map(tuple, learned["merges"])],
        unk_token="<unk>",
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    if prefix == "first":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
    )
    fast.add_tokens(list(added), special_tokens=True)
    return fast
