"""Checks of a hosted server's settings: whether they are consistent, and whether Redis, folder and address work."""

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

from mcp_seedream.assembly import stdio_parameters
from mcp_seedream.core.settings import name_of
from mcp_seedream.core.settings_report import SettingsReport
from mcp_seedream.doctor.findings import Check, Finding, in_background
from mcp_seedream.doctor.http_probe import PRIVATE_STATUSES, Answer, HttpProbe, connection_failure, foreign_answer
from mcp_seedream.doctor.machine import free_bytes, invalid_setting
from mcp_seedream.hosting.middleware import ENDPOINT
from mcp_seedream.hosting.workers import LINGER
from mcp_seedream.oauth.sealing import rotation_state

_FOR_SIGN_IN = ("seal_keys", "redis_url", "vendor_client_id")
_REDIS_SECONDS = 3
_MIN_REDIS = (6, 2)  # the first version with GETDEL
_PUBLIC_URL, _REDIS_URL, _METRICS_DIR = name_of("public_url"), name_of("redis_url"), name_of("metrics_dir")


class HostingChecks:
    """The checks of a hosted server.

    Args:
        report: The settings and their sources.
    """

    def __init__(self, report: SettingsReport) -> None:
        self._report = report
        self._settings = report.settings

    def checks(self) -> list[Check]:
        """The checks, in order; none if no setting is for a hosted server."""
        if not self._report.serves_others:
            return []
        return [
            Check("hosting", self._hosting, needs=("packages", "settings", "models")),
            Check("redis", self._redis),
            Check("metrics", self._metrics),
            Check("address", self._address),
        ]

    async def _hosting(self) -> Finding:
        """Check whether a server starts with these settings, and whether settings are missing."""
        settings = self._settings
        if settings.sandbox and settings.workers > 1:
            advice = f"Remove {name_of('sandbox')} or {name_of('workers')}."
            return Finding("problem", "A sandbox serves one process only.", advice)
        if error := await self._start_error():
            return Finding("problem", error, "The server does not start with these settings. See docs/hosting.md.")
        values = {**self._report.environment, **self._report.env_file}
        unused = [name_of(each) for each in _FOR_SIGN_IN if values.get(name_of(each), "").strip()]
        if unused and not settings.public_url:
            text = f"{' and '.join(unused)} {'has' if len(unused) == 1 else 'have'} no effect: sign-in is off."
            return Finding("warning", text, f"{_PUBLIC_URL} enables it.")
        processes = f"{settings.workers} process{'es' if settings.workers > 1 else ''}"
        ending = f"it takes up to {settings.shutdown_seconds + LINGER:g} s to stop"
        if not settings.public_url:
            return Finding("ok", f"callers send a token, sign-in is off; {processes}; {ending}")
        if not settings.seal_keys:
            text = f"Without {name_of('seal_keys')}, everyone must sign in again after a restart of the server."
            return Finding("warning", text, "`openssl rand -hex 32` makes a key. All replicas need the same key.")
        shared = "shared" if settings.redis_url else f"for one process only (several need {_REDIS_URL})"
        keys = rotation_state([key.get_secret_value() for key in settings.seal_keys])
        return Finding("ok", f"sign-in for {settings.public_url}, {shared}; {processes}; {ending}; {keys}")

    async def _start_error(self) -> str:
        """Why a server does not start with these settings; empty if it does. The app is built in another process.

        Its metrics are written to a temporary folder, since a running server may be using the real one.
        """
        settings = self._settings
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            several = settings.workers > 1 or settings.metrics_dir
            env = {**(stdio_parameters().env or {}), name_of("sandbox"): ""}
            env.pop(_METRICS_DIR, None)  # an empty value would be interpreted as the working folder
            env |= {_METRICS_DIR: folder} if several else {}
            done = await anyio.run_process(
                [sys.executable, "-P", "-m", "mcp_seedream.doctor.hosting_start"],
                env=env,
                check=False,
                stderr=subprocess.PIPE,
            )
        if done.returncode == 0:
            return ""
        output = (done.stdout or done.stderr).decode("utf-8", "replace").strip()
        return output.splitlines()[-1] if output else f"It exits with status {done.returncode}."

    async def _redis(self) -> Finding:
        if finding := invalid_setting(self._report, "redis_url"):
            return finding
        if self._settings.redis_url is None:
            return Finding("ok", "not set; a single process does not need it")
        retry = Retry(NoBackoff(), 0)
        url = self._settings.redis_url.get_secret_value()
        try:
            redis = Redis.from_url(
                url, socket_timeout=_REDIS_SECONDS, socket_connect_timeout=_REDIS_SECONDS, retry=retry
            )
        except ValueError:  # its message may contain a password
            return Finding("problem", f"{_REDIS_URL} is not like redis://host.", "Use rediss:// for TLS.")
        options = redis.connection_pool.connection_kwargs
        address = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
        async with redis:
            return await _check_redis(redis, address)

    async def _metrics(self) -> Finding:
        if finding := invalid_setting(self._report, "metrics_dir"):
            return finding
        several = self._settings.workers > 1
        if not self._settings.metrics_dir:
            return Finding("ok", "in a temporary folder" if several else "of one process, in memory")
        folder = Path.cwd() / self._settings.metrics_dir
        advice = f"Set {_METRICS_DIR} to another folder, or remove it to use a temporary one."
        try:
            await in_background(partial(free_bytes, folder))
        except OSError as error:
            return Finding("problem", f"Metrics can't be written to {folder}: {error.strerror or error}.", advice)
        if not several and not await in_background(folder.is_dir):
            text = f"{folder} does not exist. Only a server with several processes creates it."
            return Finding("problem", text, f"Create it, or remove {_METRICS_DIR}: a single process does not need it.")
        return Finding("ok", f"{folder}, emptied when the server starts" if several else f"{folder}")

    async def _address(self) -> Finding:
        """Check whether the public address leads to a server with the same public address."""
        if finding := invalid_setting(self._report, "public_url"):
            return finding
        public = self._settings.public_url
        if public is None:
            return Finding("ok", f"none; {_PUBLIC_URL} enables sign-in")
        probe = HttpProbe(public, connect=self._settings.connect_timeout, read=self._settings.read_timeout)
        health = await probe.exchange("GET", "/health")
        if isinstance(health, Finding):
            text = f"{public} can't be reached from here, which may be intended: {health.found}"
            return Finding("not checked", text, "Check it from another machine, with `mcp-seedream doctor URL`.")
        if health.status in (502, 503, 504):
            text = f"a proxy answers at {public} (HTTP {health.status}); the server behind it is not running"
            return Finding("not checked", text, "Run this again when the server is running.")
        if health.status not in PRIVATE_STATUSES and (finding := foreign_answer(health)):
            return Finding("problem", f"{public}: {finding.found}", finding.advice)
        expectations = {
            f"/.well-known/oauth-protected-resource{ENDPOINT}": ("resource", f"{public}{ENDPOINT}"),
            "/.well-known/oauth-authorization-server": ("issuer", public),
        }
        for path, (name, expected) in expectations.items():
            answer = await probe.exchange("GET", path)
            finding = answer if isinstance(answer, Finding) else _mismatch(answer, f"{public}{path}", name, expected)
            if finding:
                return finding
        return Finding("ok", f"{public} leads to a server with sign-in for that address")


