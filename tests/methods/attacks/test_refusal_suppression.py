"""Refusal suppression: the request stands under rules that leave no refusal."""

from tests.besieged import check_forms


def test_every_rule_stands_around_the_whole_request():
    check_forms("refusal_suppression")
