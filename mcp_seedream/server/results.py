"""Makes the results of tools from tasks and errors.

Some clients pass only the text of a result to the model, others only its structured content. So both are complete, and
short: they have no null values and no repetitions.
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
"""Output schema of the image tools: the fields that programs may rely on. Results can have further fields."""
CALL = "seedream/call"
"""Key of a result's `_meta`, for the gallery: the call that made a task, as `{"tool": …, "args": {…}}`."""

_BLOCK_KINDS = ("jpeg", "png", "webp", "gif")  # that model APIs accept
_MAX_RESULT = 140_000  # characters; clients accept 150,000
_MAX_CALL = 10_000  # characters
_MAX_PLACE = 4_000  # characters for the place of the full picture, in the text and in the structured content
_MIN_RETRY_SECONDS = 10  # suggested for a picture that takes longer than usual
_MAX_REASONS = 5  # distinct reasons for failed images

TASK_RESULT: dict[str, Any] = {
    "type": "object",
    "properties": {**_TASK, "tasks": {"type": "array", "items": {"type": "object"}}},
    "required": ["status"],
}
"""Output schema of `get_task`: one task as from the image tools, or several under `tasks`."""


def task_result(
    task: Task, shown: Sequence[bytes] = (), caption: str | None = None, *, repeatable: Collection[str] = ()
) -> CallToolResult:
    """The result for one task: its pictures, or its id and the next step, or the reason of its failure.

    Args:
        task: The task.
        shown: Image files for the result: a preview, or the pictures themselves.
        caption: The description of a preview, such as "is only a thumbnail"; None if the pictures themselves are shown.
        repeatable: Arguments with which the gallery may repeat the call; only for tasks that were looked up.
    """
    task = _with_fitting_images(task)
    text, structured = _text(task), _structured(task)
    if blocks := _blocks(shown, _MAX_RESULT - len(text) - len(json.dumps(structured)) - _MAX_PLACE):
        note = _preview_note(task, caption) if caption else None
        # Links and the note come first: some clients show only structured content, and the preview is not the picture.
        first: dict[str, Any] = {key: structured[key] for key in ("status", "images") if key in structured}
        structured = {**first, **({"preview": note} if note else {}), **structured}
        text = "\n".join(filter(None, [text, note]))
    result = _result(text, structured, blocks, is_error=task.state == "failed")
    if repeatable and (call := _call(task, repeatable)):
        result.meta = {CALL: call}
    return result


def tasks_result(tasks: Sequence[Task], unknown: Iterable[str] = (), shown: Sequence[bytes] = ()) -> CallToolResult:
    """The result for several tasks.

    Args:
        tasks: The tasks.
        unknown: Ids that the upstream does not know.
        shown: Image files for the result.
    """
    items, texts, room = [], [], _MAX_RESULT * 2 // 3
    for task in tasks:
        item, text = _structured(task), _text(task)
        room -= len(json.dumps(item)) + len(text)
        if room < 0:
            note = "This task does not fit into the result with the others: get it alone."
            item, text = {"status": task.state, "task_id": task.id, "notes": [note]}, f"Task {task.id}: {note}"
        items.append(item)
        texts.append(text)
    for id_ in unknown:
        error = {"code": "not_found", "message": "The upstream has no such task for this token.", "retryable": False}
        items.append({"status": "failed", "task_id": id_, "error": error})
        texts.append(f"The upstream has no task {id_} for this token.")
    states = {item["status"] for item in items}
    status = next(state for state in ("pending", "succeeded", "failed") if state in states)
    text = "\n\n".join(texts)
    structured: dict[str, Any] = {"status": status, "tasks": items}
    if failed := sum(item["status"] == "failed" for item in items):
        structured["notes"] = [f"{failed} of {len(items)} tasks failed."]
        text = f"{structured['notes'][0]}\n\n{text}"
    blocks = _blocks(shown, _MAX_RESULT - len(text) - len(json.dumps(structured)))
    return _result(text, structured, blocks, is_error=status == "failed")