def _mismatch(answer: Answer, url: str, name: str, expected: str) -> Finding | None:
    """A finding if the answer does not name the same origin as the settings here."""
    advice = f"The proxy in front must forward /.well-known/, and the server there needs the same {_PUBLIC_URL}."
    if answer.status != 200:
        return Finding("problem", f"{url} answers HTTP {answer.status}.", advice)
    actual = answer.json_object.get(name)
    if isinstance(actual, str) and actual.rstrip("/") == expected:
        return None
    return Finding("problem", f"{url} names {actual or 'nothing'}, but {expected} is set here.", advice)


async def _check_redis(redis: Redis, address: str) -> Finding:
    """Check that Redis supports the commands of sign-in. The check changes no data, and shows no password."""
    unavailable = f"Check {_REDIS_URL}. Sign-in does not work while Redis is unavailable."
    version = "before 6.0"  # such a version refuses the client's first command
    try:
        version = str((await _info(redis, "server")).get("redis_version", "of an unknown version"))
        await redis.getdel("seedream:doctor")
        await redis.eval("return 1", 0)
        memory = await _info(redis, "memory")
    except AuthenticationError:
        advice = f"Set {_REDIS_URL} to redis://:PASSWORD@HOST:PORT/0"
        return Finding("problem", f"{address} refuses the password, or requires one.", advice)
    except ResponseError as error:
        if "unknown command" in str(error).lower() and _is_old(version):
            return Finding("problem", f"{address} is Redis {version}, which is too old.", "Sign-in needs 6.2 or newer.")
        advice = "Sign-in needs SET, GET, GETDEL and EVALSHA on keys that begin with seedream:, at a primary."
        return Finding("problem", f"{address} refuses: {error}", advice)
    except RedisTimeoutError:
        return Finding("problem", f"{address} does not answer in time.", unavailable)
    except (RedisError, OSError) as error:
        return replace(connection_failure(error, address), advice=unavailable)
    policy = str(memory.get("maxmemory_policy", "noeviction"))
    if memory.get("maxmemory") and policy != "noeviction":
        text = f"{address} evicts keys when it is full ({policy}). A revoked sign-in may become valid again."
        return Finding("warning", text, "Set its maxmemory-policy to noeviction.")
    return Finding("ok", f"Redis {version} at {address}")


async def _info(redis: Redis, section: str) -> dict[str, Any]:
    """A section of INFO; empty if the user has no permission for it, which sign-in does not need."""
    try:
        return dict(await redis.info(section))
    except NoPermissionError:
        return {}


def _is_old(version: str) -> bool:
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is None or (int(numbers[1]), int(numbers[2])) < _MIN_REDIS
