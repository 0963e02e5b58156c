"""Input pictures as text: every way in which agents spell one, what it is, and the forms that the upstream takes.

Agents hand on what they have: content blocks of a model's API or of MCP, a Markdown link, a quoted path, a task's
id. What can be meant in only one way is taken.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from mcp_seedream.catalog.picture_kinds import CONVERTED_KINDS, UPSTREAM_KINDS, kind, kinds_in_words
from mcp_seedream.core.errors import InvalidArguments

# Of any type, since the bytes tell the kind: browsers give HEIC none. "data:" itself is left out now and then.
_DATA_URI = re.compile(
    r"(?:data:\s*(?:[\w.+-]+/[\w.+-]+)?|image/[\w.+-]+)(;[^;,]{1,60})*?;\s*base64\s*,", re.IGNORECASE
)
_URL_SAFE = str.maketrans("-_", "+/")
_WEB = re.compile(r"https?://", re.IGNORECASE)
# Where objects keep a picture: its data before a name for it, and either before what only wraps it. These are the
# content blocks of MCP (data, resource.blob, uri), Anthropic (source), OpenAI (image_url), Gemini (inlineData,
# fileData) and Vercel's AI SDK (image, data), ChatGPT's files (download_url), the upstream's and this server's own
# results, and plain words.
_KEYS = (
    "data", "b64json", "base64", "blob", "bytes",
    "url", "imageurl", "downloadurl", "fileurl", "uri", "fileuri", "src", "href", "link",
    "path", "filepath", "file",
    "image", "source", "inlinedata", "filedata", "resource",
)  # fmt: skip
"""In lower case, without `_`."""
_DEPTH = 4  # objects in objects
_QUOTES = {'"': '"', "'": "'", "`": "`", "\u201c": "\u201d", "\u2018": "\u2019", "\u00ab": "\u00bb", "<": ">"}
_UNWRAPPED = 8  # times
_LONGEST_TEXT = 4000  # characters around a link, and of it
_LINKED_PICTURE = re.compile(r"\[(!\[[^\]]*\]\([^\s()]*\))\]\([^\s()]*\)\Z")
_LINK = re.compile(r"https?://[^\s<>\"'`\\]+", re.IGNORECASE)
_AFTER_LINK = ".,;*_]}\u00bb\u203a\u201c\u201d\u2019\u300d\u300f"  # closes what a link stands in
_MARKDOWN = re.compile(r"!?\[[^\]]*\]\(")
_TITLE = re.compile(r"\s(?:\"[^\"]*\"|'[^']*')$")
_HTML = re.compile(r"<img\s(?:[^>]*?\s)?src\s*=\s*([\"'])", re.IGNORECASE)
_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_TASK = re.compile(rf"(?:task(?:[ _]id)?\s*[:=]\s*)?({_UUID})(/[0-9]+)?", re.IGNORECASE)
_INVISIBLE = "\ufeff\u200b\u200e\u200f\u2060\u202a\u202c"  # marks that come along when text is copied


def reference_texts(value: Any) -> list[Any]:
    """The entries of `image`: texts, without what only wraps them, and what is neither a text nor an object.

    Args:
        value: A text, an object, JSON of one, or a list of these. Empty ones are left out.

    Raises:
        InvalidArguments: An object has nothing in it that a picture can be in.
    """
    entries = [entry for entry in _entries(value, _DEPTH) if entry not in (None, "")]
    return [_bare(entry, position) for position, entry in enumerate(entries, 1)]


def _entries(value: Any, depth: int) -> Iterator[Any]:
    """The single entries of a list of any depth, or of JSON of one."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        value = _from_json(value)
    if isinstance(value, list) and depth:
        for entry in value:
            yield from _entries(entry, depth - 1)
    else:
        yield value


def _bare(entry: Any, position: int) -> Any:
    found = _inside(entry, _DEPTH)
    if found is None:
        raise InvalidArguments(
            f"`image` number {position} is an object without a picture, of {', '.join(map(repr, [*entry][:5]))}: give "
            'a text (a link, a data URI, base64, task:ID or a path), or one in an object such as {"url": "https://..."}.'
        )
    if not isinstance(found, str):
        return found
    text = unwrapped(found)
    return _only_link(text) or text


def _inside(entry: Any, depth: int) -> Any:
    """The text that an object holds, however it wraps it; anything else as it is."""
    if isinstance(entry, list) and len(entry) == 1 and depth < _DEPTH:
        return _inside(entry[0], depth)
    if not isinstance(entry, Mapping):
        return entry
    fields = {key.lower().replace("_", ""): value for key, value in entry.items()}
    if isinstance(id_ := fields.get("taskid"), str) and not any(fields.get(key) for key in _KEYS):
        return f"task:{id_}"
    for key in _KEYS if depth else ():
        if fields.get(key) and isinstance(found := _inside(fields[key], depth - 1), str):
            return found
    return None


