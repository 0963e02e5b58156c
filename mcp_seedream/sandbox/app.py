"""The sandbox's HTTP API: an emulation of the upstream with drawn pictures.

A Starlette app that speaks the contract of `POST /seedream/images` and `POST /seedream/tasks`: synchronous,
asynchronous, with a callback, streamed; look-ups of one task or many in each documented shape; the documented
errors; and the vendor's sign-in (`vendor_sign_in`). Its rules come from the capability table: it refuses the same
models and sizes as production, or accepts everything on the vendor's page. Words in a prompt cause further errors
(`faults.WORDS`). It draws on this machine and downloads nothing.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import socket
import threading
import time
import urllib.request
import uuid
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mcp_seedream.catalog.arguments import image_call
from mcp_seedream.catalog.selection import choose
from mcp_seedream.catalog.table import ModelTable
from mcp_seedream.core.errors import InvalidArguments
from mcp_seedream.core.settings import Settings
from mcp_seedream.sandbox.faults import REFUSALS, error, production_refusal, requested_failure, unauthorised, words_in
from mcp_seedream.sandbox.options import SandboxOptions
from mcp_seedream.sandbox.studio import Job, Studio, picture_size
from mcp_seedream.sandbox.vendor_sign_in import CLIENT_ID, Accounts
from mcp_seedream.upstream.types import ImageRequest

logger = logging.getLogger(__name__)
_BATCH = 50
_MAX_JOBS = 2000
_TOKEN = "sandbox"  # noqa: S105  (the sandbox accepts any word)
_LAYERED = 4
"""Number of pictures of a layer decomposition: the base and its layers."""


class Sandbox:
    """The upstream's state, and its endpoints as an ASGI app (`app`).

    Args:
        table: The capability table, whose rules are enforced.
        seconds: Seconds that a picture takes; None for 2 to 4 s, depending on the prompt.
        retired: Further models that are refused.
        record: Whether `requests` stores every request.
        pictures: Whether pictures are drawn. Otherwise links return 404 and image data is refused, for benchmarks.
        as_documented: Whether all models and sizes of the vendor's page are accepted. Otherwise models and sizes that
            the table marks as withdrawn or refused are refused, as in production.
    """

    def __init__(
        self,
        table: ModelTable,
        *,
        seconds: float | None = None,
        retired: Collection[str] = (),
        record: bool = False,
        pictures: bool = True,
        as_documented: bool = False,
    ) -> None:
        self.table = table
        self.seconds = seconds
        self.retired = retired
        self.jobs: dict[str, Job] = {}
        self.requests: list[tuple[str, str, Any]] = []
        """The recorded API requests, in order: path, token, JSON body."""
        self.accounts = Accounts()
        """The vendor's sign-in and its state."""
        self.revoked: set[str] = set()
        """Tokens that are refused, besides those of `faults.TOKENS`."""
        self._record = record
        self._pictures = pictures
        self._as_documented = as_documented
        self._studio = Studio()
        self._callbacks: set[asyncio.Task[None]] = set()
        self.app = Starlette(
            routes=[
                Route("/seedream/images", self._images, methods=["POST"]),
                Route("/seedream/tasks", self._tasks, methods=["POST"]),
                Route("/pictures/{task}/{number:int}.{ending}", self._picture),
                *self.accounts.routes(),
            ]
        )

    async def _images(self, request: Request) -> Response:
        body, token = await self._read(request)
        if refusal := unauthorised(token, self.revoked):
            return refusal
        prompt = str(body.get("prompt", "")) if isinstance(body, dict) else ""
        words = words_in(prompt)
        if "hang" in words:
            await asyncio.sleep(words["hang"])
        if answer := requested_failure(words):
            return answer
        try:
            job = self._accept(body, token, str(request.base_url).rstrip("/"))
        except InvalidArguments as failure:
            return error(400, "bad_request", failure.message)
        self.jobs[job.id] = job
        while len(self.jobs) > _MAX_JOBS:
            del self.jobs[next(iter(self.jobs))]
        if body.get("stream"):
            return StreamingResponse(self._lines(job), media_type="application/x-ndjson")
        if body.get("callback_url"):
            self._call_back(job, str(body["callback_url"]))
        elif not body.get("async"):
            await asyncio.sleep(max(0.0, job.finished_at - time.time()))
            return JSONResponse(self._answer(job))
        return JSONResponse({"task_id": job.id, "trace_id": job.trace_id})

    def _accept(self, body: Any, token: str, base_url: str) -> Job:
        """Validate a request: known fields, in the upstream's form, within the table's rules.

        Raises:
            InvalidArguments: The request is invalid.
        """
        if not isinstance(body, dict):
            raise InvalidArguments("The body is not a JSON object.")
        if body.get("async") and (body.get("stream") or body.get("callback_url")):
            raise InvalidArguments("async can't be combined with stream or callback_url.")
        sent = {name: value for name, value in body.items() if name != "async" and value != ""}
        model_id, size = str(body.get("model", "")), body.get("size")
        refusal = self._refusal(model_id, size if isinstance(size, str) else None)
        if refusal and "refuse_in_task" not in words_in(str(body.get("prompt", ""))):
            raise InvalidArguments(refusal)
        call = image_call(
            self.table, "edit" if "image" in body else "generate", sent, wait_seconds=0, origin="upstream"
        )
        if not self._pictures and call.spec.options.get("response_format") == "b64_json":
            raise InvalidArguments("This sandbox draws no pictures: request links.")
        seconds = 2 + len(call.spec.prompt) % 21 / 10 if self.seconds is None else self.seconds
        job = Job(str(uuid.uuid4()), token, call.spec, model_id, body, seconds, base_url, refusal=refusal)
        return job if refusal else self._planned(job, sent)

    def _refusal(self, model_id: str, size: str | None) -> str | None:
        """The message with which a model or a size is refused; None if both are accepted."""
        if model_id not in self.table.by_id or model_id in self.retired:
            return REFUSALS["model_invalid"][2]
        return None if self._as_documented else production_refusal(self.table, model_id, size)

    def _planned(self, job: Job, sent: dict[str, Any]) -> Job:
        """The job with the number and the size of its pictures; the request must have the upstream's form."""
        model = choose(self.table, job.spec, job.model)
        expected = ImageRequest.of(self.table, model, job.spec).body
        for name, value in sent.items():
            if expected.get(name) != value:
                raise InvalidArguments(f"{name} is malformed.")
        options, limit = job.spec.options, self.table.upstream_limits.images_in_and_out - len(job.spec.images)
        if options.get("layer_decomposition"):
            job.count = _LAYERED
        elif options.get("sequential_image_generation") == "auto":
            job.count = int(options.get("sequential_image_generation_options", max(1, limit)))
        job.size = picture_size(self.table, model, job.spec, self.jobs, squares=self._as_documented)
        return job

    async def _tasks(self, request: Request) -> Response:
        body, token = await self._read(request)
        if refusal := unauthorised(token, self.revoked):
            return refusal
        if not isinstance(body, dict):
            return error(400, "bad_request", "The body is not a JSON object.")
        action, ids = body.get("action", "retrieve"), body.get("ids", [])
        if action == "retrieve_batch":
            if not isinstance(ids, list) or not 0 < len(ids) <= _BATCH:
                return error(400, "bad_request", f"ids: a list of at most {_BATCH}.")
            known = [self.jobs[id_] for id_ in ids if self._owned(id_, token)]
            return JSONResponse({"items": [self._task(job) for job in known], "count": len(known)})
        if action != "retrieve":
            return error(400, "bad_request", "action: retrieve or retrieve_batch.")
        if not self._owned(body.get("id", ""), token):
            return error(404, "not_found", "The task does not exist.") if self._as_documented else JSONResponse({})
        job = self.jobs[body["id"]]
        shape = job.words.get("shape", 1)
        if shape == 1 or not job.finished:
            return JSONResponse(self._task(job))
        if shape == 2 or job.refusal:
            return JSONResponse(self._answer(job))
        item = {**self._item(job, 0), "status": "succeeded"}
        return JSONResponse({"success": True, "task_id": job.id, "data": item})

    def _owned(self, id_: Any, token: str) -> bool:
        return isinstance(id_, str) and id_ in self.jobs and self.jobs[id_].token == token

    def _task(self, job: Job) -> dict[str, Any]:
        """The usual form of a task; while it runs, it has no response and no finishing time."""
        shown = {k: v if k != "image" else f"<{len(v)}>" for k, v in job.body.items()}
        task = {"id": job.id, "request": shown, "created_at": job.created_at, "started_at": job.created_at}
        if not job.finished:
            return {**task, "response": {}}
        elapsed = round(job.finished_at - job.created_at, 3)
        return {**task, "response": self._answer(job), "finished_at": job.finished_at, "elapsed": elapsed}

    def _answer(self, job: Job) -> dict[str, Any]:
        if job.refusal or "failed" in job.words:
            reason = {"code": "api_error", "message": "The output image may contain sensitive information."}
            if job.refusal:
                reason = {"code": "bad_request", "message": job.refusal}
            return {"success": False, "task_id": job.id, "trace_id": job.trace_id, "error": reason}
        items = [] if "empty" in job.words else [self._item(job, number) for number in range(job.count)]
        usage = self._usage(job)
        return {"success": True, "task_id": job.id, "trace_id": job.trace_id, "data": items, "usage": usage}

    def _usage(self, job: Job) -> dict[str, Any]:
        return self._studio.usage(job, failed=job.count if "empty" in job.words else int("partial" in job.words))

    def _item(self, job: Job, number: int) -> dict[str, Any]:
        if "partial" in job.words and number == job.count - 1:
            return {"error": {"code": "bad_request", "message": "This image was refused."}}
        width, height = self._studio.size(job, number)
        item: dict[str, Any] = {"prompt": job.spec.prompt, "size": f"{width}x{height}", "model": job.model}
        item |= self._studio.layer(job, number)
        if job.spec.options.get("response_format") == "b64_json":
            return {**item, "b64_json": base64.b64encode(self._studio.file(job, number, self.jobs)).decode()}
        ending = "png" if self._studio.is_png(job, number) else "jpg"
        return {**item, "image_url": f"{job.base_url}/pictures/{job.id}/{number}.{ending}"}

    async def _lines(self, job: Job) -> AsyncIterator[str]:
        for number in range(0 if job.refusal else job.count):
            await asyncio.sleep(job.words.get("slow", job.seconds))
            item = self._item(job, number)
            kind = "partial_failed" if "error" in item else "partial_succeeded"
            known = {"task_id": job.id, "trace_id": job.trace_id, "image_index": number}
            yield json.dumps({"type": f"image_generation.{kind}", **known, **item}) + "\n"
            if "cut" in job.words:
                raise ConnectionResetError("requested by the prompt")
        end = {"usage": self._usage(job)} if not job.refusal else {"error": self._answer(job)["error"]}
        yield json.dumps({"type": "image_generation.completed", "task_id": job.id, **end}) + "\n"

    def _call_back(self, job: Job, url: str) -> None:
        async def post() -> None:
            await asyncio.sleep(max(0.0, job.finished_at - time.time()))
            data = json.dumps(self._answer(job)).encode()
            request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310
            await asyncio.to_thread(lambda: urllib.request.urlopen(request, timeout=5).close())  # noqa: S310

        if urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1"):
            task = asyncio.get_running_loop().create_task(post())
            self._callbacks.add(task)
            task.add_done_callback(self._callbacks.discard)

    async def _picture(self, request: Request) -> Response:
        job = self.jobs.get(request.path_params["task"])
        number = request.path_params["number"]
        if job is None or job.refusal or number >= job.count or not self._pictures:
            return Response("No such picture", status_code=404)
        file = await asyncio.to_thread(self._studio.file, job, number, self.jobs)
        kind = "image/png" if self._studio.is_png(job, number) else "image/jpeg"
        return Response(file, media_type=kind)

    async def _read(self, request: Request) -> tuple[Any, str]:
        try:
            body = json.loads(await request.body())
        except ValueError:
            body = {}
        token = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if self._record:
            self.requests.append((request.url.path, token, body))
        return body, token


@contextmanager
def running(sandbox: Sandbox, port: int = 0) -> Iterator[str]:
    """Serve a sandbox on a loopback port, in a thread, while the context lasts; yields its address."""
    listener = socket.create_server(("127.0.0.1", port))
    config = uvicorn.Config(
        sandbox.app, log_config=None, log_level="critical", lifespan="off", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(5)
        listener.close()


@contextmanager
def settings_with_sandbox(options: SandboxOptions, settings: Settings, table: ModelTable) -> Iterator[Settings]:
    """Serve a sandbox while the context lasts; yields settings with it as the upstream and the vendor's sign-in."""
    sandbox = Sandbox(table, seconds=options.seconds, as_documented=options.as_documented)
    with running(sandbox) as address:
        logger.info("sandbox at %s", address)
        upstream = {"base_url": address, "token": SecretStr(_TOKEN), "image_hosts": [address]}
        vendor = {"vendor_client_id": CLIENT_ID, "vendor_auth_url": address, "vendor_platform_url": address}
        yield settings.model_copy(update=upstream | vendor)
