.PHONY: frameworks

# Every example with its framework, in an environment of its own: minutes, and 1.5 GB in the user's cache.
frameworks:
	.venv/bin/pytest tests/test_frameworks.py --frameworks
