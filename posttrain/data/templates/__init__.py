"""Chat layouts that ship, one Jinja file each, and templates from files of the user's.

A file may name the tokens that it writes and a vocabulary must have, in a comment of its own:

    {#- tokens: <|im_start|> <|im_end|> -#}

No layout writes a token that begins the sequence: that is put before it where the tokenizer does so itself.
"""

import re
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from posttrain.schema.errors import nearest

FOLDER = Path(__file__).parent
SUFFIX = ".jinja"
TOKENS = re.compile(r"\{#-?\s*tokens:(.*?)-?#\}", re.DOTALL)
CHATML, PLAIN = "chatml", "plain"


@cache
def shipped() -> dict[str, str]:
    """The layouts that ship: name -> template."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob(f"*{SUFFIX}"))}


def tokens_of(template: str) -> tuple[str, ...]:
    """The tokens that a template says a vocabulary must have."""
    return tuple(token for said in TOKENS.findall(template) for token in said.split())


def text_of(said: str) -> str:
    """The template that a recipe means: the name of one that ships, or the text of one."""
    return shipped().get(said, said)


def name_of(template: str | dict[str, str] | None) -> str:
    """What a template is called: its name if it ships, else that it is the user's own; `none` where there is none."""
    if not template:
        return "none"
    return next((name for name, text in shipped().items() if text_of(str(template)).endswith(text)), "of your own")


def _read(said: Any) -> Any:
    """A path becomes the text of its file, so that what is made depends on what the file says."""
    if not isinstance(said, str) or said in shipped() or "{%" in said or "{{" in said:
        return said
    path = Path(said).expanduser()
    if path.suffix != SUFFIX and not path.is_file():
        raise ValueError(f"there is no layout {said!r}. {nearest(said, shipped())} Or name a {SUFFIX} file")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{said} cannot be read ({error}). Name a {SUFFIX} file, or one of {', '.join(shipped())}"
        ) from error
    if "{%" not in text and "{{" not in text:
        raise ValueError(f"{said} is no Jinja template: it has neither {{% nor {{{{. Name a {SUFFIX} file")
    return text


ChatTemplate = Annotated[str, BeforeValidator(_read)]
"""A layout that ships, by name, or the path of a Jinja file, which stands as its text in settings."""
