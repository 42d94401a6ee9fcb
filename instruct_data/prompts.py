"""Deliberately wrong prompts: another picture's prompt, or the right one with a single word exchanged.

A model that judges whether a picture shows what its prompt asks for also needs pictures that don't. Here the
error, and the exchanged word, are known exactly.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

# How well a picture fits an unrelated prompt, 0..1, and the share of its correspondence that remains after a
# word is exchanged. Both are assumptions, since nobody rated such pairs.
UNRELATED_SCORE = 0.06
EXCHANGED_SHARE = 0.4 / 0.85

# Phrases for how a picture is made, not for what it shows. "soft lighting" to "sci-fi style" are the set of
# AGIQA-3K (arXiv 2306.04717).
STYLE_PHRASES = (
    "soft lighting", "hdr lighting", "warm color", "cold color", "hyper detail", "blurred detail", "close-up",
    "long-shot", "top view", "elevation view",
    "anime style", "realistic style", "abstract style", "baroque style", "sci-fi style",
    "soft light", "warm light", "dramatic lighting", "concept art", "character design", "digital art",
    "oil painting", "digital painting", "full body", "full length", "award winning", "high quality",
    "highly detailed", "hyper detailed", "depth of field", "black and white photo", "trending on artstation",
    "unreal engine", "octane render", "wide angle", "long shot", "close up", "8 k", "4 k",
)  # fmt: skip
_STYLE_WORDS = """
    style styled lighting detail detailed color colour view shot anime realistic abstract baroque
    sci-fi hdr photo photograph photography picture image portrait painting painted sketch drawing
    illustration render rendering artwork art artistic still photoreal photorealistic realism
    hyperrealistic cinematic aesthetic headshot fullbody frontal profile angled closeup design logo
    poster sticker 8k 4k hd uhd bokeh beautiful gorgeous cute epic intricate dreamy dramatic elegant
    hyper vibrant colourful colorful
"""
_STOP_WORDS = """
    a an the and or but nor of in on at to from by for with without into onto over under above below
    up down out off through across along around about near next beside behind between among against
    toward towards while whilst as than that this these those there here it its he she they them his
    her him their i you we our your my who which what where when how is are was were be been being
    am do does did doing has have had having not no some any each every all both other another
    several many few more most very so too just only like s t one someone something made looks
    looking look front back top side seen during after before themselves himself herself itself
    together away outside inside