def unwrapped(text: str) -> str:
    """A reference without quotes, brackets, Markdown or HTML around it; a bare task id as `task:ID`."""
    for _ in range(_UNWRAPPED):
        before, text = text, text.strip().strip(_INVISIBLE)
        if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and not _HTML.match(text[:2000]):
            text = text[1:-1]
        if match := _LINKED_PICTURE.match(text[:2000]):
            text = match[1]
        if (match := _MARKDOWN.match(text)) and text.endswith(")"):
            text = text[match.end() : -1].rstrip()
            text = text[:-300] + _TITLE.sub("", text[-300:])
        if match := _HTML.match(text[:2000]):
            text = text[match.end() :].partition(match[1])[0]
        if re.match(r"@\s*[\"'<`]|@(https?://|data:|task:)", text[:20], re.IGNORECASE):
            text = text[1:]
        if text == before:
            break
    if (match := _TASK.fullmatch(text)) and not Path(text).is_file():
        return f"task:{match[1]}{match[2] or ''}"
    return f"task:{text[5:].strip()}" if text[:5].lower() == "task:" else text


def _only_link(text: str) -> str | None:
    """The one link in a text that is no reference itself, such as `url: https://...` or `(https://...)`."""
    if len(text) > _LONGEST_TEXT or _WEB.match(text) or text[:5].lower() == "data:":
        return None
    text = text.replace("\\/", "/")  # as some encoders of JSON write it
    links = _LINK.findall(text)
    if len(links) != 1 or text.count("://") != 1:
        return None
    link: str = links[0].rstrip(_AFTER_LINK)
    while link.endswith(")") and link.count(")") > link.count("("):
        link = link[:-1].rstrip(_AFTER_LINK)
    return link


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def reference_kind(text: str) -> Literal["url", "data", "task", "path"]:
    """What an `image` entry is: a link, a picture as data, a task of this server, or else a path."""
    if _WEB.match(text):
        return "url"
    if re.fullmatch(r"task:\S+", text):
        return "task"
    head = "".join(text[:100].split())[:64].translate(_URL_SAFE)
    return (
        "data"
        if text[:5].lower() == "data:"
        or _DATA_URI.match(text[:200])
        or kind(_decoded(head[: len(head) // 4 * 4]) or b"")
        else "path"
    )


def kind_of(reference: str) -> str | None:
    """The kind of an input picture that is given as data and sent as it is; None for others."""
    payload = "".join(_DATA_URI.sub("", reference[:200]).split())
    found = None if _WEB.match(reference) else kind(_decoded(payload[:64]) or b"")
    return found if found in UPSTREAM_KINDS else None


def checked_reference(
    text: str, *, position: int, max_bytes: int, kinds: tuple[str, ...] = UPSTREAM_KINDS + CONVERTED_KINDS
) -> str:
    """One input picture in a form the upstream takes: an http(s) URL, a data URI of the kind its bytes are, or base64.

    Args:
        text: What the caller gave. Base64 may be URL-safe, with blanks and line breaks, and without padding.
        position: Its place in the list, from 1, for the error.
        max_bytes: Limit of a decoded picture, in bytes (the upstream's, from the table).
        kinds: What the picture may be, told by its first bytes.

    Raises:
        InvalidArguments: It is none of the three, is too large, or is not a picture of these kinds.
    """
    text = text.strip()
    where = f"`image` number {position}"
    if _WEB.match(text):
        if not _has_host(text):
            raise InvalidArguments(f"{where} is not a complete URL: {shortened(text)}. A blank in it is written %20.")
        return text
    prefix = _DATA_URI.match(text[:200])
    payload = _payload(text[prefix.end() :] if prefix else text)
    data = _decoded(payload)
    if data is None or (found := kind(data)) not in kinds:
        raise InvalidArguments(
            f"{where} is not a picture the upstream can read: {shortened(text)}. Give an http(s) URL, "
            f"a data URI (data:image/png;base64,...) or base64 of a {kinds_in_words(kinds)}."
        )
    if len(data) > max_bytes:
        raise InvalidArguments(f"{where} is larger than {max_bytes // 2**20} MB: give a smaller picture, or a URL.")
    return f"data:image/{found};base64,{payload}" if prefix else payload


def _payload(text: str) -> str:
    """Base64 as the standard has it: one alphabet, no blanks or line breaks, padding."""
    text = unquote(text) if "%" in text else text
    text = re.sub(r"\\[nrt]?", "", text) if "\\" in text else text  # escapes of a text in JSON, escaped twice
    payload = "".join(text.split()).translate(_URL_SAFE).rstrip("=")
    return payload + "=" * (-len(payload) % 4)


def _decoded(payload: str) -> bytes | None:
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        return None


def _has_host(url: str) -> bool:
    try:
        return bool(urlsplit(url).hostname) and url.isprintable() and " " not in url
    except ValueError:
        return False


def shortened(text: str) -> str:
    """A caller's text as an error quotes it: whole where it is short."""
    return repr(text if len(text) <= 60 else f"{text[:40]}... ({len(text):,} characters)")


def data_uri(data: bytes) -> str:
    """A picture as a data URI, of the kind its bytes have."""
    return f"data:image/{kind(data) or 'jpeg'};base64,{base64.b64encode(data).decode()}"


def picture_data(reference: str) -> bytes:
    """The bytes of a picture that is given as a data URI or base64.

    Raises:
        ValueError: It is not base64.
    """
    return base64.b64decode(_payload(_DATA_URI.sub("", reference[:200], count=1) + reference[200:]))
