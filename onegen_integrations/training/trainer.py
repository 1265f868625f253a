"""Joint training of generation and retrieval with `transformers.Trainer`."""

from __future__ import annotations

import os
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import is_accelerate_available

from onegen_integrations.config import OneGenConfig
from onegen_integrations.engine.forward import Forward
from onegen_integrations.training.losses import bpr, cosine, info_nce, next_token
from onegen_integrations.training.pointing import PointerHead
from onegen_integrations.training.precision import training_dtype
from onegen_integrations.training.sequences import IGNORE, Batch


@dataclass(frozen=True)
class JointLoss:
    """`generation_weight * next-token + retrieval_weight * contrastive` (OneGen, section 3.2).

    contrastive: "info_nce" with `temperature`, or "bpr".
    """

    generation_weight: float = 1.0
    retrieval_weight: float = 1.0
    contrastive: Literal["info_nce", "bpr"] = "info_nce"
    temperature: float = 0.05

    def retrieval(self, similarity: Tensor, positive: Tensor, candidate: Tensor) -> Tensor:
        if self.contrastive == "bpr":
            return bpr(similarity, positive, candidate)
        return info_nce(similarity, positive, candidate, self.temperature)


class OneGenTrainer(Trainer):
    """A `Trainer` over `Batch`es. Its dataset yields whole batches; each is one step.

    Beside the loss it logs both parts of it and, for each kind of data, `recall/*` (right passage first among the
    documents of the batch) and `exact/*` (every token of an answer predicted right).

    Args:
        loss: weights of the two losses.
        pointer: a head that is taught where to look, if any.
        **arguments: as `Trainer` takes them.
    """

    def __init__(self, *, loss: JointLoss | None = None, pointer: PointerHead | None = None, **arguments: Any) -> None:
        super().__init__(data_collator=_single, **arguments)
        self._loss = loss or JointLoss()
        self._pointer = pointer
        self._metrics: dict[str, list[float]] = defaultdict(list)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,  # noqa: ARG002 (the means are over a batch)
    ) -> Tensor | tuple[Tensor, None]:
        batch = Batch(**inputs)
        kept = batch.targets != IGNORE
        with self._pointer.watching() if self._pointer else nullcontext():
            output = Forward(model)(batch.input_ids, batch.positions, batch.visible, logits_to_keep=kept)
        assert output.logits is not None  # noqa: S101 (they were asked for)
        generation = next_token(output.logits, batch.targets[kept], batch.weights[kept])
        queries = output.hidden[batch.query_at[:, 0], batch.query_at[:, 1]]
        documents = output.hidden[batch.document_at[:, 0], batch.document_at[:, 1]]
        similarity = cosine(queries, documents)
        retrieval = self._loss.retrieval(similarity, batch.positive, batch.candidate)
        self._record(batch, kept, output.logits, similarity, generation.item(), retrieval.item())
        loss = self._loss.generation_weight * generation + self._loss.retrieval_weight * retrieval
        if self._pointer is not None:
            pointing = self._pointer.loss(batch)
            self._metrics["loss/pointing"].append(pointing.item())
            loss = loss + pointing
        return (loss, None) if return_outputs else loss

    @torch.no_grad()
    def _record(
        self, batch: Batch, kept: Tensor, logits: Tensor, similarity: Tensor, generation: float, retrieval: float
    ) -> None:
        record = self._metrics
        record["loss/generation"].append(generation)
        record["loss/retrieval"].append(retrieval)
        wrong = logits.argmax(-1) != batch.targets[kept]
        failed = set(batch.segment[kept][wrong].tolist())
        for segment, source in enumerate(batch.segment_sources):
            record[f"exact/{source}"].append(float(segment not in failed))
        if not len(batch.document_at):
            return
        best = similarity.masked_fill(~batch.candidate, -2.0).argmax(dim=1)
        hits = batch.positive.gather(1, best[:, None])[:, 0].tolist()
        for hit, source in zip(hits, batch.query_sources, strict=True):
            record[f"recall/{source}"].append(float(hit))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means since the last log."""
        means = {name: round(sum(values) / len(values), 4) for name, values in sorted(self._metrics.items())}
        self._metrics.clear()
        super().log(logs | means, start_time)


def training_arguments(output: str | Path, steps: int, **settings: Any) -> TrainingArguments:
    """Settings that every training of this package shares: mixed precision, batches in order, resumable.

    Raises:
        ImportError: the extra `train` is not installed.
    """
    if not is_accelerate_available():
        msg = "Training needs the package accelerate; install onegen-integrations[train]."
        raise ImportError(msg)
    on_gpu = torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(output),
        max_steps=steps,
        per_device_train_batch_size=1,
        bf16=training_dtype("cuda" if on_gpu else "cpu") == torch.bfloat16,
        use_cpu=not on_gpu,
        save_total_limit=2,
        report_to="none",
        remove_unused_columns=False,
        label_names=[],
        dataloader_num_workers=max(1, (os.cpu_count() or 2) - 2) if on_gpu else 0,
        train_sampling_strategy="sequential",
        **settings,
    )


def last_checkpoint(output: str | Path) -> str | None:
    """The newest whole checkpoint in a working folder, or None."""
    # The trainer writes its state last: a folder without one was interrupted.
    states = Path(output).glob(f"{PREFIX_CHECKPOINT_DIR}-*/{TRAINER_STATE_NAME}")
    folders = sorted((state.parent for state in states), key=lambda folder: int(folder.name.rpartition("-")[2]))
    return str(folders[-1]) if folders else None


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: OneGenConfig, folder: Path) -> Path:
    """Write weights, tokenizer and config together."""
    model.config.use_cache = True  # the trainer has switched it off
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config.save(folder)
    return folder


def _single(batches: list[Batch]) -> dict[str, Any]:
    """The collator of a dataset whose items are batches already."""
    (batch,) = batches
    return {field.name: getattr(batch, field.name) for field in fields(batch)}
