# Built in one image and copied into a clean one: no pip cache, no sources, no compiler in what runs.
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY mcp_seedream ./mcp_seedream
RUN python -m venv /app && /app/bin/pip install --no-cache-dir .

FROM python:3.12-slim
COPY --from=build /app /app
RUN useradd --system --no-create-home --uid 10001 seedream
USER seedream
WORKDIR /tmp
ENV PATH="/app/bin:$PATH" PYTHONUNBUFFERED=1
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=3s --start-period=10s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=2)"]
ENTRYPOINT ["mcp-seedream"]
CMD ["--transport", "http", "--host", "0.0.0.0", "--port", "8000"]
