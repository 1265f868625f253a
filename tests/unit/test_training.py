"""Training: the layout of sequences, the losses, the data formats, resuming."""

from __future__ import annotations

import copy
import dataclasses
import gzip
import json
import lzma
import math
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from onegen_integrations import DataFormatError, InvalidInputError, OneGen, OneGenConfig
from onegen_integrations.engine.forward import Forward
from onegen_integrations.text import TextCodec
from onegen_integrations.training import mixture
from onegen_integrations.training.examples import Ask, ExampleBuilder, Hop
from onegen_integrations.training.finetune import finetune
from onegen_integrations.training.initialise import add_retrieval_tokens
from onegen_integrations.training.losses import bpr, cosine, info_nce
from onegen_integrations.training.mixture import MiniData, shares
from onegen_integrations.training.optimizer import StackedMuon
from onegen_integrations.training.precision import training_dtype
from onegen_integrations.training.published import PublishedData
from onegen_integrations.training.real_text import RealText, TextPassage, read_novels, split_sentences
from onegen_integrations.training.recipe import Recipe, add_dropout, average_with, compile_layers, train_mini
from onegen_integrations.training.scenes import Fact, Scene
from onegen_integrations.training.sequences import IGNORE, pack
from onegen_integrations.training.trainer import last_checkpoint
from onegen_integrations.training.worlds import World


@pytest.fixture
def model(tiny) -> OneGen:
    return tiny()


NORVIA = TextPassage("norvia", ("The capital of Norvia is Tolmar.", " It lies on the Esk."))
TOLMAR = TextPassage("tolmar", ("Tolmar is a city.", " Its mayor is Velkorin Tarm."))


def hidden_states(model: OneGen, batch):
    output = Forward(model.model)(batch.input_ids, batch.positions, batch.visible, logits_to_keep=0)
    return output.hidden.detach(), output.logits.detach()


# --- layout ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_training_computes_the_vectors_that_inference_computes(model: OneGen, seed: int) -> None:
    builder = ExampleBuilder(model.codec, Random(seed), 1024)
    questions = ["What is the capital of Norvia?", "Which river?"]
    sequence = builder.one_hop([NORVIA], [Ask(questions[0], "Tolmar", 0, 0), Ask(questions[1], "the Esk", 0, 1)])
    batch = pack([sequence, builder.repeat_drill(9)], 300, 0)
    hidden, _ = hidden_states(model, batch)
    queries = hidden[batch.query_at[:, 0], batch.query_at[:, 1]].numpy()
    expected = model.embed_queries(questions)
    np.testing.assert_allclose(queries / np.linalg.norm(queries, axis=1, keepdims=True), expected, atol=1e-5)
    row, column = batch.document_at[-1]
    document = hidden[row, column].numpy()
    np.testing.assert_allclose(document / np.linalg.norm(document), model.embed_documents([NORVIA.text])[0], atol=1e-5)


def test_a_title_is_learned_from_in_the_form_in_which_it_is_embedded(model: OneGen) -> None:
    titled = dataclasses.replace(NORVIA, title="Norvia")
    sequence = ExampleBuilder(model.codec, Random(0), 1024).one_hop([titled], [Ask("Which river?", "the Esk", 0, 1)])
    batch = pack([sequence], 300, 0)
    row, column = batch.document_at[-1]
    document = hidden_states(model, batch)[0][row, column].numpy()
    expected = model.embed_documents([NORVIA.text], titles=["Norvia"])[0]
    np.testing.assert_allclose(document / np.linalg.norm(document), expected, atol=1e-5)
    assert not np.allclose(expected, model.embed_documents([NORVIA.text])[0], atol=1e-2)


