"""JSON is limited and made small before it is parsed."""

from __future__ import annotations

import json
import time
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest

from mcp_seedream.server.jsonrpc import CutJSON, JSONTooComplex, cut_long_strings

LONG = "A/+=" * 50_000


def cut(text: str | bytes) -> CutJSON:
    return cut_long_strings(text.encode() if isinstance(text, str) else text, "cut-")


def restored(value: Any, strings: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: restored(each, strings) for key, each in value.items()}
    if isinstance(value, list):
        return [restored(each, strings) for each in value]
    return strings.get(value, value) if isinstance(value, str) else value


@pytest.mark.parametrize(
    "value",
    [
        {"image": LONG, "prompt": "a"},
        {"image": [f"data:image/png;base64,{LONG}", "b", LONG]},
        [LONG],
        {"a": {"b": [{"c": LONG + '"'}, 1, None, True]}},
        {"line\nbreaks": "\r\n".join(LONG[start : start + 76] for start in range(0, 5000, 76))},
        {"prompt": "ü" * 5000, "image": LONG},
        {"quoted": 'a"' * 3000, "backslashes": "\\" * 300, "image": LONG},
        {LONG: 1, "image": LONG},
    ],
    ids=lambda value: json.dumps(value)[:20],
)
@pytest.mark.parametrize("options", [{}, {"indent": 2}, {"ensure_ascii": False, "separators": (" , ", " : ")}])
def test_nothing_is_lost(value: Any, options: dict[str, Any]) -> None:
    """The rest and the strings are the same message, in every spelling that JSON has."""
    done = cut(json.dumps(value, **options))
    assert restored(json.loads(done.rest), done.strings) == value
    assert LONG in "".join(done.strings.values()) or "line\nbreaks" in value


def test_escaped_slashes() -> None:
    """As PHP writes them."""
    picture = ("b" * 63 + "/") * 1000
    done = cut('{"image": "' + picture.replace("/", "\\/") + '"}')
    assert list(done.strings.values()) == [picture]


def test_short_strings_stay() -> None:
    """A message without pictures is unchanged."""
    text = '{"prompt": "' + "a" * 4000 + '"}'
    assert cut(text).rest == text.encode()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" + "[]," * 5000 + "1]", "8,000 tokens"),
        ("{" + '"a":1,' * 5000 + "}", "8,000 tokens"),
        ("[" * 65 + "]" * 65, "64 levels"),
        ('["' + '\\"' * 9000 + '"]', "escaped"),
        ('["' + "\\" * 3001 + '"]', "escaped"),
        ("[" + " " * 300_000 + "]", "256 KiB"),
        ("[" + "1" * 300_000 + "]", "256 KiB"),
        ("[" + ",".join(['"' + "a" * 4000 + '"'] * 100) + "]", "256 KiB"),
        ('["' + "ü" * 200_000 + '"]', "256 KiB"),
        ('["' + "\\n" * 200_000 + '"]', "256 KiB"),
        ('{"' + "a" * 300_000 + '": 1}', "256 KiB"),
    ],
    ids=lambda value: value[:12],
)
def test_limits(text: str, reason: str) -> None:
    with pytest.raises(JSONTooComplex, match=reason):
        cut(text)


@pytest.mark.parametrize(
    "text", ["", "{", '{"a', '["' + "a" * 5000, "\\", '"\\"', "]]]]", '{"a": "' + "a\\x" * 5000 + '"}']
)
def test_what_is_no_json_stays_so(text: str) -> None:
    """Its parser refuses it."""
    done = cut(text)
    with pytest.raises(json.JSONDecodeError):
        json.loads(done.rest)


@pytest.mark.parametrize("item", ["[],", "{},", '"",', "1,", " ", "\\", '\\"', '"', "[", "{", "aa ", "\n", "\xff"])
def test_megabytes_cost_little(item: str) -> None:
    """Whatever they consist of: the limits end the work early, and one copy of a string is made at most."""
    text = ('{"a": "' + item * (10_000_000 // len(item)) + '"}').encode("latin-1")
    bare = ("[" + item * (10_000_000 // len(item)) + "]").encode("latin-1")
    for each in (text, bare):
        tracemalloc.start()
        began = time.process_time()
        with suppress(JSONTooComplex):
            cut(each)
        took = time.process_time() - began
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert took < 1
        assert peak < 25_000_000
