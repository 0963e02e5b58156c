"""Generators of documents, their reference, the bundle, screenshots and the icon: `python -m tools.NAME` runs one."""
