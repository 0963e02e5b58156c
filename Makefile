# Short names for what takes a long command. Each works in the environment of README's test command.
.PHONY: bundle

bundle: ## dist/mcp-seedream.mcpb, for Claude Desktop
	.venv/bin/python -m tests.bundle
