"""An upstream on raw sockets with a fault for each call, selected by the call's name, such as `stdio:wait.reset`.

A name is a prompt, a task's id or the end of a picture's address. It has the place of the fault (the response to the
submit, a look-up or a picture) and its kind; all other responses to that call are valid.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from io import BytesIO
from typing import Any

from PIL import Image

LINK = "http://127.0.0.1:9/picture.jpg"
"""Where nobody listens, and not the upstream's own address: it is not followed."""
PROMISED = 100
"""Bytes that an answer of which more is missing falls short of its length."""
_NAME = re.compile(r"(?:stdio|http):([a-z_]+)\.([a-z0-9-]+)")
_YEARS = 30 * 365 * 24 * 3600
_SLOW = 0.4
_TRICKLE = 0.05


@dataclass
class Call:
    """One request: whose it is, how its fault goes, and what a good answer would be."""

    name: str
    place: str
    fault: str
    times: int
    good: bytes
    kind: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, status: int, body: bytes, *headers: str, missing: int = 0) -> None:
        """An answer and the end of the connection."""
        lines = [f"HTTP/1.1 {status} -", f"Content-Length: {len(body) + missing}", "Connection: close", *headers]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await self.writer.drain()

    async def answer(self) -> None:
        await self.send(200, self.good, f"Content-Type: {self.kind}")

    async def endless(self, first: bytes, then: Iterator[bytes], *headers: str, pause: float = _TRICKLE) -> None:
        """An answer that goes on until the other side has had enough."""
        head = "\r\n".join(["HTTP/1.1 200 OK", f"Content-Type: {self.kind}", *headers, "", ""])
        self.writer.write(head.encode() + first)
        for piece in then:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(pause)

    def reset(self) -> None:
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    @property
    def started(self) -> bytes:
        """What a good answer begins with: of a stream, its first line, which says the task's id."""
        return self.good[: self.good.index(b"\n") + 1] if self.place == "stream" else self.good[:1]


Fault = Callable[[Call], Awaitable[None]]


async def slow(call: Call) -> None:
    await asyncio.sleep(_SLOW)
    await call.answer()


async def silent(call: Call) -> None:
    await call.reader.read()


async def half_open(call: Call) -> None:
    """Headers a byte at a time, without end."""
    call.writer.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while True:
        call.writer.write(b"x")
        await call.writer.drain()
        await asyncio.sleep(_TRICKLE)


async def reset(call: Call) -> None:
    call.reset()


async def cut(call: Call) -> None:
    """Headers and some of the body, then a reset."""
    await call.send(200, call.started, f"Content-Type: {call.kind}", missing=PROMISED)
    await asyncio.sleep(_TRICKLE)
    call.reset()


async def garbage(call: Call) -> None:
    """As from a port that speaks TLS."""
    call.writer.write(b"\x15\x03\x03\x00\x02\x02\x46\xff\xfe\x00garbage\r\n\r\n")


async def html(call: Call) -> None:
    await call.send(int(call.fault.removeprefix("html-")), b"<html><h1>Sorry</h1></html>", "Content-Type: text/html")


