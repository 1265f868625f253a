"""Parts of the documentation that are made from the code when the site is built, so that they cannot drift from it.

In a page `<!-- command: ask -->` stands for the usage and the options of `onegen ask`, `<!-- presets -->` for the table
of presets, and `<!-- scripts -->` for the scripts in `benchmarks/`. The model card is a page of its own.
"""

from __future__ import annotations

import argparse
import ast
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from onegen_integrations.cli import _parser
from onegen_integrations.config import BUNDLED, PRESETS

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CHECKPOINTS = {
    "mini": "the bundled checkpoint",
    "multi_hop": "`zjunlp/OneGen-MultiHop-Llama2-7B`",
    "self_rag": "`zjunlp/OneGen-SelfRAG-Llama2-7B`",
    "entity_linking": "`zjunlp/OneGen-EntityLinking-Llama2-7B`",
}
_MARK = re.compile(
    r"^<!-- (command: (?P<command>\w+)|presets|scripts) -->$", re.MULTILINE
)


def on_files(files: Files, config: Any) -> Files:
    """Add the model card of the bundled checkpoint as a page."""
    files.append(
        File.generated(
            config, "model-card.md", abs_src_path=str(BUNDLED / "README.md")
        )
    )
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the marks of a page by what they stand for."""
    return _MARK.sub(_made, markdown)


def _made(mark: re.Match[str]) -> str:
    if mark["command"]:
        return command_reference(commands()[mark["command"]])
    return presets() if mark[1] == "presets" else scripts()


# --- commands -------------------------------------------------------------------------------------


def commands() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, by name."""
    [subparsers] = [
        action
        for action in _parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    ]
    return dict(subparsers.choices)


def command_reference(parser: argparse.ArgumentParser) -> str:
    """Usage and arguments of a command."""
    usage = _formatter(parser)
    usage.add_usage(
        parser.usage,
        parser._actions,
        parser._mutually_exclusive_groups,
        prefix="",
    )
    rows = ["| argument | meaning |", "|---|---|"]
    rows += [
        f"| {_names(parser, action)} | {_meaning(parser, action)} |"
        for action in parser._actions
        if not isinstance(action, argparse._HelpAction)
    ]
    return "\n".join(
        ["```text", usage.format_help().rstrip(), "```", "", *rows, ""]
    )


def _formatter(parser: argparse.ArgumentParser) -> argparse.HelpFormatter:
    return argparse.HelpFormatter(parser.prog, width=78)


def _names(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    if not action.option_strings:
        return f"`{action.metavar or action.dest}`"
    if action.nargs == 0:
        return ", ".join(f"`{name}`" for name in action.option_strings)
    value = _formatter(parser)._format_args(action, action.dest.upper())
    return ", ".join(
        f"`{name} {value}`".replace("|", "\\|")
        for name in action.option_strings
    )


def _meaning(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    said = _formatter(parser)._expand_help(action) if action.help else ""
    needed = "required" if action.required and action.option_strings else ""
    for group in parser._mutually_exclusive_groups:
        if action in group._group_actions:
            others = [
                f"`{other.option_strings[0]}`"
                for other in group._group_actions
                if other is not action
            ]
            needed = f"{'required' if group.required else 'allowed'}: this or {', '.join(others)}"
    return "; ".join(part for part in (said, needed) if part).replace(
        "|", "\\|"
    )


# --- presets and scripts --------------------------------------------------------------------------


def presets() -> str:
    """The presets as a table."""
    rows = [
        "| preset | checkpoint | query token | document token | passages | retrievals, at most |",
        "|---|---|---|---|---|---|",
    ]
    rows += [
        f"| `{name}` | {CHECKPOINTS[name]} | `{config.query_token}` | `{config.document_token}` |"
        f" {config.passage_attention} | {config.max_retrievals} |"
        for name, config in PRESETS.items()
    ]
    return "\n".join(rows)


def scripts() -> str:
    """The scripts in `benchmarks/`, with what they say about themselves."""
    sections = []
    for path in sorted(BENCHMARKS.glob("[!_]*.py")):
        summary, _, rest = (
            ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        ).partition("\n\n")
        # Commands stand indented in docstrings; here they are fenced.
        body = re.sub(
            r"(?m)(?:^ {4}.*\n?)+",
            lambda code: f"```bash\n{_dedented(code[0])}\n```\n",
            rest,
        )
        sections.append(f"### `{path.name}`\n\n{summary}\n\n{body}")
    return "\n\n".join(sections)


def _dedented(code: str) -> str:
    return "\n".join(line[4:] for line in code.rstrip().splitlines())
