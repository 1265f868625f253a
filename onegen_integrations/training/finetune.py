"""Train any causal language model as a OneGen model, on data in the published formats."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from onegen_integrations.config import OneGenConfig
from onegen_integrations.text import TextCodec
from onegen_integrations.training.initialise import add_retrieval_tokens
from onegen_integrations.training.published import PublishedData
from onegen_integrations.training.trainer import JointLoss, OneGenTrainer, last_checkpoint, save, training_arguments


def finetune(
    base: str | Path,
    output: str | Path,
    *,
    train: str | Path,
    db: str | Path,
    config: OneGenConfig,
    epochs: int = 3,
    rows: int = 4,
    positives: int = 2,
    negatives: int = 6,
    learning_rate: float = 2e-5,
    loss: JointLoss | None = None,
    checkpoint_every: int = 500,
    seed: int = 0,
) -> Path:
    """Add the tokens of `config` where they are missing, train, and save; goes on where an earlier run stopped.

    The defaults are the published settings for multi-hop questions.

    Args:
        base: folder or hub id of a causal language model.
        output: working folder for checkpoints; the finished model is written to its subfolder `model`.
        train: rows to learn from; see `PublishedData`.
        db: the documents that they name.
        config: tokens and templates.
        epochs: how often each row is seen.
        rows: rows of one step.
        positives: right documents taken for each retrieval, at most.
        negatives: wrong documents taken for each retrieval, at most.
        learning_rate: falls linearly to zero.
        loss: weights of the two losses; default: equal, InfoNCE.
        checkpoint_every: steps between checkpoints.
        seed: of order and sampling.

    Returns:
        The folder of the finished model.
    """
    work = Path(output)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    add_retrieval_tokens(model, tokenizer, config)
    codec = TextCodec(tokenizer, config)
    context = min(model.config.get_text_config(decoder=True).max_position_embeddings, 2048)
    dataset = PublishedData(
        codec, train, db, rows=rows, positives=positives, negatives=negatives, epochs=epochs, context=context, seed=seed
    )
    arguments = training_arguments(
        work,
        len(dataset),
        learning_rate=learning_rate,
        lr_scheduler_type="linear",
        activation_checkpointing=torch.cuda.is_available(),
        logging_steps=10,
        save_steps=checkpoint_every,
        seed=seed,
    )
    trainer = OneGenTrainer(model=model, args=arguments, train_dataset=dataset, loss=loss)
    trainer.train(resume_from_checkpoint=last_checkpoint(work))
    return save(model, tokenizer, config, work / "model")
