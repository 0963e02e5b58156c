"""References to input pictures: URLs, data URIs, base64, tasks of this server, and paths.

Agents often pass a reference in another form: a content block of MCP or a model API, a Markdown link, a quoted path,
a bare task id. `reference_texts` extracts the reference; `checked_reference` validates it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from mcp_seedream.catalog.coercion import from_json
from mcp_seedream.catalog.picture_kinds import CONVERTED_KINDS, UPSTREAM_KINDS, kind, kinds_in_words
from mcp_seedream.core.errors import InvalidArguments

# Any media type, or none, since the kind is recognized by the bytes. Agents sometimes leave out "data:".
_DATA_URI = re.compile(
    r"(?:data:\s*(?:[\w.+-]+/[\w.+-]+)?|image/[\w.+-]+)(;[^;,]{1,60})*?;\s*base64\s*,", re.IGNORECASE
)
_URL_SAFE = str.maketrans("-_", "+/")
_SPELLINGS: dict[str, dict[str, str]] = {
    "%": {"%2B": "+", "%2b": "+", "%2F": "/", "%2f": "/", "%3D": "=", "%3d": "="}
    | dict.fromkeys(("%0A", "%0a", "%0D", "%0d", "%20"), ""),
    "\\": dict.fromkeys(("\\n", "\\r", "\\t", "\\"), ""),  # line breaks that were JSON-escaped twice
    "-": {"-": "+"},
    "_": {"_": "/"},
    **{blank: {blank: ""} for blank in " \n\r\t\v\f"},
}
"""Spellings in base64 by their first character, and the characters of the standard alphabet that they stand for."""
_DECODED_AT_ONCE = 2**20  # characters of base64, a multiple of four
_WEB_URL = re.compile(r"https?://", re.IGNORECASE)
# Keys of objects that hold a picture, in order of preference: data, URLs, paths, then nested objects. They come from
# content blocks of MCP (data, resource.blob, uri), Anthropic (source), OpenAI (image_url), Gemini (inlineData,
# fileData) and Vercel's AI SDK (image, data), from ChatGPT's files (download_url), and from results of the upstream
# and of this server.
_KEYS = (
    "data", "b64json", "base64", "blob", "bytes",
    "url", "imageurl", "downloadurl", "fileurl", "uri", "fileuri", "src", "href", "link",
    "path", "filepath", "file",
    "image", "source", "inlinedata", "filedata", "resource",
)  # fmt: skip
"""In lower case, without `_`."""
_MAX_DEPTH = 4  # of nested lists and objects
_QUOTES = {'"': '"', "'": "'", "`": "`", "\u201c": "\u201d", "\u2018": "\u2019", "\u00ab": "\u00bb", "<": ">"}
_MAX_LAYERS = 8  # of quotes and markup around a reference
_MAX_LINK_TEXT = 4000  # characters of a text in which a link is searched
_LINKED_PICTURE = re.compile(r"\[(!\[[^\]]*\]\([^\s()]*\))\]\([^\s()]*\)\Z")
_LINK = re.compile(r"https?://[^\s<>\"'`\\]+", re.IGNORECASE)
_AFTER_LINK = ".,;*_]}\u00bb\u203a\u201c\u201d\u2019\u300d\u300f"  # punctuation that ends the text around a link
_MARKDOWN = re.compile(r"!?\[[^\]]*\]\(")
_TITLE = re.compile(r"\s(?:\"[^\"]*\"|'[^']*')$")
_HTML = re.compile(r"<img\s(?:[^>]*?\s)?src\s*=\s*([\"'])", re.IGNORECASE)
_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_TASK = re.compile(rf"(?:task(?:[ _]id)?\s*[:=]\s*)?({_UUID})(/[0-9]+)?", re.IGNORECASE)
_INVISIBLE = "\ufeff\u200b\u200e\u200f\u2060\u202a\u202c"  # marks that are copied along with text


def reference_texts(value: Any) -> list[Any]:
    """Return the references in the argument `image`, without the objects, quotes and markup around them.

    Args:
        value: A string, an object, JSON in a string, or a list of these. Empty entries are left out.

    Returns:
        Strings. Entries of other types, such as numbers, are returned unchanged.

    Raises:
        InvalidArguments: An object does not contain a picture.
    """
    entries = [entry for entry in _entries(value, _MAX_DEPTH) if entry not in (None, "")]
    return [_extracted(entry, position) for position, entry in enumerate(entries, 1)]


def _entries(value: Any, depth: int) -> Iterator[Any]:
    """Yield the entries of a nested list, which may be JSON in a string."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        value = from_json(value)
    if isinstance(value, list) and depth:
        for entry in value:
            yield from _entries(entry, depth - 1)
    else:
        yield value


def _extracted(entry: Any, position: int) -> Any:
    content = _content(entry, _MAX_DEPTH)
    if content is None:
        raise InvalidArguments(
            f"`image` number {position} is an object without a picture (keys {', '.join(map(repr, [*entry][:5]))}): "
            'give a link, a data URI, base64, task:ID or a path as a string, or an object such as {"url": "https://..."}.'
        )
    if not isinstance(content, str):
        return content
    text = unwrapped(content)
    return _only_link(text) or text


def _content(entry: Any, depth: int) -> Any:
    """Return the string in an object, None for an object without one, and other values unchanged."""
    if isinstance(entry, list) and len(entry) == 1 and depth < _MAX_DEPTH:
        return _content(entry[0], depth)
    if not isinstance(entry, Mapping):
        return entry
    fields = {key.lower().replace("_", ""): value for key, value in entry.items()}
    if isinstance(id_ := fields.get("taskid"), str) and not any(fields.get(key) for key in _KEYS):
        return f"task:{id_}"
    for key in _KEYS if depth else ():
        if fields.get(key) and isinstance(content := _content(fields[key], depth - 1), str):
            return content
    return None


