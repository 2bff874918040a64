"""Persona: the request is put to whom the model plays."""

from tests.besieged import check_forms


def test_every_role_is_asked_for_the_whole_request():
    check_forms("persona")
