"""The command line, as a person uses it."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mcp_seedream import __version__
from mcp_seedream.hosting.workers import open_listeners


def run(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mcp_seedream", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=cwd,
        env={"PATH": "", **(env or {})},
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )


def trial(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run("try", *arguments, "--sandbox-seconds", "0.2", cwd=cwd)


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_the_sandbox_by_setting(tmp_path: Path) -> None:
    """As by its switch, though there is a token; several processes can't have one."""
    env = {"SEEDREAM_SANDBOX": "true", "ACEDATACLOUD_API_TOKEN": "a-token-that-is-not-used"}
    result = run("try", "a red fox", "--sandbox-seconds", "0.2", cwd=tmp_path, env=env)
    assert (result.returncode, "Using the sandbox" in result.stderr) == (0, True)
    done = run("--transport", "http", "--workers", "2", cwd=tmp_path, env=env)
    assert (done.returncode, "A sandbox serves one process" in done.stderr) == (2, True)
    done = run("install", "zed", "--config", "zed.json", cwd=tmp_path, env=env)
    assert (done.returncode, "--sandbox" in (tmp_path / "zed.json").read_text()) == (0, True)
    assert env["ACEDATACLOUD_API_TOKEN"] not in (tmp_path / "zed.json").read_text()
    serve = "from mcp_seedream.assembly import create_app; create_app()"  # as an ASGI server would: it has no sandbox
    command = [sys.executable, "-c", serve]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "SEEDREAM_SANDBOX needs the command mcp-seedream" in done.stderr


def test_try_makes_a_picture_without_a_token(tmp_path: Path) -> None:
    """It says that it uses the sandbox, shows progress, and prints where the picture is."""
    result = trial("a red fox", "--set", "size=1024x1024", cwd=tmp_path)
    assert result.returncode == 0
    assert "Using the sandbox" in result.stderr
    assert "is accepted" in result.stderr
    path = Path(result.stdout.strip())
    assert path.is_absolute()
    assert path.parent == tmp_path
    assert path.name.startswith("a-red-fox-")
    assert size(path) == (1024, 1024)
    assert f"saved as {path} 1024x1024" in result.stderr
    assert "Drawn by the sandbox" in result.stderr
    assert "http" not in result.stderr  # a link would be dead by now
    assert "Links work" not in result.stderr
    assert "thumbnail" not in result.stderr  # a terminal shows none


def test_try_edits_a_file(tmp_path: Path) -> None:
    """And a second picture does not overwrite the first."""
    Image.new("RGB", (64, 64), "green").save(tmp_path / "photo.png")
    result = trial("make it red", "--edit", "photo.png", "--output", "out", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()).parent == tmp_path / "out"


def test_try_saves_a_whole_set(tmp_path: Path) -> None:
    """Each under a name of its own."""
    options = ["sequential_image_generation=auto", 'sequential_image_generation_options={"max_images": 2}', "size=1K"]
    result = trial("seasons", "--set", *options, cwd=tmp_path)
    files = [Path(line) for line in result.stdout.splitlines()]
    assert len(files) == len(set(files)) == 2
    assert all(file.is_file() for file in files)


def test_try_saves_image_data(tmp_path: Path) -> None:
    """Where there is no link."""
    result = trial("a fox", "--set", "response_format=b64_json", "size=1024x1024", cwd=tmp_path)
    assert size(Path(result.stdout.strip())) == (1024, 1024)


@pytest.mark.parametrize("before", [True, False])
def test_try_as_documented(tmp_path: Path, before: bool) -> None:
    """The sandbox has the models of the vendor's page, the withdrawn ones as well, wherever the switch stands."""
    asked = ["try", "a fox", "--sandbox-seconds", "0.2", "--set", "size=512x512", "seed=7"]
    assert "on 2026-08-05" in run(*asked, "--sandbox", cwd=tmp_path).stderr
    switch = "--sandbox-as-documented"
    result = run(switch, *asked, cwd=tmp_path) if before else run(*asked, switch, cwd=tmp_path)
    assert size(Path(result.stdout.strip())) == (512, 512)
    assert "http" not in result.stderr


def test_try_waits_on_when_it_is_pending(tmp_path: Path) -> None:
    """As an agent would, with get_task."""
    result = trial("a fox [sandbox:slow=2]", "--set", "wait_seconds=0.5", "size=1K", cwd=tmp_path)
    assert "is still running" in result.stderr
    assert Path(result.stdout.strip()).is_file()