async def truncated(call: Call) -> None:
    """The whole length that was announced, but JSON (or a picture) that breaks off."""
    first = len(call.started)
    await call.send(200, call.good[: first + (len(call.good) - first) // 2], f"Content-Type: {call.kind}")


async def endless(call: Call) -> None:
    """A body of blanks without an end."""
    await call.endless(call.started, iter(lambda: b" " * 1024, b""))


async def heartbeats(call: Call) -> None:
    await call.endless(call.started, iter(lambda: b": ping\n\n", b""))


async def progress(call: Call) -> None:
    """Events that bring nothing."""
    await call.endless(call.started, iter(lambda: b'{"type": "image_generation.progress"}\n', b""))


async def events(call: Call) -> None:
    """A picture with each event, far more than any set has."""
    lines = (json.dumps({"type": "x.partial_succeeded", "url": f"{LINK}?{n}"}).encode() + b"\n" for n in range(10_000))
    await call.endless(call.started, lines, pause=0.001)


def bomb(times: int) -> tuple[bytes, bytes]:
    """The start of a gzip stream, and a piece to repeat: a MiB of newlines each; twice compressed, a GiB."""
    start, piece = b"", b"\n" * 2**20
    for _ in range(times):
        squeeze = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
        start = squeeze.compress(start) + squeeze.flush(zlib.Z_FULL_FLUSH)
        # A full flush makes a piece that stands for itself, so that it can be sent again and again.
        piece = squeeze.compress(piece) + squeeze.flush(zlib.Z_FULL_FLUSH)
        piece *= 2**20 // len(piece) if times > 1 and len(piece) < 2**11 else 1
    return start, piece


_BOMBS = {"gzip-bomb": ("gzip", *bomb(1)), "gzip-twice": ("gzip, gzip", *bomb(2))}


async def explode(call: Call) -> None:
    encoding, start, piece = _BOMBS[call.fault]
    await call.endless(start, iter(lambda: piece * (2**16 // len(piece) + 1), b""), f"Content-Encoding: {encoding}")


async def gzip(call: Call) -> None:
    """No fault: an answer that is compressed as it may be."""
    await call.send(200, zlib.compress(call.good, wbits=zlib.MAX_WBITS | 16), "Content-Encoding: gzip")


async def refusal(call: Call) -> None:
    """A status, once; then all is well."""
    if call.times > 1:
        await call.answer()
        return
    status = int(call.fault)
    headers = [] if status == 500 else ["Retry-After: 1"]
    await call.send(status, b'{"error": {"code": "api_error", "message": "not now"}}', *headers)


async def retry_date(call: Call) -> None:
    """429 with a date, by a clock that is years ahead, once."""
    if call.times > 1:
        await call.answer()
        return
    ahead = time.time() + _YEARS
    dates = [f"Date: {formatdate(ahead, usegmt=True)}", f"Retry-After: {formatdate(ahead + 1, usegmt=True)}"]
    await call.send(429, b"{}", *dates)


async def retry_far(call: Call) -> None:
    """429 with a date that is years ahead of anybody's clock."""
    await call.send(429, b"{}", f"Retry-After: {formatdate(time.time() + _YEARS, usegmt=True)}")


FAULTS: dict[str, Fault] = {
    "slow": slow, "silent": silent, "half-open": half_open, "reset": reset, "cut": cut, "garbage": garbage,
    "html-200": html, "html-502": html, "truncated": truncated, "endless": endless, "heartbeats": heartbeats,
    "progress": progress, "events": events, "gzip": gzip, "gzip-bomb": explode, "gzip-twice": explode, "429": refusal,
    "503": refusal, "500": refusal, "retry-date": retry_date, "retry-far": retry_far,
}  # fmt: skip
"""Faults of the answer as such; those of what it says are in `answered`."""
LASTING = {"silent", "retry-far"}
"""Faults that a wait meets at every look-up; any other at its first alone."""


def answered(name: str, fault: str, link: str) -> dict[str, Any]:
    """A finished answer, or what a fault makes of it."""
    good = {"success": True, "task_id": name, "trace_id": "r1", "data": [{"image_url": link, "size": "64x64"}]}
    match fault:
        case "wrong-types":
            return {"success": "yes", "task_id": [1], "trace_id": {}, "data": "none", "error": 5, "elapsed": "x"}
        case "success-false":
            return {"success": False, "error": {"code": "api_error", "message": "fetch failed"}, "trace_id": "r1"}
        case "empty":
            return {**good, "data": []}
        case "duplicates":
            return {**good, "data": [{"image_url": link}, {"image_url": link}]}
    return good


def looked_up(name: str, fault: str) -> dict[str, Any]:
    """A task as a look-up has it."""
    now = time.time()
    skew = _YEARS if fault == "clock-skew" else 0
    times = {"created_at": now - skew, "started_at": now - 1, "finished_at": now + skew, "elapsed": 1.0}
    if fault == "wrong-types":
        return {"id": name, "request": [], "response": answered(name, fault, LINK), **dict.fromkeys(times, "x")}
    return {"id": name, "request": {"prompt": name}, "response": answered(name, fault, LINK), **times}


def streamed(name: str, fault: str) -> bytes:
    """The lines of a stream."""
    end = {"type": "image_generation.completed", "usage": {}}
    events: list[Any] = [{"type": "image_generation.partial_succeeded", "url": LINK}, end]
    match fault:
        case "wrong-types":
            events = [{"type": 5, "url": [LINK], "data": "x", "error": 7}, [1], "x", None, {"event": {}, "data": 5}]
        case "success-false":
            events = [answered(name, fault, LINK)]
        case "empty":
            events = [{**end, "data": []}]
        case "duplicates":
            events.insert(0, events[0])
        case "clock-skew":
            events = [{**event, "created_at": 1, "finished_at": -1e300, "elapsed": "x"} for event in events]
    events.insert(0, {"type": "image_generation.started", "task_id": name})
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


@dataclass
class Faulty:
    """The upstream; `submits` and `faults` count by name what came, and what was done to it."""

    submits: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    address: str = ""
    listener: socket.socket = field(default_factory=socket.socket)

    @contextmanager
    def bound(self) -> Iterator[None]:
        """Has an address, where connections are refused as long as nobody serves."""
        with self.listener as listener:
            listener.bind(("127.0.0.1", 0))
            self.address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            yield

    async def serve(self) -> asyncio.Server:
        return await asyncio.start_server(self._connected, sock=self.listener)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = re.search(r"(?i)content-length: (\d+)", head)
            body = json.loads(await reader.readexactly(int(length[1]))) if length else {}
            call = self._call(head.split(" ")[1], body, reader, writer)
            await FAULTS.get(call.fault, Call.answer)(call)
        writer.close()

    def _call(self, path: str, body: Any, *sockets: Any) -> Call:
        names = [body.get("prompt") or body.get("id") or path.rpartition("/")[2], *body.get("ids", [])][-1:]
        names = body.get("ids") or names
        name, place, fault = self._turn(names)
        kind = "application/json"
        if path == "/seedream/images":
            self.submits[name] += 1
            link = f"{self.address}/pictures/{name}" if place in ("picture", "saving") else LINK
            here = place in ("submit", "stream")
            whole: Any = {"task_id": name} if place == "wait" else answered(name, fault if here else "", link)
            good = streamed(name, fault) if place == "stream" else json.dumps(whole).encode()
        elif path == "/seedream/tasks":
            tasks = [looked_up(each, each.rpartition(".")[2]) for each in names]
            good = json.dumps({"items": tasks, "count": len(tasks)} if "ids" in body else tasks[0]).encode()
            here = place == "get_task" or (place == "wait" and (fault in LASTING or not self.faults[name]))
        else:
            good, kind, here = _png(fault), "image/png", True
        self.faults[name] += here
        return Call(name, place, fault if here else "", self.faults[name], good, kind, *sockets)

    def _turn(self, names: list[str]) -> tuple[str, str, str]:
        """Of several tasks in one look-up, the one whose fault has been met least: each has its turn."""
        name = min(reversed(names), key=lambda each: (each.rpartition(".")[2] not in FAULTS, self.faults[each]))
        found = _NAME.fullmatch(name)
        assert found, name
        return name, found[1], found[2]


def _png(fault: str) -> bytes:
    if fault == "empty":
        return b""
    file = BytesIO()
    Image.effect_noise((64, 64), 50).save(file, "PNG")
    return file.getvalue()
