"""People, companies and addresses of the shop's stand-in sources: invented, and written as people write them.

E-mail addresses are of the domains kept for examples (RFC 2606), telephone numbers of the ranges that regulators keep
for fiction; a country that keeps none has no numbers here.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import random

_DOMAINS: Final = ("example.org", "example.com", "example.net")
_LETTERS: Final = str.maketrans({"ß": "ss", "ł": "l", "Ł": "L", "ø": "o", "Ø": "O", "æ": "ae", "Æ": "Ae", "'": None})
_PHONE_FORMS: Final = (
    "+{dial} {area} {number}",
    "00{dial} {area} {number}",
    "{trunk}{area} {number}",
    "({trunk}{area}) {number}",
    "{trunk}{area}/{number}",
    "+{dial}{area}{digits}",
    "{trunk}{area}{digits}",
)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


@dataclass(frozen=True)
class Country:
    """What names, places and numbers look like there.

    Attributes:
        code: ISO 3166.
        share: how many customers are from there, relative to the other countries.
        spellings: how people type its name.
        currency: ISO 4217.
        first, last: given and family names.
        streets: their names.
        cities: a city and its postal codes; ``#`` stands for a digit, here and in what follows.
        legal: legal forms of companies.
        dial, trunk: what comes before an area code from abroad, and from within.
        phones: area codes and numbers kept for fiction.
        number_first: whether a house's number stands before its street.
    """

    code: str
    share: int
    spellings: tuple[str, ...]
    currency: str
    first: tuple[str, ...]
    last: tuple[str, ...]
    streets: tuple[str, ...]
    cities: tuple[tuple[str, str], ...]
    legal: tuple[str, ...]
    dial: str = ""
    trunk: str = ""
    phones: tuple[tuple[str, str], ...] = ()
    number_first: bool = False


def digits(pattern: str, chance: random.Random) -> str:
    """The pattern with a digit for each ``#``."""
    return "".join(chance.choice("0123456789") if sign == "#" else sign for sign in pattern)


def as_typed(text: str, chance: random.Random) -> str:
    """The text, in one of ten cases with stray spaces or in the wrong case."""
    roll = chance.randrange(50)
    forms = (f" {text}", f"{text}  ", text.upper(), text.lower(), text.replace(" ", "  "))
    return forms[roll] if roll < len(forms) else text


def phone(country: Country, chance: random.Random) -> str | None:
    """A number in one of its many spellings; sometimes none."""
    if not country.phones or chance.random() < 0.1:
        return None
    area, pattern = chance.choice(country.phones)
    number = digits(pattern, chance)
    bare = "".join(filter(str.isdigit, number))
    form = chance.choice(_PHONE_FORMS)
    return form.format(dial=country.dial, trunk=country.trunk, area=area, number=number, digits=bare)


class Addresses:
    """E-mail addresses, none twice.

    Args:
        between: what stands between the names.
    """

    def __init__(self, between: str) -> None:
        self._between, self._given = between, Counter[str]()

    def give(self, first: str, last: str, chance: random.Random) -> str:
        """An address made of a name, in lower case."""
        plain = f"{_ascii(first)}{self._between}{_ascii(last)}"
        self._given[plain] += 1
        count = self._given[plain]
        return f"{plain}{count if count > 1 else ''}@{chance.choice(_DOMAINS)}"


def mixed_case(email: str, chance: random.Random) -> str:
    """The address; one in eight with capitals, which make no difference."""
    roll = chance.randrange(24)
    forms = (email.upper(), email.title(), email.capitalize())
    return forms[roll] if roll < len(forms) else email


def _ascii(name: str) -> str:
    parts = unicodedata.normalize("NFKD", name.translate(_LETTERS)).encode("ascii", "ignore").decode()
    return parts.lower().replace(" ", "-")


