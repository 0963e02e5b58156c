"""Messages as bytes: what is read, and what their senders are answered with."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp_types import INVALID_REQUEST, PARSE_ERROR, jsonrpc_message_adapter

from mcp_seedream.server.jsonrpc import is_response, parse

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | st.just("id"), inner, max_size=3),
    max_leaves=6,
)
IDS = st.integers(-(10**20), 10**20) | st.text("abc\u00e9 {[", max_size=9)


def answers(data: bytes) -> list[tuple[int, object]]:
    found = parse(data)
    assert isinstance(found, list)
    return [(error.error.code, error.id) for error in found]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"id":"a","x":{"id":5},', [(PARSE_ERROR, "a")]),
        (b'{"x":{"id":5},"y":[{"id":6', [(PARSE_ERROR, None)]),
        (b'{"x":"\\"id\\":5,","id" : -5 ,', [(PARSE_ERROR, -5)]),
        (b'{"jsonrpc":"2.0","id":7', [(PARSE_ERROR, None)]),  # there may be more digits
        (b'{"jsonrpc":"2.0","id":7.5,', [(PARSE_ERROR, None)]),
        (b'{"id":"a\\u00e9",', [(PARSE_ERROR, None)]),
        (b'{"a":"' + b'\\"' * 500_000, [(PARSE_ERROR, None)]),
        (b"[" * 500_000, [(PARSE_ERROR, None)]),
        (b"", [(PARSE_ERROR, None)]),
        (b'{"jsonrpc":"2.0","id":true,"method":"x"}', [(INVALID_REQUEST, None)]),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"x"}', [(INVALID_REQUEST, None)]),
        (b'{"jsonrpc":"1.0","id":1,"method":"x"}', [(INVALID_REQUEST, 1)]),
        (b"{}", [(INVALID_REQUEST, None)]),
        (
            b'[{"jsonrpc":"2.0","id":1,"method":"x"},{"method":"y"},5,{"id":"b","method":"z"}]',
            [(INVALID_REQUEST, 1), (INVALID_REQUEST, "b")],
        ),
        (b'[{"id":1,"result":{}}]', [(INVALID_REQUEST, None)]),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_a_broken_message_is_answered_with(data: bytes, expected: list[tuple[int, object]]) -> None:
    """The code, and the id of the message itself where that is sure; in no more than linear time."""
    assert answers(data) == expected


@given(data=st.binary(max_size=50) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_whatever_comes_is_read_or_answered(data: bytes) -> None:
    """Whatever is parsed, except responses, is the same message to the SDK."""
    found = parse(data)
    if isinstance(found, list):
        assert found
    elif not is_response(found):
        message = jsonrpc_message_adapter.validate_python(found, by_name=False)
        assert ("id" in found) == hasattr(message, "id")


@given(id_=IDS, params=st.dictionaries(st.text(max_size=6) | st.just("id"), VALUES, max_size=3), data=st.data())
def test_no_other_id_is_taken_for_the_messages_own(id_: object, params: dict[str, object], data: st.DataObject) -> None:
    """Wherever a line is cut off, and wherever its id stands in it."""
    members = data.draw(st.permutations([("jsonrpc", "2.0"), ("id", id_), ("method", "x"), ("params", params)]))
    whole = json.dumps(dict(members), ensure_ascii=data.draw(st.booleans())).encode()
    cut = data.draw(st.integers(0, len(whole) - 1))
    [(code, found)] = answers(whole[:cut])
    assert code == PARSE_ERROR
    assert found in (None, id_)
