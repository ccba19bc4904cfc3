"""Tokens of the gateway: who they are of, and what is no token."""

from __future__ import annotations

import pytest

from meshtasks.errors import ConfigError
from meshtasks.gateway.clients import Client, Tokens

SECRET = "s" * 30
OTHER = "t" * 30


def test_entries_stand_on_lines_or_between_commas() -> None:
    tokens = Tokens(f"n8n:publish+trigger:{SECRET}\n\n ops:operate:{OTHER},\n")

    assert tokens.client_of(SECRET) == Client("n8n", frozenset({"publish", "trigger"}))
    assert tokens.client_of(OTHER) == Client("ops", frozenset({"operate"}))


@pytest.mark.parametrize("token", ["", SECRET[:-1], f"{SECRET}s", "é"])
def test_a_token_that_is_nearly_right_is_nobodys(token: str) -> None:
    assert Tokens(f"n8n:publish:{SECRET}").client_of(token) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "at least one token"),
        (" \n", "at least one token"),
        (SECRET, "entry 1: expected n8n:publish+trigger:TOKEN"),
        (f"N8N:publish:{SECRET}", "entry 1: expected n8n:publish+trigger:TOKEN"),
        (f"n8n:publish,{SECRET}", "entry 1: "),
        (f"n8n::{SECRET}", "the scopes of n8n"),
        (f"n8n:publish+admin:{SECRET}", "the scopes of n8n"),
        ("n8n:publish:short", "the token of n8n should be 22 or more"),
        (f"a:publish:{SECRET} a:publish:{OTHER}", "entry 2: the name a"),
    ],
)
def test_what_is_no_token_is_named_and_never_quoted(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match="MESH_API_TOKENS") as caught:
        Tokens(text)

    assert said in str(caught.value)
    assert SECRET not in str(caught.value)
