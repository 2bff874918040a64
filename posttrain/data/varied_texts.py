"""Texts that two tokenizers are compared on: drawn from fragments in which programs are known to differ.

Scripts with and without spaces, digits in runs, contractions in both cases, runs of every kind of white space, control
characters, emoji of several code points, code, and the tokenizer's own special tokens written as text.
"""

import random
from collections.abc import Sequence

N_TEXTS = 240
FRAGMENTS = (
    *"the of Harbour weather café naïve Straße Zürich İstanbul smørrebrød CamelCaseWord SHOUTING iPhone mRNA x2 H2O".split(),
    *"don't DON'T we'll We'LL it's IT'S they've I'd you're O'Brien 'tis rock'n'roll d'accord l'été".split(),
    *"0 7 42 123 1234 12345 123456789 3.14159 1,000,000 1e-7 0xFF 2026-11-28 10:30 50% $9.99 ½ ² Ⅷ ٣٤٥".split(),
    *"东京 今天天气很好。 你好，世界！ 汉字1234汉字 ひらがな カタカナ 東京タワーは高い 한국어 안녕하세요 ภาษาไทย हिन्दी العربية עברית".split(),
    *"Привет ПРИВЕТ мир Ελλάδα ΆΛΦΑ Việt ქართული አማርኛ தமிழ் বাংলা".split(),
    *"🚀 👍🏽 👨‍👩‍👧‍👦 🇩🇪 ❤️ ☃ ♥ → ∑ ≤ € £ ¥ © ™ … — – « » „ “ ” ’ • §".split(),
    *"!!! ??! ... --- === *** ### ;; :: <= >= != && || ~~ `code` [x] {y} (z) <b> </b> \\n \\\\ @name #tag $HOME".split(),
    *"https://example.org/a?b=c&d=1 me@example.org /usr/bin/env C:\\Users a_b_c foo.bar() x**2 i++ !x".split(),
    "def f(x):\n    return x ** 2\n",
    "if (a < b) {\r\n\t\treturn;\r\n}",
    '{"a": [1, 2, null], "b": "c\\"d"}',
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "- one\n- two\n\n\n- three",
)
SPACES = (
    " ", "  ", "   ", "     ", "\t", "\t\t", " \t ", "\n", "\n\n", "\n\n\n", "\r\n", " \n", "\n ", "  \n  ", "\r", "\x0b", "\f",
    "\u00a0", "\u3000", "\u2003", "\u2028", "\x85", " \u00a0 ",
)  # fmt: skip
CONTROLS = ("\x01", "\x1b[0m", "\x7f", "\u200b", "\u200d", "\ufeff", "\u00ad", "\u202e", "\ufffd", "\ue000")
JOINTS = ("", "", " ", " ", " ", " ", ", ", ". ", "\n", "-", "'", "/", "_")


def varied_texts(special: Sequence[str] = (), n: int = N_TEXTS) -> list[str]:
    """`n` texts, the same at every call; in every sixth stand `special` tokens as text."""
    draw = random.Random(0)
    singles = [*FRAGMENTS[-5:], *SPACES, *(f"a{space}b" for space in SPACES), *(f"a{c}b" for c in CONTROLS)]
    return [*singles, *(_drawn(draw, special if i % 6 == 0 else ()) for i in range(n - len(singles)))]


def _drawn(draw: random.Random, special: Sequence[str]) -> str:
    text = ""
    for _ in range(draw.randint(2, 14)):
        kind = draw.random()
        if special and kind < 0.3:
            text += draw.choice(special)
        elif kind < 0.45:
            text += draw.choice(SPACES)
        elif kind < 0.48:
            text += draw.choice(CONTROLS)
        else:
            text += draw.choice(FRAGMENTS) + draw.choice(JOINTS)
    return text