def test_training_on_fragments_matches_embed_fragments(model: OneGen) -> None:
    expected = model.embed_fragments([NORVIA.sentences])[0]
    for seed in range(20):
        sequence = ExampleBuilder(model.codec, Random(seed), 1024).one_hop(
            [NORVIA], [Ask("Which river?", "the Esk", 0, 1)]
        )
        if len(sequence.documents) == 2:
            break
    batch = pack([sequence], 300, 0)
    hidden, _ = hidden_states(model, batch)
    found = hidden[batch.document_at[:, 0], batch.document_at[:, 1]].numpy()
    np.testing.assert_allclose(found / np.linalg.norm(found, axis=1, keepdims=True), expected, atol=1e-5)
    assert [key for _, _, key, _ in sequence.documents] == ["norvia#0", "norvia"]


def test_a_fragment_that_ends_before_the_answer_is_wrong(model: OneGen) -> None:
    asks = [Ask("What is the capital?", "Tolmar", 0, 0), Ask("Which river?", "the Esk", 0, 1)]
    sequences = (ExampleBuilder(model.codec, Random(seed), 1024).one_hop([NORVIA], asks) for seed in range(20))
    sequence = next(sequence for sequence in sequences if len(sequence.documents) == 2)
    batch = pack([sequence], 300, 0)
    assert [key for _, _, key, _ in sequence.documents] == ["norvia#0", "norvia"]
    assert batch.positive.tolist() == [[True, True], [False, True]]
    assert batch.candidate.tolist() == [[True, True], [True, True]]


def test_a_multi_hop_sequence_is_what_generation_produces(model: OneGen) -> None:
    """The tokens of the tree in order are the final sequence of an answer, with the document tokens taken out."""
    builder = ExampleBuilder(model.codec, Random(0), 1024)
    sequence = builder.multi_hop(
        "Who is the mayor?",
        [Hop(NORVIA, "First: Tolmar.", "Tolmar"), Hop(TOLMAR, "Answer: Velkorin Tarm", "Velkorin Tarm")],
    )
    ids = [t for s in sequence.segments for t in s.ids if s.ids != [model.codec.document_id]]
    text = model.tokenizer.decode(ids)
    assert text == (
        "<s><|user|> Who is the mayor?<|assistant|>[RQ]"
        "<paragraph> The capital of Norvia is Tolmar. It lies on the Esk.</paragraph><|assistant|> First: Tolmar.[RQ]"
        "<paragraph> Tolmar is a city. Its mayor is Velkorin Tarm.</paragraph><|assistant|> Answer: Velkorin Tarm</s>"
    )
    positions = [p for s in sequence.segments if s.ids != [model.codec.document_id] for p in range(s.start, s.end)]
    assert positions == list(range(positions[0], positions[0] + len(ids)))


def test_what_follows_a_query_token_and_what_stands_in_a_passage_is_not_learned(model: OneGen) -> None:
    builder = ExampleBuilder(model.codec, Random(0), 1024)
    batch = pack(
        [
            builder.multi_hop(
                "Who?", [Hop(NORVIA, "First: Tolmar.", "Tolmar"), Hop(TOLMAR, "Answer: Velkorin", "Velkorin")]
            )
        ],
        300,
        0,
    )
    after_query = batch.targets[batch.input_ids == model.codec.query_id]
    assert (after_query == IGNORE).all()
    learned = batch.targets[batch.targets != IGNORE].tolist()
    assert model.tokenizer.decode(learned) == "[RQ] First: Tolmar.[RQ] Answer: Velkorin</s>"


def test_sequences_of_one_row_do_not_see_each_other(model: OneGen) -> None:
    builder = ExampleBuilder(model.codec, Random(0), 1024)
    a, b = builder.plain([Ask("Hello Tolmar", "Hello!")]), builder.plain([Ask("Thanks Norvia", "You are welcome.")])
    together, _ = hidden_states(model, pack([a, b], 300, 0))
    alone, _ = hidden_states(model, pack([b], 300, 0))
    row = together[0, len(b) : len(a) + len(b)] if len(a) < len(b) else together[0, len(a) : len(a) + len(b)]
    longest = max((a, b), key=len)
    expected = alone[0, : len(b)] if longest is a else hidden_states(model, pack([a], 300, 0))[0][0, : len(a)]
    torch.testing.assert_close(row[: len(expected)], expected, atol=1e-5, rtol=1e-5)


