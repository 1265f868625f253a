"""The `onegen` command: what users type, what they see, and how it ends."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from onegen_integrations import FingerprintMismatchError, OneGen, __version__
from onegen_integrations.chroma import ChromaPassages
from onegen_integrations.cli import main
from onegen_integrations.cli.demo import draw
from onegen_integrations.evaluation.mini import demo_questions

COMMAND = [sys.executable, "-m", "onegen_integrations"]
RIVERS = """# Rivers of the north

The Elm rises in the Grey Hills. It flows into Lake Tarn, which freezes from December to March.

## Ferries

A ferry crosses the lake every hour, and the fare is 3 crowns. In winter the boats are moved by sledge.
"""
ROWS = [
    {"id": "opera", "title": "Winter Ferry", "text": "Oskar Bell composed this opera.", "metadata": {"year": 1961}},
    {"id": "novel", "title": "The Quiet Harbour", "text": "Lena Marsh wrote this novel.", "metadata": {"year": 1974}},
]


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


Onegen = Callable[..., Outcome]


@pytest.fixture
def onegen(capsys: pytest.CaptureFixture[str]) -> Onegen:
    """`onegen("ask", ...)`: run a command in this process."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        return Outcome(status, *capsys.readouterr())

    return run


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "rivers.md").write_text(RIVERS)
    (folder / "works.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    return folder


@pytest.fixture
def indexed(onegen: Onegen, documents: Path, tmp_path: Path) -> Path:
    """A database made from `documents` by the bundled checkpoint."""
    database = tmp_path / "db"
    assert onegen("index", documents, "--db", database).status == 0
    return database


def stored(database: Path, model: Path) -> set[str]:
    return set(ChromaPassages(OneGen.from_pretrained(model), path=database).ids())


# --- the command itself ---------------------------------------------------------------------------


def test_help_is_quick_because_nothing_heavy_is_imported() -> None:
    code = """
import sys
from onegen_integrations.cli import main
try:
    main(["--help"])
except SystemExit:
    print(sorted({"torch", "transformers", "numpy", "chromadb"} & set(sys.modules)))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(command in out for command in ("demo", "index", "ask", "chat", "info", "train", "evaluate"))
    assert out.splitlines()[-1] == "[]"


def test_version_is_the_package_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"onegen-integrations {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND; see onegen --help"),
        (["ask", "Who?"], "one of the arguments --db --host is required; see onegen ask --help"),
        (["ask", "Who?", "--db", "a", "--host", "b"], "argument --host: not allowed with argument --db"),
        (["ask", "Who?", "--db", "a", "--top-k", "0"], "argument --top-k: '0' is not a whole number from 1"),
        (["ask", "Who?", "--db", "a", "--where", "year"], "argument --where: 'year' is not JSON"),
        (["ask", "Who?", "--db", "a", "--where", "[]"], "argument --where: '[]' is not a JSON object"),
        (["train", "--recipe", "maxi", "--output", "a"], "argument --recipe: invalid choice: 'maxi'"),
        (
            ["train", "--recipe", "mini", "--output", "a", "--dropout", "1"],
            "argument --dropout: '1' is not a number from 0 to less than 1",
        ),
        (
            ["train", "--recipe", "mini", "--output", "a", "--learning-rate", "fast"],
            "argument --learning-rate: 'fast' is not a number from 0 to less than 1",
        ),
    ],
)
def test_wrong_arguments_are_one_line_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    err = capsys.readouterr().err
    assert err.startswith(f"onegen: {message}")
    assert err.count("\n") == 1


def test_errors_are_one_line_and_are_raised_with_debug(onegen: Onegen, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    status, out, err = onegen("info", "--model", missing)
    assert (status, out, err) == (1, "", f"onegen: {missing} is not a folder with a checkpoint.\n")
    for arguments in (["--debug", "info", "--model", missing], ["info", "--model", missing, "--debug"]):
        with pytest.raises(OSError, match="is not a folder with a checkpoint"):
            onegen(*arguments)


def test_a_device_that_is_not_there_is_named(onegen: Onegen) -> None:
    status, _, err = onegen("info", "--device", "abacus")
    assert status == 1
    assert err.startswith("onegen: --device abacus cannot be used here: ")


def test_info_shows_what_the_checkpoint_is(onegen: Onegen, tiny_folder: Path) -> None:
    model = OneGen.from_pretrained(tiny_folder)
    out = onegen("info", "--model", tiny_folder).out
    facts = dict(re.split(r"  +", line, maxsplit=1) for line in out.splitlines())
    count = sum(weight.numel() for weight in model.model.parameters())
    assert facts == {
        "package": f"onegen-integrations {__version__}",
        "checkpoint": tiny_folder.name,
        "parameters": f"{count:,}",
        "weights in memory": f"{count * 4 / 2**20:,.1f} MiB (float32)",
        "dimension": str(model.dim),
        "context window": f"{model.context_window:,} tokens",
        "fingerprint": model.fingerprint,
        "device": "cpu",
        "retrieval tokens": "[RQ] (query), [RD] (document)",
        "passage attention": "isolated",
    }


# --- index ----------------------------------------------------------------------------------------


def test_a_second_run_embeds_only_what_is_new_or_changed(
    onegen: Onegen, documents: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    def index() -> str:
        status, out, err = onegen("index", documents, "--db", tmp_path / "db", "--model", tiny_folder)
        assert (status, err) == (0, "")
        return out

    assert index() == "Indexing 3 of 3 passages ...\n3 passages: 3 new, 0 changed, 0 unchanged.\n"
    assert index() == "3 passages: 0 new, 0 changed, 3 unchanged.\n"
    (documents / "rivers.md").write_text(RIVERS.replace("3 crowns", "4 crowns"))
    (documents / "note.txt").write_text("The theatre burned down.")
    assert index() == "Indexing 2 of 4 passages ...\n4 passages: 1 new, 1 changed, 2 unchanged.\n"
    assert stored(tmp_path / "db", tiny_folder) == {"rivers.md#1", "opera#1", "novel#1", "note.txt#1"}


def test_passages_that_left_a_file_leave_the_database(
    onegen: Onegen, documents: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    arguments = ("index", documents, "--db", tmp_path / "db", "--model", tiny_folder, "--chunk-tokens", 60)
    onegen(*arguments)
    before = stored(tmp_path / "db", tiny_folder)
    assert {"rivers.md#2", "rivers.md#3"} <= before
    (documents / "rivers.md").write_text("# Rivers\nThe Elm is a river.")
    (documents / "works.jsonl").write_text(json.dumps(ROWS[1]))
    assert f"Removed {len(before) - 2} passages that are no longer in these files." in onegen(*arguments).out
    assert stored(tmp_path / "db", tiny_folder) == {"rivers.md#1", "novel#1"}


def test_passages_of_a_deleted_file_leave_the_database_and_other_folders_stay(
    onegen: Onegen, documents: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("note.txt", "memo.txt"):
        (other / name).write_text("The theatre burned down.")
    database = ("--db", tmp_path / "db", "--model", tiny_folder)
    onegen("index", documents, *database)
    onegen("index", other / "note.txt", other / "memo.txt", *database)
    (documents / "rivers.md").unlink()
    (other / "memo.txt").unlink()
    assert "Removed 1 passages that are no longer in these files." in onegen("index", documents, *database).out
    assert stored(tmp_path / "db", tiny_folder) == {"opera#1", "novel#1", "note.txt#1", "memo.txt#1"}
    assert "Removed" not in onegen("index", other / "note.txt", *database).out  # nothing was said of its folder
    assert "Removed 1 passages" in onegen("index", other, *database).out
    assert stored(tmp_path / "db", tiny_folder) == {"opera#1", "novel#1", "note.txt#1"}


def test_a_file_does_not_take_the_place_of_another_one_with_its_name(
    onegen: Onegen, documents: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "rivers.md").write_text("Another text altogether.")
    database = ("--db", tmp_path / "db", "--model", tiny_folder)
    onegen("index", documents, *database)
    status, _, err = onegen("index", other, *database)
    assert status == 1
    assert re.search(r"passage 'rivers.md#1' is stored already, from \S*rivers\.md\. If that file was moved", err)
    assert stored(tmp_path / "db", tiny_folder) == {"rivers.md#1", "opera#1", "novel#1"}


def test_a_folder_that_has_moved_takes_its_passages_along(
    onegen: Onegen, documents: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    database = ("--db", tmp_path / "db", "--model", tiny_folder)
    onegen("index", documents, *database)
    moved = documents.rename(tmp_path / "moved")
    (moved / "rivers.md").unlink()
    assert onegen("index", moved, *database).status == 1
    out = onegen("index", moved, "--moved", *database).out
    assert "2 passages: 0 new, 2 changed, 0 unchanged.\nRemoved 1 passages" in out
    assert stored(tmp_path / "db", tiny_folder) == {"opera#1", "novel#1"}


def test_a_file_that_has_moved_leaves_its_neighbours_alone(
    onegen: Onegen, documents: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    database = ("--db", tmp_path / "db", "--model", tiny_folder)
    for name in ("note.txt", "memo.txt"):
        (tmp_path / name).write_text("The theatre burned down.")
    onegen("index", documents, tmp_path / "note.txt", tmp_path / "memo.txt", *database)
    (tmp_path / "work").mkdir()
    moved = (tmp_path / "note.txt").rename(tmp_path / "work" / "note.txt")
    assert onegen("index", moved, *database).status == 1
    assert onegen("index", moved, "--moved", *database).status == 0
    everything = {"rivers.md#1", "opera#1", "novel#1", "note.txt#1", "memo.txt#1"}
    assert stored(tmp_path / "db", tiny_folder) == everything


def test_files_that_are_there_but_not_read_keep_their_passages(
    onegen: Onegen, documents: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    database = ("--db", tmp_path / "db", "--model", tiny_folder)
    (documents / ".private").mkdir()
    (documents / ".private" / "diary.txt").write_text("The theatre burned down.")
    onegen("index", documents / ".private", *database)
    onegen("index", documents, *database)
    assert stored(tmp_path / "db", tiny_folder) == {"rivers.md#1", "opera#1", "novel#1", "diary.txt#1"}


def test_passages_may_move_within_what_is_indexed(
    onegen: Onegen, documents: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    database = ("--db", tmp_path / "db", "--model", tiny_folder)
    onegen("index", documents, *database)
    (documents / "works.jsonl").rename(documents / "more.jsonl")
    assert "3 passages: 0 new, 2 changed, 1 unchanged." in onegen("index", documents, *database).out
    assert onegen("index", tmp_path, "--db", tmp_path / "db", "--model", tiny_folder).status == 0  # the folder above
    everything = {f"{documents.name}/rivers.md#1", "opera#1", "novel#1"}
    assert stored(tmp_path / "db", tiny_folder) == everything
    onegen("index", documents, *database)
    assert stored(tmp_path / "db", tiny_folder) == {"rivers.md#1", "opera#1", "novel#1"}


def test_passages_fit_the_chunk_size_in_the_models_own_tokens_and_have_titles(
    onegen: Onegen, documents: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    onegen("index", documents, "--db", tmp_path / "db", "--model", tiny_folder, "--chunk-tokens", 60)
    model = OneGen.from_pretrained(tiny_folder)
    source = ChromaPassages(model, path=tmp_path / "db")
    found = source.search(model.embed_queries(["Where?"]), source.count())[0]
    for passage in found:
        assert len(model.codec.encode_text(passage.text)) <= 60
        assert passage.title
        assert passage.id.endswith(f"#{passage.metadata['chunk']}")
    assert {passage.metadata["source"] for passage in found} == {"rivers.md", "works.jsonl"}
    assert {passage.metadata.get("year") for passage in found} == {None, 1961, 1974}


def test_files_of_other_kinds_are_skipped_with_a_word(onegen: Onegen, documents: Path, tmp_path: Path) -> None:
    (documents / "photo.png").touch()
    out = onegen("index", documents, "--db", tmp_path / "db").out
    assert out.splitlines()[-1] == "Skipped 1 file (.png), which cannot be read."


def test_a_bad_file_stops_indexing_before_anything_is_stored(onegen: Onegen, documents: Path, tmp_path: Path) -> None:
    (documents / "works.jsonl").write_text('{"text": "right"}\n{"text": }')
    status, _, err = onegen("index", documents, "--db", tmp_path / "db")
    assert status == 1
    assert err == f"onegen: {documents}/works.jsonl, line 2 is not valid JSON: Expecting value at column 10.\n"
    assert not (tmp_path / "db").exists()


@pytest.mark.parametrize("tokens", [1, 100_000])
def test_a_chunk_size_that_the_model_cannot_hold_is_refused_with_what_is_allowed(
    onegen: Onegen, documents: Path, tmp_path: Path, tokens: int
) -> None:
    status, _, err = onegen("index", documents, "--db", tmp_path / "db", "--chunk-tokens", tokens)
    assert status == 1
    assert err == f"onegen: --chunk-tokens is {tokens}; with onegen-mini it must be from 16 to 1024.\n"


def test_a_database_of_another_model_is_refused(
    onegen: Onegen, documents: Path, indexed: Path, tiny_folder: Path
) -> None:
    for command in (["index", documents], ["ask", "Who?"]):
        status, _, err = onegen(*command, "--db", indexed, "--model", tiny_folder)
        assert status == 1
        assert "belongs to 'onegen-mini'" in err


def test_ctrl_c_says_how_much_is_done_and_a_second_run_finishes(
    onegen: Onegen, tmp_path: Path, tiny_folder: Path
) -> None:
    total = 2000
    rows = (
        {"text": f"Boat {number} leaves the harbour with {number * 7} crates of salted fish. " * 3}
        for number in range(total)
    )
    (tmp_path / "boats.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = [*COMMAND, "index", tmp_path / "boats.jsonl", "--db", tmp_path / "db", "--model", tiny_folder]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == f"Indexing {total} of {total} passages ...\n"
        threading.Event().wait(0.5)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    message = r"onegen: interrupted; (\d+) of 2000 passages are indexed, run the same command again to finish\n"
    done = re.fullmatch(message, err)
    assert process.returncode == 130
    assert done is not None
    assert int(done[1]) < total
    again = onegen(*command[3:])
    assert again.status == 0
    assert f"{total} passages: {total - int(done[1])} new, 0 changed, {done[1]} unchanged." in again.out
    assert len(stored(tmp_path / "db", tiny_folder)) == total


# --- ask and chat ---------------------------------------------------------------------------------


def test_ask_shows_answer_sources_and_tokens(onegen: Onegen, indexed: Path) -> None:
    arguments = ("ask", "What is the fare of the ferry?", "--db", indexed, "--retrieval", "always", "--top-k", 2)
    status, out, err = onegen(*arguments)
    result = json.loads(onegen(*arguments, "--json").out)
    assert (status, err) == (0, "")
    assert out.startswith(result["text"] + "\n")
    for number, source in enumerate(result["sources"], start=1):
        assert re.search(rf"^  \[{number}\] {source['score']:.3f}  {source['id']}  \S", out, re.MULTILINE)
    assert re.search(r"\d+ tokens forwarded.*, \d+\.\d\d s", out)
    assert "\x1b" not in out


def test_ask_json_is_the_answer_of_the_library(onegen: Onegen, indexed: Path) -> None:
    question = "Who wrote The Quiet Harbour?"
    result = json.loads(onegen("ask", question, "--db", indexed, "--retrieval", "always", "--json").out)
    model = OneGen.from_pretrained()
    generation = model.generate(question, passages=ChromaPassages(model, path=indexed), retrieval="always")
    assert result.keys() == {"answer", "text", "sources", "usage", "seconds", "finish_reason"}
    assert (result["text"], result["answer"]) == (generation.text, generation.answer)
    assert result["finish_reason"] == generation.finish_reason
    assert [source["id"] for source in result["sources"]] == [r.passages[0].id for r in generation.retrievals]
    usage = result["usage"]
    assert usage["forwarded_tokens"] + usage["reused_tokens"] == len(generation.token_ids) - 1


def test_where_threshold_and_never_decide_what_is_retrieved(onegen: Onegen, indexed: Path) -> None:
    def sources(*options: str) -> list[str]:
        asked = onegen("ask", "What is the fare of the ferry?", "--db", indexed, "--json", *options)
        return [source["id"] for source in json.loads(asked.out)["sources"]]

    always = ("--retrieval", "always")
    assert set(sources(*always, "--where", '{"year": {"$gt": 1970}}')) == {"novel#1"}
    assert sources(*always, "--score-threshold", "1.01") == []
    assert sources("--retrieval", "never") == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--db", "nowhere"], "There is no database nowhere; fill it with: onegen index PATHS..."),
        (["--collection", "empty"], r"There is no collection 'empty' in .*, which has \['onegen'\]; fill it"),
        (["--where", '{"year": {"$near": 1}}'], r"Chroma refuses where=\{'year': \{'\$near': 1\}\}"),
        (["--top-k", "9"], "k is 9, but there are only 3 passages"),
        (["--host", "127.0.0.1", "--port", "1"], "Chroma failed to reach the server 127.0.0.1:1"),
    ],
)
def test_a_source_that_cannot_answer_is_an_error_that_says_why(
    onegen: Onegen, indexed: Path, options: list[str], message: str
) -> None:
    place = [] if {"--db", "--host"} & set(options) else ["--db", indexed]
    status, _, err = onegen("ask", "Who?", "--retrieval", "always", *place, *options)
    assert status == 1
    assert err.count("\n") == 1
    assert re.search(message, err)


def test_a_reader_that_leaves_early_gets_no_traceback(
    indexed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert main(["ask", "Who?", "--db", str(indexed)]) == 1
    assert capsys.readouterr().err == ""


def test_colours_are_for_terminals_that_want_them(indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pty = pytest.importorskip("pty")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")

    def ask() -> str:
        ours, theirs = pty.openpty()
        with os.fdopen(theirs, "w") as stdout:
            monkeypatch.setattr(sys, "stdout", stdout)
            assert main(["ask", "What is the fare?", "--db", str(indexed)]) == 0
            shown = os.read(ours, 65_536).decode()
        os.close(ours)
        return shown

    assert "\x1b[2m" in ask()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in ask()


def test_chat_keeps_the_conversation_and_knows_its_commands(
    onegen: Onegen, indexed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        "What is the fare?",
        "And who wrote the novel?",
        "/sources",
        "/clear",
        "/sources",
        "/help",
        "",
        "What is the fare?",
    ]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join([*lines, "/exit", "never asked"])))
    status, out, err = onegen("chat", "--db", indexed, "--retrieval", "always", "--max-new-tokens", 12)
    assert (status, err) == (0, "")
    reused = [int(found or 0) for found in re.findall(r"tokens forwarded(?: \((\d+) reused\))?, ", out)]
    assert len(reused) == 3
    first, second, after_clear = reused  # the first: of what other tests have asked
    assert second > 0  # a conversation goes on in the cache
    assert after_clear >= max(first, 1)  # and its first question is known again
    assert "The conversation is forgotten.\nThere is no answer yet.\n" in out
    assert "There is no command /help; there are /sources, /clear, /exit." in out


def test_chat_with_piped_lines_ends_at_their_end_and_at_an_error(
    onegen: Onegen, indexed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert onegen("chat", "--db", indexed) == (0, "", "")
    monkeypatch.setattr(sys, "stdin", io.StringIO("Who\0?\n"))
    status, _, err = onegen("chat", "--db", indexed)
    assert (status, err.count("\n")) == (1, 1)
    assert "NUL character" in err


def test_ctrl_c_stops_the_answer_but_not_the_chat(indexed: Path, tmp_path: Path, tiny_folder: Path) -> None:
    documents = tmp_path / "documents"
    database = tmp_path / "tiny"
    assert main(["index", str(documents), "--db", str(database), "--model", str(tiny_folder)]) == 0
    command = [
        *COMMAND,
        "chat",
        "--db",
        database,
        "--model",
        tiny_folder,
        "--retrieval",
        "never",
        "--max-new-tokens",
        "700",
    ]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        process.stdin.write(b"Tell me more about it, please.\n")
        process.stdin.flush()
        assert process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(b"/sources\n", timeout=120)
    assert (process.returncode, err) == (0, b"")
    assert out.decode().endswith("stopped; this question is forgotten\nThere is no answer yet.\n")


# --- demo, train and evaluate ---------------------------------------------------------------------


def test_the_demo_answers_questions_with_sources_and_a_verdict(onegen: Onegen, tmp_path: Path) -> None:
    database = tmp_path / "demo"
    status, out, err = onegen("demo", "--db", database, "--seed", 3)
    assert (status, err) == (0, "")
    assert "440 passages: 440 new, 0 changed, 0 unchanged." in out
    answers = re.findall(
        r"^(\d)\. .*\?\n.*\n  (✓ as expected|✗ expected: .+)\n(?:  \[\d\] .*\n|  nothing.*\n)+  \d+ tokens",
        out,
        re.MULTILINE,
    )
    assert [number for number, _ in answers] == ["1", "2", "3", "4", "5", "6"]
    right = sum(verdict == "✓ as expected" for _, verdict in answers)
    assert f"{right} of 6 answers are as expected (the same questions again: --seed 3)" in out
    assert out.splitlines()[-1].startswith("Your own files: onegen index")
    again = onegen("demo", "--db", database, "--seed", 3, "--questions", 1).out
    assert "440 passages: 0 new, 0 changed, 440 unchanged." in again
    assert re.findall(r"^1\. .*$", again, re.MULTILINE) == re.findall(r"^1\. .*$", out, re.MULTILINE)


def test_the_demo_draws_questions_of_one_and_of_two_hops_anew_for_every_seed() -> None:
    import random

    questions = demo_questions().questions
    drawn = [draw(questions, 6, random.Random(seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert [question.hops for question in drawn[0]] == [1, 2, 1, 2, 1, 2]
    everything = draw(questions, 10_000, random.Random(0))
    assert sorted(question.text for question in everything) == sorted(question.text for question in questions)


def test_the_demo_says_what_to_do_with_a_folder_of_another_model(
    onegen: Onegen, indexed: Path, tiny_folder: Path
) -> None:
    status, _, err = onegen("demo", "--db", indexed, "--model", tiny_folder)
    assert status == 1
    assert err == f"onegen: {indexed} is from a demo with another model; remove it, or give another folder with --db.\n"
    with pytest.raises(FingerprintMismatchError):
        onegen("demo", "--db", indexed, "--model", tiny_folder, "--debug")


def test_training_needs_the_folder_of_data_that_it_is_given(onegen: Onegen, tmp_path: Path) -> None:
    status, _, err = onegen("train", "--recipe", "mini", "--output", tmp_path / "out", "--data", tmp_path / "missing")
    assert (status, err) == (1, f"onegen: --data {tmp_path}/missing is not a folder.\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_training_leaves_a_checkpoint_that_loads(onegen: Onegen, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    status, out, _ = onegen("train", "--recipe", "mini", "--output", tmp_path, "--steps", 1, "--tokens", 600)
    folder = tmp_path / "model"
    assert status == 0
    assert out.splitlines()[-1] == f"The model is in {folder}; try it with: onegen demo --model {folder}"
    assert onegen("info", "--model", folder).status == 0


@pytest.mark.slow
def test_evaluation_prints_a_table_or_json(onegen: Onegen, tiny_folder: Path) -> None:
    arguments = ("evaluate", "--recipe", "mini", "--model", tiny_folder, "--seed", 5, "--limit", 1)
    rows = json.loads(onegen(*arguments, "--json").out)
    assert rows[0] == {"name": "run", "metric": "seed", "value": 5, "target": None, "n": 1, "reached": None}
    assert {"worlds", "demo", "user documents"} <= {row["name"] for row in rows}
    table = onegen(*arguments).out.splitlines()
    assert table[0].split() == ["part", "metric", "value", "target", "reached", "n"]
    assert len(table) == len(rows) + 1
