"""Reads every reply shape the upstream is known to give, into the objects of `types`.

Facts: the vendor's API documents of `POST /seedream/images` and `POST /seedream/tasks`, 2026. Replies are
read tolerantly: a field of the wrong type counts as absent, and only a reply that says nothing at all is
an error. This module has the one definition of when a task has ended (`_state`).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import zip_longest
from typing import Any

from mcp_seedream.catalog.references import reference_kind, unwrapped
from mcp_seedream.core.errors import UnreadableReply
from mcp_seedream.upstream.link_expiry import unix_time
from mcp_seedream.upstream.types import Failure, Image, JSONObject, State, StreamEvent, Task

logger = logging.getLogger(__name__)

NO_PICTURE = Failure(
    "empty_result",
    "it ended with neither a picture nor a reason. It may have been billed: ask the vendor, with its trace_id",
)
_SUCCEEDED = frozenset({"succeeded", "succeed", "success", "completed", "complete"})
_FAILED = frozenset({"failed", "error", "cancelled", "canceled"})
_OF_A_TASK = ("id", "task_id", "request", "response", "data", "status", "state", "error", "created_at", "started_at")
"""Fields that say something of a task."""
_LINKS = ("image_url", "image_urls", "url")
_INNER = ("uri", "b64_json")
"""Where an object that should be a link may have it, beside `_LINKS`."""
_DEPTH = 4  # lists and objects in one another
_LONGEST_REASON = 1000  # characters of the upstream's words that are passed on
_MOST_COUNTS = 20  # entries of `usage` that are passed on
_LONGEST_NAME = 200  # characters: of a layer's name or description, a model's id and the like


def read_task(reply: Any, task_id: str | None = None) -> Task:
    """Read a task from any documented shape: an acceptance, a look-up, a finished answer.

    Args:
        reply: The decoded JSON.
        task_id: The id that was asked for, where one was.

    Raises:
        UnreadableReply: It is not an object, or carries neither an id nor an outcome.
    """
    if not isinstance(reply, dict):
        raise UnreadableReply("The upstream answered with something that is not a task.")
    nested = _object(reply.get("response"))
    answer = nested or reply
    request = _object(reply.get("request"))
    items = _items(answer.get("data"))
    images = _images(items)
    failures = tuple(failure for item in items if (failure := read_failure(item) or _unreadable(item)))
    error = read_failure(answer) or read_failure(reply)
    state = _state(reply, answer, images, error)
    if state == "succeeded" and error:
        failures = (*failures, error)
    if state == "failed" and error is None:
        error = failures[0] if failures else NO_PICTURE
    id_ = task_id or _id(reply) or _id(answer)
    if not id_ and state == "pending":
        raise UnreadableReply("The upstream's answer has neither a task id nor a picture.")
    return Task(
        id=id_ or "",
        state=state,
        images=images if state == "succeeded" else (),
        failures=failures if state == "succeeded" else (),
        error=error if state == "failed" else None,
        trace_id=_words(reply.get("trace_id")) or _words(answer.get("trace_id")),
        model=_first(_words(o.get("model")) for o in (*items, request, answer)),
        prompt=_first(_text(o.get("prompt")) for o in (request, *items)),
        elapsed=_elapsed(reply),
        created_at=unix_time(reply.get("created_at")),
        finished_at=unix_time(reply.get("finished_at")),
        usage=_usage(answer) or _usage(reply),
        request=request or None,
    )


def is_unknown(reply: Any) -> bool:
    """Whether the answer to a look-up of one task says nothing of any task: `{}` stands for an unknown id."""
    if not isinstance(reply, dict) or reply.get("success") is False:
        return False
    return not any(reply.get(name) or reply.get(name) == [] for name in _OF_A_TASK)


def _state(reply: JSONObject, answer: JSONObject, images: tuple[Image, ...], error: Failure | None) -> State:
    """When a task has ended: a word that says so, `success: false`, an error, pictures, or a finishing time."""
    data = answer.get("data")
    words = (o.get(key) for o in (_object(data), answer, reply) for key in ("status", "state"))
    word = _first(word.strip().lower() for word in words if isinstance(word, str))
    if word in _FAILED or answer.get("success") is False or reply.get("success") is False:
        return "succeeded" if images else "failed"  # of a set that failed, some pictures are there, and billed
    finished = answer.get("success") is True or _number(reply.get("finished_at")) or _number(reply.get("elapsed"))
    if images:
        # A word nobody documents does not outweigh pictures that are finished by every other sign.
        return "succeeded" if word is None or word in _SUCCEEDED or finished else "pending"
    if word is not None and word not in _SUCCEEDED:
        return "pending"
    ended = word in _SUCCEEDED or error or isinstance(data, list) or _number(reply.get("finished_at"))
    return "failed" if ended else "pending"


def read_batch(reply: Any) -> dict[str, Task]:
    """Read the answer to `retrieve_batch`: the known tasks by id; an unknown id is simply not there.

    Raises:
        UnreadableReply: There is no list of items.
    """
    items = reply.get("items") if isinstance(reply, dict) else None
    if not isinstance(items, list):
        raise UnreadableReply("The upstream's answer to a look-up of several tasks has no list of them.")
    tasks = [read_task(item) for item in items if isinstance(item, dict) and _id(item)]
    return {task.id: task for task in tasks}


def read_failure(reply: Any) -> Failure | None:
    """The `error` of a reply or item: an object with code and message, or a bare string."""
    error = reply.get("error") if isinstance(reply, dict) else None
    if isinstance(error, str) and error:
        return Failure("api_error", _text(error[:_LONGEST_REASON]) or "")
    if isinstance(error, dict) and error:
        message = _text(error.get("message")) or "no reason given"
        return Failure((_text(error.get("code")) or "api_error")[:100], message[:_LONGEST_REASON])
    return None


def read_event(line: str) -> StreamEvent | None:
    """Read one line of a streamed answer; None for a blank line, a comment or an event that says nothing.

    Takes NDJSON and SSE framing (`data: …`), fields at the top or under `data`, the kind in `type` or `event`.

    Raises:
        UnreadableReply: The line is not JSON.
    """
    text = line.strip().removeprefix("data:").strip()
    if not text or text == "[DONE]" or text.startswith((":", "event:", "id:", "retry:")):
        return None
    try:
        event = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableReply("The upstream's stream has a line that is not JSON.") from error
    if not isinstance(event, dict):
        return None
    data = event.get("data")
    fields = {**event, **_object(data)}
    kind = (_text(event.get("type")) or _text(event.get("event")) or _text(fields.get("type")) or "").rpartition(".")[2]
    ids: dict[str, Any] = {"task_id": _id(fields), "trace_id": _words(fields.get("trace_id"))}
    if not kind and ("data" in event or "success" in event or "response" in event):
        # An upstream that answered whole after all: the usual shapes, finished or not.
        whole = read_task(event, ids["task_id"] or "unknown")
        failed = (whole.error,) if whole.error else ()
        return StreamEvent(whole.images, (*whole.failures, *failed), completed=whole.ended, **ids)
    items = _items(data) if isinstance(data, list | str) else [fields]
    failures = [failure for item in items if (failure := read_failure(item))]
    if kind == "partial_failed" and not failures:
        failures = [Failure("api_error", "no reason given")]
    # A failure that is not of one picture is the end of all.
    ended = kind == "completed" or (bool(failures) and kind != "partial_failed")
    images = _images(items)
    failures += [failure for item in items if (failure := _unreadable(item))]
    found = images or failures or ended or any(ids.values())
    usage = _usage(fields)
    return StreamEvent(images, tuple(failures), completed=ended, usage=usage, **ids) if found else None


def _usage(fields: JSONObject) -> JSONObject | None:
    """What the request was counted as: numbers by name, one level of objects deep (`tool_usage.web_search`)."""
    found: JSONObject = {}
    for key, value in [*_object(fields.get("usage")).items()][:_MOST_COUNTS]:
        counts = {k[:50]: n for k, n in [*_object(value).items()][:_MOST_COUNTS] if _is_number(n)}
        if _is_number(value) or counts:
            found[key[:50]] = counts or value
    return found or None


def _items(data: Any) -> list[JSONObject]:
    """The entries of `data`, in lists of any depth: objects, and texts, which can only be pictures."""
    items: list[JSONObject] = []
    for entry in _flat(data):
        if isinstance(entry, dict):
            items.append(entry)
        elif isinstance(entry, str) and [*_sources(entry)]:
            items.append({"image_url": entry})
    return items


def _flat(value: Any, depth: int = _DEPTH) -> Iterator[Any]:
    """The value, or what is in lists of lists, which reach so deep."""
    if isinstance(value, list) and depth:
        for entry in value:
            yield from _flat(entry, depth - 1)
    else:
        yield value


def _images(items: Iterable[JSONObject]) -> tuple[Image, ...]:
    """The pictures among the items, none twice."""
    found = [image for item in items for image in _pictures(item)]
    return tuple({(image.url or image.b64_json, image.z_index): image for image in found}.values())


def _pictures(item: JSONObject) -> list[Image]:
    """The pictures of one item: one as a rule, with a link, with data, or with both."""
    sources = next((found for key in _LINKS if (found := [*_sources(item.get(key))])), [])
    links = [source for source in sources if _is_link(source)]
    texts = (text.strip() for text in _flat(item.get("b64_json")) if isinstance(text, str))
    data = [*filter(None, texts), *(source for source in sources if not _is_link(source))]
    z_index = item.get("z_index")
    about = Image(
        url=None,
        size=_words(item.get("size")),
        z_index=z_index if isinstance(z_index, int) and _is_number(z_index) else None,
        name=_words(item.get("name")),
        description=_words(item.get("description")),
        bounding_box=_boxes(item.get("bounding_box")) or None,
    )
    pairs = zip_longest(links, data)
    return [replace(about, url=_text(link), b64_json=_text(encoded)) for link, encoded in pairs]


def _sources(value: Any, depth: int = _DEPTH) -> Iterator[str]:
    """The links, data URIs and base64 of pictures in a value that should be one link, however they are wrapped."""
    for entry in _flat(value, depth):
        if isinstance(entry, dict) and depth:
            inner = (entry[key] for key in (*_LINKS, *_INNER) if entry.get(key))
            yield from _sources(next(inner, None), depth - 1)
        elif isinstance(entry, str):
            if depth and entry.lstrip()[:1] in ("[", "{") and (inside := _from_json(entry)) is not None:
                yield from _sources(inside, depth - 1)
                continue
            text = unwrapped(entry).strip("\"'<>")
            text = f"https:{text}" if re.match(r"//[\w-]+\.", text) else text
            if _is_link(text):
                yield from re.split(r"\s+(?=https?://)", text, flags=re.IGNORECASE)
            elif reference_kind(text) == "data":
                yield text


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_link(text: str) -> bool:
    return text[:8].lower().startswith(("http://", "https://"))


def _unreadable(item: JSONObject) -> Failure | None:
    """Why an item that should have a picture has none that can be read, if that is so. Links are not repeated."""
    if _pictures(item) or read_failure(item):
        return None
    values = {key: item[key] for key in ("image_url", "image_urls", "b64_json") if item.get(key)}
    if not values:
        return None
    what = ", ".join(f"{key} is {_shape(value)}" for key, value in values.items())
    logger.warning("a picture in the upstream's answer can't be read: %s", what)
    reason = f"it can't be read from the answer: {what}. It may have been billed: ask the vendor, with its trace_id"
    return Failure("unreadable_reply", reason)


def _shape(value: Any) -> str:
    """What a JSON value is, without its content."""
    if isinstance(value, str):
        return f"a text of {len(value)} characters"
    return {bool: "a boolean", list: "a list", dict: "an object"}.get(type(value), "a number")


def _boxes(value: Any) -> JSONObject:
    """A layer's boxes: four numbers, in pixels (`absolute`) or of a thousand (`normalized`), or what stands there."""
    return {key: box for key, box in _object(value).items() if isinstance(box, list) and all(map(_is_number, box))}


def _elapsed(reply: JSONObject) -> float | None:
    elapsed = _number(reply.get("elapsed"))
    finished, started = _number(reply.get("finished_at")), _number(reply.get("started_at"))
    if elapsed is None and finished and (started := started or _number(reply.get("created_at"))):
        elapsed = finished - started
    return elapsed if elapsed is not None and elapsed >= 0 else None


def _object(value: Any) -> JSONObject:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    # Half of a surrogate pair, from a server that cuts text by UTF-16, could not be sent on.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) and value else None


def _words(value: Any) -> str | None:
    text = _text(value)
    return text[:_LONGEST_NAME] if text else None


def _id(reply: JSONObject) -> str | None:
    """The task's id, under either name; a number is one too."""
    found = reply.get("id") or reply.get("task_id")
    return str(found) if isinstance(found, int) and not isinstance(found, bool) else _text(found)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15


def _number(value: Any) -> float | None:
    return float(value) if _is_number(value) else None


def _first(values: Iterable[str | None]) -> str | None:
    return next((value for value in values if value), None)