"""
STYLE_WORDS = frozenset(_STYLE_WORDS.split())
STOP_WORDS = frozenset(_STOP_WORDS.split())

# One row per class. "|" joins synonyms; the first one is their head word. The words of a row exclude each
# other, so that an exchange always makes the prompt wrong for its picture.
_CLASSES: dict[str, str] = {
    "animal": """
        dog|puppy|hound|greyhound|poodle|retriever|shepherd|labrador|terrier|collie|dachshund|canine
        cat|kitten|kitty horse|pony|stallion cow|bull|cattle|calf sheep|lamb goat pig|piglet
        rabbit|bunny|hare hamster rat|mouse squirrel fox wolf|werewolf bear lion|lioness tiger
        leopard cheetah panda elephant giraffe zebra camel deer|stag|buck|moose monkey|gorilla|ape
        kangaroo otter frog|toad snake lizard|gecko turtle|tortoise crocodile|alligator fish shark
        whale dolphin octopus|kraken|squid lobster crab starfish jellyfish|ctenophore slug|snail owl
        eagle|hawk|falcon penguin goose|swan duck|bird parrot|toucan pigeon|seagull
        chicken|rooster|hen butterfly|moth bee|wasp spider dragon|dinosaur unicorn
    """,
    "person": "man|guy|gentleman woman|lady|supermodel boy girl|schoolgirl baby|toddler|infant",
    "someone": "person|people|adult|child|kid dog cat horse elephant monkey",
    "sex": "male female",
    "role": """
        king|emperor|prince queen|princess|empress|goddess knight|warrior|legionary|soldier
        robot|android|automaton|cyborg|mecha astronaut|cosmonaut alien zombie ghost
        vampire|demon|devil wizard|magician|alchemist|chronomancer witch angel
        elf|gnome|goblin|dwarf ogre|giant pirate|viking mermaid pope|priest|nun farmer|gardener
        chef|cook|baker doctor|nurse scientist|engineer policeman|policewoman firefighter|fireman
        clown cowboy surfer skateboarder|skater snowboarder|skier cyclist|bicyclist|biker
        climber|hiker guitarist|bard|musician dancer|ballerina swimmer runner bride groom
        superman|superhero|batman
    """,
    "color": """
        red|crimson|scarlet|maroon blue|navy|turquoise green|olive yellow|blonde|blond orange
        purple|violet pink|magenta black white grey|gray brown|tan|beige golden
    """,
    "number": "two three four five six seven|eight|nine|ten",
    "material": """
        metal|metallic|steel|iron|tin wooden|wood glass stone|marble paper|newspaper
        plastic|plasticine leather|fur concrete|cement|brick gold silver|platinum cotton|wool|straw
    """,
    "vehicle": """
        car|jeep|taxi|vehicle bike|bicycle|cycle|bmx truck|van|lorry bus train|subway|tram
        motorcycle|motorbike|scooter boat|canoe|kayak|rowboat|raft|sailboat|vessel
        plane|airplane|aircraft helicopter rocket|spaceship|shuttle|ufo rickshaw|cart|wagon tractor
        skateboard surfboard snowboard|sled|ski
    """,
    "food": """
        pizza cake|donut|cupcake|bagel|cookie sushi burger|sandwich|fastfood salad|broccoli|lettuce
        apple|pear banana strawberry|raspberry|berry|cherry bread|toast cheese chocolate|candy egg
        soup|chili|noodle|spaghetti tomato|potato|carrot mushroom coffee|tea
        beer|wine|champagne|juice
    """,
    "place": """
        beach|shore|coast forest|woods|jungle street|road|sidewalk|highway|avenue
        mountain|cliff|highlands|hill desert|dune city|town park|playground|garden|yard|backyard
        kitchen|restaurant|tavern|bar office|classroom church|cathedral|temple|chapel
        castle|palace|fortress factory|lab|warehouse store|shop|supermarket|walmart
        cave|dungeon|tunnel library|museum stadium|arena|court|track|racetrack
        bedroom|room|house|home bridge|pier|dock island|volcano
    """,
    "named place": "paris london tokyo|japan egypt|babylon rome",
    "ground": """
        water|ocean|sea|lake|pond|pool|river|creek|stream snow|ice sand
        grass|lawn|meadow|grassland|field rock|gravel dirt|mud fire|smoke waterfall|fountain
    """,
    "like ground": "snowy|icy sandy grassy rocky muddy flooded",
    "sky": """
        moon|eclipse sun|sunset|dawn|sunrise star|galaxy|supernova rainbow cloud|storm
        planet|space|cosmic
    """,
    "plant": "tree|bush|oak flower|rose|orchid|dahlia|hibiscus|tulip cactus fern|moss palm",
    "worn": """
        shirt|tshirt|jersey|sweater|sweatshirt dress|gown coat|jacket|hoody|hoodie|vest
        suit|tuxedo|uniform|costume|outfit swimsuit|bikini|wetsuit armor|armour|breastplate
        robe|kimono
    """,
    "worn below": "jeans|pants|trousers shorts|trunks skirt",
    "headwear": "hat|cap|bandanna|bandana helmet crown|tiara hood|scarf headphones",
    "object": """
        ball frisbee|disc stick|branch|pole rope|leash|hose guitar|cello|violin piano drum book
        phone|cellphone camera umbrella flag|banner bag|backpack|purse|suitcase
        bottle|jar|cup|mug|vase bucket|basket|box tray|plate|bowl balloon|bubble kite
        chair|bench|couch|sofa|seat table|desk bed lamp|candle clock|hourglass mirror|window
        door|gate fence|wall|railing sword|knife|staff gun|rifle printer|computer|laptop skull|bone
        brain|heart necklace|pendant|jewelry|ring statue|sculpture tent|hut ladder|ramp|slide|stairs
        toy|doll microphone sponge
    """,
    "sport": """
        football|soccer basketball baseball|softball|cricket volleyball tennis hockey|rugby
        golf|lacrosse boxing|karate
    """,
    "doing": """
        running|racing|jogging|sprinting jumping|leaping|hopping sitting|seated|kneeling standing
        sleeping|lying|laying|resting swimming|diving|wading walking|strolling climbing|hiking
        riding|biking|cycling dancing|tapdancing eating|drinking|chewing fighting|wrestling
        reading|writing singing|talking|speaking|howling flying|floating crawling throwing|kicking
        hugging|kissing falling|slipping|tripping skateboarding|skating
        surfing|snowboarding|skiing|sledding digging
    """,
    "does": """
        runs|races jumps|leaps sits|kneels sleeps|lies|lays|rests swims|dives|wades
        walks|strolls climbs|hikes rides dances eats|drinks|chews fights|wrestles|punches
        reads|writes sings|talks flies|floats crawls throws|kicks hugs|kisses falls digs
    """,
}  # fmt: skip

# Names in which a word of the classes has another meaning.
_NAMES = re.compile(
    r"\b(?:hot dogs?|teddy bears?|gummy bears?|pink panther|walter white|white walker|storm troopers?"
    r"|power rangers|rock bands?|mickey mouse|king kong|breaking bad|pine marten"
    r"|australian shepherd|german shepherd|ice cream|cotton candy|die cut|french toast)\b"
)
_IRREGULAR = {
    "man": "men", "woman": "women", "gentleman": "gentlemen", "policeman": "policemen", "fireman": "firemen",
    "child": "children", "person": "people", "wolf": "wolves", "werewolf": "werewolves", "elf": "elves",
    "goose": "geese", "mouse": "mice", "foot": "feet", "knife": "knives", "sheep": "sheep", "fish": "fish",
    "deer": "deer", "calf": "calves", "leaf": "leaves", "tooth": "teeth", "moose": "moose",
}  # fmt: skip
_SINGULAR = {plural: singular for singular, plural in _IRREGULAR.items()}
_NEVER_PLURAL = frozenset(
    {"sex", "color", "number", "material", "ground", "like ground", "worn below", "sport", "doing", "does"}
)


def _lookup() -> tuple[dict[str, tuple[str, str]], dict[str, tuple[str, ...]]]:
    """word -> (class, head word of its synonyms); class -> its head words."""
    words: dict[str, tuple[str, str]] = {}
    heads: dict[str, tuple[str, ...]] = {}
    for name, row in _CLASSES.items():
        entries = [entry.split("|") for entry in row.split()]
        heads[name] = tuple(entry[0] for entry in entries)
        for entry in entries:
            for word in entry:
                words.setdefault(word, (name, entry[0]))
    return words, heads


_WORDS, _HEADS = _lookup()


@dataclass(frozen=True)
class ExchangedPrompt:
    """A prompt with one word exchanged: in `prompt`, `replacement` takes the place of `original`."""

    prompt: str
    original: str
    replacement: str


@lru_cache(maxsize=65536)
def content_words(prompt: str) -> frozenset[str]:
    """What a prompt asks to see: its words in lower case and singular, without stop and style words.

    >>> sorted(content_words("Two dogs in the snow, close-up, anime style"))
    ['dog', 'snow', 'two']
    """
    words = re.findall(r"[a-z][a-z-]*[a-z]|[a-z]", _without_style(prompt))
    kept = (_singular(word.strip("-")) for word in words if word not in STOP_WORDS)
    return frozenset(word for word in kept if word not in STYLE_WORDS and word not in STOP_WORDS)


def unrelated_prompt(prompt: str, pool: Sequence[str], rng: np.random.Generator) -> str:
    """A random prompt of `pool` that shares no content word with `prompt`.

    Synonyms ("puppy", "dog") count as the same word. Raises ValueError if the pool has no such prompt.
    """
    asked = _meanings(prompt)
    for i in rng.permutation(len(pool)):
        other = _meanings(pool[i])
        if other and not other & asked:
            return pool[i]
    raise ValueError(f"none of the {len(pool)} prompts is unrelated to {prompt!r}: give more prompts")


def exchange_word(prompt: str, rng: np.random.Generator) -> ExchangedPrompt | None:
    """Replace one noun, color, number, material or action by another of its class.

    The replacement keeps the number and the capital letter, and never repeats a meaning of the prompt. Style
    phrases ("warm color") and names ("teddy bear") stay. Returns None if no word of the prompt is known.
    """
    places = _exchangeable(prompt)
    if not places:
        return None
    start, end = places[rng.integers(len(places))]
    original = prompt[start:end]
    replacement = _other_word(original, prompt, rng)
    before = _fit_article(prompt[:start], replacement)
    return ExchangedPrompt(before + replacement + prompt[end:], original, replacement)


def _exchangeable(prompt: str) -> list[tuple[int, int]]:
    """The places of the exchangeable words, as (start, end) in the prompt."""
    text = _NAMES.sub(lambda name: " " * len(name[0]), _without_style(prompt))
    found = re.finditer(r"(?<![\w-])[a-z]+(?![\w-]|'s)", text)
    return [match.span() for match in found if _others(match[0], prompt)]


def _others(word: str, prompt: str) -> list[str]:
    """The possible replacements of a lower-case word: its class without all that the prompt mentions."""
    kind, _ = _WORDS.get(word) or _WORDS.get(_singular(word)) or ("", "")
    said = _meanings(prompt)
    others = [other for other in _HEADS.get(kind, ()) if other not in said]
    if kind in _NEVER_PLURAL or (word in _WORDS and word not in _SINGULAR):
        return others
    return [_plural(other) for other in others]


def _other_word(original: str, prompt: str, rng: np.random.Generator) -> str:
    others = _others(original.lower(), prompt)
    other = others[rng.integers(len(others))]
    return other.capitalize() if original[0].isupper() else other


def _fit_article(before: str, word: str) -> str:
    """`before`, with its final "a" or "an" adapted to the following word."""
    article = "an" if word[0].lower() in "aeiou" and not word.lower().startswith("uni") else "a"
    return re.sub(r"\b([aA])n?(\s+)$", lambda m: (m[1] + article[1:]) + m[2], before)


def _without_style(prompt: str) -> str:
    """The prompt in lower case with its style phrases blanked; every character keeps its position."""
    # Not str.lower: it turns some characters into two, which would shift the positions.
    text = "".join(c.lower() if len(c.lower()) == 1 else c for c in prompt)
    return _STYLE.sub(lambda phrase: " " * len(phrase[0]), text)


_LONGEST_FIRST = sorted(STYLE_PHRASES, key=len, reverse=True)
_STYLE = re.compile(r"\b(?:" + "|".join(map(re.escape, _LONGEST_FIRST)) + r")\b")


def _meanings(prompt: str) -> frozenset[str]:
    return frozenset(_WORDS[word][1] if word in _WORDS else word for word in content_words(prompt))


def _singular(word: str) -> str:
    """Light stemming: only plural endings of English, so that different words rarely coincide."""
    if word in _SINGULAR:
        return _SINGULAR[word]
    if word in _WORDS or len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-2] if word.endswith(("sses", "shes", "ches", "xes", "toes")) else word[:-1]


def _plural(word: str) -> str:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith("s") and not word.endswith(("ss", "us")):
        return word
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "sh", "ch", "x", "tomato", "potato")) else "s")
