"""The command `python -m mcp_seedream.sandbox`: serves the sandbox alone, until it is stopped."""

import argparse
from pathlib import Path

import uvicorn

from mcp_seedream.catalog.table_file import read_table
from mcp_seedream.sandbox.app import Sandbox


def main() -> None:
    """Parse the command line, and serve."""
    parser = argparse.ArgumentParser(
        prog="python -m mcp_seedream.sandbox", description="Serve an emulation of AceDataCloud's API on this machine."
    )
    parser.add_argument("--port", type=int, default=8080, help="port to listen on (default: 8080)")
    parser.add_argument("--seconds", type=float, help="seconds that a picture takes (default: 2 to 4)")
    parser.add_argument("--models-file", type=Path, help="capability table to use instead of the built-in one")
    parser.add_argument(
        "--sandbox-as-documented",
        action="store_true",
        help="accept all models and sizes of the vendor's page, including those that production refuses",
    )
    parser.add_argument("--no-pictures", dest="pictures", action="store_false", help="draw nothing: links return 404")
    options = parser.parse_args()
    sandbox = Sandbox(
        read_table(options.models_file),
        seconds=options.seconds,
        pictures=options.pictures,
        as_documented=options.sandbox_as_documented,
    )
    print(f"Sandbox at http://127.0.0.1:{options.port} (any token except `invalid` and `used_up`)")  # noqa: T201
    uvicorn.run(sandbox.app, host="127.0.0.1", port=options.port, log_level="warning", lifespan="off")


if __name__ == "__main__":
    main()