# --- losses ---------------------------------------------------------------------------------------


def test_info_nce_is_the_published_formula() -> None:
    torch.manual_seed(0)
    queries, documents = torch.randn(3, 8), torch.randn(5, 8)
    similarity = cosine(queries, documents)
    positive = torch.zeros(3, 5, dtype=torch.bool)
    positive[0, 1] = positive[1, 4] = True  # the last query has no positive and is left out
    candidate = torch.ones(3, 5, dtype=torch.bool)
    candidate[0, 2] = False
    expected = []
    for row, right, kept in ((0, 1, [0, 1, 3, 4]), (1, 4, [0, 1, 2, 3, 4])):
        scores = [
            float(queries[row] @ documents[i] / (queries[row].norm() * documents[i].norm())) / 0.02 for i in range(5)
        ]
        top = max(scores)
        expected.append(-math.log(math.exp(scores[right] - top) / sum(math.exp(scores[i] - top) for i in kept)))
    assert float(info_nce(similarity, positive, candidate, 0.02)) == pytest.approx(sum(expected) / 2, rel=1e-4)


def test_bpr_is_the_published_formula() -> None:
    similarity = torch.tensor([[0.9, 0.1, -0.3]])
    positive = torch.tensor([[True, False, False]])
    candidate = torch.ones(1, 3, dtype=torch.bool)
    expected = -(math.log(1 / (1 + math.exp(-0.8))) + math.log(1 / (1 + math.exp(-1.2)))) / 2
    assert float(bpr(similarity, positive, candidate)) == pytest.approx(expected, rel=1e-5)


# --- generated data -------------------------------------------------------------------------------


def test_every_answer_of_a_world_stands_in_its_passage() -> None:
    world = World(Random(1), 150)
    checked = 0
    for passage in world.passages:
        for question in world.questions(passage) + world.two_hop_questions(passage):
            assert question.answer in question.passages[-1].text
            if question.hops == 2:
                assert question.bridge in question.passages[0].text
                assert question.bridge not in question.text
            checked += 1
    assert checked > 150


def test_names_of_a_world_are_unique() -> None:
    names = [entity.name.lower() for entity in World(Random(2), 150).entities]
    assert len(names) == len(set(names))


def test_a_step_is_a_pure_function_of_seed_and_step(model: OneGen) -> None:
    settings = {"steps": 10, "tokens": 800, "context": 1024}
    once = MiniData(model.codec, seed=3, **settings)[7]
    again = MiniData(model.codec, seed=3, **settings)[7]
    other = MiniData(model.codec, seed=4, **settings)[7]
    assert torch.equal(once.input_ids, again.input_ids)
    assert not (once.input_ids.shape == other.input_ids.shape and torch.equal(once.input_ids, other.input_ids))


