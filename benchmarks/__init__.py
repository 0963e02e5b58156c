"""What this server costs beside a bare one and the vendor's: `python -m benchmarks`."""