def unwrapped(text: str) -> str:
    """Remove quotes, Markdown and HTML around a reference; return a bare task id as `task:ID`."""
    for _ in range(_MAX_LAYERS):
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
    """Return the link in a text such as `url: https://...` or `(https://...)`; None unless there is exactly one."""
    if len(text) > _MAX_LINK_TEXT or _WEB_URL.match(text) or text[:5].lower() == "data:":
        return None
    text = text.replace("\\/", "/")  # some JSON encoders escape slashes
    links = _LINK.findall(text)
    if len(links) != 1 or text.count("://") != 1:
        return None
    link: str = links[0].rstrip(_AFTER_LINK)
    while link.endswith(")") and link.count(")") > link.count("("):
        link = link[:-1].rstrip(_AFTER_LINK)
    return link


def reference_kind(text: str) -> Literal["url", "data", "task", "path"]:
    """Classify a reference: "data" is a data URI or base64; any text that is not recognized is a path."""
    if _WEB_URL.match(text):
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
    """Return the picture kind of a data URI or base64; None for other references and kinds not in UPSTREAM_KINDS."""
    payload = "".join(_DATA_URI.sub("", reference[:200]).split())
    picture_kind = None if _WEB_URL.match(reference) else kind(_decoded(payload[:64]) or b"")
    return picture_kind if picture_kind in UPSTREAM_KINDS else None


def checked_reference(
    text: str, *, position: int, max_bytes: int, kinds: tuple[str, ...] = UPSTREAM_KINDS + CONVERTED_KINDS
) -> str:
    """Validate an http(s) URL, a data URI or base64, and return it in a form that the upstream accepts.

    Args:
        text: The reference. Base64 may be URL-safe, contain whitespace, and lack padding.
        position: Position in the list of pictures, from 1, for the error message.
        max_bytes: Size limit of the decoded picture.
        kinds: The accepted kinds of pictures.

    Returns:
        The URL, a data URI with the media type of its bytes, or standard base64.

    Raises:
        InvalidArguments: It is none of the three, is too large, or is not a picture of these kinds.
    """
    text = text.strip()
    where = f"`image` number {position}"
    if _WEB_URL.match(text):
        if not _has_host(text):
            raise InvalidArguments(f"{where} is not a complete URL: {shortened(text)}. Write spaces as %20.")
        return text
    prefix = _DATA_URI.match(text[:200])
    payload = _payload(text[prefix.end() :] if prefix else text)
    picture_kind = kind(_decoded(payload[:64]) or b"")
    is_picture = picture_kind in kinds
    if is_picture and len(payload) * 3 // 4 - payload.count("=", -2) > max_bytes:
        raise InvalidArguments(f"{where} is larger than {max_bytes // 2**20} MB: give a smaller picture, or a URL.")
    if not is_picture or not _is_base64(payload):
        raise InvalidArguments(
            f"{where} is not a picture that the upstream can read: {shortened(text)}. Give an http(s) URL, "
            f"a data URI (data:image/png;base64,...) or base64 of a {kinds_in_words(kinds)}."
        )
    if not prefix:
        return payload
    head = f"data:image/{picture_kind};base64,"
    is_standard = len(text) == len(head) + len(payload) and text.startswith(head) and text.endswith(payload)
    return text if is_standard else head + payload  # megabytes are copied only if they change


def _is_base64(payload: str) -> bool:
    """Whether a text is base64 in its standard form. It is decoded in pieces, since it may be of megabytes."""
    pieces = (payload[start : start + _DECODED_AT_ONCE] for start in range(0, len(payload), _DECODED_AT_ONCE))
    return payload.find("=", 0, -2) < 0 and all(_decoded(piece) is not None for piece in pieces)


def _payload(text: str) -> str:
    """Convert base64 to its standard form: standard alphabet, no whitespace, with padding.

    Each step makes a copy only if it changes something, and no step makes a list: the text may be of megabytes.
    """
    if not text.isascii():
        text = "".join(text.split())
    for first, spellings in _SPELLINGS.items():
        for spelling, character in spellings.items() if first in text else ():
            text = text.replace(spelling, character)
    if len(text) % 4 or text.endswith("==="):
        text = text.rstrip("=")
        text += "=" * (-len(text) % 4)
    return text


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
    """Quote a caller's text for an error message, truncated if it is long."""
    return repr(text if len(text) <= 60 else f"{text[:40]}... ({len(text):,} characters)")


def data_uri(data: bytes) -> str:
    """Return a picture as a data URI, with the media type of its first bytes."""
    return f"data:image/{kind(data) or 'jpeg'};base64,{base64.b64encode(data).decode()}"


def picture_data(reference: str) -> bytes:
    """Decode a data URI or base64.

    Raises:
        ValueError: It is not base64.
    """
    return base64.b64decode(_payload(_DATA_URI.sub("", reference[:200], count=1) + reference[200:]))


def picture_pieces(reference: str) -> Iterator[bytes]:
    """Decode a data URI or base64 from `checked_reference` in pieces of 768 kB, since it may be large."""
    start = reference.find(",") + 1  # base64 has no comma
    for position in range(start, len(reference), 2**20):
        yield base64.b64decode(reference[position : position + 2**20])
