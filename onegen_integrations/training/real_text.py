"""Real text for training, read from a folder of public data sets; nothing of it is in this package.

`folder` holds `squad/train.json`, `entityquestions/train.jsonl.gz`, `text/wiki_passages.jsonl.xz`,
`text/english_novels.tar.xz` and so on, each in its published form. The model card says where to get them.
"""

from __future__ import annotations

import gzip
import json
import lzma
import re
import tarfile
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from random import Random

from onegen_integrations.errors import DataFormatError

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"“(0-9])")
_ABBREVIATION = re.compile(r"(?:\b[A-Z]|\b(?:Mr|Mrs|Ms|Dr|St|Jr|Sr|No|vs|ca|e\.g|i\.e|U\.S))\.$")
_SPAN = re.compile(r"(?<=\s)(?:[A-Z][\w’'-]+(?:\s(?:of\s|the\s)?[A-Z][\w’'-]+)*|\d[\d,.]*\d|\d)")
_LONGEST_ANSWER = 60  # characters
_MOST_ASKED = 4  # questions about one passage
_TITLED = 0.3  # share of the passages that come with the title of their article
_RELATION_NAMES = {  # which of EntityQuestions' subjects are names of what
    "P19": "person", "P20": "person", "P26": "person", "P69": "person", "P106": "person", "P40": "person",
    "P17": "place", "P131": "place", "P36": "country", "P276": "place",
    "P50": "title", "P170": "title", "P175": "title", "P86": "title", "P57": "title",
    "P112": "company", "P159": "company", "P127": "company", "P176": "company",
}  # fmt: skip


@dataclass(frozen=True)
class TextPassage:
    """A passage in sentences; its title stands apart from them, and is empty where it comes with none."""

    key: str
    sentences: tuple[str, ...]
    title: str = ""

    @property
    def text(self) -> str:
        return "".join(self.sentences)


@dataclass(frozen=True)
class Reading:
    """A passage with questions that it answers."""

    passage: TextPassage
    asked: tuple[Labelled, ...]


@dataclass(frozen=True)
class Labelled:
    """A question whose answer stands in sentence number `sentence` of a passage."""

    question: str
    answer: str
    sentence: int


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of an article in sentences, with its questions."""

    title: str
    sentences: tuple[str, ...]
    asked: tuple[Labelled, ...]


def split_sentences(text: str) -> list[str]:
    """Sentences that joined give `text` again (each but the first with the space before it)."""
    pieces: list[str] = []
    start = 0
    for match in _SENTENCE_END.finditer(text):
        if not _ABBREVIATION.search(text[start : match.start()]):
            pieces.append(text[start : match.start()])
            start = match.start()
    return [*pieces, text[start:]]


class RealText:
    """The training data sets of a folder, loaded at once.

    Raises:
        DataFormatError: a data set is not there.
    """

    def __init__(self, folder: str | Path) -> None:
        root = Path(folder)
        self.articles = list(_squad(_existing(root / "squad" / "train.json")))
        wiki = _existing(root / "text" / "wiki_passages.jsonl.xz")
        self.passages = [(row["title"], row["text"]) for row in _json_lines(wiki) if len(row["text"]) > 80]
        self._novels = list(read_novels(_existing(root / "text" / "english_novels.tar.xz")))
        entities = root / "entityquestions"
        self.names = _entity_names(
            _existing(entities / "train.jsonl.gz"), _existing(entities / "relation_query_templates.json")
        )

    def reading(self, rng: Random, key: str, paragraph: Paragraph, length: int) -> Reading:
        """A window of about `length` characters of a paragraph, with some of the questions that it answers."""
        window, first = _window(paragraph.sentences, rng.choice(paragraph.asked).sentence, length, rng)
        within = [ask for ask in paragraph.asked if first <= ask.sentence < first + len(window)]
        passage = TextPassage(key, tuple(window), paragraph.title if rng.random() < _TITLED else "")
        asked = rng.sample(within, k=min(len(within), _MOST_ASKED))
        return Reading(passage, tuple(replace(ask, sentence=ask.sentence - first) for ask in asked))

    def excerpt(self, rng: Random, length: int) -> tuple[str, str]:
        """Title and about `length` characters of a passage of an encyclopedia, in whole sentences."""
        title, text = rng.choice(self.passages)
        sentences = split_sentences(text)
        return title, "".join(_window(sentences, rng.randrange(len(sentences)), length, rng)[0])

    def prose(self, rng: Random, length: int) -> str:
        """About `length` characters of plain text, of an encyclopedia or of a novel, from a word's beginning on."""
        if rng.random() < 0.5:
            title, text = rng.choice(self.passages)
            return f"{title}\n{text}"[:length]
        novel = rng.choice(self._novels)
        start = novel.find(" ", rng.randrange(max(1, len(novel) - length))) + 1
        return novel[start : start + length]

    def cloze(self, rng: Random, key: str, length: int) -> Reading | None:
        """A question cut out of plain text: a name or number is left out of a sentence and asked for.

        The inverse cloze task (Lee et al. 2019) with an answer, as in unsupervised question answering (Lewis et al.
        2019). None where the text drawn has nothing to cut out.
        """
        title, text = rng.choice(self.passages)
        sentences = split_sentences(text)
        hit = rng.randrange(len(sentences))
        window, first = _window(sentences, hit, length, rng)
        sentence = sentences[hit].strip()
        spans = list(_SPAN.finditer(" " + sentence))
        if not spans or not 30 < len(sentence) < 300:
            return None
        span = rng.choice(spans)
        answer = span[0].rstrip(",.")
        wh = (
            rng.choice(("what", "which", "what number", "how many"))
            if answer[0].isdigit()
            else rng.choice(("who", "what", "which", "where"))
        )
        before = (" " + sentence)[: span.start()].split()
        after = (" " + sentence)[span.start() + len(answer) :].rstrip(".").split()
        drop = rng.choice((0.0, 0.15, 0.3))
        limit = rng.randint(5, 14)
        before = [w for w in before[-limit:] if rng.random() >= drop]
        after = [w for w in after[:limit] if rng.random() >= drop]
        words = [*before, wh, *after] if rng.random() < 0.5 else [wh, *after, *before]
        if len(words) < 4:
            return None
        question = " ".join(words).strip(" ,;:") + "?"
        passage = TextPassage(key, tuple(window), "" if title in "".join(window) else title)
        return Reading(passage, (Labelled(question[0].upper() + question[1:], answer, hit - first),))


