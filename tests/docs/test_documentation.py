"""The documentation says what the code does: its blocks run, its commands parse, and the site builds."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from importlib.metadata import metadata
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from chromadb.api.shared_system_client import SharedSystemClient
from llama_index.core import Settings, set_global_tokenizer

from onegen_integrations import errors
from onegen_integrations.cli import COMMANDS, _parser
from onegen_integrations.langchain import OneGenLLM

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
HANDED_IN = DOCS / "langchain_docs"  # pages in the form of LangChain's own documentation
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md")), *sorted(DOCS.rglob("*.mdx"))]
PUBLIC = [
    (module, name)
    for module in (
        "onegen_integrations",
        "onegen_integrations.chroma",
        "onegen_integrations.langchain",
        "onegen_integrations.llama_index",
    )
    for name in importlib.import_module(module).__all__
    if name != "__version__"  # a string
]
COMMAND_NAMES = [module.__name__.rpartition(".")[2] for module in COMMANDS]

_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>\w[^\n]*)\n(?P<code>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"(?:<!--|\{/\*) not run: (?P<reason>.*?) (?:-->|\*/\})")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; line: of its first line of code. not_run: why, or None where it runs."""

    page: Path
    language: str
    code: str
    line: int
    not_run: str | None


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for fence in _FENCE.finditer(text):
        before = text[: fence.start()].rstrip().rpartition("\n")[2].strip()
        mark = _NOT_RUN.fullmatch(before)
        line = text.count("\n", 0, fence.start("code")) + 1
        yield Block(page, fence["info"].split()[0], dedent(fence["code"]), line, mark["reason"] if mark else None)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def with_blocks(language: str) -> list[Path]:
    return [page for page in PAGES if any(block.language == language for block in blocks(page))]


# --- blocks of code -------------------------------------------------------------------------------


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: Any) -> None:
        assert self.family not in (socket.AF_INET, socket.AF_INET6), f"the documentation connects to {address}"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)


@pytest.fixture
def own_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What frameworks keep for the whole process is a page's own."""
    # Chroma knows databases that are open by their paths as they were given, and pages use relative ones.
    monkeypatch.setattr(SharedSystemClient, "_identifier_to_system", {})
    monkeypatch.setattr(SharedSystemClient, "_identifier_to_refcount", {})
    yield
    Settings._llm = Settings._embed_model = None
    set_global_tokenizer(None)


@pytest.mark.usefixtures("mini", "no_network", "own_state")
@pytest.mark.parametrize("page", with_blocks("python"), ids=name_of)
def test_the_python_blocks_of_a_page_run_in_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("notes").mkdir()
    Path("notes", "orders.txt").write_text("Orders above 500 euros are signed by Velkorin Tarm.\n", encoding="utf-8")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language == "python" and block.not_run is None:
            # Empty lines in front, so that a traceback names the line of the page.
            code = compile("\n" * (block.line - 1) + block.code, str(page), "exec", dont_inherit=True)
            exec(code, namespace)


@pytest.mark.parametrize("page", with_blocks("python"), ids=name_of)
def test_a_python_block_that_does_not_run_at_least_compiles_and_says_why(page: Path):
    text = page.read_text(encoding="utf-8")
    skipped = [block for block in blocks(page) if block.not_run is not None]
    for block in skipped:
        compile(block.code, str(page), "exec")
        assert len(block.not_run.split()) >= 3, f"{page}, line {block.line}: {block.not_run!r} is no reason"
    assert len(re.findall(r"not run\b", text)) == len(skipped), f"{page} has a mark that belongs to no block"


@pytest.mark.parametrize("page", with_blocks("bash"), ids=name_of)
def test_the_commands_of_a_page_are_commands(page: Path, capsys: pytest.CaptureFixture[str]):
    extras = set(metadata("onegen-integrations").get_all("Provides-Extra") or [])
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for block in blocks(page):
        if block.language != "bash":
            continue
        for line in block.code.splitlines():
            where = f"{page}, block at line {block.line}: {line}"
            words = shlex.split(line, comments=True)
            end = next((at for at, word in enumerate(words) if word in ("|", ">", "&&")), len(words))
            if words[:1] == ["onegen"]:
                try:
                    _parser().parse_args(words[1:end])
                except SystemExit:
                    pytest.fail(f"{where}\n{capsys.readouterr().err}")
            elif words[:1] == ["make"]:
                assert set(words[1:end]) <= targets, where
            elif words[:1] == ["python"] and words[1].endswith(".py"):
                assert (ROOT / words[1]).is_file(), where
            for named in re.findall(r"(?:onegen-integrations|\.)\[([\w,-]+)\]", line):
                assert set(named.split(",")) <= extras, where


