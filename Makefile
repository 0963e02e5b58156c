# Short names for long commands. They need the environment of the test command in README.md.
.DEFAULT_GOAL := help
.PHONY: help test unit lint docs bundle release frameworks bench

help: ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

test: .venv/bin/pytest ## all tests (minutes)
	.venv/bin/pytest

unit: .venv/bin/pytest ## the unit tests (seconds)
	.venv/bin/pytest tests/unit

lint: .venv/bin/pytest ## style, types and import rules
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports

docs: .venv/bin/pytest ## update the generated parts of the documents
	.venv/bin/python -m tools.documents

bundle: .venv/bin/pytest ## build dist/mcp-seedream.mcpb for Claude Desktop
	.venv/bin/python -m tools.bundle

release: bundle ## build into dist/ what is published, with its bill of materials, and look for known vulnerabilities
	rm -rf dist/python && mkdir -p dist/python
	python3 -m venv dist/python/image && dist/python/image/bin/pip install -q -c .ci/constraints.txt '.[hosted,otel]'
	python3 -m venv dist/python/tools && dist/python/tools/bin/pip install -q build cyclonedx-bom pip-audit
	dist/python/tools/bin/python -m build -q --outdir dist .
	dist/python/tools/bin/cyclonedx-py environment --of JSON -o dist/sbom.json dist/python/image
	dist/python/tools/bin/pip-audit --path dist/python/image/lib/python3*/site-packages

frameworks: .venv/bin/pytest ## each example with its framework, in separate environments (minutes, 1.5 GB of cache)
	.venv/bin/pytest tests/process/test_frameworks.py --frameworks

bench: .venv/bin/pytest ## compare with a bare server and the vendor's (half an hour, on a quiet machine)
	.venv/bin/python -m benchmarks

.venv/bin/pytest:
	@echo 'This needs the test installation: python3 -m venv .venv && .venv/bin/pip install -e ".[test]"' >&2; exit 1
