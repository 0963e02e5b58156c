"""A task, or an error → what the agent gets.

Clients differ in what they show a model: some the text, some the structured content. So each carries
everything, in few words: no nulls, no repetition, no orders.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from mcp_types import CallToolResult, ContentBlock, ImageContent, TextContent

from mcp_seedream.catalog.picture_kinds import kind
from mcp_seedream.catalog.references import reference_kind
from mcp_seedream.core.errors import SeedreamError, UpstreamError
from mcp_seedream.generation.journal import Entry
from mcp_seedream.upstream.types import Image, Task

_STRING = {"type": "string"}
_IMAGE = {
    "type": "object",
    "properties": {
        "url": _STRING,
        "path": _STRING,
        "size": _STRING,
        "z_index": {"type": "integer"},
        "name": _STRING,
        "description": _STRING,
    },
}
_TASK: dict[str, Any] = {
    "status": {"type": "string", "enum": ["succeeded", "pending", "failed"]},
    "task_id": _STRING,
    "model": _STRING,
    "images": {"type": "array", "items": _IMAGE},
    "links_until": _STRING,
    "elapsed_seconds": {"type": "number"},
    "notes": {"type": "array", "items": _STRING},
    "error": {
        "type": "object",
        "properties": {"code": _STRING, "message": _STRING, "retryable": {"type": "boolean"}},
    },
}
IMAGE_RESULT: dict[str, Any] = {"type": "object", "properties": _TASK, "required": ["status"]}
"""Output schema of the image tools: what programs rely on; a result may have more."""
CALL = "seedream/call"
"""Key of a result's `_meta`: `{"tool": …, "args": {…}}` that made a task that was looked up, for the gallery."""

_SHOWABLE = ("jpeg", "png", "webp", "gif")
_LONGEST = 140_000
"""Characters of a whole result: clients take 150,000."""
_LONGEST_CALL = 10_000
_SOON = 10
"""Seconds after which to look again for a picture that takes longer than usual."""
_LONGEST_PLACE = 4_000  # characters for where the whole picture is, which the text and the structured result say
_REASONS = 5
"""Reasons for failed images that are told, each once."""

TASK_RESULT: dict[str, Any] = {
    "type": "object",
    "properties": {**_TASK, "tasks": {"type": "array", "items": {"type": "object"}}},
    "required": ["status"],
}
"""Output schema of `get_task`: one task as from the image tools, or several of those under `tasks`."""


def one(
    task: Task, shown: Sequence[bytes] = (), caption: str | None = None, *, known: Collection[str] = ()
) -> CallToolResult:
    """The result for one task: pictures, or its id and what to do next, or why there is none.

    Args:
        task: As it stands.
        shown: Image files to put into the result: a preview, or data that was asked for.
        caption: What the image in the result is, if it is not the picture itself: "is only a thumbnail".
        known: Arguments that may be told of the earlier call which made it: clients may want to make it again.
    """
    task = _within_room(task)
    text, structured = _text(task), _structured(task)
    if blocks := _blocks(shown, _LONGEST - len(text) - len(json.dumps(structured)) - _LONGEST_PLACE):
        words = _preview(task, caption) if caption else None
        # Clients that drop the text would save the preview as if it were the picture.
        structured = {**_first(structured, "status", "images"), **({"preview": words} if words else {}), **structured}
        text = "\n".join(filter(None, [text, words]))
    result = _result(text, structured, blocks, is_error=task.state == "failed")
    if known and (call := _call(task, known)):
        result.meta = {CALL: call}
    return result


def several(tasks: Sequence[Task], missing: Iterable[str] = (), shown: Sequence[bytes] = ()) -> CallToolResult:
    """The result for several tasks; `missing` are ids that the upstream does not know, `shown` as for `one`."""
    found, texts, room = [], [], _LONGEST * 2 // 3
    for task in tasks:
        one_task, its_text = _structured(task), _text(task)
        room -= len(json.dumps(one_task)) + len(its_text)
        if room < 0:  # what has no room is named, and can be had alone
            note = "There is no room for this task in one result: ask for it alone."
            one_task, its_text = {"status": task.state, "task_id": task.id, "notes": [note]}, f"Task {task.id}: {note}"
        found.append(one_task)
        texts.append(its_text)
    for id_ in missing:
        error = {"code": "not_found", "message": "Unknown to the upstream, for this token.", "retryable": False}
        found.append({"status": "failed", "task_id": id_, "error": error})
        texts.append(f"Task {id_} is unknown to the upstream, for this token.")
    states = {task["status"] for task in found}
    status = next(state for state in ("pending", "succeeded", "failed") if state in states)
    text = "\n\n".join(texts)
    structured: dict[str, Any] = {"status": status, "tasks": found}
    if failed := sum(task["status"] == "failed" for task in found):
        structured["notes"] = [f"{failed} of {len(found)} tasks failed."]
        text = f"{structured['notes'][0]}\n\n{text}"
    blocks = _blocks(shown, _LONGEST - len(text) - len(json.dumps(structured)))
    return _result(text, structured, blocks, is_error=status == "failed")