def _window(sentences: Sequence[str], hit: int, length: int, rng: Random) -> tuple[list[str], int]:
    """Neighbouring sentences around number `hit`, about `length` characters, and the number of the first."""
    first = last = hit
    size = len(sentences[hit])
    while size < length and (first > 0 or last + 1 < len(sentences)):
        if last + 1 < len(sentences) and (first == 0 or rng.random() < 0.5):
            last += 1
            size += len(sentences[last])
        else:
            first -= 1
            size += len(sentences[first])
    window = list(sentences[first : last + 1])
    window[0] = window[0].lstrip()
    return window, first


def _squad(path: Path) -> Iterator[list[Paragraph]]:
    """The paragraphs of each article of a file in SQuAD's format, with questions with short answers in one sentence."""
    for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
        title = article["title"].replace("_", " ")
        paragraphs = []
        for paragraph in article["paragraphs"]:
            sentences = split_sentences(paragraph["context"])
            ends = list(accumulate(map(len, sentences)))
            asked = tuple(
                Labelled(item["question"].strip(), answer["text"], number)
                for item in paragraph["qas"]
                for answer in item["answers"][:1]
                for number in [bisect_right(ends, answer["answer_start"])]
                if len(answer["text"]) <= _LONGEST_ANSWER and answer["text"] in sentences[number]
            )
            if asked:
                paragraphs.append(Paragraph(title, tuple(sentences), asked))
        if paragraphs:
            yield paragraphs


def _entity_names(path: Path, templates_path: Path) -> dict[str, list[str]]:
    """Real names by kind: what stands at the [X] of EntityQuestions' question templates."""
    templates = json.loads(templates_path.read_text(encoding="utf-8"))
    found: dict[str, set[str]] = defaultdict(set)
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            kind = _RELATION_NAMES.get(row["relation"])
            if kind is None:
                continue
            before, after = templates[row["relation"]].split("[X]")
            name = row["question"].removeprefix(before).removesuffix(after)
            if 2 < len(name) < 40:
                found[kind].add(name)
    return {kind: sorted(names) for kind, names in found.items()}


def read_novels(path: Path) -> Iterator[str]:
    """The text files of an archive, with one line for each paragraph."""
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name.endswith(".txt") else None
            if file is not None:
                text = file.read().decode("utf-8-sig").replace("\r\n", "\n")
                yield re.sub(r"\n{2,}", "\n", re.sub(r"(?<!\n)\n(?!\n)", " ", text))


def _json_lines(path: Path) -> Iterator[dict[str, str]]:
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _existing(path: Path) -> Path:
    if not path.is_file():
        msg = f"{path} is missing; give the folder of the public data sets, or leave the data option out."
        raise DataFormatError(msg)
    return path
