"""`OneGenConfig`: the tokens and templates that a OneGen checkpoint was trained with."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from onegen_integrations.errors import ConfigError

BUNDLED = Path(__file__).parent / "checkpoints" / "mini"
BUNDLED_NAME = "onegen-mini"
CONFIG_FILE = "onegen_config.json"
PLACEHOLDER = re.compile(r"\{(prompt|text|title|call)\}")


@dataclass(frozen=True, kw_only=True)
class OneGenConfig:
    """Retrieval tokens and templates of a checkpoint: data only, nothing in it is ever evaluated.

    Templates are filled by plain replacement of `{prompt}`, `{text}`, `{title}` and `{call}`. Control tokens that stand
    in a template become token ids; the same characters in a filled-in value stay ordinary text.

    Attributes:
        query_token: retrieval token of queries; its final hidden state is the query vector.
        document_token: retrieval token of documents; its final hidden state is a document vector.
        control_tokens: further tokens that only templates and the model may write.
        prompt_template: turns a question into a prompt; `None` uses the tokenizer's chat template.
        query_suffix: what follows a prompt when only its query vector is wanted; ends in the query token.
        document_template: how a document is embedded. A document token follows every fragment of `{text}`
            (`passage_attention="causal"`), or the whole block and the prefix up to each fragment ("isolated").
        passage_template: how a passage is spliced into the answer.
        title_template: what stands for `{title}` in these two; where a passage has no title, nothing does.
        after_passages: what is written after the spliced passages, before the model goes on.
        passage_attention: "causal": a passage sees what stands before it. "isolated": it sees only itself.
        tool_call_template: how a tool call is written; `{call}` is its JSON.
        answer_start: mark before the final answer in the generated text; empty where there is none.
        answer_end: mark behind it; empty where the answer goes on to the end.
        max_retrievals: default limit of retrievals for one answer.
    """

    query_token: str
    document_token: str
    control_tokens: tuple[str, ...] = ()
    prompt_template: str | None = None
    query_suffix: str = ""
    document_template: str = "{text}"
    passage_template: str = "{text}"
    title_template: str = "{title}"
    after_passages: str = ""
    passage_attention: Literal["causal", "isolated"] = "causal"
    tool_call_template: str = "{call}"
    answer_start: str = ""
    answer_end: str = ""
    max_retrievals: int = 5

    def __post_init__(self) -> None:
        object.__setattr__(self, "control_tokens", tuple(self.control_tokens))
        if not self.query_suffix:
            object.__setattr__(self, "query_suffix", self.query_token)
        if self.query_token == self.document_token:
            msg = f"query_token and document_token are both {self.query_token!r}; they must differ."
            raise ConfigError(msg)
        if not self.query_suffix.endswith(self.query_token):
            msg = f"query_suffix {self.query_suffix!r} must end in the query token {self.query_token!r}."
            raise ConfigError(msg)
        if self.passage_attention not in ("causal", "isolated"):
            msg = f"passage_attention is {self.passage_attention!r}; allowed are 'causal' and 'isolated'."
            raise ConfigError(msg)
        for name in ("document_template", "passage_template"):
            if getattr(self, name).count("{text}") != 1:
                msg = f"{name} is {getattr(self, name)!r}; it must hold {{text}} exactly once."
                raise ConfigError(msg)
        if self.title_template.count("{title}") != 1:
            msg = f"title_template is {self.title_template!r}; it must hold {{title}} exactly once."
            raise ConfigError(msg)
        if self.tool_call_template.count("{call}") != 1:
            msg = f"tool_call_template is {self.tool_call_template!r}; it must hold {{call}} exactly once."
            raise ConfigError(msg)
        if self.prompt_template is not None and self.prompt_template.count("{prompt}") != 1:
            msg = f"prompt_template is {self.prompt_template!r}; it must hold {{prompt}} exactly once."
            raise ConfigError(msg)
        if self.passage_attention == "isolated":
            if self.document_template != self.passage_template:
                msg = (
                    "With isolated passages document_template and passage_template must be equal: one pass serves both."
                )
                raise ConfigError(msg)
            if not self.after_passages:
                msg = (
                    "With isolated passages after_passages must not be empty: the last token of a passage sees nothing"
                    " outside of it, so some token has to follow before the model can go on."
                )
                raise ConfigError(msg)

    @property
    def tokens(self) -> tuple[str, ...]:
        """All control tokens that the config names, the two retrieval tokens first."""
        return (self.query_token, self.document_token, *self.control_tokens)

    def to_dict(self) -> dict[str, Any]:
        """The fields in JSON types."""
        return dataclasses.asdict(self) | {"control_tokens": list(self.control_tokens)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> OneGenConfig:
        """A config from its fields.

        Raises:
            ConfigError: a field is missing or unknown.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            msg = f"Unknown fields {unknown} in a OneGenConfig; allowed are {sorted(known)}."
            raise ConfigError(msg)
        missing = sorted({"query_token", "document_token"} - set(values))
        if missing:
            msg = f"A OneGenConfig needs the fields {missing}."
            raise ConfigError(msg)
        return cls(**values)

    def save(self, folder: str | Path) -> None:
        """Write `onegen_config.json` into `folder`."""
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False)
        (Path(folder) / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def from_file(cls, path: str | Path) -> OneGenConfig:
        """Read a file as `save` writes it.

        Raises:
            ConfigError: the file is not a JSON object with the fields of a config.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            msg = f"{path} cannot be read as a OneGenConfig: {error}"
            raise ConfigError(msg) from error
        if not isinstance(values, dict):
            msg = f"{path} must hold a JSON object, not {type(values).__name__}."
            raise ConfigError(msg)
        return cls.from_dict(values)

    @classmethod
    def preset(cls, name: str) -> OneGenConfig:
        """One of `PRESETS`: the formats of the published checkpoints and of the bundled one.

        Raises:
            ConfigError: there is no preset of that name.
        """
        if name not in PRESETS:
            msg = f"Unknown preset {name!r}; allowed are {sorted(PRESETS)}, or pass a OneGenConfig."
            raise ConfigError(msg)
        return PRESETS[name]


_RAG_QUERY = "[Question Representation]"
_RAG_DOCUMENT = "[Document Fragment Representation]"
_RAG_DOCUMENT_PROMPT = (
    f"Represent the following document fragment and output it after the '{_RAG_DOCUMENT}' token."
    " \nHere are document fragment:\n"
)

PRESETS = {
    # zjunlp/OneGen-MultiHop-Llama2-7B
    "multi_hop": OneGenConfig(
        query_token=_RAG_QUERY,
        document_token=_RAG_DOCUMENT,
        control_tokens=("<paragraph>", "</paragraph>"),
        prompt_template=(
            "You are good at multi-step reasoning in QA. For complex questions, break down the process. Generate and"
            " answer sub-questions step-by-step, using retrieved documents at each stage. Output the final answer"
            " wrapped by <FINAL-ANSWER></FINAL-ANSWER>. Here is a question: {prompt}"
        ),
        document_template=_RAG_DOCUMENT_PROMPT + "wiki title: {title}\ncontent: {text}",
        passage_template="<paragraph>wiki title: {title}\ncontent: {text}</paragraph>",
        answer_start="<FINAL-ANSWER>",
        answer_end="</FINAL-ANSWER>",
    ),
    # zjunlp/OneGen-SelfRAG-Llama2-7B
    "self_rag": OneGenConfig(
        query_token=_RAG_QUERY,
        document_token=_RAG_DOCUMENT,
        control_tokens=(
            "<paragraph>",
            "</paragraph>",
            "[No Retrieval]",
            "[Retrieval]",
            "[Continue to Use Evidence]",
            "[Irrelevant]",
            "[Relevant]",
            *(f"[Utility:{i}]" for i in range(1, 6)),
            "[Fully supported]",
            "[Partially supported]",
            "[No support / Contradictory]",
        ),
        prompt_template="### Instruction:\n{prompt}\n\n### Response:\n",
        query_suffix="[Retrieval]" + _RAG_QUERY,
        document_template=_RAG_DOCUMENT_PROMPT + "{title}\n{text}",
        passage_template="<paragraph>{title}\n{text}</paragraph>",
        max_retrievals=1,
    ),
    # zjunlp/OneGen-EntityLinking-Llama2-7B
    "entity_linking": OneGenConfig(
        query_token="[LK]",
        document_token="[SE]",
        control_tokens=("[_CONTINUE_]",),
        prompt_template=(
            "[INST] You are good at mention detection. Identify and extract mentions of entities from the text. Please"
            " output the original text with annotations. Here, the annotation for each mention should be formatted as"
            " `<MENTION>{mention in text}</MENTION>` when displayed. \n\nTEST TEXT:\n{prompt} [/INST]"
        ),
        max_retrievals=0,
    ),
    # the bundled checkpoint
    "mini": OneGenConfig(
        query_token="[RQ]",
        document_token="[RD]",
        control_tokens=(
            "<pad>",
            "<s>",
            "</s>",
            "<|system|>",
            "<|user|>",
            "<|assistant|>",
            "<|tool|>",
            "<paragraph>",
            "</paragraph>",
            "<tool_call>",
            "</tool_call>",
        ),
        document_template="<paragraph>{title}{text}</paragraph>",
        passage_template="<paragraph>{title}{text}</paragraph>",
        title_template="title: {title}\n\n",
        after_passages="<|assistant|>",
        passage_attention="isolated",
        tool_call_template="<tool_call>{call}</tool_call>",
        answer_start="Answer:",
    ),
}