def listing(entries: Sequence[Entry]) -> CallToolResult:
    """The newest tasks as they were written down, the last one first."""
    tasks = [
        {
            "status": entry.state,
            "task_id": entry.id,
            "created_at": _time(entry.at),
            "tool": entry.tool,
            "model": entry.model,
            "prompt": entry.prompt[:60],
            "images": [{"url": link} for link in entry.links],
            "files": list(entry.files),
        }
        for entry in entries
    ]
    found = [{key: value for key, value in task.items() if value} for task in tasks]
    text = listed(entries)
    if len(text) + len(json.dumps(found)) > _LONGEST:
        return listing(entries[:-1])
    return _result(text, {"status": "succeeded", "tasks": found}, is_error=False)


def listed(entries: Sequence[Entry]) -> str:
    """The newest tasks in words, for `listing` and for people."""
    if not entries:
        return "No task was made on this machine in the last 30 days."
    lines = [
        f"{_time(entry.at)} {entry.state} {entry.tool} task_id {entry.id} {_shortened(entry.prompt)}".strip()
        + "".join(f"\n  {where}" for where in (*entry.files, *entry.links))
        for entry in entries
    ]
    return "\n".join(["Tasks made on this machine, the newest first:", *lines])


def _shortened(prompt: str) -> str:
    """A prompt in quotation marks; nothing where there was none, as for layers."""
    if not prompt.strip():
        return ""
    return json.dumps(prompt if len(prompt) <= 60 else f"{prompt[:60]}…", ensure_ascii=False)


def _within_room(task: Task) -> Task:
    """The task with as many of its pictures as one result has room for; how many it has not is a note."""
    images, room = [], _LONGEST * 2 // 3
    for image in task.images:
        size = len(json.dumps(_image(image))) + len(_line(image))
        if size <= room:
            room -= size
            images.append(image)
    if len(images) == len(task.images):
        return task
    note = f"{len(task.images) - len(images)} of {len(task.images)} images have no room in a result: long links."
    return replace(task, images=tuple(images), notes=(*task.notes, note))


def failure(error: SeedreamError) -> CallToolResult:
    """The result for an error: its code, its words, and the upstream's trace_id."""
    known = {}
    if isinstance(error, UpstreamError):
        known = {key: value for key in ("task_id", "trace_id") if (value := getattr(error, key))}
    details = {"code": error.code, "message": error.message, "retryable": error.retryable}
    text = f"{error.code}: {error.message}" + "".join(f" {key}: {value}" for key, value in known.items())
    return _result(text, {"status": "failed", **known, "error": details}, is_error=True)


def _result(
    text: str, structured: dict[str, Any], blocks: Sequence[ImageContent] = (), *, is_error: bool
) -> CallToolResult:
    content: list[ContentBlock] = [TextContent(type="text", text=text), *blocks]
    return CallToolResult(content=content, structured_content=structured, is_error=is_error)


def _blocks(shown: Sequence[bytes], room: int) -> list[ImageContent]:
    """The image files as blocks, as far as a result has room for them (in characters)."""
    blocks = []
    for data in shown:
        found, encoded = kind(data), base64.b64encode(data).decode()
        room -= len(encoded)
        # The type its bytes have, and one that models know: a wrong one can poison a whole conversation.
        if found in _SHOWABLE and room > 0:
            blocks.append(ImageContent(type="image", data=encoded, mime_type=f"image/{found}"))
    return blocks


def _preview(task: Task, caption: str) -> str:
    """Where the whole picture is, and that the image in the result is not that."""
    [*places] = filter(None, (image.path or image.url for image in task.images))
    short = len(task.images) == 1 and places and len(places[0]) <= _LONGEST_PLACE // 4
    where = f"The picture is {places[0]}. " if short else "The pictures are under `images`. " if places else ""
    return f"{where}The image in this result {caption}."


