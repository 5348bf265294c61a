"""Singular forms as the `pattern` library computes them, mistakes included; CHAIR's official rule uses them.

Source: the rules of `singularize` in pattern 2.6 (github.com/clips/pattern), written as tables. Its mistakes affect
CHAIR's figures: bus → bu, tennis → tenni, ties → ty, glass → glas.
"""

import functools
import re

_UNCHANGED_WORDS = """
advice bison bread bream breeches britches butter carp chassis cheese christmas clippers cod contretemps corps debris
diabetes djinn eland electricity elk equipment flounder fruit furniture gallows garbage georgia graffiti gravel
happiness headquarters herpes high-jinks homework information innings jackanapes ketchup knowledge love luggage
mackerel mathematics mayonnaise measles meat mews mumps mustard news pincers pliers proceedings progress rabies
research rice salmon sand scissors series shears software species swine swiss trout tuna understanding water whiting
wildebeest
"""
_UNCHANGED = _UNCHANGED_WORDS.split()
"""Every suffix of one of these words is returned unchanged, including `s` and the empty word."""

_IE_WORDS = """
alergie auntie beanie birdie bogie bombie collie cookie cutie doggie eyrie freebie goonie groupie hankie hippie hoagie
hottie indie junkie laddie laramie lingerie meanie newbie nightie oldie pixie quickie reverie rookie softie sortie
stoolie sweetie techie toughie valkyrie veggie weenie yuppie zombie
"""
_ENDS_IN_IES = _IE_WORDS.split()
"""Words ending in one of these plus `s` are returned unchanged: cookies stays cookies."""

_IRREGULAR = """
atlantes atlas, atlases atlas, axes axe, beeves beef, brethren brother, children child, corpora corpus, corpuses corpus,
ephemerides ephemeris, feet foot, ganglia ganglion, geese goose, genera genus, genii genie, graffiti graffito,
helves helve, kine cow, leaves leaf, loaves loaf, men man, mongooses mongoose, monies money, moves move, mythoi mythos,
numena numen, occipita occiput, octopodes octopus, opera opus, opuses opus, our my, oxen ox, penes penis, penises penis,
people person, sexes sex, soliloquies soliloquy, teeth tooth, testes testis, trilbys trilby, turves turf, zoa zoon
"""
"""These apply to word endings too: women → woman, but also hour → hmy."""

_ENDINGS = (
    (".", "ae", "a"), (".", "itis", "itis"), (".", "eaux", "eau"), ("quiz", "zes", ""), ("matr", "ices", "ix"),
    ("ap|vert|ind", "ices", "ex"), ("alias|status", "es", ""), ("[octop|vir]", "i", "us"),
    ("cris|ax|test", "es", "is"), ("shoe", "s", ""), ("o", "es", ""), ("bus", "es", ""), ("[m|l]", "ice", "ouse"),
    ("x|ch|ss|sh", "es", ""), ("m", "ovies", "ovie"), (".", "ombies", "ombie"), ("s", "eries", "eries"),
    ("[^aeiouy]|qu", "ies", "y"), ("[aeo]l", "ves", "f"), ("[^d]ea", "ves", "f"), ("", "arves", "arf"),
    ("", "erves", "erve"), ("[nlw]i", "ves", "fe"), ("[lr]", "ves", "f"), ("[aeo]", "ves", "ve"),
    ("[sth]ive", "s", ""), ("[^f]", "ves", "fe"), ("^analy", "ses", "sis"), ("analy", "ses", "asis"),
    ("ba|diagno|parenthe|progno|synop|the", "ses", "sis"), (".", "opses", "opsis"), (".", "yses", "ysis"),
    ("h|d|r|o|n|b|cl|p", "oses", "ose"), (".", "oses", "osis"), ("[ti]", "a", "um"), ("n", "ews", "ews"),
    ("", "s", ""),
)  # fmt: skip
"""(pattern before the ending, ending, replacement); the first match applies. `[octop|vir]` matches any one of these
characters, not the intended words."""

_RULES = tuple((re.compile(f"(?:{before}){ending}$"), len(ending), new) for before, ending, new in _ENDINGS)
_IRREGULAR_ENDS = tuple(tuple(pair.split()) for pair in " ".join(_IRREGULAR.split()).split(","))


@functools.lru_cache(maxsize=65_536)
def pattern_singular(word: str) -> str:
    """The word as `pattern` writes its singular.

    Args:
        word: one lower-case token. Hyphenated words such as `mothers-in-law`, which pattern splits, are not split here:
            no object in CHAIR's list has a hyphen.
    """
    if word.endswith("'"):
        return pattern_singular(word[:-1]) + "'s"
    if any(known.endswith(word) for known in _UNCHANGED) or any(word.endswith(f"{end}s") for end in _ENDS_IN_IES):
        return word
    for plural, singular in _IRREGULAR_ENDS:
        if word.endswith(plural):
            return word.removesuffix(plural) + singular
    if word.startswith("oxen"):
        return "ox" + word.removeprefix("oxen")
    for rule, length, new in _RULES:
        if rule.search(word):
            return word[:-length] + new
    return word
