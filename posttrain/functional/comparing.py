"""How somebody is asked which of two answers is the better one, to reply with a letter (Bai et al. 2022, arXiv 2212.08073).

The words are chosen so that a reply is one token for most tokenizers: (A) and (B) name the answers, A or B is said.
"""

from .quoting import quoted

ENDS = ("A", "B")
"""The letters that are replied, for the first and the second answer."""
FRAMES = {
    "en": ("the question:", "answer (A):", "answer (B):", "reply with one letter: A or B."),
    "zh": ("问题：", "回答(A)：", "回答(B)：", "请只回复一个字母：A 或 B。"),
}
"""Language -> what stands before each part, and what is asked at the end."""
REASON = {
    "en": ("think step by step: say in a few sentences what speaks for each answer.", "so which one?"),
    "zh": ("请一步一步思考：用几句话说明每个回答的优劣。", "那么是哪一个？"),
}
"""Language -> what asks for reasons in place of a letter, and what asks for the letter after them."""


def comparison(
    asked: str,
    question: str,
    a: str,
    b: str,
    language: str = "en",
    reason: bool = False,
    longest: int | None = None,
) -> str:
    """What is asked of two answers, to be told by a letter or by reasons. Question and answers are quoted, each
    cut to so many characters where that is said.

    >>> print(comparison("which is kinder?", "hi", "go", "hello"))
    which is kinder?
    the question:
    > hi
    answer (A):
    > go
    answer (B):
    > hello
    reply with one letter: A or B.
    """
    question_is, a_is, b_is, reply = FRAMES.get(language, FRAMES["en"])
    if reason:
        reply = REASON.get(language, REASON["en"])[0]
    shown, first, second = (quoted(text, longest) for text in (question, a, b))
    return "\n".join((asked, question_is, shown, a_is, first, b_is, second, reply))


def verdict_after_reasons(language: str = "en") -> str:
    """What asks for the letter once reasons were given."""
    return f"{REASON.get(language, REASON['en'])[1]} {FRAMES.get(language, FRAMES['en'])[3]}"