def _first(structured: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: structured[key] for key in keys if key in structured}


def _structured(task: Task) -> dict[str, Any]:
    found: dict[str, Any] = {
        "status": task.state,
        "task_id": task.id,
        "trace_id": task.trace_id,
        "model": task.model,
        "images": [_image(image) for image in task.images],
        "links_until": _time(task.links_until),
        "elapsed_seconds": None if task.elapsed is None else round(task.elapsed, 1),
        "usage": task.usage,
        "notes": _notes(task),
    }
    if task.error:
        found["error"] = {"code": task.error.code, "message": _reason(task), "retryable": False}
    return {key: value for key, value in found.items() if value not in (None, "", [])}


def _image(image: Image) -> dict[str, Any]:
    fields = ("url", "path", "size", "z_index", "name", "description", "bounding_box")
    return {field: value for field in fields if (value := getattr(image, field)) is not None}


def _text(task: Task) -> str:
    if task.state == "pending":
        ran = f" after {task.elapsed:.0f} s" if task.elapsed is not None else ""
        return "\n".join([f"Task {task.id} is still running{ran}.", *_notes(task)])
    if task.state == "failed":
        head = f"{task.error.code if task.error else 'failed'}: {_reason(task)}"
        return "\n".join([head, *_notes(task), _identifiers(task)])
    count = len(task.images)
    took = f" in {task.elapsed:.0f} s" if task.elapsed is not None else ""
    by = f" by {task.model}" if task.model else ""
    lines = [f"{count} image{'s' if count > 1 else ''}{by}{took}:", *map(_line, task.images)]
    until = [f"Links live until {_time(task.links_until)}."] if task.links_until else []
    return "\n".join([*lines, *until, *_notes(task), *_usage(task), _identifiers(task)])


def _usage(task: Task) -> list[str]:
    """What the upstream counted the request as, on one line."""
    counts: dict[str, Any] = {}
    for name, value in (task.usage or {}).items():
        counts |= value if isinstance(value, dict) else {name: value}
    return [f"usage: {', '.join(f'{name} {count}' for name, count in counts.items())}"] if counts else []


def _call(task: Task, known: Collection[str]) -> dict[str, Any] | None:
    """The call that made a task, as far as it can be made again: pictures given as data can't be told any more."""
    asked = {name: value for name, value in (task.request or {}).items() if name in known}
    images = asked.get("image", [])
    if not isinstance(asked.get("prompt", "" if images else None), str) or len(json.dumps(asked)) > _LONGEST_CALL:
        return None
    if not (isinstance(images, list) and all(isinstance(i, str) and reference_kind(i) == "url" for i in images)):
        return None
    return {"tool": "edit_image" if images else "generate_image", "args": asked}


def _time(seconds: float | None) -> str | None:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%MZ}" if seconds else None


def _line(image: Image) -> str:
    where = [image.url, f"saved as {image.path}" if image.path else None]
    line = " ".join(part for part in [*(where if any(where) else ["(no link)"]), image.size] if part)
    if image.z_index is not None:
        about = ": ".join(word for word in (image.name, image.description) if word)
        line += f" layer {image.z_index} {about}".rstrip()
    if image.box:
        line += f", box {json.dumps(image.box)} (left, top, right, bottom)"
    return line


def _identifiers(task: Task) -> str:
    return " ".join(f"{key}: {value}" for key, value in (("task_id", task.id), ("trace_id", task.trace_id)) if value)


def _reason(task: Task) -> str:
    reason = task.error.message.rstrip(".") if task.error else "no reason given"
    return f"No picture: {reason}."


def _when(task: Task) -> str:
    """When a pending picture is to be expected, where its model and age are known."""
    if task.typical_seconds is None or task.elapsed is None:
        return ""
    left = max(task.typical_seconds - task.elapsed, _SOON)
    return f" (such pictures take about {task.typical_seconds:.0f} s: look again in {left:.0f} s)"


def _notes(task: Task) -> list[str]:
    wait = (
        f'Its picture is not lost: get_task with task_id "{task.id}" waits for it{_when(task)}; '
        "generating again would be billed again."
    )
    reasons = dict.fromkeys(f"{failure.message.rstrip('.')} ({failure.code})" for failure in task.failures)
    told = "; ".join(list(reasons)[:_REASONS])
    count = f"{len(task.failures)} of {len(task.images) + len(task.failures)} images failed: {told}."
    return [*([wait] if task.state == "pending" else []), *task.notes, *([count] if reasons else [])]
