"""A judge behind an address: what is sent, what is tried again, what ends the run, and that its key stays with it."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from posttrain.models.endpoint import Calling, Endpoint, Reply
from posttrain.models.judge import Judging, load_judge
from posttrain.schema.errors import MachineError, UsageError

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
def calling(server: Server, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> Calling:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    settings = Endpoint(url=server.url, model="wise", api_key_env="JUDGE_KEY", retries=3, timeout=5, at_once=3)
    return Calling(settings, 20, waits.append)


def test_questions_and_replies_keep_their_order(server: Server, calling: Calling) -> None:
    server.answers = [saying("to QUESTION")]
    assert calling([f"q{n}" for n in range(9)]) == [Reply(f"to q{n}") for n in range(9)]
    path, headers, body = server.asked[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == f"Bearer {KEY}"
    assert body == {"model": "wise", "messages": body["messages"], "temperature": 0, "max_tokens": 20}
    assert calling([]) == []


def test_what_may_pass_is_tried_again(server: Server, calling: Calling, waits: list[float]) -> None:
    server.answers = [
        (503, {}, b""),
        (429, {"Retry-After": "7"}, b""),
        (500, {"Retry-After": "soon"}, b""),
        saying("yes"),
    ]
    assert calling(["q"]) == [Reply("yes")]
    assert waits == [1.0, 7.0, 4.0]


def test_a_server_that_stays_busy_ends_the_run(server: Server, calling: Calling, waits: list[float]) -> None:
    server.answers = [(429, {"Retry-After": "100000"}, KEY.encode())]
    with pytest.raises(MachineError, match=r"did not answer in 4 tries .*429.*run this again later") as error:
        calling(["q"])
    assert waits == [60.0] * 3 and KEY not in str(error.value)


def test_a_server_that_is_not_there(calling: Calling, waits: list[float]) -> None:
    nobody = Calling(Endpoint(url="http://127.0.0.1:1/v1", model="m", retries=1), 5, waits.append)
    with pytest.raises(MachineError, match="did not answer in 2 tries"):
        nobody(["q"] * 50)
    assert len(waits) < 50  # the others are not waited for


@pytest.mark.parametrize("code", [400, 413, 422])
def test_a_question_that_is_refused_has_no_reply(server: Server, calling: Calling, code: int) -> None:
    server.answers = [(code, {}, b"too long"), saying("yes")]
    assert sorted(calling(["a"]) + calling(["b"]), key=str) == [Reply("yes"), Reply(None, "refused")]


@pytest.mark.parametrize("code", [401, 403, 404, 301, 307])
def test_a_wrong_address_ends_the_run_and_keeps_the_key(server: Server, calling: Calling, code: int) -> None:
    server.answers = [(code, {"Location": f"{server.url}/elsewhere"}, f"no such key: {KEY}".encode())]
    with pytest.raises(UsageError, match=rf"answered {code} .*no such key: ….*Correct its `url`") as error:
        calling(["q"])
    assert KEY not in str(error.value) and len(server.asked) == 1


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"choices": []}', b'{"choices": [{"message": {"content": null}}]}', b"[" * 10**5]
)
def test_a_reply_that_is_none(server: Server, calling: Calling, body: bytes) -> None:
    server.answers = [(200, {}, body)]
    assert calling(["q"]) == [Reply(None, "unreadable")]


def test_a_reply_without_end_is_not_read(server: Server, calling: Calling) -> None:
    server.answers = [saying("x" * (2 << 20))]
    assert calling(["q"]) == [Reply(None, "unreadable")]


def test_the_key_stands_nowhere(calling: Calling, monkeypatch: pytest.MonkeyPatch) -> None:
    assert KEY not in repr(calling) and KEY not in calling.endpoint.model_dump_json()
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(UsageError, match=r"'JUDGE_KEY' is not set.*leave out `api_key_env`"):
        Calling(calling.endpoint, 5)


def test_without_a_key_none_is_sent(server: Server) -> None:
    server.answers = [saying("yes")]
    assert Calling(Endpoint(url=server.url, model="m"), 5)(["q"]) == [Reply("yes")]
    assert "Authorization" not in server.asked[0][1]


def test_a_judge_behind_an_address(server: Server) -> None:
    server.answers = [saying("QUESTION\nI do not know.")]
    judge = load_judge(Judging(endpoint=Endpoint(url=server.url, model="m")), None)
    assert judge.compare("q", "one", "two") is None and judge.counts == {"asked": 2, "unparsed": 2}
    assert "> one" in server.asked[0][2]["messages"][0]["content"]
