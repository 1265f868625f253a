"""Invented names and values: people, places, titles, dates, amounts. No one has seen them before."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from random import Random
from types import MappingProxyType

_WORDS: Mapping[str, Sequence[str]] = json.loads(
    (files("onegen_integrations.training") / "words.json").read_text(encoding="utf-8")
)


def word(rng: Random, ends: Sequence[str] = ()) -> str:
    """An invented lower-case word of one to four syllables, or of a stem and one of `ends`."""
    syllables = rng.choices((1, 2, 3), weights=(3, 6, 1))[0]
    stem = ""
    for _ in range(syllables):
        onset = rng.choice(_WORDS["onsets"]) if rng.random() < 0.85 or stem else ""
        coda = rng.choice(_WORDS["codas"]) if rng.random() < 0.45 else ""
        stem += onset + rng.choice(_WORDS["vowels"][:5] if rng.random() < 0.75 else _WORDS["vowels"]) + coda
    return stem + (rng.choice(ends) if ends else "")


def _capitalised(rng: Random, ends: Sequence[str] = ()) -> str:
    return word(rng, ends).capitalize()


def first_name(rng: Random) -> str:
    return (
        rng.choice(_WORDS["first_names"])
        if rng.random() < 0.6
        else _capitalised(rng, ("", "a", "o", "en", "in", "ia", "us"))
    )


def surname(rng: Random) -> str:
    name = _capitalised(rng, _WORDS["surname_ends"])
    return f"{rng.choice(('Mc', 'O’', 'van ', 'de ', 'al-'))}{name}" if rng.random() < 0.06 else name


def person(rng: Random) -> str:
    middle = f" {rng.choice('ABCDEFGHJKLMNPRSTW')}." if rng.random() < 0.06 else ""
    return f"{first_name(rng)}{middle} {surname(rng)}"


def place(rng: Random) -> str:
    name = _capitalised(rng, _WORDS["place_ends"])
    if rng.random() < 0.08:
        name = f"{rng.choice(('San', 'Saint', 'El', 'Los', 'North', 'East', 'Lower', 'Old', 'Fort', 'Cape'))} {name}"
    return name


def title(rng: Random) -> str:
    adjective, noun, other = rng.choice(_WORDS["adjectives"]), rng.choice(_WORDS["nouns"]), rng.choice(_WORDS["nouns"])
    pattern = rng.choice(
        ("The {a} {n}", "The {n} of the {o}", "{a} {n}s", "A {a} {n}", "{n} and {o}", "The {n}'s {o}", "{a} {n}")
    )
    text = pattern.format(a=adjective, n=noun, o=other)
    return " ".join(w if w in ("of", "the", "and") else w[0].upper() + w[1:] for w in text.split())


def code(rng: Random) -> str:
    letters = "".join(rng.choices("ABCDEFGHKLMNPQRSTUVWXYZ", k=rng.randint(1, 3)))
    return f"{letters}{rng.choice('--- /')}{rng.randint(1, 9999)}".replace(" ", "")


def _date(rng: Random) -> str:
    day, month, year_ = rng.randint(1, 28), rng.choice(_WORDS["months"]), rng.randint(1400, 2030)
    return rng.choice(
        (
            f"{day} {month} {year_}",
            f"{day} {month} {year_}",
            f"{month} {day}, {year_}",
            f"{day} {month}",
            f"{month} {day}",
        )
    )


def _clock(rng: Random) -> str:
    hour, minute = rng.randint(1, 12), rng.choice(("00", "15", "30", "45", "05", "10", "20", "40", "50"))
    half = rng.choice(("am", "pm"))
    return rng.choice(
        (f"{hour}:{minute} {half}", f"{hour} {half}", f"{rng.randint(0, 23)}:{minute}", f"{hour}:{minute} {half}")
    )


def _hours(rng: Random) -> str:
    return rng.choice(("{} to {}", "{} to {}", "{} - {}", "{} until {}")).format(_clock(rng), _clock(rng))


def _number(low: int, high: int) -> Callable[[Random], str]:
    def draw(rng: Random) -> str:
        value = round(low * (high / low) ** rng.random())
        return f"{value:,}" if rng.random() < 0.8 else str(value)

    return draw


def _amount(low: int, high: int, *units: str) -> Callable[[Random], str]:
    """Numbers with a unit, log-uniform; small ones sometimes in words or with a decimal."""
    number = _number(low, high)

    def draw(rng: Random) -> str:
        text = number(rng)
        if high <= 100 and rng.random() < 0.25:
            text = rng.choice(_WORDS["number_words"])
        elif rng.random() < 0.12:
            text = f"{text}.{rng.randint(1, 9)}"
        unit = rng.choice(units)
        if text == "1" and unit.endswith("s"):
            unit = unit.removesuffix("s")
        return f"{text} {unit}"

    return draw


def _money(rng: Random) -> str:
    value = _number(2, 2_000_000)(rng)
    pence = f".{rng.choice(('50', '99', '20', '75', '95'))}" if len(value) < 4 and rng.random() < 0.4 else ""
    return rng.choice(("${}", "{} euros", "€{}", "£{}", "{} dollars", "{} pounds", "{} francs")).format(value + pence)


def _email(rng: Random) -> str:
    return f"{word(rng)}@{word(rng)}.{rng.choice(('com', 'org', 'net', 'example'))}"


def _address(rng: Random) -> str:
    name = rng.choice((place(rng), rng.choice(_WORDS["place_words"])))
    return f"{rng.randint(1, 240)} {name} {rng.choice(_WORDS['streets'])}"


def _ordinal(number: int) -> str:
    return f"{number}{'th' if 10 <= number % 100 <= 20 else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


VALUES: Mapping[str, Callable[[Random], str]] = MappingProxyType(
    {
        "person": person,
        "firstname": first_name,
        "surname": surname,
        "place": place,
        "city": place,
        "country": lambda rng: _capitalised(rng, _WORDS["country_ends"]),
        "company": lambda rng: f"{_capitalised(rng)} {rng.choice(_WORDS['companies'])}",
        "university": lambda rng: rng.choice(("University of {}", "{} University", "{} College")).format(place(rng)),
        "organisation": lambda rng: rng.choice(("{} {}", "{1} of {0}")).format(
            place(rng), rng.choice(_WORDS["organisations"])
        ),
        "Word": _capitalised,
        "word": _capitalised,
        "title": title,
        "code": code,
        "number": lambda rng: str(rng.randint(1, 999)),
        "phone": lambda rng: rng.choice(("{}-{}", "0{} {}", "+{} {}")).format(
            rng.randint(10, 999), rng.randint(10000, 9999999)
        ),
        "email": _email,
        "url": lambda rng: f"{rng.choice(('www.', 'https://', ''))}{word(rng)}.{rng.choice(('com', 'org', 'net'))}",
        "room": lambda rng: rng.choice(("Room {}", "room {}", "Room {}.{}", "Hall {}")).format(
            rng.randint(1, 40), rng.randint(1, 99)
        ),
        "address": _address,
        "language": lambda rng: _capitalised(rng, ("ish", "ese", "ian", "i", "ic", "an")),
        "nationality": lambda rng: _capitalised(rng, ("ish", "ese", "ian", "i", "an")),
        "year": lambda rng: str(rng.randint(1100, 2030) if rng.random() < 0.4 else rng.randint(1780, 2028)),
        "date": _date,
        "month": lambda rng: rng.choice(_WORDS["months"]),
        "weekday": lambda rng: rng.choice(_WORDS["weekdays"]),
        "time": _clock,
        "hours": _hours,
        "season": lambda rng: rng.choice(("spring", "summer", "autumn", "winter", "late summer", "early spring")),
        "century": lambda rng: f"the {_ordinal(rng.randint(2, 21))} century",
        "count": lambda rng: str(rng.randint(2, 99)) if rng.random() < 0.6 else rng.choice(_WORDS["number_words"]),
        "large_number": _number(200, 9_000_000),
        "metres": _amount(2, 9000, "metres", "metres", "meters", "m", "feet"),
        "kilometres": _amount(2, 6000, "kilometres", "km", "kilometers", "miles"),
        "square_kilometres": _amount(3, 900_000, "square kilometres", "km²", "square miles", "hectares"),
        "centimetres": _amount(2, 300, "centimetres", "cm", "inches"),
        "kilograms": _amount(2, 5000, "kilograms", "kg", "tonnes", "pounds"),
        "grams": _amount(5, 900, "grams", "g"),
        "litres": _amount(2, 900, "litres", "liters"),
        "degrees": lambda rng: (
            f"{rng.choice(('', '', '-'))}{rng.randint(1, 2400) if rng.random() < 0.5 else rng.randint(1, 60)}"
            f"{rng.choice((' °C', ' degrees', ' degrees Celsius', '°C'))}"
        ),
        "percent": lambda rng: f"{rng.randint(1, 99)}{rng.choice(('%', ' percent', ' per cent', '%'))}",
        "money": _money,
        "minutes": _amount(2, 180, "minutes"),
        "hours_long": _amount(2, 72, "hours"),
        "days": _amount(2, 90, "days", "days", "working days"),
        "weeks": _amount(2, 52, "weeks"),
        "months": _amount(2, 60, "months"),
        "years_long": _amount(2, 400, "years"),
        "speed": _amount(3, 4000, "km/h", "kilometres per hour", "mph", "knots"),
    }
)


class NameSource:
    """Draws names and values; where real names are given, part of the names are real ones."""

    def __init__(self, real_names: Mapping[str, Sequence[str]] | None = None, real_share: float = 0.35) -> None:
        self._real = dict(real_names or {})
        self._real_share = real_share

    def draw(self, kind: str, rng: Random) -> str:
        """A name or value of one of the kinds in `VALUES`."""
        pool = self._real.get(kind)
        if pool and rng.random() < self._real_share:
            return rng.choice(pool)
        return VALUES[kind](rng)

    def fill(self, pattern: str, lists: Mapping[str, Sequence[str]], rng: Random) -> str:
        """Fill the parts in braces of a name pattern: word lists of the kind, or generated values."""

        def part(match: re.Match[str]) -> str:
            name = match[1]
            if name in lists:
                return rng.choice(lists[name])
            return word(rng) if name == "word" else self.draw(name, rng)

        return re.sub(r"\{(\w+)\}", part, pattern)
