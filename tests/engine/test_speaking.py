"""The first look at rows: what it says goes on, and what it stops."""

from typing import Any

import pytest

from posttrain.data.chat import ChatFormat
from posttrain.engine.job import Job
from posttrain.engine.speaking import first_look
from posttrain.schema.errors import DataError
from posttrain.schema.rows import Conversation, Message, Row, Tokenised
from tests import tiny

GOOD = tuple(Conversation((Message("user", f"say {n}"), Message("assistant", "yes"))) for n in range(500))
ENDLESS = Tokenised((5, 6, 7), (False, True, False))


def look(tmp_path: Any, *rows: Row) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = []
    job = Job(tmp_path, tmp_path, emit=lambda kind, **fields: told.append({"kind": kind, **fields}))
    first_look(rows, ChatFormat(tiny.tokenizer()), 64, job)
    return told


def test_good_rows_are_passed_in_silence(tmp_path):
    assert look(tmp_path, *GOOD) == []


def test_what_is_wrong_is_an_alert_with_its_cure(tmp_path):
    (alert,) = look(tmp_path, *GOOD[:9], ENDLESS)
    assert (alert["kind"], alert["level"]) == ("alert", "warning")
    assert alert["title"].startswith("of a sample of the rows, the token that ends an answer is not learnt in 1 of 10")
    assert alert["cure"]


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ((ENDLESS,), "no answer is learnt with the token that ends it"),
        ((Tokenised((5, 6), (False, False)),), "nothing is learnt from any row"),
    ],
)
def test_a_meaningless_training_is_stopped(tmp_path, rows: tuple[Row, ...], why: str):
    with pytest.raises(DataError, match=why):
        look(tmp_path, *rows)
