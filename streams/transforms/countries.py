"""Countries as people type them, by ISO 3166 code: official, short and own names, without stress on case or dots."""

from __future__ import annotations

from typing import Final

COUNTRY_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "AR": ("argentina",),
    "AT": ("austria", "österreich", "oesterreich"),
    "AU": ("australia", "aus"),
    "BE": ("belgium", "belgique", "belgië", "belgien"),
    "BG": ("bulgaria", "българия"),
    "BR": ("brazil", "brasil"),
    "CA": ("canada", "can"),
    "CH": ("switzerland", "schweiz", "suisse", "svizzera"),
    "CL": ("chile",),
    "CN": ("china", "peoples republic of china", "中国"),
    "CY": ("cyprus", "κύπρος"),
    "CZ": ("czechia", "czech republic", "česko"),
    "DE": ("germany", "deutschland", "ger", "brd", "federal republic of germany"),
    "DK": ("denmark", "danmark"),
    "EE": ("estonia", "eesti"),
    "ES": ("spain", "españa", "espana"),
    "FI": ("finland", "suomi"),
    "FR": ("france",),
    "GB": ("united kingdom", "uk", "great britain", "britain", "england", "scotland", "wales", "northern ireland"),
    "GR": ("greece", "ελλάδα"),
    "HR": ("croatia", "hrvatska"),
    "HU": ("hungary", "magyarország"),
    "IE": ("ireland", "éire", "eire", "republic of ireland"),
    "IN": ("india",),
    "IS": ("iceland", "ísland"),
    "IT": ("italy", "italia"),
    "JP": ("japan", "nippon", "日本"),
    "KR": ("south korea", "korea", "republic of korea", "대한민국"),
    "LT": ("lithuania", "lietuva"),
    "LU": ("luxembourg", "luxemburg"),
    "LV": ("latvia", "latvija"),
    "MT": ("malta",),
    "MX": ("mexico", "méxico"),
    "NL": ("netherlands", "the netherlands", "nederland", "holland"),
    "NO": ("norway", "norge"),
    "NZ": ("new zealand",),
    "PL": ("poland", "polska"),
    "PT": ("portugal",),
    "RO": ("romania", "românia"),
    "RS": ("serbia", "srbija"),
    "SE": ("sweden", "sverige"),
    "SG": ("singapore",),
    "SI": ("slovenia", "slovenija"),
    "SK": ("slovakia", "slovensko"),
    "TR": ("turkey", "türkiye", "turkiye"),
    "UA": ("ukraine", "україна"),
    "US": ("united states", "usa", "united states of america", "america"),
    "ZA": ("south africa",),
}
CODE_BY_NAME: Final[dict[str, str]] = {
    name: code for code, names in COUNTRY_NAMES.items() for name in (code.lower(), *names)
}
