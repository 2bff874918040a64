"""A model behind an OpenAI-compatible address: a conversation in, one reply out.

    POST {url}/chat/completions    {"model": …, "messages": [{"role": "user", "content": …}], "temperature": 0, …}

What may pass (too many requests, a busy or a silent server) is tried again after 1, 2, 4 … seconds; a question that the
server refuses has no reply; anything else ends the run. The key is read from the environment when it is needed, goes to
this address alone, and stands in no message, no record and no artifact.
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPMessage
from typing import IO, Annotated, Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from pydantic import Field, field_validator

from posttrain.schema.errors import MachineError, UsageError
from posttrain.schema.rows import Messages
from posttrain.schema.settings import Cosmetic, Settings

from .sampler import Sampling

PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""Answers of a server that may be others a little later."""
NOT_THIS_ONE = frozenset({400, 413, 422})
"""Answers that are about this one question: it is too long, or not to be spoken of."""
LONGEST_WAIT = 60.0  # seconds
MOST_READ = 1 << 20  # bytes of a reply


class Reply(NamedTuple):
    """What a model said, in how many tokens, and whether it came to its end; None, and `why`, where there is nothing to read.
    `logprobs` is what a server that was asked for them tells of its tokens, as it came."""

    text: str | None
    why: str = ""
    n_tokens: int = 0
    finished: bool = True
    logprobs: Any = None


class Endpoint(Settings):
    """A model behind an OpenAI-compatible address."""

    url: str
    """The address up to what stands before `/chat/completions`, such as `http://localhost:8000/v1`."""
    model: str
    """What the server calls the model."""
    api_key_env: str | None = None
    """The environment variable that holds the key, where one is needed."""
    timeout: Annotated[float, Cosmetic] = Field(120.0, gt=0)
    """Seconds to wait for one reply."""
    retries: Annotated[int, Cosmetic] = Field(5, ge=0)
    """How often a question is asked again when the server is busy or silent."""
    at_once: Annotated[int, Cosmetic] = Field(4, ge=1)
    """Questions on their way at the same time."""

    @field_validator("url")
    @classmethod
    def _web_address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("write it as `http://HOST/v1` or `https://HOST/v1`")
        if parts.username or parts.password or parts.query:
            raise ValueError("an address is recorded: name the variable that holds the key in `api_key_env`")
        return url.rstrip("/")


class _Stay(HTTPRedirectHandler):
    """Follows no redirection: the key would go along."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


@dataclass
class Remote:
    """Speaks for the model of an endpoint, which draws by itself and counts its own tokens; `who` names it in errors, `more`
    is asked for beside the usual, and `watch` hears how many replies there are. Raises UsageError where the key is not set."""

    endpoint: Endpoint
    sampling: Sampling = field(default_factory=Sampling)
    who: str = "model"
    more: Mapping[str, Any] = field(default_factory=dict)
    watch: Callable[[int], None] = field(default=lambda done: None)
    sleep: Callable[[float], None] = time.sleep
    _key: str = field(default="", init=False, repr=False)

    def __post_init__(self) -> None:
        self._key = os.environ.get(self.endpoint.api_key_env or "", "").strip()
        if self.endpoint.api_key_env and not self._key:
            raise UsageError(
                f"The environment variable {self.endpoint.api_key_env!r} is not set, and the key of the {self.who} is to be read "
                f"from it. Set it, or leave out `api_key_env`."
            )
        self._opener = build_opener(_Stay)

    def replies(self, conversations: Sequence[Messages], numbers: Sequence[int] = ()) -> list[Reply]:
        """The reply to each conversation, in order. Raises MachineError when the server does not answer, UsageError when it
        does not want to."""
        found: list[Reply] = []
        pool = ThreadPoolExecutor(self.endpoint.at_once)
        try:
            for reply in pool.map(self._ask, conversations):
                found.append(reply)
                self.watch(len(found))
        finally:
            pool.shutdown(cancel_futures=True)
        return found

    def _ask(self, messages: Messages) -> Reply:
        failure: Exception | None = None
        for attempt in range(self.endpoint.retries + 1):
            try:
                return _read(self._post(messages))
            except HTTPError as error:
                with closing(error):
                    if error.code in NOT_THIS_ONE:
                        return Reply(None, "refused")
                    if error.code not in PASSING:
                        raise UsageError(self._said_no(error)) from None
                    failure, wait = error, _wait(error, attempt)
            except (OSError, HTTPException) as error:
                failure, wait = error, 2.0**attempt
            if attempt < self.endpoint.retries:
                self.sleep(min(wait, LONGEST_WAIT))
        raise MachineError(
            f"The {self.who} at {self.endpoint.url} did not answer in {self.endpoint.retries + 1} tries "
            f"({self._hidden(str(failure) or type(failure).__name__)}). Start its server, or run this again later."
        )

    def _post(self, messages: Messages) -> bytes:
        sampling = self.sampling
        asked = {
            "model": self.endpoint.model,
            "messages": [message.as_dict() for message in messages],
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_new_tokens,
            **({"top_p": sampling.top_p} if sampling.top_p < 1 else {}),
            **self.more,
        }
        request = Request(f"{self.endpoint.url}/chat/completions", json.dumps(asked).encode(), method="POST")
        request.add_header("Content-Type", "application/json")
        if self._key:
            request.add_unredirected_header("Authorization", f"Bearer {self._key}")
        with self._opener.open(request, timeout=self.endpoint.timeout) as response:
            found: bytes = response.read(MOST_READ)
        return found

    def _said_no(self, error: HTTPError) -> str:
        said = " ".join(error.read(300).decode(errors="replace").split())
        return (
            f"The {self.who} at {self.endpoint.url} answered {error.code} {error.reason}: {self._hidden(said) or 'nothing more'}. "
            "Correct its `url`, `model` or `api_key_env`."
        )

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, "…") if self._key else text


def _read(body: bytes) -> Reply:
    """What a completion says; halves of characters, which no file and no tokenizer takes, are signs in their place."""
    try:
        made: Any = json.loads(body.decode("utf-8-sig", "replace"))
        choice: Any = made["choices"][0]
    except (ValueError, LookupError, TypeError, RecursionError):
        return Reply(None, "unreadable")
    choice = choice if isinstance(choice, dict) else {}
    message, logprobs = choice.get("message"), choice.get("logprobs")
    text = message.get("content") if isinstance(message, dict) else None
    if not isinstance(text, str):
        return Reply(None, "unreadable", logprobs=logprobs)
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return Reply(whole, "", _counted(made), choice.get("finish_reason") != "length", logprobs)


def _counted(made: Any) -> int:
    """How many tokens the server says that it wrote; 0 where it does not say."""
    usage = made.get("usage")
    n = usage.get("completion_tokens") if isinstance(usage, dict) else 0
    return n if type(n) is int and n >= 0 else 0


def _wait(error: HTTPError, attempt: int) -> float:
    """Seconds until the next try: what the server asks for, else twice as long as before."""
    asked = error.headers.get("Retry-After", "") if error.headers else ""
    return float(asked) if asked.isascii() and asked.isdigit() else 2.0**attempt
