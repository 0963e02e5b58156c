# Short names for what takes a long command. Each works in the environment of README's test command.
.PHONY: bundle frameworks

bundle: .venv/bin/pytest ## dist/mcp-seedream.mcpb, for Claude Desktop
	.venv/bin/python -m tests.bundle

frameworks: .venv/bin/pytest ## every example with its framework, each in an environment of its own: minutes, and 1.5 GB in your cache
	.venv/bin/pytest tests/test_frameworks.py --frameworks

.venv/bin/pytest:
	@echo 'This takes the test installation: python3 -m venv .venv && .venv/bin/pip install -e ".[test]"' >&2; exit 1