_ENGLISH_FIRST: Final = _words(
    "Ada Albert Alice Amelia Arthur Beatrice Ben Caleb Carol Charlotte Clara Daniel Dora Edith Edward Eleanor Emily "
    "Ethan Florence Frances Frank George Grace Hannah Harold Harriet Henry Ian Irene "
    "Isaac Jack Jane Jasmine Joan "
    "Joseph Julia Laura Leo Lillian Louis Lucy Marcus Margaret Martha Maya Nathan "
    "Nora Oliver Olivia Oscar Owen Patrick "
    "Peter Priya Rachel Ralph Rose Ruth Samuel Sarah Simon Sophie Stella Theodore Thomas Violet Walter Winifred"
)
_ENGLISH_LAST: Final = _words(
    "Adams Allen Archer Atkinson Baker Barlow Bennett Bishop Blackwood Brooks Carter Chapman Clarke Coleman Collins "
    "Cooper Crawford Dawson Dixon Doyle Edwards Ellis Fairbanks Fisher Fletcher "
    "Foster Gardner Gibson Graham Grant "
    "Hammond Harper Hart Hayes Holloway Howard Hughes Hunter Jenkins Keller Kelly "
    "Knight Lambert Lawson Lowell Marsh "
    "Mason Mercer Mitchell Morgan Murray Newton O'Brien O'Connor Osborne Parker "
    "Patel Pearson Porter Quinn Reed Reyes "
    "Robinson Sanders Shaw Singh Spencer Sutton Thornton Turner Underwood Vaughan Walker Watson Whitfield Young"
)
_ENGLISH_STREETS: Final = (
    "High Street",
    "Church Lane",
    "Mill Road",
    "Station Road",
    "Victoria Avenue",
    "Orchard Close",
)
_AMERICAN_STREETS: Final = ("Main St", "Oak Avenue", "2nd Street", "Maple Drive", "Lincoln Blvd", "Cedar Lane")

