"""Invented names and values: people, places, titles, dates, amounts. No one has seen them before."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from random import Random
from types import MappingProxyType

_ONSETS = "b bl br c ch cl cr d dr f fl fr g gl gr h j k kl kr l m n p pl pr qu r s sch sh sk sl sp st t th tr v w y z".split()
_VOWELS = "a e i o u ai au ea ee ei ia ie io oa oo ou ay y ae uo".split()
_CODAS = "b ck d f g k l ll lm ln lt m mb n nd ng nk nn nt p r rd rk rl rm rn rr rt s sh ss st t tch th v x z".split()
_PLACE_ENDS = (
    "a ia ham ton ford burg stad ville by wick mouth dale field holm port haven ona ara eth or is mere bridge bury"
    " kirk chester well ov ow itz ino ella gate stead minster".split()
)
_COUNTRY_ENDS = "ia ania stan land mark ora una istan avia eria oria and onia".split()
_SURNAME_ENDS = "son sen man er ov ova ski ez ini ard ell ley ton s ström berg mann ic ius is ack ow ing wood a o e".split()
_FIRST_NAMES = (
    "Ada Adam Agnes Ahmed Aisha Alan Albert Alice Amara Amir Ana Andre Anna Anton Arjun Astrid Aurora Beatrice Ben"
    " Bianca Boris Bruno Carla Carlos Cecil Chen Chloe Clara Claude Colin Cora Daniel Daria David Delia Diego Dora Edgar"
    " Edith Elena Eli Elsa Emil Emma Enzo Erik Esther Ethan Eva Farah Felix Fiona Flora Frank Freya Gabriel George Gita"
    " Grace Greta Guido Hana Hannah Hans Harold Hassan Helen Henry Hugo Ibrahim Ida Igor Ines Ingrid Irene Iris Isaac"
    " Ivan Jacob James Jan Jana Jane Jean Joan John Jonas Jorge Joseph Julia Kai Karim Karl Kate Keiko Ken Laila Lars Laura"
    " Lea Leo Leon Lin Linda Louis Lucia Luis Luke Maja Marc Marco Maria Marie Mark Marta Martin Mary Matteo Max Maya Mei"
    " Mia Miguel Mila Mina Mira Nadia Nina Noah Nora Oleg Olga Oliver Omar Oscar Otto Pablo Paul Paula Pedro Peter Petra"
    " Philip Pia Priya Rachel Rafael Ravi Ray Rita Robert Robin Rosa Ruth Sam Samir Sara Sarah Selma Simon Sofia Stefan"
    " Susan Tara Thea Theo Thomas Tim Tina Tom Uma Vera Victor Viola Walter Wendy Wilma Xavier Yara Yuki Yusuf Zara Zoe".split()
)
_ADJECTIVES = (
    "silent broken golden distant hidden crimson winter northern forgotten burning quiet last first endless bitter blue"
    " pale wandering stolen glass iron paper hollow restless gentle crooked midnight borrowed faded scarlet empty sunken"
    " second narrow ancient wild frozen green bright lost secret small great old young dark white black long early late".split()
)
_NOUNS = (
    "harbour garden letter mountain river mirror journey kingdom shadow orchard lantern bridge winter daughter island"
    " clock window storm machine forest promise road tower song house field star sea door map city child night morning"
    " horse bird book king queen sword crown fire stone heart dream voice train ship cloud rain summer valley ocean wolf"
    " tree soldier widow painter stranger neighbour circus library market feather compass candle needle anchor thread".split()
)
_MONTHS = "January February March April May June July August September October November December".split()
_WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
_STREETS = "Street Road Lane Avenue Square Way Drive Close Court Terrace Row Hill".split()
_PLACE_WORDS = "Elm Oak Mill Church Station High Park River Garden King Queen Bridge Castle Harbour Chapel Meadow Market".split()
_ORGANISATIONS = "Institute Society Foundation Council Association Trust Agency Bureau Union League Centre Academy Fund".split()
_COMPANIES = "Group Systems Works Industries Labs Foods Motors Partners Logistics Energy Textiles Media Holdings Brothers".split()
_NUMBER_WORDS = (
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen eighteen twenty"
    " twenty-four thirty forty fifty sixty".split()
)


def word(rng: Random, ends: Sequence[str] = ()) -> str:
    """An invented lower-case word of one to four syllables, or of a stem and one of `ends`."""
    syllables = rng.choices((1, 2, 3), weights=(3, 6, 1))[0]
    stem = ""
    for _ in range(syllables):
        onset = rng.choice(_ONSETS) if rng.random() < 0.85 or stem else ""
        coda = rng.choice(_CODAS) if rng.random() < 0.45 else ""
        stem += onset + rng.choice(_VOWELS[:5] if rng.random() < 0.75 else _VOWELS) + coda
    return stem + (rng.choice(ends) if ends else "")


def _capitalised(rng: Random, ends: Sequence[str] = ()) -> str:
    return word(rng, ends).capitalize()


def first_name(rng: Random) -> str:
    return rng.choice(_FIRST_NAMES) if rng.random() < 0.6 else _capitalised(rng, ("", "a", "o", "en", "in", "ia", "us"))


def surname(rng: Random) -> str:
    name = _capitalised(rng, _SURNAME_ENDS)
    return f"{rng.choice(('Mc', 'O’', 'van ', 'de ', 'al-'))}{name}" if rng.random() < 0.06 else name


def person(rng: Random) -> str:
    middle = f" {rng.choice('ABCDEFGHJKLMNPRSTW')}." if rng.random() < 0.06 else ""
    return f"{first_name(rng)}{middle} {surname(rng)}"


def place(rng: Random) -> str:
    name = _capitalised(rng, _PLACE_ENDS)
    if rng.random() < 0.08:
        name = f"{rng.choice(('San', 'Saint', 'El', 'Los', 'North', 'East', 'Lower', 'Old', 'Fort', 'Cape'))} {name}"
    return name


def title(rng: Random) -> str:
    adjective, noun, other = rng.choice(_ADJECTIVES), rng.choice(_NOUNS), rng.choice(_NOUNS)
    pattern = rng.choice(("The {a} {n}", "The {n} of the {o}", "{a} {n}s", "A {a} {n}", "{n} and {o}", "The {n}'s {o}", "{a} {n}"))
    text = pattern.format(a=adjective, n=noun, o=other)
    return " ".join(w if w in ("of", "the", "and") else w[0].upper() + w[1:] for w in text.split())


def code(rng: Random) -> str:
    letters = "".join(rng.choices("ABCDEFGHKLMNPQRSTUVWXYZ", k=rng.randint(1, 3)))
    return f"{letters}{rng.choice('--- /')}{rng.randint(1, 9999)}".replace(" ", "")


def _date(rng: Random) -> str:
    day, month, year_ = rng.randint(1, 28), rng.choice(_MONTHS), rng.randint(1400, 2030)
    return rng.choice((f"{day} {month} {year_}", f"{day} {month} {year_}", f"{month} {day}, {year_}", f"{day} {month}", f"{month} {day}"))


def _clock(rng: Random) -> str:
    hour, minute = rng.randint(1, 12), rng.choice(("00", "15", "30", "45", "05", "10", "20", "40", "50"))
    half = rng.choice(("am", "pm"))
    return rng.choice((f"{hour}:{minute} {half}", f"{hour} {half}", f"{rng.randint(0, 23)}:{minute}", f"{hour}:{minute} {half}"))


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
            text = rng.choice(_NUMBER_WORDS)
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


def _ordinal(number: int) -> str:
    return f"{number}{'th' if 10 <= number % 100 <= 20 else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


VALUES: Mapping[str, Callable[[Random], str]] = MappingProxyType(
    {
        "person": person,
        "firstname": first_name,
        "surname": surname,
        "place": place,
        "city": place,
        "country": lambda rng: _capitalised(rng, _COUNTRY_ENDS),
        "company": lambda rng: f"{_capitalised(rng)} {rng.choice(_COMPANIES)}",
        "university": lambda rng: rng.choice(("University of {}", "{} University", "{} College")).format(place(rng)),
        "organisation": lambda rng: rng.choice(("{} {}", "{1} of {0}")).format(place(rng), rng.choice(_ORGANISATIONS)),
        "Word": _capitalised,
        "word": _capitalised,
        "title": title,
        "code": code,
        "number": lambda rng: str(rng.randint(1, 999)),
        "phone": lambda rng: rng.choice(("{}-{}", "0{} {}", "+{} {}")).format(rng.randint(10, 999), rng.randint(10000, 9999999)),
        "email": _email,
        "url": lambda rng: f"{rng.choice(('www.', 'https://', ''))}{word(rng)}.{rng.choice(('com', 'org', 'net'))}",
        "room": lambda rng: rng.choice(("Room {}", "room {}", "Room {}.{}", "Hall {}")).format(rng.randint(1, 40), rng.randint(1, 99)),
        "address": lambda rng: f"{rng.randint(1, 240)} {rng.choice((place(rng), rng.choice(_PLACE_WORDS)))} {rng.choice(_STREETS)}",
        "language": lambda rng: _capitalised(rng, ("ish", "ese", "ian", "i", "ic", "an")),
        "nationality": lambda rng: _capitalised(rng, ("ish", "ese", "ian", "i", "an")),
        "year": lambda rng: str(rng.randint(1100, 2030) if rng.random() < 0.4 else rng.randint(1780, 2028)),
        "date": _date,
        "month": lambda rng: rng.choice(_MONTHS),
        "weekday": lambda rng: rng.choice(_WEEKDAYS),
        "time": _clock,
        "hours": _hours,
        "season": lambda rng: rng.choice(("spring", "summer", "autumn", "winter", "late summer", "early spring")),
        "century": lambda rng: f"the {_ordinal(rng.randint(2, 21))} century",
        "count": lambda rng: str(rng.randint(2, 99)) if rng.random() < 0.6 else rng.choice(_NUMBER_WORDS),
        "large_number": _number(200, 9_000_000),
        "metres": _amount(2, 9000, "metres", "metres", "meters", "m", "feet"),
        "kilometres": _amount(2, 6000, "kilometres", "km", "kilometers", "miles"),
        "square_kilometres": _amount(3, 900_000, "square kilometres", "km²", "square miles", "hectares"),
        "centimetres": _amount(2, 300, "centimetres", "cm", "inches"),
        "kilograms": _amount(2, 5000, "kilograms", "kg", "tonnes", "pounds"),
        "grams": _amount(5, 900, "grams", "g"),
        "litres": _amount(2, 900, "litres", "liters"),
        "degrees": lambda rng: f"{rng.choice(('', '', '-'))}{rng.randint(1, 2400) if rng.random() < 0.5 else rng.randint(1, 60)}"
        f"{rng.choice((' °C', ' degrees', ' degrees Celsius', '°C'))}",
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