def history_result(entries: Sequence[Entry]) -> CallToolResult:
    """The result for the newest tasks of the journal; the oldest ones are left out if they do not fit."""
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
    items = [{key: value for key, value in task.items() if value} for task in tasks]
    text = history_text(entries)
    if len(text) + len(json.dumps(items)) > _MAX_RESULT:
        return history_result(entries[:-1])
    return _result(text, {"status": "succeeded", "tasks": items}, is_error=False)


def history_text(entries: Sequence[Entry]) -> str:
    """The newest tasks of the journal as text."""
    if not entries:
        return "No task was made on this machine in the last 30 days."
    lines = [
        f"{_time(entry.at)} {entry.state} {entry.tool} task_id {entry.id} {_quoted(entry.prompt)}".strip()
        + "".join(f"\n  {place}" for place in (*entry.files, *entry.links))
        for entry in entries
    ]
    return "\n".join(["Tasks made on this machine, the newest first:", *lines])


def _quoted(prompt: str) -> str:
    """The first 60 characters of a prompt in quotation marks; empty for an empty prompt, as layers may have."""
    if not prompt.strip():
        return ""
    return json.dumps(prompt if len(prompt) <= 60 else f"{prompt[:60]}…", ensure_ascii=False)


def _with_fitting_images(task: Task) -> Task:
    """The task with the pictures that fit into one result, and a note if some are left out."""
    images, room = [], _MAX_RESULT * 2 // 3
    for image in task.images:
        size = len(json.dumps(_image(image))) + len(_line(image))
        if size <= room:
            room -= size
            images.append(image)
    if len(images) == len(task.images):
        return task
    note = f"{len(task.images) - len(images)} of {len(task.images)} images have links too long for a result."
    return replace(task, images=tuple(images), notes=(*task.notes, note))


def error_result(error: SeedreamError) -> CallToolResult:
    """The result for an error: its code and message, and the upstream's ids."""
    ids = {}
    if isinstance(error, UpstreamError):
        ids = {key: value for key in ("task_id", "trace_id") if (value := getattr(error, key))}
    details = {"code": error.code, "message": error.message, "retryable": error.retryable}
    text = f"{error.code}: {error.message}" + "".join(f" {key}: {value}" for key, value in ids.items())
    return _result(text, {"status": "failed", **ids, "error": details}, is_error=True)


def _result(
    text: str, structured: dict[str, Any], blocks: Sequence[ImageContent] = (), *, is_error: bool
) -> CallToolResult:
    content: list[ContentBlock] = [TextContent(type="text", text=text), *blocks]
    return CallToolResult(content=content, structured_content=structured, is_error=is_error)


def _blocks(shown: Sequence[bytes], room: int) -> list[ImageContent]:
    """The image files as content blocks; files that exceed `room`, in characters, are left out."""
    blocks = []
    for data in shown:
        image_kind, encoded = kind(data), base64.b64encode(data).decode()
        room -= len(encoded)
        # The type is that of its bytes: model APIs refuse a conversation with an image of a wrong type.
        if image_kind in _BLOCK_KINDS and room > 0:
            blocks.append(ImageContent(type="image", data=encoded, mime_type=f"image/{image_kind}"))
    return blocks


def _preview_note(task: Task, caption: str) -> str:
    """A note with the place of the full pictures, and a description of the image in the result."""
    places = [place for image in task.images if (place := image.path or image.url)]
    is_short = len(task.images) == 1 and places and len(places[0]) <= _MAX_PLACE // 4
    place = f"The picture is {places[0]}. " if is_short else "The pictures are under `images`. " if places else ""
    return f"{place}The image in this result {caption}."