def test_documents_that_answer_nothing_make_no_stuffed_prompt(model: OneGen, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = Scene((("Norvia", "Norvia is a country."),), ())
    monkeypatch.setattr(mixture, "scene_bank", lambda: (silent,))
    monkeypatch.setattr(mixture, "shares", lambda *_, **__: {"stuffed": 1.0})
    for step in range(4):
        batch = MiniData(model.codec, steps=4, tokens=800, context=1024, seed=3)[step]
        assert set(batch.segment_sources) == {"stuffed"}


def test_a_question_about_one_of_two_like_scenes_tells_which(model: OneGen, monkeypatch: pytest.MonkeyPatch) -> None:
    height = Fact("{number} metres", ("How high is {place}?", "How high is the tower?"), (0,))
    tower = Scene((("{place} tower", "The tower of {place} is {number} metres high. Storks nest on it."),), (height,))
    monkeypatch.setattr(mixture, "scene_bank", lambda: (tower,))
    monkeypatch.setattr(mixture, "shares", lambda *_, **__: {"stuffed": 1.0})
    for chance in ("_STUFFED_WORLDS", "_RANKED"):
        monkeypatch.setattr(mixture, chance, 0.0)
    monkeypatch.setattr(mixture, "_TWINS", 1.0)
    batch = MiniData(model.codec, steps=1, tokens=6000, context=1024, seed=3)[0]
    text = model.tokenizer.decode(batch.input_ids.flatten().tolist())
    prompts = [prompt for prompt in text.split(model.tokenizer.bos_token) if prompt.count("metres high") > 1]
    assert prompts
    assert not any("is the tower" in prompt.casefold() for prompt in prompts)


def test_the_smallest_step_has_something_to_learn_from(model: OneGen) -> None:
    data = MiniData(model.codec, steps=30, tokens=1, context=1024, seed=3)
    assert all(len(data[step].query_at) or len(data[step].segment_sources) for step in range(30))


@pytest.mark.parametrize("progress", [0.0, 0.05, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("real_text", [True, False])
def test_shares_add_up_to_one(progress: float, real_text: bool) -> None:
    mixed = shares(progress, real_text=real_text)
    assert sum(mixed.values()) == pytest.approx(1.0)
    assert real_text or not {"squad", "cloze", "text"} & set(mixed)


def test_sentences_joined_give_the_text() -> None:
    text = "Dr. Tarm lives in Tolmar. He is 40.5 years old! Is he? “Yes.” No. 5 is next."
    pieces = split_sentences(text)
    assert "".join(pieces) == text
    assert pieces[0] == "Dr. Tarm lives in Tolmar."


def test_novels_are_read_paragraph_by_paragraph(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffONE\r\n\r\nIt was a\r\ndark night.\r\n\r\nThe end.".encode())
    (tmp_path / "licence.md").write_text("not a novel")
    with tarfile.open(tmp_path / "novels.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "a.txt", "novels/a.txt")
        archive.add(tmp_path / "licence.md", "novels/licence.md")
    assert list(read_novels(tmp_path / "novels.tar.xz")) == ["ONE\nIt was a dark night.\nThe end."]


@pytest.fixture
def public_data(tmp_path: Path) -> Path:
    """A folder of the data sets, with one paragraph and one passage."""
    context = (
        "The rector is the Rev. Ilse Brandt. Norvia exports oats. Its capital is Tolmar. Ships leave it on Friday."
    )
    answers = ("the Rev. Ilse Brandt", "oats", "Tolmar", "Friday")  # the first lies across what is split as sentences
    asked = [{"question": f"What is {a}?", "answers": [{"text": a, "answer_start": context.index(a)}]} for a in answers]
    article = {"title": "Land_of_Norvia", "paragraphs": [{"context": context, "qas": asked}]}
    for folder in ("squad", "text", "entityquestions"):
        (tmp_path / folder).mkdir()
    (tmp_path / "squad" / "train.json").write_text(json.dumps({"data": [article]}))
    with lzma.open(tmp_path / "text" / "wiki_passages.jsonl.xz", "wt") as file:
        file.write(
            json.dumps({"title": "Oats", "text": "Norvia has grown oats since 1820, when Ilse Brandt came. " * 3})
        )
    (tmp_path / "a.txt").write_text("It was a dark night.")
    with tarfile.open(tmp_path / "text" / "english_novels.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "a.txt", "novels/a.txt")
    with gzip.open(tmp_path / "entityquestions" / "train.jsonl.gz", "wt") as file:
        file.write("")
    (tmp_path / "entityquestions" / "relation_query_templates.json").write_text("{}")
    return tmp_path


def test_questions_about_real_text_know_the_sentence_that_answers_them(public_data: Path) -> None:
    real = RealText(public_data)
    [[paragraph]] = real.articles
    assert [ask.answer for ask in paragraph.asked] == ["oats", "Tolmar", "Friday"]
    titles = set()
    for seed in range(40):
        reading = real.reading(Random(seed), "a", paragraph, 40)
        cloze = real.cloze(Random(seed), "b", 40)
        for found in [reading, *([cloze] if cloze else [])]:
            assert all(ask.answer in found.passage.sentences[ask.sentence] for ask in found.asked)
            titles.add(found.passage.title)
    assert titles == {"", "Land of Norvia", "Oats"}


def test_prompts_of_real_text_have_other_passages_beside_the_paragraph(
    model: OneGen, public_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixture, "shares", lambda *_, **__: {"stuffed": 1.0})
    monkeypatch.setattr(mixture, "_STUFFED_WORLDS", 0.0)
    monkeypatch.setattr(mixture, "_STUFFED_PARAGRAPHS", 1.0)
    data = MiniData(model.codec, steps=1, tokens=6000, context=1024, seed=3, real_text=RealText(public_data))
    text = model.tokenizer.decode(data[0].input_ids.flatten().tolist())
    prompts = text.split(model.tokenizer.bos_token)[1:]
    assert len(prompts) > 5
    assert all("Norvia has grown oats" in prompt for prompt in prompts)
    titled = [prompt for prompt in prompts if "title: Land of Norvia" in prompt]
    assert 0 < len(titled) < len(prompts)
    assert all(("title: Oats" in prompt) == (prompt in titled) for prompt in prompts)


# --- training -------------------------------------------------------------------------------------


def test_stacked_matrices_are_stepped_as_torch_steps_each() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(12, 12), (20, 12), (12, 20), (12, 12), (20, 12)]
    stacked = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    single = [torch.nn.Parameter(p.detach().clone()) for p in stacked]
    optimizers = (
        StackedMuon(stacked, lr=0.1, weight_decay=0.2),
        torch.optim.Muon(single, lr=0.1, weight_decay=0.2, adjust_lr_fn="match_rms_adamw"),
    )
    for step in range(3):
        for mine, theirs in zip(stacked, single, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            theirs.grad = mine.grad.clone()
        stacked[step].grad = single[step].grad = None
        for optimizer in optimizers:
            optimizer.step()
    for mine, theirs in zip(stacked, single, strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-3, rtol=1e-2)


@pytest.mark.parametrize(
    ("device", "has", "dtype"),
    [
        ("cuda", {}, torch.bfloat16),
        ("cpu", {"avx512_f": True, "avx512_bf16": True}, torch.bfloat16),
        ("cpu", {"neon": True, "bf16": True}, torch.bfloat16),
        ("cpu", {"avx512_f": True, "avx512_bf16": False}, torch.float32),
    ],
)
def test_a_processor_without_bfloat16_trains_in_float32(
    device: str, has: dict[str, bool], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert training_dtype(device) == dtype


def test_dropout_is_there_in_training_alone(model: OneGen) -> None:
    plain = model.model
    dropped = copy.deepcopy(plain)
    add_dropout(dropped, 0.5)
    ids = torch.arange(8)[None]
    assert torch.equal(dropped.eval()(ids).logits, plain(ids).logits)
    assert not torch.equal(dropped.train()(ids).logits, plain(ids).logits)


def test_weights_are_averaged_with_those_before(model: OneGen) -> None:
    before = model.model
    after = copy.deepcopy(before)
    with torch.no_grad():
        for weight in after.parameters():
            weight.add_(1.0)
    average_with(after, before, 0.25)
    for mean, weight in zip(after.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(mean, weight + 0.75)


@pytest.mark.slow
def test_weights_are_kept_of_a_model_to_start_from_alone(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"keep=0.4 .* no model to start from"):
        train_mini(tmp_path / "no start", recipe=dataclasses.replace(SMALL, keep=0.4))
    start = train_mini(tmp_path / "start", recipe=dataclasses.replace(SMALL, steps=1))
    longer = dataclasses.replace(SMALL, steps=1, seed=1)
    trained = train_mini(tmp_path / "trained", start=start, recipe=longer)
    averaged = train_mini(tmp_path / "averaged", start=start, recipe=dataclasses.replace(longer, keep=0.4))
    weights = [LlamaForCausalLM.from_pretrained(each).state_dict() for each in (start, trained, averaged)]
    for name, mean in weights[-1].items():
        expected = 0.4 * weights[0][name].float() + 0.6 * weights[1][name].float()
        torch.testing.assert_close(mean.float(), expected, atol=2e-3, rtol=1e-2)


SMALL = Recipe(steps=4, tokens=600, vocabulary=400, hidden=32, layers=2, heads=2, intermediate=48, warmup_steps=1)


@pytest.mark.slow
def test_training_stopped_and_resumed_equals_training_in_one_go(tmp_path: Path) -> None:
    whole = train_mini(tmp_path / "whole", recipe=SMALL, checkpoint_every=2)
    for folder in (tmp_path / "whole" / "checkpoint-4", tmp_path / "whole" / "model"):
        for file in sorted(folder.rglob("*"), reverse=True):
            if file.is_file() and folder.name == "checkpoint-4":
                file.unlink()
    (tmp_path / "whole" / "checkpoint-4").rmdir()
    expected = LlamaForCausalLM.from_pretrained(whole).state_dict()
    resumed = train_mini(tmp_path / "whole", recipe=SMALL, checkpoint_every=2)
    for name, weight in LlamaForCausalLM.from_pretrained(resumed).state_dict().items():
        torch.testing.assert_close(weight, expected[name], atol=2e-3, rtol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("bfloat16", [True, False])
def test_the_recipe_writes_a_checkpoint_that_loads_anywhere(
    tmp_path: Path, bfloat16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": bfloat16})
    folder = train_mini(tmp_path, recipe=dataclasses.replace(SMALL, steps=2))
    plain = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, return_tensors="pt"
    )
    assert plain.generate(**ids, max_new_tokens=2, do_sample=False).shape[1] > ids["input_ids"].shape[1]
    assert OneGen.from_pretrained(folder).embed_queries(["Hi"]).shape == (1, 32)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_layers_compute_what_plain_ones_do(model: OneGen) -> None:
    plain = model.model
    compiled = copy.deepcopy(plain)
    compile_layers(compiled)
    for length in (7, 12):
        ids = torch.randint(0, 400, (2, length), generator=torch.Generator().manual_seed(length))
        for each in (plain, compiled):
            each(input_ids=ids, labels=ids).loss.backward()
    gradients = {name: weight.grad for name, weight in plain.named_parameters()}
    for name, weight in compiled.named_parameters():
        torch.testing.assert_close(weight.grad, gradients[name])


@pytest.mark.parametrize("state", [True, False])
def test_a_checkpoint_that_was_being_written_is_not_resumed_from(tmp_path: Path, state: bool) -> None:
    for step in (900, 1000):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "model.safetensors").touch()
    (tmp_path / "checkpoint-900" / "trainer_state.json").touch()
    if state:
        (tmp_path / "checkpoint-1000" / "trainer_state.json").touch()
    assert last_checkpoint(tmp_path) == str(tmp_path / f"checkpoint-{1000 if state else 900}")
    assert last_checkpoint(tmp_path / "checkpoint-900") is None
    assert last_checkpoint(tmp_path / "missing") is None


# --- published formats and other base models ------------------------------------------------------


@pytest.fixture
def published(tmp_path: Path) -> tuple[Path, Path]:
    rows = [
        {
            "messages": [
                {"role": "user", "content": "Who is the mayor of Tolmar?"},
                {
                    "role": "assistant",
                    "content": "Tolmar[RQ]<paragraph>Tolmar is a city.</paragraph> Tarm[RQ] ends.",
                    "positive": [["a-1", "a-0"], None],
                    "negative": [["b"], []],
                },
            ]
        }
    ] * 3
    documents = [
        {
            "uid": "a",
            "messages": [{"role": "user", "content": "Text: "}, {"role": "assistant", "content": "One.[RD] Two.[RD]"}],
        },
        {
            "uid": "b",
            "messages": [{"role": "user", "content": "Text: "}, {"role": "assistant", "content": "Three.[RD]"}],
        },
    ]
    train, db = tmp_path / "train.jsonl", tmp_path / "db.jsonl"
    train.write_text("\n".join(map(json.dumps, rows)))
    db.write_text("\n".join(map(json.dumps, documents)))
    return train, db


@pytest.mark.parametrize("kind", ["causal", "isolated"])
def test_published_rows_mask_passages_and_what_follows_retrieval_tokens(
    model: OneGen, published: tuple[Path, Path], kind: str
) -> None:
    codec = TextCodec(model.tokenizer, dataclasses.replace(model.config, passage_attention=kind))
    if kind == "isolated":  # what follows an isolated passage is predicted from the token after it
        published[0].write_text(published[0].read_text().replace("</paragraph>", "</paragraph><|assistant|>"))
    data = PublishedData(codec, *published, rows=1, context=200)
    batch = data[0]
    assert len(data) == 3
    learned = batch.targets[batch.targets != IGNORE].tolist()
    assert model.tokenizer.decode(learned) == "Tolmar[RQ] Tarm[RQ]ends."  # not the space after [RQ]
    assert batch.query_at.shape == (2, 2)
    assert batch.document_at.shape == (3, 2)
    assert batch.positive.tolist() == [[True, True, False], [False, False, False]]
    row, start = (batch.input_ids == codec.token_id("<paragraph>")).nonzero()[0].tolist()
    assert bool(batch.visible[row, start + 1, start - 1]) is (kind == "causal")


@pytest.mark.parametrize(
    ("text", "reason"),
    [("{", "line 1 is not valid JSON"), ('{"messages": []}\n{"x": 1}', "line 2: the fields"), ("", "")],
)
def test_bad_published_files_are_named_with_their_line(
    model: OneGen, published: tuple[Path, Path], tmp_path: Path, text: str, reason: str
) -> None:
    bad = tmp_path / "bad.jsonl"
    if not text:
        with pytest.raises(DataFormatError, match="cannot be read"):
            PublishedData(model.codec, bad, published[1], context=200)
        return
    bad.write_text(text)
    with pytest.raises(DataFormatError, match=reason):
        PublishedData(model.codec, bad, published[1], context=200)


def test_an_unknown_document_id_is_an_error(model: OneGen, published: tuple[Path, Path]) -> None:
    train, db = published
    train.write_text(train.read_text().replace('"b"', '"nobody"'))
    with pytest.raises(DataFormatError, match="nobody"):
        PublishedData(model.codec, train, db, context=200)


def test_rows_and_documents_that_do_not_fit_are_left_out_with_a_word(
    model: OneGen, published: tuple[Path, Path]
) -> None:
    train, db = published
    rows = [json.loads(line) for line in train.read_text().splitlines()]
    rows[1]["messages"][0]["content"] *= 100
    train.write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    documents = db.read_text().replace("Three.", "Three." * 300)
    db.write_text(documents)
    with pytest.warns(UserWarning, match="1 of 3 rows and 1 of 2 documents are longer than 200 tokens"):
        data = PublishedData(model.codec, train, db, rows=1, context=200)
    assert (len(data), data.skipped) == (2, 2)
    assert [data[step].document_at.shape[0] for step in range(2)] == [2, 2]  # those of "a"
    with pytest.raises(DataFormatError, match="None of the 3 rows"):
        PublishedData(model.codec, train, db, context=10)


def test_a_line_may_hold_line_separators_of_unicode(model: OneGen, published: tuple[Path, Path]) -> None:
    train, db = published
    train.write_text(train.read_text().replace("Who is", "Who\u2028\u0085is"), encoding="utf-8")
    assert len(PublishedData(model.codec, train, db, rows=1, context=200)) == 3


def test_fragments_are_trained_as_they_are_embedded(tiny: Callable[..., OneGen], published: tuple[Path, Path]) -> None:
    """The vectors of `embed_fragments` for a document are the hidden states at its document tokens in training."""
    for kind in ("isolated", "causal"):
        model = tiny(passage_attention=kind, document_template="Text: {text}", passage_template="Text: {text}")
        batch = PublishedData(model.codec, *published, rows=1, context=200)[0]
        hidden, _ = hidden_states(model, batch)
        trained = hidden[batch.document_at[:, 0], batch.document_at[:, 1]]
        embedded = model.embed_fragments([["One.", " Two."], ["Three."]])
        expected = torch.from_numpy(np.concatenate(embedded))
        torch.testing.assert_close(torch.nn.functional.normalize(trained, dim=-1), expected, atol=1e-5, rtol=1e-5)


def test_wrong_fragments_of_a_right_document_are_negatives(model: OneGen, published: tuple[Path, Path]) -> None:
    train, db = published
    train.write_text(train.read_text().replace('["a-1", "a-0"]', '["a-1"]').replace('["b"]', '["b", "a-0"]'))
    batch = PublishedData(model.codec, train, db, rows=1, context=200)[0]
    assert batch.positive[0].tolist() == [False, True, False]
    assert batch.candidate[0].tolist() == [True, True, True]


@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens_get_rows_by_id_even_where_the_embedding_is_padded(tiny_folder: Path, tied: bool) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    padded = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer) + 50,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            tie_word_embeddings=tied,
        )
    )
    config = OneGenConfig.preset("multi_hop")
    last = padded.get_input_embeddings().weight[-1].clone()
    mean = (
        padded.get_input_embeddings().weight[tokenizer.encode("river city", add_special_tokens=False)].mean(0).detach()
    )
    added = add_retrieval_tokens(padded, tokenizer, config, {config.query_token: "river city"})
    assert added == [config.query_token, config.document_token]
    assert padded.get_input_embeddings().weight.shape[0] == len(tokenizer) + 48
    assert torch.equal(padded.get_input_embeddings().weight[-1], last)
    row = tokenizer.convert_tokens_to_ids(config.query_token)
    for table in {padded.get_input_embeddings().weight, padded.get_output_embeddings().weight}:
        if table is padded.get_input_embeddings().weight:
            assert torch.nn.functional.cosine_similarity(table[row], mean, dim=0) > 0.9
    TextCodec(tokenizer, config)  # every token is one id now
    assert add_retrieval_tokens(padded, tokenizer, config) == []


@pytest.mark.slow
def test_any_base_model_is_finetuned_on_published_data(
    tiny_folder: Path, published: tuple[Path, Path], tmp_path: Path
) -> None:
    train, db = published
    for path in (train, db):
        path.write_text(
            path.read_text()
            .replace("[RQ]", "[Question Representation]")
            .replace("[RD]", "[Document Fragment Representation]")
        )
    rows = [json.loads(line) for line in train.read_text().splitlines()]
    rows[0]["messages"][1] |= {"positive": [None, None], "negative": [[], []]}  # a step without a retrieval
    train.write_text("\n".join(map(json.dumps, rows)))
    config = OneGenConfig.preset("multi_hop")
    folder = finetune(tiny_folder, tmp_path / "out", train=train, db=db, config=config, epochs=1, rows=1)
    tuned = OneGen.from_pretrained(folder)
    assert tuned.config == config
    assert tuned.embed_documents(["Tolmar is a city."], titles=["Tolmar"]).shape == (1, 48)
