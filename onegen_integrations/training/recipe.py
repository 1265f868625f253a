"""The recipe of the bundled checkpoint: tokenizer, model and training from nothing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from onegen_integrations.config import OneGenConfig
from onegen_integrations.errors import InvalidInputError
from onegen_integrations.text import TextCodec
from onegen_integrations.training import attention
from onegen_integrations.training.induction import write_induction_heads
from onegen_integrations.training.mixture import MiniData
from onegen_integrations.training.names import NameSource
from onegen_integrations.training.optimizer import MuonAdamW
from onegen_integrations.training.pointing import PointerHead, pointing_layer
from onegen_integrations.training.real_text import RealText
from onegen_integrations.training.tokenizer import train_tokenizer
from onegen_integrations.training.trainer import OneGenTrainer, last_checkpoint, save, training_arguments
from onegen_integrations.training.worlds import World


@dataclass(frozen=True)
class Recipe:
    """Size of the model and of its training.

    steps: in all. tokens: of one step. decay: the last share of the steps, in which the learning rate falls to a
    fiftieth; the warm-up is never longer than what is before them. dropout: of what each block adds to the hidden
    states. begin: where on the schedule of the data (see `mixture.shares`) to begin. keep: share of the weights of the
    model to start from in the average that the finished model is.
    """

    steps: int = 6000
    tokens: int = 42_000
    learning_rate: float = 3e-3
    warmup_steps: int = 200
    decay: float = 0.8
    dropout: float = 0.1
    begin: float = 0.0
    keep: float = 0.0
    seed: int = 0
    vocabulary: int = 4096
    context: int = 2048
    hidden: int = 320
    layers: int = 8
    heads: int = 5
    intermediate: int = 896


def train_mini(
    output: str | Path,
    *,
    data: str | Path | None = None,
    start: str | Path | None = None,
    recipe: Recipe | None = None,
    checkpoint_every: int = 250,
    compiled: bool = False,
) -> Path:
    """Train the bundled checkpoint, or go on where an earlier run into the same folder stopped.

    Args:
        output: working folder for checkpoints; the finished model is written to its subfolder `model`.
        data: folder of the public data sets; without it the model learns from generated text alone.
        start: folder of a model that this recipe has made, whose weights and tokenizer to start from; default: nothing.
        recipe: sizes and length.
        checkpoint_every: steps between checkpoints.
        compiled: fuse the layers with `torch.compile`, for faster steps; on a CPU it needs a C++ compiler.

    Returns:
        The folder of the finished model.

    Raises:
        InvalidInputError: the recipe keeps some of the weights of a model to start from, and there is none.
    """
    recipe = recipe or Recipe()
    if recipe.keep and start is None:
        msg = f"keep={recipe.keep} is a share of the weights to start from, and no model to start from is given."
        raise InvalidInputError(msg)
    work = Path(output)
    work.mkdir(parents=True, exist_ok=True)
    config = OneGenConfig.preset("mini")
    real_text = RealText(data) if data is not None else None
    tokenizer = _tokenizer(work / "tokenizer", start, recipe, config, real_text)
    dataset = MiniData(
        TextCodec(tokenizer, config),
        steps=recipe.steps,
        tokens=recipe.tokens,
        context=recipe.context,
        seed=recipe.seed,
        begin=recipe.begin,
        real_text=real_text,
    )
    torch.manual_seed(recipe.seed)
    if start is None:
        model = LlamaForCausalLM(_architecture(recipe, tokenizer))
        write_induction_heads(model, torch.Generator().manual_seed(recipe.seed))
    else:
        model = LlamaForCausalLM.from_pretrained(start, dtype=torch.float32)
    if not torch.cuda.is_available():
        model.set_attn_implementation(attention.NAME)
    add_dropout(model, recipe.dropout)
    if compiled:
        compile_layers(model)
    decay_steps = int(recipe.decay * recipe.steps)
    arguments = training_arguments(
        work,
        recipe.steps,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={
            "num_decay_steps": decay_steps,
            "decay_type": "linear",
            "min_lr_ratio": 0.02,
        },
        warmup_steps=min(recipe.warmup_steps, recipe.steps - decay_steps),
        max_grad_norm=1.0,
        logging_steps=25,
        save_steps=checkpoint_every,
        seed=recipe.seed,
    )
    pointer = PointerHead(model, layer=pointing_layer(len(model.model.layers)))
    optimizer = MuonAdamW(model, lr=recipe.learning_rate, weight_decay=0.05)
    trainer = OneGenTrainer(
        model=model, args=arguments, train_dataset=dataset, optimizers=(optimizer, None), pointer=pointer
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(work))
    if start is not None and recipe.keep:
        average_with(model, LlamaForCausalLM.from_pretrained(start, dtype=torch.float32), recipe.keep)
    # Half the size on disk; the figures of the model card are measured with the weights as they are saved.
    return save(model.bfloat16(), tokenizer, config, work / "model")


def add_dropout(model: LlamaForCausalLM, share: float) -> None:
    """Drop out, in training, a share of what attention and MLP add to the hidden states (Vaswani et al. 2017).

    Hand-written scenes and real text are read many times over, and a small model soon knows them by heart.
    """

    def drop(module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        return F.dropout(output, share, module.training)

    for layer in model.model.layers if share else ():
        layer.self_attn.o_proj.register_forward_hook(drop)
        layer.mlp.down_proj.register_forward_hook(drop)


@torch.no_grad()
def average_with(model: nn.Module, other: nn.Module, share: float) -> None:
    """Make the weights of a model the average of its own and, by `share`, those of the model that it was trained from.

    What further training teaches stays for the most part, and what it has made worse comes back (Wortsman et al. 2022,
    "Robust fine-tuning of zero-shot models").
    """
    before = dict(other.named_parameters())
    for name, weight in model.named_parameters():
        weight.lerp_(before[name].to(weight), share)


def compile_layers(model: LlamaForCausalLM) -> None:
    """Compile each layer in place; of the one whose attention the pointer head hooks into, the rest."""
    for number, layer in enumerate(model.model.layers):
        hooked = number == pointing_layer(len(model.model.layers))
        parts = (layer.mlp, layer.input_layernorm, layer.post_attention_layernorm) if hooked else (layer,)
        for part in parts:
            part.compile(dynamic=True)


def _architecture(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        intermediate_size=recipe.intermediate,
        max_position_embeddings=recipe.context,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _tokenizer(
    folder: Path, start: str | Path | None, recipe: Recipe, config: OneGenConfig, real_text: RealText | None
) -> PreTrainedTokenizerFast:
    """The tokenizer of the model to start from, of an earlier run in `folder`, or a new one."""
    if start is not None:
        return PreTrainedTokenizerFast.from_pretrained(start)
    if not (folder / "tokenizer.json").is_file():
        texts = _tokenizer_texts(recipe.seed, real_text)
        train_tokenizer(texts, recipe.vocabulary, config, recipe.context).save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def _tokenizer_texts(seed: int, real_text: RealText | None) -> Iterator[str]:
    """Text of generated worlds, and real text to three times as much where there is some."""
    rng = random.Random(f"{seed}-tokenizer")
    names = NameSource(real_text.names if real_text else None)
    for _ in range(60):
        world = World(rng, 100, names=names)
        for passage in world.passages:
            yield passage.text
            yield from (question.text for question in world.questions(passage))
    if real_text is not None:
        yield from (text for _, text in islice(real_text.passages, 12_000))
        for article in real_text.articles:
            yield from (ask.question for paragraph in article for ask in paragraph.asked)
