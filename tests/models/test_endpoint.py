"""A model behind an address: what is sent, what is tried again, what ends the run, and that its key stays with it."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from posttrain.models.endpoint import Endpoint, Remote, Reply
from posttrain.models.judge import Judging, load_judge
from posttrain.models.sampler import Sampling
from posttrain.schema.errors import MachineError, UsageError
from posttrain.schema.rows import Message

KEY = "sk-very-secret"
Answer = tuple[int, dict[str, str], bytes]


class Server(ThreadingHTTPServer):
    """Answers as it is told to, one after the other, the last for ever, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Answer] = []
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append((self.path, dict(self.headers), body))
            code, headers, said = self.server.answers[0]
            if len(self.server.answers) > 1:
                self.server.answers.pop(0)
        said = said.replace(b"QUESTION", json.dumps(body["messages"][0]["content"])[1:-1].encode())
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(said))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(said)

    do_GET = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


def saying(text: Any) -> Answer:
    return 200, {}, json.dumps({"choices": [{"message": {"content": text}}]}).encode()


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def remote(server: Server, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> Remote:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    settings = Endpoint(url=server.url, model="wise", api_key_env="JUDGE_KEY", retries=3, timeout=5, at_once=3)
    return Remote(settings, Sampling(max_new_tokens=20), sleep=waits.append)


def replies(remote: Remote, *questions: str) -> list[Reply]:
    return remote.replies([(Message("user", question),) for question in questions])


def test_questions_and_replies_keep_their_order(server: Server, remote: Remote) -> None:
    server.answers = [saying("to QUESTION")]
    assert replies(remote, *(f"q{n}" for n in range(9))) == [Reply(f"to q{n}") for n in range(9)]
    path, headers, body = server.asked[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == f"Bearer {KEY}"
    assert body == {"model": "wise", "messages": body["messages"], "temperature": 0, "max_tokens": 20}
    assert remote.replies([]) == []


def test_what_may_pass_is_tried_again(server: Server, remote: Remote, waits: list[float]) -> None:
    server.answers = [
        (503, {}, b""),
        (429, {"Retry-After": "7"}, b""),
        (500, {"Retry-After": "soon"}, b""),
        saying("yes"),
    ]
    assert replies(remote, "q") == [Reply("yes")]
    assert waits == [1.0, 7.0, 4.0]


def test_a_server_that_stays_busy_ends_the_run(server: Server, remote: Remote, waits: list[float]) -> None:
    server.answers = [(429, {"Retry-After": "100000"}, KEY.encode())]
    with pytest.raises(MachineError, match=r"did not answer in 4 tries .*429.*run this again later") as error:
        replies(remote, "q")
    assert waits == [60.0] * 3 and KEY not in str(error.value)


def test_a_server_that_is_not_there(remote: Remote, waits: list[float]) -> None:
    nobody = Remote(Endpoint(url="http://127.0.0.1:1/v1", model="m", retries=1), sleep=waits.append)
    with pytest.raises(MachineError, match="did not answer in 2 tries"):
        replies(nobody, *["q"] * 50)
    assert len(waits) < 50  # the others are not waited for


@pytest.mark.parametrize("code", [400, 413, 422])
def test_a_question_that_is_refused_has_no_reply(server: Server, remote: Remote, code: int) -> None:
    server.answers = [(code, {}, b"too long"), saying("yes")]
    assert sorted(replies(remote, "a") + replies(remote, "b"), key=str) == [Reply("yes"), Reply(None, "refused")]


@pytest.mark.parametrize("code", [401, 403, 404, 301, 307])
def test_a_wrong_address_ends_the_run_and_keeps_the_key(server: Server, remote: Remote, code: int) -> None:
    server.answers = [(code, {"Location": f"{server.url}/elsewhere"}, f"no such key: {KEY}".encode())]
    with pytest.raises(UsageError, match=rf"answered {code} .*no such key: ….*Correct its `url`") as error:
        replies(remote, "q")
    assert KEY not in str(error.value) and len(server.asked) == 1


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"choices": []}', b'{"choices": [1]}', b'{"choices": "x"}', b"[" * 10**5,
                                  b'{"choices": [{"message": 1}]}', b'{"choices": [{"message": {"content": null}}]}'])  # fmt: skip
def test_a_reply_that_is_none(server: Server, remote: Remote, body: bytes) -> None:
    server.answers = [(200, {}, body)]
    assert replies(remote, "q") == [Reply(None, "unreadable")]


def test_a_reply_without_end_is_not_read(server: Server, remote: Remote) -> None:
    server.answers = [saying("x" * (2 << 20))]
    assert replies(remote, "q") == [Reply(None, "unreadable")]


@pytest.mark.parametrize("half", [b"\\ud83d", b"\xed\xa0\xbd", b"\xf0\x9f"])
def test_half_a_character_becomes_one_that_files_can_hold(server: Server, remote: Remote, half: bytes) -> None:
    """However a server writes it; whole ones stay."""
    server.answers = [saying("well HALF \N{GRINNING FACE} said")]
    code, headers, body = server.answers[0]
    server.answers = [(code, headers, body.replace(b"HALF", half))]
    (said,) = replies(remote, "q")
    assert said.text is not None and said.text.encode("utf-8")
    assert (
        said.text.startswith("well ")
        and said.text.endswith(" \N{GRINNING FACE} said")
        and half.decode("latin-1") not in said.text
    )


def test_how_it_draws_and_whether_it_was_cut_off(server: Server) -> None:
    choice = {"message": {"content": "well"}, "finish_reason": "length"}
    server.answers = [(200, {}, json.dumps({"choices": [choice], "usage": {"completion_tokens": 7}}).encode())]
    drawing = Sampling(max_new_tokens=7, temperature=0.5, top_p=0.9)
    assert replies(Remote(Endpoint(url=server.url, model="m"), drawing), "q") == [Reply("well", "", 7, finished=False)]
    told = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 7}
    assert {name: server.asked[0][2].get(name) for name in told} == told


def test_who_watches_may_stop_it(server: Server, remote: Remote) -> None:
    """And hears of every reply."""

    def watch(done: int) -> None:
        seen.append(done)
        if done == 2:
            raise KeyboardInterrupt

    seen: list[int] = []
    server.answers = [saying("yes")]
    remote.watch = watch
    with pytest.raises(KeyboardInterrupt):
        replies(remote, *"abcdefghijklmnopqrstuvwxyz" * 20)
    assert seen == [1, 2] and len(server.asked) < 500  # those that were still waiting are not asked


def test_the_key_stands_nowhere(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    assert KEY not in repr(remote) and KEY not in remote.endpoint.model_dump_json()
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(UsageError, match=r"'JUDGE_KEY' is not set.*leave out `api_key_env`"):
        Remote(remote.endpoint)


def test_without_a_key_none_is_sent(server: Server) -> None:
    server.answers = [saying("yes")]
    assert replies(Remote(Endpoint(url=server.url, model="m")), "q") == [Reply("yes")]
    assert "Authorization" not in server.asked[0][1]


def test_a_judge_behind_an_address(server: Server) -> None:
    server.answers = [saying("QUESTION\nI do not know.")]
    judge = load_judge(Judging(endpoint=Endpoint(url=server.url, model="m")), None)
    assert judge.compare("q", "one", "two") is None and judge.counts == {"asked": 2, "unparsed": 2}
    assert "> one" in server.asked[0][2]["messages"][0]["content"]
