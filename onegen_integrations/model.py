"""`OneGen`: one set of weights that embeds, retrieves and generates."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Generator, Sequence
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from onegen_integrations.config import BUNDLED, BUNDLED_NAME, CONFIG_FILE, OneGenConfig
from onegen_integrations.engine.cache import PrefixCache
from onegen_integrations.engine.forward import Forward
from onegen_integrations.engine.guide import Grammars
from onegen_integrations.errors import CheckpointError, ConfigError, ContextWindowError, InvalidInputError, OneGenError
from onegen_integrations.generation import Event, Finish, Generation, GenerationOptions, OnePass, vectors_of
from onegen_integrations.identity import identity_of
from onegen_integrations.passages import Vectors
from onegen_integrations.text import EncodedDocument, Messages, TextCodec, check_text, content_text

_loaded: WeakValueDictionary[str, OneGen] = WeakValueDictionary()
_loading = Lock()


class OneGen:
    """A OneGen checkpoint in memory: `embed_queries`, `embed_documents`, `generate` and `stream` share its weights.

    Use `OneGen.from_pretrained` to load one, or pass a model and tokenizer that are loaded already.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer, with the tokens of `config`.
        config: its retrieval tokens and templates.
        name: how the model is called in messages and in metadata.
        max_batch_tokens: padded tokens of one batch when embedding; default 512 on a CPU, 16,384 on a GPU.
        prefix_cache_tokens: how many positions of earlier sequences are kept for later ones that start alike.

    Attributes:
        name: how the model is called.
        config: its retrieval tokens and templates.
        dim: how many numbers a vector has.
        context_window: how many positions a sequence may have.
        device: where the weights are.
        model: the causal language model.
        tokenizer: its tokenizer.

    Raises:
        ConfigError: a token of `config` is not one token of the tokenizer, or has no row in the model's embedding.
        UnsupportedModelError: the architecture cannot splice passages into its cache.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: OneGenConfig,
        *,
        name: str = "",
        max_batch_tokens: int | None = None,
        prefix_cache_tokens: int = 8192,
    ) -> None:
        self.name = name or model.name_or_path or type(model).__name__
        self.config = config
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.codec = TextCodec(tokenizer, config, end_ids=_end_ids(model))
        self._forward = Forward(model)
        self._prefixes = PrefixCache(prefix_cache_tokens)
        self.device = next(model.parameters()).device
        self._max_batch_tokens = max_batch_tokens or (512 if self.device.type == "cpu" else 16_384)
        self._rows = len(model.get_input_embeddings().weight)  # type: ignore[arg-type]
        outside = [token for token in config.tokens if self.codec.token_id(token) >= self._rows]
        if outside:
            msg = (
                f"The tokens {outside} have no row in the model's embedding ({self._rows} rows); resize and train it"
                " first."
            )
            raise ConfigError(msg)
        text_config = model.config.get_text_config(decoder=True)
        self.dim: int = text_config.hidden_size
        self.context_window: int = text_config.max_position_embeddings
        self._fingerprint: str | None = None
        self._grammars: Grammars | None = None

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: str | Path | None = None,
        *,
        config: str | OneGenConfig | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        revision: str | None = None,
        adapter: str | Path | None = None,
        trust_remote_code: bool = False,
    ) -> OneGen:
        """Load a checkpoint; the same one with the same settings is loaded once and shared.

        Args:
            checkpoint: a folder or hub id; default: the bundled checkpoint.
            config: a preset name or a config, where the checkpoint has no `onegen_config.json`.
            device: default: a GPU where there is one.
            dtype: default: float32 on a CPU, the checkpoint's own on a GPU.
            revision: of a hub id.
            adapter: a PEFT adapter, folder or hub id, loaded on top.
            trust_remote_code: run code that comes with the checkpoint.

        Raises:
            CheckpointError: it cannot be found or read, or its weights are not safetensors.
            ConfigError: it has no config and none was given, or the config does not fit.
        """
        source = str(BUNDLED if checkpoint is None else checkpoint)
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        wanted = dtype or (torch.float32 if place.type == "cpu" else "auto")
        settings = _resolve_config(config)
        given = json.dumps(settings.to_dict(), sort_keys=True) if settings else ""
        where = os.path.realpath(source) if Path(source).exists() else source
        content = identity_of(source, revision, adapter)  # what has been trained further is loaded anew
        key = repr((where, content, str(place), str(wanted), revision, str(adapter), given))
        with _loading:
            loaded = _loaded.get(key)
            if loaded is None:
                model, tokenizer = _load(source, wanted, revision, trust_remote_code=trust_remote_code)
                if adapter is not None:
                    model = _with_adapter(model, adapter)
                settings = settings or _config_of(source, revision)
                name = BUNDLED_NAME if checkpoint is None else Path(source).name if Path(source).exists() else source
                model.to(place)  # type: ignore[arg-type]
                loaded = cls(model, tokenizer, settings, name=name)
                _loaded[key] = loaded
        return loaded

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights, tokenizer and config together, so that `from_pretrained` finds all of them."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.config.save(folder)

    @property
    def fingerprint(self) -> str:
        """16 hex digits over all that decides a vector: weights, tokens, templates, dtype class, quantisation."""
        if self._fingerprint is None:
            self._fingerprint = _fingerprint(self.model, self.codec)
        return self._fingerprint

    # --- embedding --------------------------------------------------------------------------------

    def embed_queries(self, queries: Sequence[str], *, show_progress: bool = False) -> Vectors:
        """Query vectors, float32 [n, dim] of unit length: the hidden state at the query token after each prompt.

        It is the vector that `generate` searches with when it retrieves at once.

        Raises:
            InvalidInputError: a query is empty.
            ContextWindowError: one does not fit.
        """
        suffix = self.codec.query_suffix()
        encoded = []
        for number, query in enumerate(_as_list(queries, "queries")):
            check_text(query, f"Query {number}")
            ids = [*self.codec.encode(self.codec.prompt(query)), *suffix]
            encoded.append(EncodedDocument(ids, list(range(len(ids))), [len(ids) - 1], hidden=False))
        return self._stacked(self._embed(encoded, "query", show_progress=show_progress))

    def embed_documents(
        self, documents: Sequence[str], *, titles: Sequence[str] | None = None, show_progress: bool = False
    ) -> Vectors:
        """Document vectors, float32 [n, dim] of unit length: the hidden state at the document token after each text.

        Args:
            documents: texts.
            titles: for templates that have a place for them.
            show_progress: show a progress bar.

        Raises:
            InvalidInputError: a document is empty.
            ContextWindowError: one does not fit.
        """
        fragments = [[document] for document in _as_list(documents, "documents")]
        return self._stacked(self.embed_fragments(fragments, titles=titles, show_progress=show_progress))

    def embed_fragments(
        self,
        documents: Sequence[Sequence[str]],
        *,
        titles: Sequence[str] | None = None,
        show_progress: bool = False,
    ) -> list[Vectors]:
        """Vectors for the fragments of each document, float32 [fragments, dim], one forward pass a document.

        Args:
            documents: for each document its fragments, which joined are its text.
            titles: for templates that have a place for them.
            show_progress: show a progress bar.

        Raises:
            InvalidInputError: a fragment is empty.
            ContextWindowError: a document does not fit.
        """
        names = [""] * len(documents) if titles is None else list(titles)
        if len(names) != len(documents):
            msg = f"There are {len(documents)} documents but {len(names)} titles; give one title for each, or none."
            raise InvalidInputError(msg)
        encoded = []
        for number, (fragments, title) in enumerate(zip(documents, names, strict=True)):
            if isinstance(fragments, str) or not fragments:
                msg = f"Document {number} must be a non-empty list of fragments, not {fragments!r}."
                raise InvalidInputError(msg)
            for fragment in fragments:
                check_text(fragment, f"Document {number}")
            check_text(title, f"The title of document {number}", allow_empty=True)
            encoded.append(self.codec.document(fragments, title))
        return self._embed(encoded, "document", show_progress=show_progress)

    def _stacked(self, vectors: Sequence[Vectors]) -> Vectors:
        return np.concatenate(vectors) if vectors else np.zeros((0, self.dim), dtype=np.float32)

    @torch.inference_mode()
    def _embed(self, documents: Sequence[EncodedDocument], what: str, *, show_progress: bool) -> list[Vectors]:
        """Forward in batches of about equal length, within the token budget; [fragments, dim] for each document."""
        for number, document in enumerate(documents):
            if len(document.ids) > self.context_window:
                msg = (
                    f"{what.capitalize()} {number} takes {len(document.ids)} tokens, but the context window holds"
                    f" {self.context_window}. Split it."
                )
                raise ContextWindowError(msg)
        found: list[Vectors] = [np.empty(0, dtype=np.float32)] * len(documents)
        order = sorted(range(len(documents)), key=lambda i: -len(documents[i].ids))
        with tqdm(total=len(documents), desc="Embedding", unit=what, disable=not show_progress) as bar:
            while order:
                size = max(1, self._max_batch_tokens // len(documents[order[0]].ids))
                batch, order = order[:size], order[size:]
                for index, vectors in zip(batch, self._embed_batch([documents[i] for i in batch]), strict=True):
                    found[index] = vectors
                bar.update(len(batch))
        return found

    def _embed_batch(self, documents: Sequence[EncodedDocument]) -> list[Vectors]:
        length = max(len(document.ids) for document in documents)
        ids = torch.zeros(len(documents), length, dtype=torch.long)
        positions = torch.zeros_like(ids)
        visible = torch.ones(len(documents), length, length, dtype=torch.bool).tril()
        for row, document in enumerate(documents):
            ids[row, : len(document.ids)] = torch.tensor(document.ids)
            positions[row, : len(document.ids)] = torch.tensor(document.positions)
            if document.hidden:
                visible[row, :, document.observers] = False
                visible[row, document.observers, document.observers] = True
        output = self._forward(ids.to(self.device), positions.to(self.device), visible.to(self.device))
        return [vectors_of(output.hidden[row, document.observers]) for row, document in enumerate(documents)]

    # --- generation -------------------------------------------------------------------------------

    def generate(self, prompt: str | Messages, **options: Any) -> Generation:
        """Answer a question or continue a chat, retrieving in the middle of the answer.

        Args:
            prompt: a question, or messages `{"role": ..., "content": ...}`.
            **options: as in `GenerationOptions`: `passages` (a `PassageSource`), `retrieval` ("auto": the model
                decides; "always": retrieve at once; "never"), `top_k`, `max_retrievals`, `score_threshold` (cosine),
                `max_new_tokens`, `stop` (strings, not part of the text), `temperature` (0: greedy), `top_p`, `seed`;
                `tools` (functions in OpenAI's format), `tool_choice` ("auto", "none", "required" or a name), or
                `json_schema`, which the whole text will be valid against.

        Raises:
            InvalidInputError: the prompt is empty or an option out of range.
            ContextWindowError: prompt or passages do not fit.
            PassageSourceError: the passage source raised; its `partial` holds what was generated until then.
        """
        for event in self.stream(prompt, **options):
            if isinstance(event, Finish):
                return event.generation
        msg = "A stream ended without its last event."
        raise AssertionError(msg)

    def stream(self, prompt: str | Messages, **options: Any) -> Generator[Event, None, None]:
        """The same answer as `generate`, as events: `TextDelta`, `Retrieval`, `ToolCallDelta` and last `Finish`.

        Closing the iterator stops the work. Arguments and errors are those of `generate`; bad input raises at once.
        """
        chosen = GenerationOptions(**options)
        tools = chosen.tools if chosen.tool_choice != "none" else ()
        parts = self.codec.prompt(prompt, tools=tools)
        question = prompt if isinstance(prompt, str) else _last_user_text(prompt)
        request = OnePass(
            self._forward,
            self.codec,
            self._guides,
            self._prefixes,
            self.context_window,
            parts,
            question,
            chosen,
        )
        return request.run()

    def _guides(self) -> Grammars:
        if self._grammars is None:
            self._grammars = Grammars(self.tokenizer.backend_tokenizer, self._rows, self.tokenizer.eos_token_id)
        return self._grammars


def _end_ids(model: PreTrainedModel) -> list[int]:
    """The tokens that end a turn of this checkpoint: chat models often name another one than their tokenizer does."""
    ends = getattr(model.generation_config, "eos_token_id", None)
    return [ends] if isinstance(ends, int) else list(ends or [])


def _as_list(texts: Sequence[str], what: str) -> list[str]:
    if isinstance(texts, str):
        msg = f"{what} must be a list of strings, not one string; write [{texts[:20]!r}]."
        raise InvalidInputError(msg)
    return list(texts)


def _last_user_text(messages: Messages) -> str:
    texts = (content_text(m.get("content")) for m in reversed(messages) if m.get("role") == "user")
    return next((text for text in texts if text), "")


def _resolve_config(config: str | OneGenConfig | None) -> OneGenConfig | None:
    return OneGenConfig.preset(config) if isinstance(config, str) else config


def _load(
    source: str, dtype: str | torch.dtype, revision: str | None, *, trust_remote_code: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Weights and tokenizer of a folder or hub id; safetensors only."""
    folder = Path(source)
    if folder.is_file() or (not folder.exists() and (folder.is_absolute() or source.startswith((".", "~")))):
        msg = f"{source} is not a folder with a checkpoint."
        raise CheckpointError(msg)
    if folder.is_dir() and not (folder / "config.json").is_file():
        msg = f"{source} holds no config.json; a checkpoint folder is what save_pretrained writes."
        raise CheckpointError(msg)
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        msg = f"{source} holds no *.safetensors file; other weight formats can run code and are not loaded."
        raise CheckpointError(msg)
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        AutoConfig.from_pretrained(source, **options)
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, use_safetensors=True, **options)
    except OneGenError:
        raise
    except Exception as error:  # what is wrong with a file surfaces as all kinds of errors
        what = f"{source}" if folder.is_dir() else f"There is no folder {source}, and as a hub id it"
        msg = f"{what} cannot be loaded as a causal language model: {error}"
        raise CheckpointError(msg) from error
    return model, tokenizer


def _with_adapter(model: PreTrainedModel, adapter: str | Path) -> Any:
    try:
        from peft import PeftModel
        from peft.utils import SAFETENSORS_WEIGHTS_NAME
        from transformers.utils import cached_file
    except ImportError as error:
        msg = "adapter= needs the package peft; install onegen-integrations[train]."
        raise ImportError(msg) from error
    folder = Path(adapter)
    if folder.is_dir() and not (folder / SAFETENSORS_WEIGHTS_NAME).is_file():
        msg = f"{adapter} holds no {SAFETENSORS_WEIGHTS_NAME}; other weight formats can run code and are not loaded."
        raise CheckpointError(msg)
    try:
        if not folder.is_dir():
            cached_file(str(adapter), SAFETENSORS_WEIGHTS_NAME)  # raises where the hub id has none
        return PeftModel.from_pretrained(model, str(adapter))
    except Exception as error:  # what is wrong with a file surfaces as all kinds of errors
        msg = f"{adapter} cannot be loaded as an adapter of this checkpoint: {error}"
        raise CheckpointError(msg) from error


def _config_of(source: str, revision: str | None) -> OneGenConfig:
    """The config beside a checkpoint."""
    path: str | Path | None = Path(source) / CONFIG_FILE
    if not Path(source).is_dir():
        from transformers.utils import cached_file

        path = cached_file(source, CONFIG_FILE, revision=revision, _raise_exceptions_for_missing_entries=False)
    if path is None or not Path(path).is_file():
        msg = (
            f"{source} holds no {CONFIG_FILE}. For a published checkpoint pass config='multi_hop', 'self_rag' or"
            " 'entity_linking'; for your own pass config=OneGenConfig(...), and save_pretrained will write the file."
        )
        raise ConfigError(msg)
    return OneGenConfig.from_file(path)


def _fingerprint(model: PreTrainedModel, codec: TextCodec) -> str:
    """Hash of names, shapes and samples of all weights, of what is done to text, and of the class of arithmetic.

    A sample of each tensor is enough to tell models apart, and quick where there are billions of weights.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        flat = weight.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 1024)].to("cpu", torch.float32)
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(sample.numpy().tobytes())
    half = model.dtype in (torch.float16, torch.bfloat16)
    quantised = getattr(model.config, "quantization_config", None)
    meaning = {
        "config": codec.config.to_dict(),
        "prompt": codec.tokenizer.chat_template if codec.config.prompt_template is None else "",
        "tokenizer": hashlib.sha256(codec.tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
        "dtype": "half" if half else "full",
        "quantisation": str(quantised),
    }
    digest.update(json.dumps(meaning, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]
