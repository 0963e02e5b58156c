"""Settings edited in place: what was not touched is there to the byte, and the clients' own parser reads the rest."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_seedream.install.json_positions import parsed, value_at
from mcp_seedream.install.jsonc import updated, with_item, with_member, without_item, without_member
from tests.support.node import JSONC_PARSER, node, npm_install

PATH = ("mcpServers", "seedream")
ENTRY = {"command": "/opt/mcp-seedream", "args": ["--sandbox"], "env": {"NAME": 'Anne "Äpfel" \\ 雪'}}
READ = """
const { parse } = require("jsonc-parser");
const texts = JSON.parse(require("fs").readFileSync(0, "utf-8"));
console.log(JSON.stringify(texts.map(text => {
  const errors = [];
  const value = parse(text, errors, { allowTrailingComma: true });
  return { errors, value };
})));
"""

HAND_WRITTEN = [
    "",
    "\n",
    "{}",
    "{}\n",
    "{ }",
    "{\n}\n",
    '{"a":1}',
    '{"a":1,}',
    '{"a": [1, 2,], "b": {"c": {},},}\n',
    '{\n  "a": 1\n}\n',
    '{\n\t"a": 1,\n}',
    '{\r\n    "a": {"b": []}\r\n}\r\n',
    '{\n  "a": 1 // one, really\n}\n',
    '{\n  "a": 1, // one, really\n}\n',
    '{\n  "a": 1, /* one\n  and */ // a half\n}\n',
    '{\n  "a": 1\n  // "mcpServers": {}\n}\n',
    '// a // "b" /* c\n{\n  // nothing yet\n}\n/* the end */',
    '{"url": "https://a/*b*/c//d", "quote": "\\"// no comment\\\\"}',
    '{"mcpServers": {}}',
    '{"a":1,"mcpServers":{"x":{}},"b":[]}\n',
    '{\n "mcpServers": { /* later */ },\n "z": "//"\n}',
    '{\n  "mcpServers": {\n    "x": {"command": "y"}\n  },\n  "z": 0\n}',
    '{\n  "mcpServers": {\n    "x": {"command": "y"}, // the first\n    // the last\n  },\n}',
    '{\n  "mcpServers": {\n    "x": 1, "y": 2 },\n  "mcp": {} }',
    '{"mcpServers": {"x": 1}, "mcpServers": {"y": 2}}',
    '{\n  /* before */ "a": 1\n}',
]


@pytest.mark.parametrize("text", HAND_WRITTEN)
def test_a_member_is_added(text: str) -> None:
    """And nothing else is: the old text is still there, in order, with a comma more at most."""
    made = with_member(text, PATH, ENTRY)
    assert value_at(made, PATH) == ENTRY
    assert parsed(made) == with_entry(parsed(text))
    assert is_within(text.rstrip(), made)


@pytest.mark.parametrize("text", HAND_WRITTEN)
def test_a_member_is_taken_out(text: str) -> None:
    """What was made for it stays, and no more than that."""
    made = without_member(with_member(text, PATH, ENTRY), PATH)
    assert parsed(made) == {"mcpServers": {}, **(parsed(text) or {})}
    if isinstance(servers := (parsed(text) or {}).get("mcpServers"), dict) and servers:
        assert made == text
    assert without_member(made, PATH) == made


def test_the_parser_of_vscode_reads_the_same() -> None:
    """Every text by hand, before and after."""
    texts = [text for text in HAND_WRITTEN if parsed(text) is not None]
    texts += [with_member(text, PATH, ENTRY) for text in HAND_WRITTEN]
    texts += [without_member(with_member(text, PATH, ENTRY), PATH) for text in HAND_WRITTEN]
    assert read_by_vscode(texts) == [{"errors": [], "value": parsed(text)} for text in texts]


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ('{\n  "a": 1 // one\n}', '{\n  "a": 1, // one\n  "k": {\n    "x": 1\n  }\n}'),
        ('{\n\t"a": 1, // one\n}', '{\n\t"a": 1, // one\n\t"k": {\n\t\t"x": 1\n\t},\n}'),
        ('{\r\n    "a": 1\r\n}', '{\r\n    "a": 1,\r\n    "k": {\r\n        "x": 1\r\n    }\r\n}'),
        ('{"a": 1}\n', '{"a": 1, "k": {"x": 1}}\n'),
        ("{}", '{\n  "k": {\n    "x": 1\n  }\n}'),
        ('{\n  "k": null // none\n}', '{\n  "k": {\n    "x": 1\n  } // none\n}'),
        ('{"k": 0}', '{"k": {"x": 1}}'),
    ],
)
def test_the_manner_of_the_file_is_kept(text: str, made: str) -> None:
    """Indentation, tabs, line ends, trailing commas; a comment stays with what it is about."""
    assert with_member(text, ["k"], {"x": 1}) == made


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('{"k": 1}', "{}"),
        ('{"k": 1, "a": 2}', '{"a": 2}'),
        ('{"a": 2, "k": 1}', '{"a": 2}'),
        ('{"a": 2, "k": 1, "b": 3}', '{"a": 2, "b": 3}'),
        ('{\n  "k": 1,\n}', "{}"),
        ('{\n  // mine\n  "k": 1\n}', "{\n  // mine\n}"),
        ('{\n  "a": 2, // two\n  "k": 1\n}', '{\n  "a": 2 // two\n}'),
        ('{\n  "k": 1, // one\n  "a": 2\n}', '{\n  // one\n  "a": 2\n}'),
        ('{\r\n  "a": 2,\r\n  "k": 1\r\n}', '{\r\n  "a": 2\r\n}'),
        ('{\n  "a": 2,\n  "k": 1 }', '{\n  "a": 2 }'),
        ('{ "a": 2,\n  /* k */ "k": 1\n}', '{ "a": 2\n  /* k */\n}'),
    ],
)
def test_only_the_member_goes(text: str, left: str) -> None:
    """With its comma and its line; comments are not ours to remove."""
    assert without_member(text, ["k"]) == left


LISTS = [
    ('{"k": []}', '{"k": [{"x": 1}]}', '{"k": []}'),
    ('{"k": [1]}', '{"k": [1, {"x": 1}]}', '{"k": [1]}'),
    ('{"k": [1, ]}', '{"k": [1, {"x": 1}, ]}', '{"k": [1, ]}'),
    ('{\n  "k": [\n    1 // one\n  ]\n}', '{\n  "k": [\n    1, // one\n    {\n      "x": 1\n    }\n  ]\n}', None),
    ('{\r\n\t"k": [\r\n\t\t"]",\r\n\t]\r\n}', None, None),
    ('{\n  "k": [ /* a [ */ ]\n}', None, None),
    ('{\n  "k": [[1], {"k": []} ]\n}', None, None),
    ('{\n  "a": 1\n}\n', None, '{\n  "a": 1,\n  "k": []\n}\n'),
    ("", '{\n  "k": [\n    {\n      "x": 1\n    }\n  ]\n}\n', '{\n  "k": []\n}\n'),
]


@pytest.mark.parametrize(("text", "made", "left"), LISTS)
def test_an_item_of_a_list(text: str, made: str | None, left: str | None) -> None:
    """Is added at its end and taken out again; what else is there, comments too, is as it was."""
    old = (parsed(text) or {}).get("k", [])
    found = with_item(text, ["k"], {"x": 1})
    assert made in (None, found)
    assert parsed(found) == (parsed(text) or {}) | {"k": [*old, {"x": 1}]}
    assert is_within(text.rstrip(), found)
    back = without_item(found, ["k"], len(old))
    assert parsed(back) == (parsed(text) or {}) | {"k": old}
    assert left in (None, back)


def test_the_parser_of_vscode_reads_lists() -> None:
    """The same as ours."""
    texts = [with_item(text, ["k"], {"x": 1}) for text, _, _ in LISTS]
    texts += [without_item(text, ["k"], 0) for text in texts]
    assert read_by_vscode(texts) == [{"errors": [], "value": parsed(text)} for text in texts]


@pytest.mark.parametrize(("value", "kind"), [("null", "null"), ("{}", "an object"), ("1", "a number")])
def test_what_is_no_list(value: str, kind: str) -> None:
    """Is named, and nothing is added to it."""
    with pytest.raises(ValueError, match=f"`k` must be a list, not {kind}"):
        with_item(f'{{"k": {value}}}', ["k"], 1)


def test_only_what_differs_is_touched() -> None:
    """Inside an entry, too."""
    text = '{"s": {"command": "a", /* why */ "args": [ 1 ], "env": {"T": "old", "MINE": "x"}}}'
    old = parsed(text)["s"]
    new = {"command": "a", "args": [1.0], "env": {"T": "new", "MINE": "x"}}
    assert updated(text, ["s"], old, new) == text.replace("old", "new")
    assert updated(text, ["s"], old, old) == text
    assert updated(text, ["s"], old, {"url": "u"}) == '{"s": {/* why */ "url": "u"}}'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("null", "it must be an object, not null"),
        ("[]", "it must be an object, not a list"),
        ("true", "it must be an object, not a boolean"),
        ('{"mcpServers": null}', "`mcpServers` must be an object, not null"),
        ('{"mcpServers": [{}]}', "`mcpServers` must be an object, not a list"),
        ('{"mcpServers": "x"}', "`mcpServers` must be an object, not a string"),
        ('{"mcpServers": 1}', "`mcpServers` must be an object, not a number"),
        ("{", "line 1, column 2: Expecting property name"),
        ('{\n  "a": 1\n  "b": 2\n}', "line 3, column 3: Expecting ',' delimiter"),
        ('{\n  // one\n  "a": /* two */ ?\n}', "line 3, column 18: Expecting value"),
        ("{,}", "line 1, column 2"),
        ('{"a": 1,,}', "line 1, column"),
        ('{"a": [,]}', "line 1, column"),
        ('{"a": ,}', "line 1, column"),
        ("{'a': 1}", "line 1, column 2"),
        ("{a: 1}", "line 1, column 2"),
        ('{"a": 1} {}', "Extra data"),
        ('{"a": 1 /* no end }', "line 1, column 9"),
        ('{"a": "// no end}', "Unterminated string"),
        ('{"a": "tab\t"}', "Invalid control character"),
        ('{"a": NaN}', "NaN is not JSON"),
        ('{"a": ' + "[" * 100_000, "nested too deeply"),
        ("\ufeff{}", "line 1, column 1"),
        pytest.param("{} " + "/* " * 50_000, "line 1, column 4", id="comments without an end"),
    ],
)
def test_what_is_no_json_is_refused(text: str, says: str) -> None:
    """By every function alike, with the place in the text as it is, comments and all."""
    for edit in (lambda: with_member(text, PATH, 1), lambda: without_member(text, PATH), lambda: value_at(text, PATH)):
        with pytest.raises(ValueError, match=re.escape(says)):
            edit()


def test_comments_are_refused_where_the_client_reads_none() -> None:
    """And trailing commas; huge numbers are nothing special."""
    for text in ("{} // x", "{/* x */}", '{"a": 1,}'):
        assert parsed(text) is not None
        with pytest.raises(ValueError, match="line 1"):
            parsed(text, comments=False)
    assert parsed('{"a": 1' + "0" * 5000 + "}", comments=False)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)
keys = st.text() | st.sampled_from(["//", "/*", "*/", ",", "}", '"', "\\", "mcpServers", "seedream"])
objects = st.dictionaries(keys, values, max_size=5)


@st.composite
def jsonc(draw: st.DrawFn, value: Any) -> str:
    """The value as people may have written it: blanks and comments anywhere, trailing commas."""

    def gap() -> str:
        return draw(st.sampled_from(["", "", " ", "\n  ", "\r\n\t", '// a, "b" }\n', '/* { " , */', "/*\n*/ "]))

    def listed(parts: list[str], start: str, end: str) -> str:
        comma = draw(st.sampled_from(["", ","])) if parts else ""
        return start + gap() + ",".join(parts) + comma + gap() + end

    def written(value: Any) -> str:
        if isinstance(value, dict):
            members = [
                f"{gap()}{json.dumps(key)}{gap()}:{gap()}{written(inner)}{gap()}" for key, inner in value.items()
            ]
            return listed(members, "{", "}")
        if isinstance(value, list):
            return listed([gap() + written(inner) + gap() for inner in value], "[", "]")
        return json.dumps(value, ensure_ascii=draw(st.booleans()))

    return gap() + written(value) + gap()


@given(value=objects, data=st.data())
def test_any_object_survives(value: dict[str, Any], data: st.DataObject) -> None:
    """However it is written: what it says, and all of its text, with the member and without it again."""
    servers = {"mcpServers": data.draw(st.just({}) | st.dictionaries(keys, values, max_size=3))}
    value = data.draw(st.sampled_from([value, {**value, **servers}, {**servers, **value}]))
    value = {**value, "mcpServers": as_object(value["mcpServers"])} if "mcpServers" in value else value
    value.get("mcpServers", {}).pop("seedream", None)
    text = data.draw(jsonc(value))
    with_entry_, floats = with_member(text, PATH, ENTRY), parsed(json.dumps(value))
    assert parsed(text) == floats
    assert parsed(with_entry_) == with_entry(floats)
    assert is_within(text, with_entry_)
    again = without_member(with_entry_, PATH)
    assert parsed(again) == {"mcpServers": {}, **floats}
    assert without_blanks(again) == without_blanks(text) or not floats.get("mcpServers")


@given(value=objects, style=st.sampled_from([None, 0, 2, 4, "\t"]), end=st.sampled_from(["", "\n", "\r\n"]))
def test_text_that_a_program_wrote_comes_back(value: dict[str, Any], style: int | str | None, end: str) -> None:
    """To the byte, where there was a server before."""
    value["mcpServers"] = {"other": {"command": "x"}}
    text = json.dumps(value, indent=style) + end
    text = text.replace("\n", "\r\n") if end == "\r\n" else text
    assert without_member(with_member(text, PATH, ENTRY), PATH) == text


@given(text=st.text(alphabet='{}[],:"/*\\ \n1ak-'))
def test_any_text_is_read_or_refused(text: str) -> None:
    """There is nothing else that can happen."""
    try:
        made = with_member(text, PATH, ENTRY)
    except ValueError:
        return
    assert value_at(made, PATH) == ENTRY


def read_by_vscode(texts: list[str]) -> list[dict[str, Any]]:
    program, _ = node()
    folder: Path = npm_install([JSONC_PARSER])
    asked = json.dumps(texts)
    done = subprocess.run(
        [program, "-e", READ], input=asked, cwd=folder, capture_output=True, text=True, encoding="utf-8", check=True
    )
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def with_entry(value: dict[str, Any] | None) -> dict[str, Any]:
    value = value or {}
    return {**value, "mcpServers": {**value.get("mcpServers", {}), "seedream": ENTRY}}


def as_object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def is_within(text: str, longer: str) -> bool:
    """Whether all of a text is there around one new piece, with at most one comma elsewhere; blanks apart."""
    text, longer = without_blanks(text), without_blanks(longer)
    start = same_start(text, longer)
    if longer[start : start + 1] == ",":
        longer = longer[:start] + longer[start + 1 :]
        start = same_start(text, longer)
    return start + same_start(text[::-1], longer[::-1]) >= len(text)


def same_start(one: str, other: str) -> int:
    return next(
        (at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), min(len(one), len(other))
    )


def without_blanks(text: str) -> str:
    return "".join(text.split())
