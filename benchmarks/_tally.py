"""What the benchmarks of the frameworks share: ask the demo's questions, count the right answers, print them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from onegen_integrations.evaluation.metrics import exact_match, match
from onegen_integrations.evaluation.runner import Question

Asked = Callable[[str], tuple[str, str | None]]  # a question -> the answer, and the id of the best document found


def compare(ways: Mapping[str, Asked], questions: Sequence[Question]) -> None:
    """Ask every question in every way, and print a row for each way.

    The columns: a gold answer stands in the answer (`match`) and the source is right; the answer is nothing but a gold
    answer (`exact_match`) and the source is right; the source is right.
    """
    print(f"{'':44}{'answer, source':>16}{'exact, source':>16}{'source':>8}{'seconds':>9}   of {len(questions)}")
    for name, ask in ways.items():
        begun = time.perf_counter()
        contained = exact = sources = 0
        for question in questions:
            answer, source = ask(question.text)
            if source in question.gold:
                sources += 1
                contained += bool(match(answer, question.answers))
                exact += bool(exact_match(answer, question.answers))
        print(f"{name:44}{contained:16}{exact:16}{sources:8}{time.perf_counter() - begun:9.1f}", flush=True)
