"""Runs the Dockerfile's steps without Docker, in a clean Debian from debootstrap with Debian's Python.

Needs root, debootstrap, a Debian mirror and a package index. Each step has its own mount namespace.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PACKAGES = "python3,python3-venv,ca-certificates"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
UNSHARE = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


def missing() -> str | None:
    """What there is not, to do it with."""
    if sys.platform != "linux" or os.geteuid():
        return "it takes root on Linux to make a root folder"
    if absent := [name for name in ("debootstrap", "chroot", "unshare") if not shutil.which(name)]:
        return f"not installed: {', '.join(absent)}"
    if subprocess.run([*UNSHARE, "true"], check=False, capture_output=True).returncode:
        return "namespaces are not to be had here"
    return None


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """Each with its words, lines that go on put together."""
    lines = [line for line in dockerfile.splitlines() if not line.startswith("#")]
    whole = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in whole.splitlines() if line.strip()]


@dataclass
class Stage:
    """One stage, as far as it is built: its root folder, and what holds for the steps that follow."""

    root: Path
    workdir: str = "/"
    user: str = "0:0"
    env: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)

    def inside(self, path: str) -> Path:
        return self.root / Path(self.workdir, path).relative_to("/")

    def started(self, command: Sequence[str], *, mounts: str = "", more: Mapping[str, str] | None = None) -> list[str]:
        """The command line that runs a command in it, as the first process of its own namespace.

        Args:
            command: Run without a shell, in the working directory.
            mounts: Shell commands to be done first, by root, outside.
            more: Of the environment.
        """
        env = [f"{name}={value}" for name, value in {**self.env, **(more or {})}.items()]
        enter = [
            "chroot",
            f"--userspec={self.user}",
            "--groups=",
            str(self.root),
            "env",
            "-i",
            "-C",
            self.workdir,
            *env,
        ]
        first = f"{mounts} mount -t proc proc {self.root}/proc; exec {shlex.join([*enter, *command])}"
        return [*UNSHARE, "sh", "-euc", first]


@contextmanager
def built(context: Path) -> Iterator[Stage]:
    """The last stage of a folder's Dockerfile."""
    stages: dict[str, Stage] = {}
    with tempfile.TemporaryDirectory(prefix="image-") as name:
        folder = Path(name)
        base = folder / "debian"
        say("debootstrap")
        run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "stable", str(base)])
        (base / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        stage = Stage(base)
        for what, words in instructions((context / "Dockerfile").read_text("utf-8")):
            say(f"{what} {words}")
            if what == "FROM":
                stage = Stage(folder / f"stage-{len(stages)}")
                stages[words.split(" AS ")[-1]] = stage
                run(["cp", "-a", "--reflink=auto", str(base), str(stage.root)])
            else:
                step(stage, what, words, context, stages)
        yield stage


def step(stage: Stage, what: str, words: str, context: Path, stages: dict[str, Stage]) -> None:
    """Do one instruction; one that is not known here is an error."""
    match what:
        case "WORKDIR":
            stage.workdir = words
            stage.inside(".").mkdir(parents=True, exist_ok=True)
        case "COPY":
            copy(stage, words.split(), context, stages)
        case "RUN":
            run(stage.started(["sh", "-c", words], mounts=for_pip(stage.root), more=pip_settings()))
        case "USER":
            stage.user = words
        case "ENV":
            pairs = [pair.split("=", 1) for pair in shlex.split(words)]
            stage.env |= {name: re.sub(r"\$(\w+)", lambda m: stage.env[m[1]], value) for name, value in pairs}
        case "ENTRYPOINT":
            stage.entrypoint = json.loads(words)
        case "CMD":
            stage.command = json.loads(words)
        case "HEALTHCHECK":
            stage.healthcheck = json.loads(words.partition("CMD ")[2])
        case "EXPOSE" | "ARG":
            pass
        case _:
            raise ValueError(what)


def copy(stage: Stage, words: list[str], context: Path, stages: dict[str, Stage]) -> None:
    """As Docker does: what a folder has in it, and of the context only what .dockerignore lets in."""
    other = stages[words.pop(0).partition("=")[2]] if words[0].startswith("--from=") else None
    *sources, target = words
    let_in = (context / ".dockerignore").read_text("utf-8").splitlines()
    for source in sources:
        if not other and f"!{source.removeprefix('./')}" not in let_in:
            raise ValueError(f".dockerignore leaves {source} out")
        there = other.inside(source) if other else context / source
        into = stage.inside(target)
        if there.is_dir():
            # Names of owners are those of the stage's, so numbers are kept.
            leave_out = shutil.ignore_patterns("__pycache__") if not other else None
            shutil.copytree(there, into, symlinks=True, ignore=leave_out, dirs_exist_ok=True)
        else:
            shutil.copy(there, into / there.name if into.is_dir() else into)


def pip_settings() -> dict[str, str]:
    """Where this machine's pip finds packages: for building alone, and in no image."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    found = {name: os.environ[name] for name in PROXIES if name in os.environ}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        found[f"PIP_{name.split('.')[-1].upper().replace('-', '_')}"] = shlex.split(value)[0].replace("\n", " ")
    return found


def for_pip(root: Path) -> str:
    """Commands that show it this machine's names of hosts, and whatever files pip's settings name."""
    paths = {"/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs"}
    for value in pip_settings().values():
        paths |= {word for word in value.split() if word.startswith("/")}
        # An index in a folder is a folder of pages; what they link to lies beside it.
        paths |= {str(Path(word.removeprefix("file://")).parent) for word in value.split() if word.startswith("file:")}
    commands = []
    for path in sorted(path for path in map(Path, paths) if path.exists()):
        there = root / path.relative_to("/")
        if path.is_dir():
            there.mkdir(parents=True, exist_ok=True)
        else:
            there.parent.mkdir(parents=True, exist_ok=True)
            there.touch()
        commands.append(f"mount --bind {shlex.quote(str(path))} {shlex.quote(str(there))};")
    return " ".join(commands)


def run(command: Sequence[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)}: {done.returncode}\n{done.stdout[-4000:]}")


def say(words: str) -> None:
    print(f"== {words}", flush=True)  # noqa: T201  (it takes minutes)