COUNTRIES: Final = (
    Country(
        "US",
        38,
        ("United States", "USA", "U.S.A.", "US", "usa", "United States of America"),
        "USD",
        _ENGLISH_FIRST,
        _ENGLISH_LAST,
        _AMERICAN_STREETS,
        (
            ("New York", "100##"),
            ("Chicago", "606##"),
            ("Austin", "787##"),
            ("Portland", "972##"),
            ("Boston", "021##"),
            ("San José", "951##"),
            ("Denver", "802##-####"),
        ),
        ("Inc.", "LLC", "Corp."),
        "1",
        "",
        tuple((area, "555-01##") for area in _words("212 312 512 503 617 408 303 206 215 305 404 702")),
        number_first=True,
    ),
    Country(
        "GB",
        12,
        ("United Kingdom", "UK", "Great Britain", "England", "U.K.", "GB"),
        "GBP",
        _ENGLISH_FIRST,
        _ENGLISH_LAST,
        _ENGLISH_STREETS,
        (("London", "N1 #AB"), ("Manchester", "M1# #FX"), ("Leeds", "LS# #DY"), ("Bristol", "BS# #TQ")),
        ("Ltd", "PLC", "Limited"),
        "44",
        "0",
        (("20", "7946 0###"), ("113", "496 0###"), ("161", "496 0###"), ("121", "496 0###"), ("7700", "900###")),
        number_first=True,
    ),
    Country(
        "DE",
        11,
        ("Germany", "Deutschland", "deutschland", "DE", "GERMANY", "BRD"),
        "EUR",
        _words(
            "Andreas Anja Bärbel Björn Christa Dörte Emil Friederike Günther Hannelore Heike Ingrid Jörg Jürgen Karin "
            "Klaus Lukas Marlene Matthias Mia Sabine Sönke Sören Ursula Uwe Wolfgang"
        ),
        _words(
            "Bauer Becker Böhm Engel Fischer Frank Großmann Günther Hahn Herrmann Hoffmann Jäger Kaiser Köhler König "
            "Krämer Krüger Lange Müller Nußbaum Richter Schäfer Schmidt Schröder Schulz Voß Wagner Weiß Zöllner"
        ),
        ("Hauptstraße", "Gartenstraße", "Schillerstr.", "Am Mühlbach", "Lindenweg", "Bahnhofstr."),
        (("Berlin", "10###"), ("Hamburg", "20###"), ("München", "80###"), ("Köln", "50###"), ("Leipzig", "04###")),
        ("GmbH", "AG", "OHG", "GmbH & Co. KG"),
        "49",
        "0",
        (("30", "23125 ###"), ("40", "66969 ###"), ("69", "90009 ###"), ("89", "99998 ###"), ("221", "4710 ###")),
    ),
    Country(
        "CA",
        8,
        ("Canada", "CA", "CANADA", "Can."),
        "CAD",
        (*_ENGLISH_FIRST, "Étienne", "Geneviève", "Maëlle"),
        (*_ENGLISH_LAST, "Gagné", "Lévesque", "Tremblay", "Bélanger"),
        ("King Street", "Rue Sainte-Catherine", "Granville St", "Jasper Avenue"),
        (("Toronto", "M5V #K#"), ("Montréal", "H2X #Y#"), ("Vancouver", "V6B #L#"), ("Québec", "G1R #S#")),
        ("Inc.", "Ltd.", "Ltée"),
        "1",
        "",
        tuple((area, "555-01##") for area in _words("416 514 604 403 418")),
        number_first=True,
    ),
    Country(
        "FR",
        6,
        ("France", "FR", "FRANCE", "france"),
        "EUR",
        _words(
            "Aurélie Benoît Céline Chloé Édouard Élodie François Gaëlle Hélène Jérôme Joël Léa Loïc Mathéo Noémie "
            "Océane Rémi Sébastien Thérèse Zoé"
        ),
        _words(
            "Bérard Besançon Chevalier Delacroix Dupré Fournier Gérard Lefèvre Lemaître Mallet Moreau Noël Péron Petit "
            "Rivière Roussel Sauvé Thévenot Vallée"
        ),
        ("rue de la République", "avenue Victor-Hugo", "place de l'Église", "bd Voltaire"),
        (("Paris", "750##"), ("Lyon", "690##"), ("Nîmes", "300##"), ("Besançon", "250##"), ("Orléans", "450##")),
        ("SARL", "SAS", "SA"),
        "33",
        "0",
        (("1", "99 00 ## ##"), ("2", "61 91 ## ##"), ("3", "53 01 ## ##"), ("4", "65 71 ## ##"), ("6", "39 98 ## ##")),
        number_first=True,
    ),
    Country(
        "AU",
        4,
        ("Australia", "AU", "AUS", "australia"),
        "AUD",
        _ENGLISH_FIRST,
        _ENGLISH_LAST,
        ("George Street", "Bondi Road", "Swanston St", "Park Parade"),
        (("Sydney", "20##"), ("Melbourne", "30##"), ("Brisbane", "40##"), ("Hobart", "70##")),
        ("Pty Ltd", "Ltd"),
        "61",
        "0",
        (("2", "5550 ####"), ("3", "5550 ####"), ("7", "7010 ####"), ("8", "7010 ####")),
        number_first=True,
    ),
    Country(
        "SE",
        3,
        ("Sweden", "Sverige", "SE", "SWEDEN"),
        "SEK",
        _words("Åke Åsa Björn Göran Gunilla Håkan Ingvar Jörgen Linnéa Märta Ragnhild Sören Tove Ulf"),
        _words("Åberg Åström Bäckström Dahlgren Ekström Forsgren Högberg Källström Lindqvist Nyström Öberg Sjö"),
        ("Storgatan", "Kungsgatan", "Björkvägen"),
        (("Stockholm", "11# ##"), ("Göteborg", "41# ##"), ("Malmö", "21# ##"), ("Umeå", "90# ##")),
        ("AB", "HB"),
        "46",
        "0",
        (("8", "465 004 ##"), ("31", "390 06 ##"), ("40", "628 04 ##")),
    ),
    Country(
        "NL",
        3,
        ("Netherlands", "The Netherlands", "Nederland", "Holland", "NL"),
        "EUR",
        _words("Anouk Bas Daniël Femke Hidde Jeroen Joëlle Lotte Maarten Noël Sanne Thijs Wouter Zoë"),
        ("de Boer", "Brouwer", "van Dijk", "de Groot", "van den Heuvel", "Jansen", "Mulder", "Visser", "Prins", "Smit"),
        ("Dorpsstraat", "Kerkweg", "Prinsengracht", "Molenlaan"),
        (("Amsterdam", "101# AB"), ("Utrecht", "351# CE"), ("Groningen", "971# KL")),
        ("B.V.", "N.V."),
    ),
    Country(
        "ES",
        3,
        ("Spain", "España", "ES", "espana"),
        "EUR",
        _words("Ángel Begoña Concepción Dolores Íñigo Iván Jesús José Lucía María Raúl Rocío Sofía Víctor"),
        _words("Álvarez Castaño Domínguez García Gómez Ibáñez Martínez Muñoz Núñez Peña Sánchez Vázquez Yáñez"),
        ("Calle Mayor", "Avenida de la Constitución", "Plaza de España"),
        (("Madrid", "280##"), ("Málaga", "290##"), ("A Coruña", "150##"), ("Cádiz", "110##")),
        ("S.L.", "S.A."),
    ),
    Country(
        "IE",
        2,
        ("Ireland", "Éire", "IE", "Republic of Ireland"),
        "EUR",
        _words("Aoife Bríd Caoimhe Ciarán Dónal Eoin Fionn Gráinne Niamh Oisín Pádraig Róisín Seán Siobhán"),
        _words("Brennan Byrne Doherty Fitzgerald Gallagher Kavanagh Lynch Nolan Ó'Dálaigh O'Neill Ryan Walsh"),
        ("O'Connell Street", "Shop Street", "Patrick Street"),
        (("Dublin", "D0# X285"), ("Galway", "H91 E2K#"), ("Dún Laoghaire", "A96 K5D#")),
        ("Ltd", "DAC"),
        "353",
        "0",
        (("20", "91# ####"),),
        number_first=True,
    ),
    Country(
        "AT",
        2,
        ("Austria", "Österreich", "AT", "Oesterreich"),
        "EUR",
        _words("Alois Brigitte Elfriede Franz Gerlinde Jakob Kreszenz Leopold Markus Resi Veronika Xaver"),
        _words("Gruber Höller Huber Kogler Lechner Moser Pichler Rößler Steiner Strauß Wallner Zörrer"),
        ("Mariahilfer Straße", "Kirchengasse", "Dorfplatz"),
        (("Wien", "10##"), ("Graz", "80##"), ("St. Pölten", "31##")),
        ("GmbH", "KG"),
    ),
    Country(
        "CH",
        2,
        ("Switzerland", "Schweiz", "Suisse", "Svizzera", "CH"),
        "CHF",
        _words("Beat Chantal Désirée Flurina Jürg Käthi Köbi Mélanie Reto Ruedi Silvan Ursina Vreni Yves"),
        _words("Aebischer Bühler Caduff Dürrenmatt Frölicher Hürlimann Jäggi Käser Rüegg Schläpfer Zbinden"),
        ("Bahnhofstrasse", "Rue du Rhône", "Dorfstrasse"),
        (("Zürich", "80##"), ("Genève", "12##"), ("Bellinzona", "65##")),
        ("AG", "GmbH", "SA"),
    ),
    Country(
        "IT",
        2,
        ("Italy", "Italia", "IT", "ITALIA"),
        "EUR",
        _words("Alessia Chiara Davide Federica Giosuè Ilaria Lorenzo Matteo Niccolò Noè Ornella Tommaso Zeno"),
        _words("Bellini Caffarelli Cantù Colombo D'Angelo Esposito Ferrari Gallo Marino Nicolò Rinaldi Zanetti"),
        ("Via Roma", "Corso Garibaldi", "Piazza della Libertà"),
        (("Milano", "201##"), ("Roma", "001##"), ("Forlì", "471##")),
        ("S.r.l.", "S.p.A."),
    ),
    Country(
        "PL",
        2,
        ("Poland", "Polska", "PL", "polska"),
        "PLN",
        _words("Agnieszka Bożena Czesław Grażyna Jarosław Łucja Łukasz Małgorzata Paweł Stanisław Włodek Żaneta"),
        _words("Dąbrowski Głowacki Jabłoński Kamiński Kozłowski Król Łuczak Nowak Pawłowski Wiśniewski Żak"),
        ("ul. Długa", "al. Jerozolimskie", "ul. Kościuszki"),
        (("Warszawa", "00-###"), ("Kraków", "31-###"), ("Łódź", "90-###")),
        ("Sp. z o.o.", "S.A."),
    ),
    Country(
        "DK",
        1,
        ("Denmark", "Danmark", "DK"),
        "DKK",
        _words("Aksel Asbjørn Birthe Frederikke Jørgen Kåre Mette Rasmus Søren Solvej Tønnes"),
        _words("Bæk Christensen Frøslev Højgaard Jørgensen Kjær Madsen Mørch Nygård Sørensen Østergaard"),
        ("Nørregade", "Østerbrogade", "Strandvejen"),
        (("København", "21##"), ("Aarhus", "80##"), ("Helsingør", "30##")),
        ("ApS", "A/S"),
    ),
    Country(
        "JP",
        1,
        ("Japan", "JP", "Nippon", "JAPAN"),
        "JPY",
        _words("Aiko Haruka Jirō Kaori Kōji Ryōko Shōta Sōta Takumi Tarō Yōko Yūki Yumi"),
        _words("Andō Endō Fujita Gotō Hasegawa Itō Katō Kondō Ōno Ōtsuka Saitō Satō Sudō Tanaka"),
        ("Chūō-dōri", "Meiji-dōri", "Sakura-machi"),
        (("Tōkyō", "10#-####"), ("Kyōto", "60#-####"), ("Ōsaka", "53#-####")),
        ("K.K.", "G.K."),
    ),
)
SHARES: Final = tuple(country.share for country in COUNTRIES)
BY_CODE: Final = {country.code: country for country in COUNTRIES}