def test_try_says_when_a_name_had_to_end_otherwise(tmp_path: Path) -> None:
    """A file is named as what it is."""
    result = trial("a fox", "--output", "out/fox.png", cwd=tmp_path)
    assert result.stdout.strip() == str(tmp_path / "out" / "fox.jpg")
    assert "is not a PNG, so its name ends in .jpg." in result.stderr
    result = trial("a fox", "--output", "out/fox.png", "--set", "output_format=png", cwd=tmp_path)
    assert result.stdout.strip() == str(tmp_path / "out" / "fox.png")
    assert "is no" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["x", "--output", "text.png/more"], "text.png/more can't be created (Not a directory)"),
        (["x", "--output", "file/"], "file can't be created (a file has this name)"),
        (["x", "--set", "sed=1"], "Did you mean `seed`?"),
        (["x", "--set", "size"], "--set needs NAME=VALUE"),
        (["x", "--edit", "missing.png"], "The file 'missing.png' can't be read: No such file"),
        (["x", "--edit", "text.png"], "text.png is not a jpeg, png"),
        (["x [sandbox:used_up]"], "used_up: Your balance is not sufficient"),
    ],
)
def test_try_says_what_went_wrong(tmp_path: Path, arguments: list[str], says: str) -> None:
    """In a line, with exit status 1 and nothing on stdout."""
    (tmp_path / "text.png").write_text("not a picture", "utf-8")
    (tmp_path / "file").touch()
    result = trial(*arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"SEEDREAM_WAIT_SECONDS": "soon"}, "The setting SEEDREAM_WAIT_SECONDS is wrong"),
        ({"SEEDREAM_WAIT_SECONDS": "601"}, "The setting SEEDREAM_WAIT_SECONDS is wrong"),
        ({"ACEDATACLOUD_API_BASE_URL": "api.acedata.cloud"}, "The setting ACEDATACLOUD_API_BASE_URL is wrong"),
        ({"ACEDATACLOUD_API_TOKEN": "secret token"}, "The setting ACEDATACLOUD_API_TOKEN is wrong"),
        ({"SEEDREAM_MODELS_FILE": "nowhere.toml"}, "The model table nowhere.toml can't be read"),
        ({"SEEDREAM_LOG_LEVEL": "loud"}, "The setting SEEDREAM_LOG_LEVEL is wrong"),
    ],
)
def test_a_wrong_setting_stops_the_start(tmp_path: Path, env: dict[str, str], says: str) -> None:
    """With its name, and never its value where that is a secret."""
    result = run(cwd=tmp_path, env=env)
    assert result.returncode == 2
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert "secret" not in result.stderr


def test_version_and_help(tmp_path: Path) -> None:
    """The first things people ask."""
    assert run("--version", cwd=tmp_path).stdout == f"mcp-seedream {__version__}\n"
    shown = run("--help", cwd=tmp_path).stdout
    assert all(f"    {command} " in shown for command in ("try", "install", "uninstall", "doctor"))


@pytest.mark.parametrize("port", ["80808", "-1", "http", "²"])
def test_a_port_that_is_none(tmp_path: Path, port: str) -> None:
    """Is refused with the others that are wrong, before anything begins."""
    result = run("--transport", "http", f"--port={port}", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert "--port" in result.stderr
    assert "is not a port" in result.stderr


def test_flags_of_another_transport(tmp_path: Path) -> None:
    """Over stdio a port does nothing: it is said, and the server is there all the same."""
    result = run("--port", "8001", "--workers", "2", "--sandbox", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, "")
    assert "--port has no effect without --transport http" in result.stderr
    assert "--workers has" in result.stderr
    assert "--host has" not in result.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("more", [["--sandbox"], ["--workers", "2"]])
def test_a_port_that_is_taken(tmp_path: Path, host: str, more: list[str]) -> None:
    """Ends with a line that says so, before anything is said to run."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = run("--transport", "http", "--host", host, "--port", port, *more, cwd=tmp_path)
    assert result.returncode == 2
    assert f"Port {port} of 127.0.0.1 can't be used: Address already in use." in result.stderr
    assert not [word for word in ("Traceback", "startup complete", "running on") if word in result.stderr]


@pytest.mark.parametrize("more", [["--sandbox"], ["--workers", "2"]])
def test_a_host_that_is_none(tmp_path: Path, more: list[str]) -> None:
    """Is named, before anything is said to run."""
    result = run("--transport", "http", "--host", "nowhere.invalid", "--port", "0", *more, cwd=tmp_path)
    assert result.returncode == 2
    assert "--host nowhere.invalid can't be used: " in result.stderr
    assert not [word for word in ("Traceback", "startup complete", "running on") if word in result.stderr]


def test_a_host_with_two_addresses() -> None:
    """All of them are listened to, and what was bound is closed where one can't be."""
    listeners = open_listeners("localhost", 0)
    try:
        assert {each.getsockname()[0] for each in listeners} == {
            address[4][0] for address in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)
        }
    finally:
        for each in listeners:
            each.close()
