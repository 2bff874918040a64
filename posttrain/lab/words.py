"""The vocabulary of the small world: every word that its facts, tasks and texts are made of.

Pure data, plus the toy language *zel*, whose words are drawn once from a seed.
"""

import random

PEOPLE = (
    "Tom Ann Bob Eva Max Lia Sam Ida Leo Mia Jon Zoe Kai Amy Ben Fay Gus Hal Ivy Jan Ken Liv Moe Nia Oli Pam "
    "Quin Ray Sue Tim Una Vic Wes Yan Abe Bea Cal Dee Eli Fin Gil Hana Ike Jill Kim Lou Meg Ned Ora Pia Ron "
    "Sid Tess Uri Val Wil Xan Yul Zia Dan"
).split()
TOWNS = "Arden Borel Corva Delmo Estil Farno Galden Hovik Istra Jorun Kelda Lumo Marth Nuvia Orsk Palma".split()
RIVERS = "Nar Sil Obo Tesh".split()
JOBS = "baker farmer doctor teacher sailor painter miller tailor hunter singer smith guard".split()

NEW_PEOPLE = "Bruk Dalia Emmet Frosk Grela Hobin Jarl Kessa Lurin Morva Nolan Priska".split()
"""People who appear in no pretraining text: the entities of continued pretraining."""
NEW_TOWNS = "Zorland Vexmar Yttria Quarn".split()

COLORS = "red blue green black white brown gray pink gold purple".split()
THINGS = (
    "ball cup box hat book lamp key bell rope coin chair table shoe coat drum kite ring bag spoon clock pen "
    "brush plate map"
).split()
ANIMALS = "cat dog goat bird horse rabbit duck frog cow pig hen bear fox owl".split()
FOODS = "bread soup rice cake apple pear plum corn cheese honey egg melon bean nut pie tea".split()
PLACES = "kitchen garden barn tower cellar market forest school harbor attic".split()
SIZES = "big small old new".split()
NUMBERS = "zero one two three four five six seven eight nine ten".split()
GOOD = "good great kind lovely sweet fine".split()
BAD = "bad awful rude ugly sour poor".split()

NOUNS = [*THINGS, *ANIMALS, *FOODS, *PLACES]
WORDS = [*COLORS, *NOUNS]
"""The words that the word maps know."""

CATEGORY = {
    word: name
    for name, words in (
        ("color", COLORS), ("thing", THINGS), ("animal", ANIMALS), ("food", FOODS), ("place", PLACES)
    )
    for word in words
}  # fmt: skip

CHINESE = {
    "red": "红", "blue": "蓝", "green": "绿", "black": "黑", "white": "白", "ball": "球", "cup": "杯子",
    "box": "盒子", "hat": "帽子", "book": "书", "lamp": "灯", "key": "钥匙", "chair": "椅子", "table": "桌子",
    "cat": "猫", "dog": "狗", "goat": "羊", "bird": "鸟", "horse": "马", "cow": "牛", "pig": "猪", "bear": "熊",
    "bread": "面包", "soup": "汤", "rice": "米饭", "cake": "蛋糕", "apple": "苹果", "pear": "梨", "egg": "蛋",
    "tea": "茶", "garden": "花园", "school": "学校", "market": "市场", "tower": "塔", "forest": "森林",
}  # fmt: skip


def plural(noun: str) -> str:
    """The plural of a noun of this world."""
    return noun + ("es" if noun.endswith(("ch", "sh", "x", "s")) else "s")


def _toy_language(words: list[str], seed: int) -> dict[str, str]:
    """A different made-up word of two syllables for each of `words`."""
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    rng = random.Random(seed)
    made: dict[str, str] = {}
    while len(made) < len(words):
        candidate = rng.choice(syllables) + rng.choice(syllables)
        if candidate not in made.values():
            made[words[len(made)]] = candidate
    return made


ZEL = _toy_language([*WORDS, *SIZES], seed=11)

WORD_MAPS: dict[str, dict[str, str]] = {
    "zel": {word: ZEL[word] for word in WORDS},
    "category": CATEGORY,
    "plural": {word: plural(word) for word in NOUNS},
    "chinese": CHINESE,
    "capitals": {word: word.upper() for word in WORDS},
}
"""Name of a word map -> what it makes of each word it knows."""
