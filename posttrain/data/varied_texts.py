"""Texts that two tokenizers are compared on: drawn from fragments in which programs are known to differ.

Scripts with and without spaces and mixed in one word, digits in short and long runs, contractions in both cases, runs of every kind
of white space, control characters, emoji of several code points, code, and the tokenizer's own special tokens written as text.
"""

import random
from collections.abc import Callable, Sequence

N_TEXTS = 560
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

CHINESE = (
    *"今天 天气 很好 我们 去 学校 模型 训练 了 的 是 在 不 人工智能 語言 學習 資料 為什麼 机器学习 北京 上海 二〇二六年".split(),
    *"。 ， ！ ？ 、 ； ： …… —— 《红楼梦》 “引号” 『二重』 （注） 【标题】 ～ ・ ２０２６ ＡＢＣ ａｂｃ １２３ ％ ￥".split(),
    *"GPT模型 第3章 2026年11月28日 3.5万元 A股 Wi-Fi密码 微信abc_123 𠮷野家 㐂 ㊗ ㍿ 々 〆 ー".split(),
)
EMOJI = (
    *"😀 😃😄 👩🏽‍💻 🧑‍🤝‍🧑 🏳️‍🌈 🏴‍☠️ 👁️‍🗨️ ❤️‍🔥 🫱🏻‍🫲🏿 👨‍👨‍👦‍👦 1️⃣ #️⃣ *️⃣ 🇨🇳 🇺🇸🇬🇧 🇫 ☕️ ©️ ™️ ☎︎ ♟️ 🙋🏾‍♀️ 🤷🏼‍♂️ 🐻‍❄️".split(),
    *("\u200d", "\ufe0f", "\U0001f3fd", "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "ok", "wow!"),
)
MIXED = (
    *"АBС Pусский helloмир東京 naïveté Ａlpha ǅ ŉ ﬁn ß ẞ ı ſ Ω Å ﷺ ১২৩ ๔๕ Ⅻ ⅻ ¼ ³ ℃ № ª º µ ͵ ʼ ʻokina".split(),
    *"नमस्ते क्षत्रिय สวัสดีครับ မြန်မာ ភាសាខ្មែរ བོད་ཡིག ᏣᎳᎩ Հայերեն ગુજરાતી ಕನ್ನಡ తెలుగు മലയാളം සිංහල ລາວ ܐܪܡܝܐ".split(),
    *"مَرْحَبًا ۱۲۳ שָׁלוֹם e\u0301 n\u0303o a\u0308\u0323 Z\u0351\u0352\u0353algo \u1112\u1161\u11ab 각 ｶﾞ ｱｲｳ 𝔘𝔫𝔦 𝒜 𐍈 𓀀 ꙮ".split(),
)
CODE = (
    "import os\nfrom typing import Any\n\n\nclass A(B):\n\tdef __init__(self, *args, **kw) -> None:\n\t\tself._x = args[0]  # why?\n",
    "for (let i = 0; i < n; i++) {\n  const y = `a ${x[i]?.z ?? 0}`;\n  f(() => y === x);\n}\n",
    'fn main() -> Result<(), Box<dyn Error>> {\n    println!("{:?}", x.iter().map(|v| v * 2).collect::<Vec<_>>());\n}\n',
    "SELECT a.*, COUNT(*) AS n FROM t a JOIN u ON a.id=u.id WHERE x LIKE '%y%' -- note\nGROUP BY 1;\n",
    '<div class="a b" id=\'c\'>&nbsp;&lt;x&gt;<!-- c --><br/></div>\n', "$\\sum_{i=1}^{n} x_i^2 \\leq \\frac{a}{b}$\n\n\\begin{align}\n",
    "@@ -1,4 +1,5 @@\n-old\n+new\n \n", "git commit -m \"x\" && cd ../.. | grep -E '^[a-z]+$' > /dev/null 2>&1\n",
    "#include <stdio.h>\r\n#define X(a) ((a)+1)\r\nint main(void){return !~0x7fUL;}\r\n", "a:\n  - b: [1, 'two']\n    c: {d: null}\n---\n",
    "x = [i for i in range(10) if i % 2]\n", "    ", "        ", "\t", "    \n", "{}", "()=>", "::", "//", "/* */", "\\d+\\.\\d*", "0b1010", "1_000",
)  # fmt: skip
SIGNS = (*"0123456789" * 5, "00", "000", "007", "999", ".", ",", "-", "_", ":", "٣", "１", "½")
WHITE = (
    *SPACES,
    *(" " * n for n in (4, 6, 7, 8, 9, 12, 16, 17, 32)),
    "\t" * 3,
    "\n" * 4,
    "\n\t",
    "\t\n",
    "\r\n\r\n",
    "\u2009",
    "\u1680",
    "\u205f",
)
UNSEEN = (
    *CONTROLS,
    *(chr(n) for n in range(2, 32) if chr(n) not in "\t\n\r\x0b\f"),
    "\x80",
    "\x9f",
    "\u200e",
    "\u2060",
    "\u2066",
    "\ufff9",
    "\U000f0000",
)


def varied_texts(special: Sequence[str] = (), n: int = N_TEXTS) -> list[str]:
    """`n` texts, the same at every call; in every sixth, and in some that hold little else, stand `special` tokens as text."""
    draw = random.Random(0)
    singles = [*FRAGMENTS[-5:], *SPACES, *(f"a{space}b" for space in SPACES), *(f"a{c}b" for c in CONTROLS)]
    found = dict.fromkeys([*singles, *CODE[:10]])
    i = 0
    while len(found) < n:
        i += 1
        found[KINDS[i // 2 % len(KINDS)](draw, special) if i % 2 else _drawn(draw, special if i % 12 == 0 else ())] = (
            None
        )
    return list(found)


def _drawn(draw: random.Random, special: Sequence[str]) -> str:
    """Anything beside anything."""
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


def _of(fragments: Sequence[str], joints: Sequence[str], most: int) -> Callable[[random.Random, Sequence[str]], str]:
    """Texts of one kind of fragments."""

    def drawn(draw: random.Random, special: Sequence[str]) -> str:
        return "".join(draw.choice(fragments) + draw.choice(joints) for _ in range(draw.randint(1, most)))

    return drawn


def _specials(draw: random.Random, special: Sequence[str]) -> str:
    """Special tokens, what is almost one, and little between them."""
    text = ""
    for _ in range(draw.randint(2, 9)):
        token = draw.choice(special) if special else draw.choice(FRAGMENTS)
        almost = draw.random() < 0.3
        text += (token[:-1] if almost else token) + draw.choice(("", "", " ", "\n", "  ", "a", "1", "。"))
    return text


KINDS = (
    _of(CHINESE, ("", "", "", " ", "\n"), 12),
    _of(EMOJI, ("", "", " "), 8),
    _of(MIXED, ("", " ", "-"), 8),
    _of(CODE, ("",), 5),
    _of(SIGNS, (*[""] * 30, " "), 40),
    _of((*WHITE, "a", "A", "1", "!", "中", "'s"), ("",), 12),
    _of((*UNSEEN, "a", " ", "1", "\n"), ("",), 10),
    _specials,
)
