"""The attacks and loads of `benchmarks.attacks`: `python -m benchmarks.attackers NAME PORT SECONDS`."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image

MIB = 2**20
_CHUNK = 256 * 1024
KEYS = [f"attacker-{number}" for number in range(5)]


@dataclass(frozen=True)
class Attack:
    """One attack: what it does until a time, and how many files the server may open (0: as many as here)."""

    run: Callable[[int, float, Counter[str]], Coroutine[Any, Any, None]]
    files: int = 0


def head(key: str, length: int, method: str = "POST") -> bytes:
    """The head of a request to the endpoint."""
    lines = [
        f"{method} /mcp HTTP/1.1",
        "Host: 127.0.0.1",
        f"Authorization: Bearer {key}",
        "Accept: application/json, text/event-stream",
        "Mcp-Protocol-Version: 2025-06-18",
        *(["Content-Type: application/json", f"Content-Length: {length}"] if method == "POST" else []),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def tool_call(tool: str, arguments: str) -> bytes:
    """A body that calls a tool; the arguments are JSON."""
    name = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call"})[:-1]
    return f'{name}, "params": {{"name": "{tool}", "arguments": {arguments}}}}}'.encode()


def edit_call(picture: bytes) -> bytes:
    """A body that edits a picture."""
    data = base64.b64encode(picture).decode()
    prompt = secrets.token_hex(8)
    arguments = {"prompt": prompt, "image": [f"data:image/jpeg;base64,{data}"], "wait_seconds": 0}
    return tool_call("edit_image", json.dumps(arguments))


def outcome(answer: bytes) -> str:
    """What an answer is: its status, and the code of a tool's error."""
    status = answer[9:12].decode() or "closed"
    if b'"isError":true' in answer.replace(b" ", b""):
        code = answer.partition(b'"code":"')[2].partition(b'"')[0].decode()
        return f"{status} {code}"
    return status


