"""Parses all known forms of the upstream's responses into the dataclasses of `types`.

Source: the vendor's API documents of `POST /seedream/images` and `POST /seedream/tasks`, 2026. Parsing is lenient: a
field of the wrong type counts as absent, and only a response without any known field is an error. `_state` alone
defines when a task has ended.
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
from mcp_seedream.upstream.types import Failure, Image, JSONObject, State, StreamEvent, Task, unix_time

logger = logging.getLogger(__name__)

NO_PICTURE = Failure(
    "empty_result",
    "it ended with neither a picture nor a reason. It may have been billed: ask the vendor, with its trace_id",
)
_SUCCEEDED = frozenset({"succeeded", "succeed", "success", "completed", "complete"})
_FAILED = frozenset({"failed", "error", "cancelled", "canceled"})
_TASK_FIELDS = ("id", "task_id", "request", "response", "data", "status", "state", "error", "created_at", "started_at")
"""A response with none of these fields contains no task."""
_LINK_FIELDS = ("image_url", "image_urls", "url")
_NESTED_FIELDS = (*_LINK_FIELDS, "uri", "b64_json")
"""Fields of an object that is used instead of a link."""
_MAX_DEPTH = 4  # of nested lists and objects
_MAX_MESSAGE = 1000  # characters of an error message
_MAX_COUNTS = 20  # entries of `usage`
_MAX_LABEL = 200  # characters of a layer's name or description, a model's id, and the like


def read_task(reply: Any, task_id: str | None = None) -> Task:
    """Parse a task from the response to a submit or a look-up, or from an item of a batch.

    Args:
        reply: The decoded JSON.
        task_id: The id that was looked up, if any.

    Raises:
        UnreadableReply: It is not an object, or has neither an id nor a result.
    """
    if not isinstance(reply, dict):
        raise UnreadableReply("The upstream's response is not a task.")
    answer = _object(reply.get("response")) or reply
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
        raise UnreadableReply("The upstream's response has neither a task id nor a picture.")
    return Task(
        id=id_ or "",
        state=state,
        images=images if state == "succeeded" else (),
        failures=failures if state == "succeeded" else (),
        error=error if state == "failed" else None,
        trace_id=_label(reply.get("trace_id")) or _label(answer.get("trace_id")),
        model=_first(_label(o.get("model")) for o in (*items, request, answer)),
        prompt=_first(_text(o.get("prompt")) for o in (request, *items)),
        elapsed=_elapsed(reply),
        created_at=unix_time(reply.get("created_at")),
        finished_at=unix_time(reply.get("finished_at")),
        usage=_usage(answer) or _usage(reply),
        request=request or None,
    )


def is_unknown(reply: Any) -> bool:
    """Whether the response to a look-up of one task has no task, as `{}`: its id is unknown."""
    if not isinstance(reply, dict) or reply.get("success") is False:
        return False
    return not any(reply.get(name) or reply.get(name) == [] for name in _TASK_FIELDS)


def _state(reply: JSONObject, answer: JSONObject, images: tuple[Image, ...], error: Failure | None) -> State:
    """The state of a task, from its status, `success`, error, pictures and finishing time."""
    data = answer.get("data")
    statuses = (o.get(key) for o in (_object(data), answer, reply) for key in ("status", "state"))
    status = _first(each.strip().lower() for each in statuses if isinstance(each, str))
    if status in _FAILED or answer.get("success") is False or reply.get("success") is False:
        return "succeeded" if images else "failed"  # a failed set may have some pictures, which are billed
    finished = answer.get("success") is True or _number(reply.get("finished_at")) or _number(reply.get("elapsed"))
    if images:
        # An undocumented status is ignored if other fields show that the pictures are finished.
        return "succeeded" if status is None or status in _SUCCEEDED or finished else "pending"
    if status is not None and status not in _SUCCEEDED:
        return "pending"
    ended = status in _SUCCEEDED or error or isinstance(data, list) or _number(reply.get("finished_at"))
    return "failed" if ended else "pending"


def read_batch(reply: Any) -> dict[str, Task]:
    """Parse the response to `retrieve_batch`: the known tasks by id.

    Raises:
        UnreadableReply: It has no list of items.
    """
    items = reply.get("items") if isinstance(reply, dict) else None
    if not isinstance(items, list):
        raise UnreadableReply("The upstream's response to a look-up of several tasks has no list of them.")
    tasks = [read_task(item) for item in items if isinstance(item, dict) and _id(item)]
    return {task.id: task for task in tasks}


def read_failure(reply: Any) -> Failure | None:
    """The `error` of a response or item: an object with code and message, or a string."""
    error = reply.get("error") if isinstance(reply, dict) else None
    if isinstance(error, str) and error:
        return Failure("api_error", _text(error[:_MAX_MESSAGE]) or "")
    if isinstance(error, dict) and error:
        message = _text(error.get("message")) or "no reason given"
        return Failure((_text(error.get("code")) or "api_error")[:100], message[:_MAX_MESSAGE])
    return None


def read_event(line: str) -> StreamEvent | None:
    """Parse one line of a streamed response; None for a blank line, a comment or an event without known fields.

    Lines are NDJSON or server-sent events (`data: …`). Fields are at the top or under `data`; the kind is in `type` or
    `event`.

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
    ids: dict[str, Any] = {"task_id": _id(fields), "trace_id": _label(fields.get("trace_id"))}
    if not kind and ("data" in event or "success" in event or "response" in event):
        # The upstream did not stream: this is a task in one of the usual forms, ended or not.
        task = read_task(event, ids["task_id"] or "unknown")
        errors = (task.error,) if task.error else ()
        return StreamEvent(task.images, (*task.failures, *errors), completed=task.ended, **ids)
    items = _items(data) if isinstance(data, list | str) else [fields]
    failures = [failure for item in items if (failure := read_failure(item))]
    if kind == "partial_failed" and not failures:
        failures = [Failure("api_error", "no reason given")]
    # A failure that does not concern a single picture ends the stream.
    ended = kind == "completed" or (bool(failures) and kind != "partial_failed")
    images = _images(items)
    failures += [failure for item in items if (failure := _unreadable(item))]
    if not (images or failures or ended or any(ids.values())):
        return None
    return StreamEvent(images, tuple(failures), completed=ended, usage=_usage(fields), **ids)


