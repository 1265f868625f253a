"""The scores of the published evaluation scripts, on examples worked out by hand."""

from __future__ import annotations

import pytest

from onegen_integrations.evaluation.metrics import (
    HOTPOTQA_CLOSED_ANSWERS,
    exact_match,
    f1,
    match,
    micro_scores,
    normalize_answer,
    recall_at_k,
)


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The Eiffel Tower!", "eiffel tower"),
        ("  an  apple,\ta day ", "apple day"),
        ("Theatre of a Nation", "theatre of nation"),  # articles are whole words
        ("U.S.-based", "usbased"),  # punctuation goes without leaving a space
        ("A-Team", "ateam"),  # ... and before the articles do
        ("4,190 €", "4190 €"),  # only ASCII punctuation
        ("the", ""),
    ],
)
def test_answers_are_normalised_as_in_squads_script(text: str, normalized: str) -> None:
    assert normalize_answer(text) == normalized


def test_exact_match_takes_any_of_the_gold_answers() -> None:
    assert exact_match("the Danube.", ["Rhine", "Danube"]) == 1
    assert exact_match("the river Danube", ["Rhine", "Danube"]) == 0
    assert exact_match("anything", []) == 0


def test_f1_counts_words_that_prediction_and_gold_share() -> None:
    # "red house red" and "red red car": two words in common, precision 2/3, recall 2/3
    assert f1("a red house, red", ["red red car"]) == pytest.approx(2 / 3)
    # one word in common of two and of four: precision 1/2, recall 1/4
    assert f1("Lena Bell", ["Oskar Bell of Ostrava"]) == pytest.approx(1 / 3)
    assert f1("nothing", ["in common"]) == 0
    assert f1("", ["gold"]) == 0


def test_f1_is_the_best_over_the_gold_answers() -> None:
    assert f1("Oskar Bell", ["Lena Marsh", "Bell", "Oskar Bell, composer"]) == pytest.approx(0.8)


def test_closed_answers_of_hotpotqa_get_no_f1_in_part() -> None:
    assert f1("yes, both", ["yes"]) == pytest.approx(2 / 3)
    assert f1("yes, both", ["yes"], closed=HOTPOTQA_CLOSED_ANSWERS) == 0
    assert f1("no", ["no one"], closed=HOTPOTQA_CLOSED_ANSWERS) == 0
    assert f1("Yes.", ["yes"], closed=HOTPOTQA_CLOSED_ANSWERS) == 1


def test_match_asks_whether_a_gold_answer_is_contained() -> None:
    assert match("It was Oskar Bell who composed it.", ["Lena Marsh", "Oskar Bell"]) == 1
    assert match("It was oskar bell.", ["Oskar Bell"]) == 0


def test_recall_at_k_is_the_share_of_gold_ids_among_the_first_k() -> None:
    ranked = ["c", "a", "d", "b"]
    assert [recall_at_k(ranked, ["a"], k) for k in (1, 2, 4)] == [0, 1, 1]
    assert [recall_at_k(ranked, ["a", "b"], k) for k in (1, 3, 4)] == [0, 0.5, 1]
    assert recall_at_k(ranked, ["z"], 4) == 0


def test_micro_scores_count_with_multiplicity_over_all_documents() -> None:
    gold = [("d1", "Bell", "Q1"), ("d1", "Bell", "Q1"), ("d1", "Elm", "Q2"), ("d2", "Elm", "Q2")]
    predicted = [
        ("d1", "Bell", "Q1"),
        ("d1", "Elm", "Q9"),
        ("d2", "Elm", "Q2"),
        ("d2", "Elm", "Q2"),
        ("d2", "Tarn", "Q3"),
    ]
    scores = micro_scores(predicted, gold)
    # right: Bell once of twice, Elm of d2 once of its two predictions
    assert scores.precision == pytest.approx(2 / 5)
    assert scores.recall == pytest.approx(2 / 4)
    assert scores.f1 == pytest.approx(4 / 9)


def test_micro_scores_of_nothing_are_zero() -> None:
    nothing = micro_scores([], [])
    assert (nothing.precision, nothing.recall, nothing.f1) == (0, 0, 0)
    assert micro_scores([], ["gold"]).recall == 0