def _structured(task: Task) -> dict[str, Any]:
    fields: dict[str, Any] = {
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
        fields["error"] = {"code": task.error.code, "message": _reason(task), "retryable": False}
    return {key: value for key, value in fields.items() if value not in (None, "", [])}


def _image(image: Image) -> dict[str, Any]:
    fields = ("url", "path", "size", "z_index", "name", "description", "bounding_box")
    return {field: value for field in fields if (value := getattr(image, field)) is not None}


def _text(task: Task) -> str:
    if task.state == "pending":
        ran = f" after {task.elapsed:.0f} s" if task.elapsed is not None else ""
        return "\n".join([f"Task {task.id} is still running{ran}.", *_notes(task)])
    if task.state == "failed":
        head = f"{task.error.code if task.error else 'failed'}: {_reason(task)}"
        return "\n".join([head, *_notes(task), _ids(task)])
    count = len(task.images)
    took = f" in {task.elapsed:.0f} s" if task.elapsed is not None else ""
    by = f" by {task.model}" if task.model else ""
    lines = [f"{count} image{'s' if count > 1 else ''}{by}{took}:", *map(_line, task.images)]
    until = [f"Links work until {_time(task.links_until)}."] if task.links_until else []
    return "\n".join([*lines, *until, *_notes(task), *_usage(task), _ids(task)])


def _usage(task: Task) -> list[str]:
    """The upstream's usage counts, on one line."""
    counts: dict[str, Any] = {}
    for name, value in (task.usage or {}).items():
        counts |= value if isinstance(value, dict) else {name: value}
    return [f"usage: {', '.join(f'{name} {count}' for name, count in counts.items())}"] if counts else []


def _call(task: Task, repeatable: Collection[str]) -> dict[str, Any] | None:
    """The call that made a task; None if it can't be repeated, for example because its pictures were sent as data."""
    arguments = {name: value for name, value in (task.request or {}).items() if name in repeatable}
    images = arguments.get("image", [])
    if not isinstance(arguments.get("prompt", "" if images else None), str):
        return None
    if not (isinstance(images, list) and all(isinstance(i, str) and reference_kind(i) == "url" for i in images)):
        return None
    if len(json.dumps(arguments)) > _MAX_CALL:
        return None
    return {"tool": "edit_image" if images else "generate_image", "args": arguments}


def _time(seconds: float | None) -> str | None:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%MZ}" if seconds else None


def _line(image: Image) -> str:
    places = [image.url, f"saved as {image.path}" if image.path else None]
    line = " ".join(part for part in [*(places if any(places) else ["(no link)"]), image.size] if part)
    if image.z_index is not None:
        description = ": ".join(text for text in (image.name, image.description) if text)
        line += f" layer {image.z_index} {description}".rstrip()
    if image.box:
        line += f", box {json.dumps(image.box)} (left, top, right, bottom)"
    return line


def _ids(task: Task) -> str:
    return " ".join(f"{key}: {value}" for key, value in (("task_id", task.id), ("trace_id", task.trace_id)) if value)


def _reason(task: Task) -> str:
    reason = task.error.message.rstrip(".") if task.error else "no reason given"
    return f"No picture: {reason}."


def _retry_hint(task: Task) -> str:
    """When to call `get_task` again for a pending picture; empty if its model or age is unknown."""
    if task.typical_seconds is None or task.elapsed is None:
        return ""
    seconds = max(task.typical_seconds - task.elapsed, _MIN_RETRY_SECONDS)
    return f" (such pictures take about {task.typical_seconds:.0f} s: look again in {seconds:.0f} s)"


def _notes(task: Task) -> list[str]:
    pending = (
        f'Its picture is not lost: get_task with task_id "{task.id}" waits for it{_retry_hint(task)}; '
        "generating again would be billed again."
    )
    reasons = dict.fromkeys(f"{failure.message.rstrip('.')} ({failure.code})" for failure in task.failures)
    first_reasons = "; ".join(list(reasons)[:_MAX_REASONS])
    failed = f"{len(task.failures)} of {len(task.images) + len(task.failures)} images failed: {first_reasons}."
    return [*([pending] if task.state == "pending" else []), *task.notes, *([failed] if reasons else [])]