def _usage(fields: JSONObject) -> JSONObject | None:
    """The `usage`: numbers by name, and objects of numbers (`tool_usage.web_search`)."""
    usage: JSONObject = {}
    for key, value in [*_object(fields.get("usage")).items()][:_MAX_COUNTS]:
        counts = {k[:50]: n for k, n in [*_object(value).items()][:_MAX_COUNTS] if _is_number(n)}
        if _is_number(value) or counts:
            usage[key[:50]] = counts or value
    return usage or None


def _items(data: Any) -> list[JSONObject]:
    """The entries of `data`, in nested lists: objects, and strings that are links or data of pictures."""
    items: list[JSONObject] = []
    for entry in _flatten(data):
        if isinstance(entry, dict):
            items.append(entry)
        elif isinstance(entry, str) and [*_sources(entry)]:
            items.append({"image_url": entry})
    return items


def _flatten(value: Any, depth: int = _MAX_DEPTH) -> Iterator[Any]:
    """The entries of nested lists, down to `depth`; a value that is not a list is its own entry."""
    if isinstance(value, list) and depth:
        for entry in value:
            yield from _flatten(entry, depth - 1)
    else:
        yield value


def _images(items: Iterable[JSONObject]) -> tuple[Image, ...]:
    """The pictures of all items, without duplicates."""
    images = [image for item in items for image in _item_images(item)]
    return tuple({(image.url or image.b64_json, image.z_index): image for image in images}.values())


def _item_images(item: JSONObject) -> list[Image]:
    """The pictures of one item, usually one, with a link, base64 data or both."""
    sources = next((entries for key in _LINK_FIELDS if (entries := [*_sources(item.get(key))])), [])
    links = [source for source in sources if _is_link(source)]
    texts = (text.strip() for text in _flatten(item.get("b64_json")) if isinstance(text, str))
    data = [*filter(None, texts), *(source for source in sources if not _is_link(source))]
    z_index = item.get("z_index")
    about = Image(
        url=None,
        size=_label(item.get("size")),
        z_index=z_index if isinstance(z_index, int) and _is_number(z_index) else None,
        name=_label(item.get("name")),
        description=_label(item.get("description")),
        bounding_box=_bounding_boxes(item.get("bounding_box")) or None,
    )
    pairs = zip_longest(links, data)
    return [replace(about, url=_text(link), b64_json=_text(encoded)) for link, encoded in pairs]


def _sources(value: Any, depth: int = _MAX_DEPTH) -> Iterator[str]:
    """The links and base64 data in a value that should be one link, but may be a list, an object or JSON text."""
    for entry in _flatten(value, depth):
        if isinstance(entry, dict) and depth:
            inner = (entry[key] for key in _NESTED_FIELDS if entry.get(key))
            yield from _sources(next(inner, None), depth - 1)
        elif isinstance(entry, str):
            if depth and entry.lstrip()[:1] in ("[", "{") and (inside := _parse_json(entry)) is not None:
                yield from _sources(inside, depth - 1)
                continue
            text = unwrapped(entry).strip("\"'<>")
            text = f"https:{text}" if re.match(r"//[\w-]+\.", text) else text
            if _is_link(text):
                yield from re.split(r"\s+(?=https?://)", text, flags=re.IGNORECASE)
            elif reference_kind(text) == "data":
                yield text


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_link(text: str) -> bool:
    return text[:8].lower().startswith(("http://", "https://"))


def _unreadable(item: JSONObject) -> Failure | None:
    """The failure of an item whose picture can't be read, without the link; None for other items."""
    if _item_images(item) or read_failure(item):
        return None
    values = {key: item[key] for key in ("image_url", "image_urls", "b64_json") if item.get(key)}
    if not values:
        return None
    types = ", ".join(f"{key} is {_describe_type(value)}" for key, value in values.items())
    logger.warning("a picture in the upstream's response can't be read: %s", types)
    reason = f"it can't be read from the response: {types}. It may have been billed: ask the vendor, with its trace_id"
    return Failure("unreadable_reply", reason)


def _describe_type(value: Any) -> str:
    """The type of a JSON value, without its content."""
    if isinstance(value, str):
        return f"a string of {len(value)} characters"
    return {bool: "a boolean", list: "a list", dict: "an object"}.get(type(value), "a number")


def _bounding_boxes(value: Any) -> JSONObject:
    """A layer's boxes as lists of numbers: in pixels (`absolute`), or in thousandths (`normalized`)."""
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
    # A server that truncates text by UTF-16 units may leave half of a surrogate pair, which can't be encoded.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) and value else None


def _label(value: Any) -> str | None:
    text = _text(value)
    return text[:_MAX_LABEL] if text else None


def _id(reply: JSONObject) -> str | None:
    """The task's id, from `id` or `task_id`; it may be a number."""
    id_ = reply.get("id") or reply.get("task_id")
    return str(id_) if isinstance(id_, int) and not isinstance(id_, bool) else _text(id_)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15


def _number(value: Any) -> float | None:
    return float(value) if _is_number(value) else None


def _first(values: Iterable[str | None]) -> str | None:
    return next((value for value in values if value), None)
