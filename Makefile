# Short names for what takes a long command. Each works in the environment of README's test command.
.DEFAULT_GOAL := help
.PHONY: help test unit lint docs bundle frameworks bench

help: ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

test: .venv/bin/pytest ## all tests: minutes
	.venv/bin/pytest

unit: .venv/bin/pytest ## the tests that start nothing: seconds
	.venv/bin/pytest tests/unit

lint: .venv/bin/pytest ## style, types and the contract of imports
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports

docs: .venv/bin/pytest ## write the generated parts of the documents anew
	.venv/bin/python -m tools.documents

bundle: .venv/bin/pytest ## dist/mcp-seedream.mcpb, for Claude Desktop
	.venv/bin/python -m tools.bundle

frameworks: .venv/bin/pytest ## every example with its framework, each in an environment of its own: minutes, and 1.5 GB in your cache
	.venv/bin/pytest tests/process/test_frameworks.py --frameworks

bench: .venv/bin/pytest ## beside a bare server and the vendor's: half an hour on a quiet machine
	.venv/bin/python -m benchmarks

.venv/bin/pytest:
	@echo 'This takes the test installation: python3 -m venv .venv && .venv/bin/pip install -e ".[test]"' >&2; exit 1
