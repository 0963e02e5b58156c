"""What whoever serves others has set: whether it fits together, and whether what it names is there."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from mcp_seedream.assembly import as_subprocess
from mcp_seedream.core.settings import name_of
from mcp_seedream.core.settings_report import Survey
from mcp_seedream.doctor.findings import Check, Finding, in_background
from mcp_seedream.doctor.http_probe import KEPT_BACK, Answer, Way, obstacle, unexpected
from mcp_seedream.doctor.machine import room, unusable
from mcp_seedream.hosting.middleware import ENDPOINT
from mcp_seedream.hosting.workers import LINGER

_FOR_SIGN_IN = ("seal_keys", "redis_url", "vendor_client_id")
_PATIENCE = 3  # seconds for Redis
_OLDEST = (6, 2)  # Redis that knows GETDEL
_PUBLIC_URL, _REDIS_URL, _FIGURES = name_of("public_url"), name_of("redis_url"), name_of("metrics_dir")


class Host:
    """The checks of a server for others.

    Args:
        found: The settings.
    """

    def __init__(self, found: Survey) -> None:
        self._found = found
        self._settings = found.settings

    def checks(self) -> list[Check]:
        """In the order in which they are told; none where nothing is set that is about serving others."""
        if not self._found.serves_others:
            return []
        return [
            Check("hosting", self._hosting, needs=("packages", "settings", "models")),
            Check("redis", self._redis),
            Check("figures", self._figures),
            Check("address", self._address),
        ]

    async def _hosting(self) -> Finding:
        """Whether a server starts with these settings, and what they leave out."""
        settings = self._settings
        if settings.sandbox and settings.workers > 1:
            advice = f"Leave {name_of('sandbox')} out, or {name_of('workers')}."
            return Finding("problem", "A sandbox serves one process.", advice)
        if refused := await self._refused():
            return Finding("problem", refused, "The server does not start like this. docs/hosting.md says more.")
        given = {**self._found.written, **self._found.filed}
        idle = [name_of(each) for each in _FOR_SIGN_IN if given.get(name_of(each), "").strip()]
        if idle and not settings.public_url:
            found = f"Nothing comes of {' and '.join(idle)}: sign-in is off."
            return Finding("warning", found, f"{_PUBLIC_URL} turns it on.")
        processes = f"{settings.workers} process{'es' if settings.workers > 1 else ''}"
        ending = f"it takes up to {settings.shutdown_seconds + LINGER:g} s to stop"
        if not settings.public_url:
            return Finding("ok", f"callers bring a token, there is no sign-in; {processes}; {ending}")
        if not settings.seal_keys:
            found = f"Whoever signs in has to do it again when the server ends: there is no {name_of('seal_keys')}."
            return Finding("warning", found, "`openssl rand -hex 32` makes one; replicas need the same.")
        shared = "shared" if settings.redis_url else f"for one process alone (several need {_REDIS_URL})"
        return Finding("ok", f"sign-in for {settings.public_url}, {shared}; {processes}; {ending}")

    async def _refused(self) -> str:
        """What the server says that does not start with these settings: put together in a process of its own.

        Figures go to a folder of its own, too: a running server may have some in the real one.
        """
        settings = self._settings
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            several = settings.workers > 1 or settings.metrics_dir
            env = {**(as_subprocess([]).env or {}), name_of("sandbox"): ""}
            env.pop(_FIGURES, None)  # empty would be the working folder, to those who write figures
            env |= {_FIGURES: folder} if several else {}
            done = await anyio.run_process(
                [sys.executable, "-P", "-m", "mcp_seedream.doctor.hosting_start"],
                env=env,
                check=False,
                stderr=subprocess.PIPE,
            )
        if done.returncode == 0:
            return ""
        said = (done.stdout or done.stderr).decode("utf-8", "replace").strip()
        return said.splitlines()[-1] if said else f"It ends with status {done.returncode}."

    async def _redis(self) -> Finding:
        if wrong := unusable(self._found, "redis_url"):
            return wrong
        if self._settings.redis_url is None:
            return Finding("ok", "none: one process needs none")
        retry = Retry(NoBackoff(), 0)
        url = self._settings.redis_url.get_secret_value()
        try:
            redis = Redis.from_url(url, socket_timeout=_PATIENCE, socket_connect_timeout=_PATIENCE, retry=retry)
        except ValueError:  # its words may have a password in them
            return Finding("problem", f"{_REDIS_URL} is not like redis://host.", "rediss:// is for TLS.")
        known = redis.connection_pool.connection_kwargs
        where = known.get("path") or f"{known.get('host', 'localhost')}:{known.get('port', 6379)}"
        async with redis:
            return await _asked(redis, where)

    async def _figures(self) -> Finding:
        if wrong := unusable(self._found, "metrics_dir"):
            return wrong
        several = self._settings.workers > 1
        if not self._settings.metrics_dir:
            return Finding("ok", "in a temporary folder" if several else "of one process, in memory")
        folder = Path.cwd() / self._settings.metrics_dir
        advice = f"Name another folder in {_FIGURES}, or none: then there is a temporary one."
        try:
            await in_background(partial(room, folder))
        except OSError as error:
            return Finding("problem", f"Figures can't be written to {folder}: {error.strerror or error}.", advice)
        if not several and not await in_background(folder.is_dir):
            found = f"{folder} is not there: only a server of several processes makes it."
            return Finding("problem", found, f"Make it, or leave {_FIGURES} out: one process needs none.")
        return Finding("ok", f"{folder}, emptied as the server starts" if several else f"{folder}")

    async def _address(self) -> Finding:
        """Whether the public address leads to a server that has the same idea of it."""
        if wrong := unusable(self._found, "public_url"):
            return wrong
        public = self._settings.public_url
        if public is None:
            return Finding("ok", f"none: {_PUBLIC_URL} would turn sign-in on")
        way = Way(public, connect=self._settings.connect_timeout, read=self._settings.read_timeout)
        health = await way.exchange("GET", "/health")
        if isinstance(health, Finding):
            found = f"{public} can't be reached from here, which it need not be: {health.found}"
            return Finding("not checked", found, "From elsewhere, `mcp-seedream doctor URL` looks at it.")
        if health.status in (502, 503, 504):
            found = f"a proxy answers at {public} (HTTP {health.status}); the server behind it is not there now"
            return Finding("not checked", found, "Run this again when it is.")
        if health.status not in KEPT_BACK and (wrong := unexpected(health)):
            return Finding("problem", f"{public}: {wrong.found}", wrong.advice)
        named = {
            f"/.well-known/oauth-protected-resource{ENDPOINT}": ("resource", f"{public}{ENDPOINT}"),
            "/.well-known/oauth-authorization-server": ("issuer", public),
        }
        for path, (name, expected) in named.items():
            answer = await way.exchange("GET", path)
            if wrong := answer if isinstance(answer, Finding) else _other(answer, f"{public}{path}", name, expected):
                return wrong
        return Finding("ok", f"{public} leads to a server that people sign in to at that name")


def _other(answer: Answer, url: str, name: str, expected: str) -> Finding | None:
    """What is wrong with an answer that should name the same origin as the settings here."""
    advice = f"Does the proxy in front pass /.well-known/ on, and has the server there the same {_PUBLIC_URL}?"
    if answer.status != 200:
        return Finding("problem", f"{url} answers HTTP {answer.status}.", advice)
    said = answer.json_object.get(name)
    if isinstance(said, str) and said.rstrip("/") == expected:
        return None
    return Finding("problem", f"{url} names {said or 'nothing'}, where {expected} is set here.", advice)


async def _asked(redis: Redis, where: str) -> Finding:
    """Whether Redis does what sign-in asks of it; nothing is changed there, and its password is in no word of this."""
    away = f"See {_REDIS_URL}. While Redis is away, nobody can sign in."
    version = "before 6.0"  # which is not even greeted
    try:
        version = str((await _told(redis, "server")).get("redis_version", "of an unknown version"))
        await redis.getdel("seedream:doctor")
        await redis.eval("return 1", 0)
        memory = await _told(redis, "memory")
    except AuthenticationError:
        advice = f"{_REDIS_URL} has it: redis://:PASSWORD@HOST:PORT/0"
        return Finding("problem", f"{where} refuses the password, or wants one.", advice)
    except ResponseError as error:
        if "unknown command" in str(error).lower() and _is_old(version):
            return Finding("problem", f"{where} is Redis {version}, which is too old.", "It takes 6.2 or newer.")
        advice = "Sign-in needs SET, GET, GETDEL and EVALSHA on keys that begin with seedream:, at a primary."
        return Finding("problem", f"{where} refuses: {error}", advice)
    except RedisTimeoutError:
        return Finding("problem", f"{where} does not answer in time.", away)
    except (RedisError, OSError) as error:
        return replace(obstacle(error, where), advice=away)
    policy = str(memory.get("maxmemory_policy", "noeviction"))
    if memory.get("maxmemory") and policy != "noeviction":
        forgets = f"{where} forgets when it is full ({policy}): a sign-in that was revoked may be good again."
        return Finding("warning", forgets, "Set its maxmemory-policy to noeviction.")
    return Finding("ok", f"Redis {version} at {where}")


async def _told(redis: Redis, section: str) -> dict[str, Any]:
    """What Redis says of itself; nothing where its user may not ask, who may sign people in all the same."""
    try:
        return dict(await redis.info(section))
    except NoPermissionError:
        return {}


def _is_old(version: str) -> bool:
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is None or (int(numbers[1]), int(numbers[2])) < _OLDEST
