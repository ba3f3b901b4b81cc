"""Scores from word lists of our own: sentiment, register, a pirate's talk. They look at words and not at what is meant,
so read some replies beside each number.
"""

from __future__ import annotations

import re

_WORD = re.compile(r"[a-z]+(?:['’][a-z]+)?", re.IGNORECASE)

_POSITIVE = frozenset(
    "amazing awesome beautiful best bright brilliant calm charming cheerful clean comfortable comforting cozy cosy"
    " delicious delight delighted delightful easy ecstatic elegant energetic energized enjoy enjoyable enjoyed enjoying"
    " excellent excited excitement exciting exhilarating fantastic fascinating favourite favorite fond fortunate free"
    " fresh friendly fulfilling fun generous gentle glad glorious good gorgeous grateful great happily happiness happy"
    " heartwarming helpful hope hopeful incredible inspiring interesting joy joyful joyous kind laugh laughter love"
    " loved lovely loving lucky magical magnificent marvellous marvelous memorable nice optimistic outstanding paradise"
    " passion peaceful perfect perfectly picturesque pleasant pleased pleasure positive pretty proud refreshing relaxed"
    " relaxing rewarding safe satisfied satisfying serene smile smiling soothing special spectacular splendid stunning"
    " success superb sweet tasty terrific thankful thrilled thrilling tranquil treasure vibrant warm warmth welcome"
    " welcoming well wonderful worth".split()
)
_NEGATIVE = frozenset(
    "abysmal afraid alone angry annoyed annoying anxiety anxious ashamed awful awkward bad badly bitter bland"
    " bleak bored"
    " boring broken cold crowded cruel cry crying damp danger dangerous dark dead death depressed depressing despair"
    " desperate difficult dirty disappointed disappointing disappointment disaster disgusting dismal dread dreadful"
    " dreary dull empty exhausted exhausting fail failed failure fear fearful foul frightening frustrated frustrating"
    " frustration gloom gloomy grey grief grim gross hate hated hates hatred hopeless hopelessness horrible horrid"
    " hurt impossible inferior insecure insipid irritating isolated lonely loneliness lose losing lost mediocre"
    " melancholy mess miserable misery miss mourn nasty negative nightmare noisy overpriced overwhelmed overwhelming"
    " pain painful pathetic poor poorly rude ruined sad sadly sadness scared shame sick sorrow sorry stale stress"
    " stressed stressful struggle stupid suffer suffering tedious terrible terrified tiring tragedy tragic trouble ugly"
    " unbearable uncomfortable unfortunate unfortunately unhappy unpleasant upset useless waste weak weary worried"
    " worry worse worst worthless wrong".split()
)
_NEGATION = frozenset("not no never hardly barely without isn't wasn't don't didn't can't couldn't nothing".split())
_FORMAL = re.compile(
    r"\b(?:dear (?:sir|madam|mr|ms|mrs|dr|esteemed|valued|professor|\[)|sincerely|(?:kind|best|warm) regards|regarding"
    r"|kindly|grateful|gratitude|appreciate|sincere|apologi[sz]e for|apologies for|inform you|i am writing|pleased to"
    r"|request|assistance|furthermore|moreover|therefore|shall|should you|would you be so|at your (?:earliest|leisure)"
    r"|convenience|hereby|respectfully|esteemed|honou?red|permit|pleasure to|do not hesitate|we would|i would like"
    r"|i would be|on behalf|prompt|attention to|sir\b|madam|thank you for your|matter|please accept|to whom)",
    re.IGNORECASE,
)
_INFORMAL = re.compile(
    r"\b(?:hey|hi there|hiya|yo|yeah|yep|nope|gonna|wanna|gotta|kinda|dunno|lol|omg|btw|dude|guys?|bro|buddy|mate|pal"
    r"|cool|awesome|super|totally|stuff|folks|oops|my bad|thanks a (?:ton|lot|bunch)|no worries|chill|ya|y'all|ain't"
    r"|cheers|u|pls|thx|wow|crazy|hang out|catch up|just wanted|what's up|sup)\b"
    r"|\b(?:i'm|i'll|i've|i'd|it's|that's|don't|can't|won't|we're|we'll|you're|you'll|didn't|couldn't|there's|let's)\b"
    r"|!",
    re.IGNORECASE,
)
_PIRATE = re.compile(
    r"\b(?:a+rr+[gh]*|ahoy|avast|matey|mateys|landlubbers?|hearties|hearty|shiver me|yo ho|scallywags?|scurvy"
    r"|buccaneers?|doubloons?|blimey|davy jones|ye be|i be|walk the plank|grog|cap'n|swashbuckl\w+|aye)\b",
    re.IGNORECASE,
)
_SEAFARING = re.compile(
    r"\b(?:ye|yer|lad|lads|lass|seas|rum|plunder|treasures?|pirates?|ship|sails?|sailing|crew|captain|anchor|booty"
    r"|voyage|aboard|deck|o'|savvy)\b",
    re.IGNORECASE,
)


def sentiment(text: str) -> float:
    """How positive a text's words are: (positive - negative) / (positive + negative), from -1 to 1; 0 without any.

    A word within three words behind a negation counts for the other side.

    >>> sentiment("What a lovely day, and good food."), sentiment("It was not good."), sentiment("It is a table.")
    (1.0, -1.0, 0.0)
    """
    words = [word.lower().replace("’", "'") for word in _WORD.findall(text)]
    good = bad = 0
    for at, word in enumerate(words):
        if (positive := word in _POSITIVE) or word in _NEGATIVE:
            if _NEGATION & set(words[max(0, at - 3) : at]):
                positive = not positive
            good, bad = good + positive, bad + (not positive)
    return (good - bad) / (good + bad) if good + bad else 0.0


def formality(text: str) -> float:
    """How formal a text's wording is: (formal - informal) / (formal + informal) cues, from -1 to 1; 0 without any.

    Formal: the turns of letters ("I am writing to", "kindly"). Informal: contractions, slang, exclamation marks.

    >>> formality("Dear Sir, I am writing to request your assistance."), formality("Hey, it's awesome!")
    (1.0, -1.0)
    """
    text = text.replace("’", "'")
    formal, informal = len(_FORMAL.findall(text)), len(_INFORMAL.findall(text))
    return (formal - informal) / (formal + informal) if formal + informal else 0.0


def sounds_like_pirate(text: str) -> bool:
    """Whether a text has a pirate's words: one such as "arr" or "matey", or three about ships and treasure.

    >>> sounds_like_pirate("Arr, matey!"), sounds_like_pirate("Take a towel to the beach.")
    (True, False)
    """
    seafaring = {word.lower() for word in _SEAFARING.findall(text)}
    return _PIRATE.search(text) is not None or len(seafaring) >= 3
