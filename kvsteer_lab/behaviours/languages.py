"""The language of a reply, told by its commonest words."""

from __future__ import annotations

import re
from collections import Counter

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_COMMON = {
    "en": "the of and to in is that it for you was on are with as be at this have from or by not but what all were when"
    " we there can an your which their if will would about they some how these so more them make like him has been who"
    " its my than his her she he do because also very should into just may it's don't i'm you're",
    "fr": "le la les de des du et à est que il elle pour vous une un en sur sont avec comme être ce cette dans"
    " par ne pas"
    " mais ou où plus tout nous je tu leur si votre vos mes ses aux au qui quand aussi très peut fait bien c'est d'un"
    " d'une l'eau n'est j'ai qu'il il y ont été faire bonjour merci ces son sa même autres entre sans",
    "de": "der die das und ist in den von zu mit sich des auf für nicht ein eine einen einem einer als auch es"
    " an werden"
    " aus er sie ich du wir ihr hat dass nach wird bei sind noch wie über so zum zur war haben nur oder aber vor kann"
    " durch man sein wenn sehr mehr ihre ihren diese dieser dieses können mein dein guten gute danke hallo im am vom",
    "es": "el la los las de y que en un una es por con no para su al lo como más pero sus le ya o este sí porque esta"
    " entre cuando muy sin sobre también me hasta hay donde quien desde todo nos durante todos uno les ni contra otros"
    " ese eso ante ellos del se son está están ser puede pueden tiene tienen hola gracias mi tu usted hacer si",
}
_STOP = {language: frozenset(words.split()) for language, words in _COMMON.items()}
_LEAST = 3


def language_of(text: str) -> str | None:
    """The language of a text among English, French, German and Spanish, by counting their commonest words.

    Words that two languages share ("in", "de", "la") count for both. Broken grammar isn't noticed: what is told is in
    which language somebody writes, not how well.

    Args:
        text: a reply.

    Returns:
        `"en"`, `"fr"`, `"de"` or `"es"`; `None` where fewer than three of its words are common ones, where two
        languages have as many, or where the text does little but repeat one word.

    >>> language_of("Je pense que le chat est sur la table."), language_of("The cat is on the table.")
    ('fr', 'en')
    >>> language_of("La la la la") is None
    True
    """
    words = Counter(word.lower().replace("’", "'") for word in _WORD.findall(text))
    # A word counts three times at most, so that a loop of one word says little.
    counts = {
        language: sum(min(n, 3) for word, n in words.items() if word in common) for language, common in _STOP.items()
    }
    kinds = {language: sum(word in common for word in words) for language, common in _STOP.items()}
    first, second = sorted(counts, key=lambda language: counts[language], reverse=True)[:2]
    if counts[first] < _LEAST or kinds[first] < _LEAST or counts[first] == counts[second]:
        return None
    return first
