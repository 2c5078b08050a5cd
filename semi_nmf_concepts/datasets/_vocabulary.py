"""What the bundled scenes can contain, and the words that name each thing.

One place for the factors of variation: the renderer draws them, the caption grammar names them, and
the evaluation asks whether a concept's words name the factor value that its activation detects.
"""

from __future__ import annotations

# object -> variant -> (sprite, noun that names this variant only)
OBJECTS: dict[str, dict[str, tuple[str, str]]] = {
    "dog": {
        "face": ("dog-face", "puppy"),
        "standing": ("dog-standing", "hound"),
        "poodle": ("dog-poodle", "poodle"),
    },
    "cat": {"face": ("cat-face", "kitten"), "standing": ("cat-standing", "tomcat")},
    "bus": {"side": ("bus-side", "coach"), "front": ("bus-front", "shuttle")},
    "train": {
        "steam": ("train-steam", "locomotive"),
        "fast": ("train-fast", "express"),
        "tram": ("train-tram", "tram"),
    },
    "car": {
        "side": ("car-side", "sedan"),
        "suv": ("car-suv", "jeep"),
        "racing": ("car-racing", "racer"),
    },
    "cake": {
        "birthday": ("cake-birthday", "dessert"),
        "cupcake": ("cake-cupcake", "cupcake"),
        "slice": ("cake-slice", "pastry"),
    },
    "bear": {"face": ("bear-face", "cub"), "teddy": ("bear-teddy", "teddy")},
    "baby": {"face": ("baby-face", "infant"), "angel": ("baby-angel", "angel")},
    "horse": {"running": ("horse-running", "stallion"), "face": ("horse-face", "pony")},
    "boat": {
        "sail": ("boat-sail", "sailboat"),
        "speed": ("boat-speed", "speedboat"),
        "ship": ("boat-ship", "ship"),
    },
}

PLURALS = {
    "bus": "buses",
    "baby": "babies",
    "puppy": "puppies",
    "pony": "ponies",
    "teddy": "teddies",
    "pastry": "pastries",
    "coach": "coaches",
    "express": "expresses",
}

COLOURS = ("black", "white", "brown", "gray", "red", "yellow", "green", "blue")

# background -> (phrases after the noun, modifiers before the noun, openings of a caption)
BACKGROUNDS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "grass": (
        ("on the grass", "in a meadow"),
        ("meadow", "field"),
        ("a meadow", "a grassy field"),
    ),
    "snow": (
        ("in the snow", "on snowy ground"),
        ("snowy", "winter"),
        ("a snowy field", "a winter scene"),
    ),
    "beach": (
        ("on the beach", "on the sand"),
        ("beach", "seaside"),
        ("a beach", "a sandy beach"),
    ),
    "street": (
        ("on a city street", "on the road"),
        ("city", "street"),
        ("a city street", "a road"),
    ),
    "night": (
        ("at night", "under the moon"),
        ("night", "midnight"),
        ("a dark night", "a moonlit scene"),
    ),
    "room": (
        ("in a room", "on a wooden floor"),
        ("home", "indoor"),
        ("a room", "a wooden floor"),
    ),
}

COMPANIONS = ("none", "ball", "balloon", "tree", "flower", "umbrella", "house", "chair", "person")

COUNT_WORDS = {1: "a", 2: "two", 3: "three"}

# Words that name a factor value, for checking a concept's words against what its activation
# detects.
FACTOR_WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "object": {name: (name,) for name in OBJECTS},
    "variant": {
        f"{name}-{variant}": (noun,)
        for name, variants in OBJECTS.items()
        for variant, (_, noun) in variants.items()
    },
    "colour": {colour: (colour,) for colour in COLOURS},
    "background": {
        "grass": ("grass", "grassy", "meadow", "field"),
        "snow": ("snow", "snowy", "winter"),
        "beach": ("beach", "sand", "sandy", "seaside"),
        "street": ("city", "street", "road"),
        "night": ("night", "midnight", "moon", "moonlit", "dark"),
        "room": ("room", "home", "indoor", "wooden", "floor"),
    },
    "count": {
        "1": ("one", "single", "lone"),
        "2": ("two", "pair", "both"),
        "3": ("three", "trio", "group"),
    },
    "companion": {name: (name,) for name in COMPANIONS if name != "none"}
    | {"none": ("alone", "lone")},
}


def plural(noun: str) -> str:
    """Plural of a noun of the grammar."""
    return PLURALS.get(noun, noun + "s")
