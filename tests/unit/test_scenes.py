"""The hand-written training scenes: well formed, and apart from what the checkpoint is measured on."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from random import Random

import pytest

from onegen_integrations.evaluation.mini import demo_questions, user_questions
from onegen_integrations.training.names import VALUES, NameSource
from onegen_integrations.training.scenes import Fact, Scene, _skeleton, draw_scene, rivals, scene_bank

SLOT = re.compile(r"\{([^{}]*)\}")
COMMON = frozenset(
    """
    a an the of in on at to for from by with and or is was are were be been being do does did has have had can could may
    might must should will would it its this that these those which what who whom whose when where why how many much
    long far often old name called one thing question please answer quick hello tell me i my we our you your he she
    they his her their there not no
    """.split()  # noqa: SIM905 (easier to read)
)


def content_words(text: str) -> frozenset[str]:
    """Words that carry meaning, plural or not; names, which stand in slots or begin with a capital, left out."""
    bare = re.sub(r"(?<=[a-z,’'] )[A-Z][\w’'-]+", " ", re.sub(r"\{[^{}|]*\}", " ", text))
    return frozenset(word.rstrip("s") for word in re.findall(r"[a-z]{2,}", bare.lower()) if word not in COMMON)


def test_every_slot_is_of_a_known_kind() -> None:
    for scene in scene_bank():
        texts = [text for document in scene.documents for text in document]
        texts += [text for fact in scene.facts for text in (fact.answer, *fact.questions)]
        for slot in (match[1] for text in texts for match in SLOT.finditer(text)):
            if "|" in slot:
                assert all(choice.strip() for choice in slot.split("|")), slot
            else:
                kind, part = re.fullmatch(r"([A-Za-z_]+)(?::[a-z0-9]+)?(?:\.(first|last))?", slot).groups()
                assert kind in VALUES, slot
                assert part is None or kind == "person", slot


def test_a_drawn_scene_answers_its_questions() -> None:
    rng = Random(0)
    for number, scene in enumerate(rng.sample(scene_bank(), 300)):
        drawn = draw_scene(scene, str(number), NameSource(), rng)
        for passage in drawn.passages:
            assert "{" not in passage.text
            assert "".join(passage.sentences) == passage.text
        for question in drawn.questions:
            assert question.answer in question.passages[-1].sentences[question.sentence] or "\n" in question.answer
            if question.hops == 2:
                assert question.bridge in question.passages[0].text


def test_the_same_slot_has_the_same_value_and_names_have_parts() -> None:
    scene = next(scene for scene in scene_bank() if any(".last}" in text for _, text in scene.documents))
    first, second = (draw_scene(scene, "a", NameSource(), Random(seed)) for seed in (1, 2))
    assert first.passages != second.passages
    assert draw_scene(scene, "a", NameSource(), Random(1)) == first


def test_a_title_comes_apart_from_the_text_or_above_it() -> None:
    scene = Scene((("Amber moss", "It grows on slate. It is rare. Goats eat it. Few people know it."),), ())
    for seed in range(20):
        for passage in draw_scene(scene, "a", NameSource(), Random(seed), titled=1.0).passages:
            assert passage.title == "Amber moss"
            assert passage.title not in passage.text
        for passage in draw_scene(scene, "a", NameSource(), Random(seed)).passages:
            assert not passage.title
            assert passage.text.startswith("Amber moss\n")


def test_a_plain_answer_is_exchanged_now_and_then_in_document_and_question_alike() -> None:
    flame = Fact("violet", ("What colour is the flame of {word}?",), (0,))
    scene = Scene((("{word}", "{word} burns with a violet flame. It is kept under oil."),), (flame,))
    answers = []
    for seed in range(40):
        drawn = draw_scene(scene, "a", NameSource(), Random(seed))
        answers.append(drawn.questions[0].answer)
        assert f"a {answers[-1]} flame" in drawn.passages[0].text
    assert 20 <= answers.count("violet") < 40
    assert len(set(answers)) > 3


def test_rivals_are_other_scenes_that_are_asked_alike() -> None:
    rng = Random(0)
    found = [(scene, rivals(scene, 2, rng)) for scene in rng.sample(scene_bank(), 200)]
    assert sum(len(others) for _, others in found) > 200
    for scene, others in found:
        openings = {_skeleton(fact) for fact in scene.facts}
        assert len(others) <= 2
        for other in others:
            assert other is not scene
            assert openings & {_skeleton(fact) for fact in other.facts}
    assert rivals(Scene((("Norvia", "Norvia is a country."),), ()), 2, rng) == []


@pytest.mark.parametrize("asked", [demo_questions, user_questions])
def test_no_question_is_worded_like_one_that_the_checkpoint_is_measured_on(asked: object) -> None:
    questions = [(content_words(q.text), q.answers[0].lower(), q.text) for q in asked().questions]
    holding = defaultdict(list)
    for number, (words, _, _) in enumerate(questions):
        for word in words:
            holding[word].append(number)
    alike = []
    for fact in (fact for scene in scene_bank() for fact in scene.facts):
        for wording in fact.questions:
            words = content_words(wording)
            shared = Counter(number for word in words for number in holding[word])
            for number, count in shared.items():
                other, answer, text = questions[number]
                similarity = count / len(words | other)
                same_answer = fact.answer.lower() == answer
                if (similarity >= 0.8 and count >= 3) or (same_answer and similarity >= 0.4 and count >= 2):
                    alike.append((wording, text))
    assert not alike