@pytest.mark.parametrize("page", with_blocks("json"), ids=name_of)
def test_json_blocks_are_json(page: Path):
    for block in blocks(page):
        if block.language == "json":
            assert isinstance(json.loads(block.code), dict), f"{page}, line {block.line}"


def test_the_readme_links_to_files_that_are_there():
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert links
    assert not [link for link in links if not link.startswith("http") and not (ROOT / link).exists()]


# --- public names ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=lambda value: value)
def test_a_public_name_has_a_docstring_and_so_have_its_members(module: str, name: str):
    value = getattr(importlib.import_module(module), name)
    docstring = value.__doc__ or ""
    # A dataclass without a docstring gets its signature as one.
    assert docstring.strip(), f"{module}.{name}"
    assert not docstring.startswith(f"{name}("), f"{module}.{name}"
    if inspect.isclass(value):
        members = [key for key, member in vars(value).items() if not key.startswith("_") and _is_code(member)]
        assert not [key for key in members if not (inspect.getdoc(getattr(value, key)) or "").strip()]


def _is_code(member: Any) -> bool:
    return inspect.isfunction(member) or isinstance(member, (property, classmethod, staticmethod))


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=lambda value: value)
def test_a_public_name_is_in_the_api_reference(module: str, name: str):
    pages = {"onegen_integrations": "core", "llama_index": "llama-index"}
    part = module.rpartition(".")[2]
    reference = (DOCS / "api" / f"{pages.get(part, part)}.md").read_text(encoding="utf-8")
    assert re.search(rf"^::: {re.escape(module)}\.{name}$", reference, re.MULTILINE)


# --- errors and commands --------------------------------------------------------------------------


def test_every_error_is_explained_and_no_other():
    page = (DOCS / "errors.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\w+Error)\n(.*?)(?=^## )", page, re.MULTILINE | re.DOTALL))
    kinds = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert set(sections) == kinds
    for name, section in sections.items():
        if name == "OneGenError":
            continue
        assert "**Raised when**" in section, name
        assert "**What to do:**" in section, name
        also = re.search(rf"^\| \[`{name}`\].*?\| `(\w+)` \|", page, re.MULTILINE)
        assert also is not None, f"{name} is not in the table"
        assert getattr(errors, name).__mro__[2].__name__ == also[1]


def test_every_command_has_its_section_and_its_options():
    page = (DOCS / "command-line.md").read_text(encoding="utf-8")
    sections = re.split(r"^## onegen (\w+)$", page, flags=re.MULTILINE)[1:]
    assert sections[::2] == COMMAND_NAMES
    for name, section in zip(sections[::2], sections[1::2], strict=True):
        assert f"<!-- command: {name} -->" in section


# --- the site -------------------------------------------------------------------------------------


