# Short names for what takes a long command. Each works in the environment of README's test command.
.PHONY: bundle frameworks

bundle: ## dist/mcp-seedream.mcpb, for Claude Desktop
	.venv/bin/python -m tests.bundle

frameworks: ## every example with its framework, each in an environment of its own: minutes, and 1.5 GB in your cache
	.venv/bin/pytest tests/test_frameworks.py --frameworks