async def send(port: int, key: str, body: bytes, outcomes: Counter[str], rate: float = 0) -> None:
    """One request on a connection of its own. `rate`: bytes a second; 0: as fast as it goes."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError as error:
        outcomes[type(error).__name__] += 1
        return
    found = b""
    try:
        writer.write(head(key, len(body)).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        step = int(rate / 10) or _CHUNK
        for start in range(0, len(body), step):
            writer.write(body[start : start + step])
            await writer.drain()
            if rate:
                await asyncio.sleep(0.1)
        found = await asyncio.wait_for(reader.read(), 120)
    except (OSError, TimeoutError) as error:
        with suppress(OSError, TimeoutError):
            found = await asyncio.wait_for(reader.read(), 5)
        if not found:
            outcomes[type(error).__name__] += 1
            return
    finally:
        writer.close()
    outcomes[outcome(found)] += 1


def repeated(bodies: Iterable[bytes], keys: list[str] = KEYS) -> Attack:
    """Each body again and again, from a key in turn."""
    each = list(enumerate(bodies))

    async def run(port: int, until: float, outcomes: Counter[str]) -> None:
        async def again(number: int, body: bytes) -> None:
            while time.monotonic() < until:
                await send(port, keys[number % len(keys)], body, outcomes)

        await asyncio.gather(*(again(*one) for one in each))

    return Attack(run)


async def _pictures_of_49_mib(port: int, until: float, outcomes: Counter[str]) -> None:
    body = edit_call(b"\xff\xd8" + secrets.token_bytes(36 * MIB))
    await repeated([body] * 20).run(port, until, outcomes)


def _structure(item: str, size: int, *, count: int, keys: list[str] = KEYS) -> Attack:
    """As many calls at once, each with an array of small items of this many bytes."""

    async def run(port: int, until: float, outcomes: Counter[str]) -> None:
        items = f"{item}," * (size // (len(item) + 1))
        body = tool_call("generate_image", f'{{"prompt": "a", "x": [{items}1]}}')
        await repeated([body] * count, keys).run(port, until, outcomes)

    return Attack(run)


async def _prompt(port: int, until: float, outcomes: Counter[str]) -> None:
    body = tool_call("generate_image", f'{{"prompt": "{"a" * 49 * MIB}", "wait_seconds": 0}}')
    await repeated([body] * 4).run(port, until, outcomes)


async def _many(port: int, until: float, outcomes: Counter[str]) -> None:
    body = tool_call("generate_image", f'{{"prompt": "a", "x": "{"a" * 60_000}", "wait_seconds": 0}}')
    await repeated([body] * 1000).run(port, until, outcomes)


async def _declared(port: int, until: float, outcomes: Counter[str]) -> None:
    await _held(port, until, outcomes, count=200, start=lambda n: head(KEYS[n % 5], 10**17) + b"{")


async def _comments(port: int, until: float, outcomes: Counter[str]) -> None:
    body = edit_call(b"\xff\xd8" + b"\xff\xfe\x00\x02" * (7 * MIB) + b"\xff\xd9")
    await repeated([body] * 5).run(port, until, outcomes)


async def _scans(port: int, until: float, outcomes: Counter[str]) -> None:
    await repeated([edit_call(many_scans(3000))] * 6).run(port, until, outcomes)


def many_scans(count: int) -> bytes:
    """A progressive JPEG of 49 megapixels, which must be made smaller, whose last scan is repeated."""
    file = BytesIO()
    Image.new("RGB", (7000, 7000), "red").save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


async def _held(port: int, until: float, outcomes: Counter[str], *, count: int, start: Callable[[int], bytes]) -> None:
    """Connections that send a start and then nothing; those that the server closes are opened again."""

    async def hold(number: int) -> None:
        while time.monotonic() < until:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError as error:
                outcomes[type(error).__name__] += 1
                await asyncio.sleep(0.5)
                continue
            with suppress(OSError, TimeoutError):
                writer.write(start(number))
                found = b""
                async with asyncio.timeout(max(0, until - time.monotonic())):
                    found = await reader.read(4096)
                    outcomes[outcome(found)] += 1
                    while found:
                        found = await reader.read(4096)
            writer.close()

    await asyncio.gather(*(hold(number) for number in range(count)))


async def _streams(port: int, until: float, outcomes: Counter[str]) -> None:
    await _held(port, until, outcomes, count=5000, start=lambda n: head(KEYS[n % 5], 0, "GET"))


async def _idle(port: int, until: float, outcomes: Counter[str]) -> None:
    await _held(port, until, outcomes, count=5000, start=lambda n: b"" if n % 2 else b"POST /mcp HTTP/1.1\r\nHost: 127")


def _strangers(in_flight: int) -> Attack:
    async def run(port: int, until: float, outcomes: Counter[str]) -> None:
        body = tool_call("generate_image", '{"prompt": "a", "wait_seconds": 0}')

        async def again() -> None:
            while time.monotonic() < until:
                await send(port, f"stranger-{secrets.token_hex(8)}", body, outcomes)

        await asyncio.gather(*(again() for _ in range(in_flight)))

    return Attack(run)


async def _hosts(port: int, until: float, outcomes: Counter[str]) -> None:
    request = b"GET /mcp HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    await _held(port, until, outcomes, count=50, start=lambda _: request)


def _photo(size: int) -> bytes:
    """A JPEG of about this many bytes."""
    file = BytesIO()
    Image.frombytes("RGB", (2000, 1500), secrets.token_bytes(2000 * 1500 * 3)).save(file, "JPEG", quality=60)
    data = file.getvalue()
    return data + b"\0" * max(0, size - len(data))


async def _twenty_callers(port: int, _: float, outcomes: Counter[str]) -> None:
    body = edit_call(_photo(10_000_000))
    await asyncio.gather(*(send(port, f"honest-{n}", body, outcomes) for n in range(20)))


async def _one_key(port: int, _: float, outcomes: Counter[str]) -> None:
    body = tool_call("generate_image", '{"prompt": "a", "wait_seconds": 0}')
    left: Iterator[int] = iter(range(2000))

    async def again() -> None:
        for _n in left:
            await send(port, "honest", body, outcomes)

    await asyncio.gather(*(again() for _ in range(50)))


async def _listeners(port: int, until: float, outcomes: Counter[str]) -> None:
    await _held(port, until, outcomes, count=10_000, start=lambda n: head(f"honest-{n}", 0, "GET"))


async def _phones(port: int, _: float, outcomes: Counter[str]) -> None:
    body = edit_call(_photo(1_500_000))
    await asyncio.gather(*(send(port, f"honest-{n}", body, outcomes, rate=50_000) for n in range(20)))


ATTACKS: dict[str, Attack] = {
    "one body of lists": _structure("[]", 49 * MIB, count=1, keys=KEYS[:1]),
    "ten smaller bodies of lists": _structure("[]", 10 * MIB, count=10),
    "four bodies of objects": _structure("{}", 49 * MIB, count=4),
    "twenty bodies of 49 MiB": Attack(_pictures_of_49_mib),
    "four prompts of 49 MiB": Attack(_prompt),
    "1000 bodies of 60 kB at once": Attack(_many),
    "bodies of 10^17 bytes": Attack(_declared),
    "JPEGs of seven million comments": Attack(_comments),
    "JPEGs of 3000 scans": Attack(_scans),
    "5000 streams of five keys": Attack(_streams),
    "5000 idle connections": Attack(_idle),
    "idle connections and 300 files": Attack(_idle, files=300),
    "200 strangers": _strangers(200),
    "600 strangers": _strangers(600),
    "other hosts": Attack(_hosts),
    "honest: twenty pictures of 10 MB": Attack(_twenty_callers),
    "honest: 2000 calls of one key": Attack(_one_key),
    "honest: 10000 listening clients": Attack(_listeners),
    "honest: twenty phones at 50 kB/s": Attack(_phones),
}


def main() -> None:
    name, port, seconds = sys.argv[1:]
    outcomes: Counter[str] = Counter()
    asyncio.run(ATTACKS[name].run(int(port), time.monotonic() + float(seconds), outcomes))
    print(dict(outcomes.most_common(8)))


if __name__ == "__main__":
    main()