class Addresses(HTMLParser):
    """Collects what a browser fetches when it opens a page, and the places that its links lead to."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        self.ids.add(given.get("id", ""))
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") not in ("canonical", "prev", "next"):
            self.fetched.append(given.get("href", ""))
        elif tag != "a":
            self.fetched += [given[key] for key in ("src", "srcset", "data", "poster") if key in given]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    # Not --quiet: it hides warnings from --strict, too.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def opened(site: Path) -> dict[Path, Addresses]:
    """What stands in each page of the site."""
    found = {}
    for page in site.rglob("*.html"):
        found[page] = Addresses()
        found[page].feed(page.read_text(encoding="utf-8"))
    return found


def test_every_page_is_built(site: Path):
    written = {page.relative_to(DOCS).with_suffix("") for page in DOCS.rglob("*.md") if HANDED_IN not in page.parents}
    built = {page.parent.relative_to(site) for page in site.rglob("index.html")}
    assert built == {page.parent if page.name == "index" else page for page in written} | {Path("model-card")}


def test_nothing_is_fetched_from_a_network(site: Path, opened: dict[Path, Addresses]):
    for page, addresses in opened.items():
        assert not [address for address in addresses.fetched if re.match(r"(\w+:)?//", address)], page
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?(\w+:)?//|@import", style.read_text(encoding="utf-8")), style


def test_every_link_and_every_anchor_leads_somewhere(site: Path, opened: dict[Path, Addresses]):
    """MkDocs checks the links of Markdown; those that the API reference makes are checked here."""
    for page, addresses in opened.items():
        if page.name == "404.html":  # its links are those of any folder
            continue
        for link in addresses.links:
            path, _, anchor = link.partition("#")
            if re.match(r"\w+:", path):
                continue
            target = (page.parent / path).resolve() if path else page
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{page}: {link}"
            assert not anchor or anchor in opened[target].ids | {"__skip"}, f"{page}: {link}"


@pytest.mark.parametrize("name", COMMAND_NAMES)
def test_every_option_of_a_command_is_in_the_site(site: Path, name: str, capsys: pytest.CaptureFixture[str]):
    page = (site / "command-line" / "index.html").read_text(encoding="utf-8")
    assert "<!-- command" not in page
    section = page[page.index(f'id="onegen-{name}"') :].split("<h2", 1)[0]
    with pytest.raises(SystemExit):
        _parser().parse_args([name, "--help"])
    options = set(re.findall(r"--[\w-]+", capsys.readouterr().out)) - {"--help"}
    assert len(options) > 2
    assert options <= set(re.findall(r"--[\w-]+", section))


def test_the_search_knows_every_page_and_every_public_name(site: Path):
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    places = {entry["location"] for entry in index["docs"]}
    pages = {f"{page.parent.relative_to(site).as_posix()}/" for page in site.rglob("index.html")} - {"./"}
    assert pages <= {place.split("#")[0] for place in places}
    anchors = {place.partition("#")[2] for place in places}
    assert {f"{module}.{name}" for module, name in PUBLIC} <= anchors


# --- pages for LangChain's documentation ----------------------------------------------------------


@pytest.mark.parametrize("page", sorted(HANDED_IN.rglob("*.mdx")), ids=name_of)
def test_a_page_for_langchain_has_the_form_that_its_documentation_asks_for(page: Path):
    text = page.read_text(encoding="utf-8")
    front = re.match(r'---\ntitle: "[^"\n]+"\ndescription: "[^"\n]+"\n(?:sidebarTitle: "[^"\n]+"\n)?---\n', text)
    assert front is not None
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    asked = {
        "chat": ["Overview", "Setup", "Instantiation", "Invocation", "API reference"],
        "embeddings": ["Overview", "Setup", "Instantiation", "Indexing and retrieval", "Direct usage", "API reference"],
        "providers": ["Installation and setup", "Chat models", "Embedding models", "Vector stores"],
    }[page.parent.name]
    places = [headings.index(heading) for heading in asked]
    assert all(first < second for first, second in pairwise(places))
    for opening, closing in (
        ("<CodeGroup>", "</CodeGroup>"),
        ("<Columns cols={2}>", "</Columns>"),
        ("<Tip>", "</Tip>"),
    ):
        assert text.count(opening) == text.count(closing)


def test_the_pages_for_langchain_are_not_in_the_site(site: Path):
    assert not list(site.rglob("*.mdx"))
    assert not (site / "langchain_docs").exists()


def test_the_feature_table_of_the_chat_page_is_the_models_profile():
    page = (HANDED_IN / "chat" / "onegen.mdx").read_text(encoding="utf-8")
    heads, _, marks = re.findall(r"^\| .*\|$", page.partition("### Model features")[2], re.MULTILINE)[:3]
    names = [re.sub(r"\[(.+?)\]\(.*?\)", r"\1", head).strip() for head in heads.strip("| ").split("|")]
    said = dict(zip(names, [mark.strip() == "✅" for mark in marks.strip("| ").split("|")], strict=True))
    profile = OneGenLLM().profile
    assert said["Tool calling"] == profile["tool_calling"]
    assert said["Structured output"] == profile["structured_output"]
    assert [said["Image input"], said["Audio input"], said["Video input"]] == [
        profile["image_inputs"],
        profile["audio_inputs"],
        profile["video_inputs"],
    ]
