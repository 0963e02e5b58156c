# Built in one image and copied into a clean one: no pip cache, no sources, no compiler in what runs.
# For a release, name the base image by its digest: --build-arg PYTHON=python:3.12-slim@sha256:...
ARG PYTHON=python:3.12-slim
FROM ${PYTHON} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE .ci/constraints.txt ./
COPY mcp_seedream ./mcp_seedream
# The versions that were tested; others could come with any build.
RUN python -m venv /app && /app/bin/pip install --no-cache-dir -c constraints.txt '.[hosted,otel]'

FROM ${PYTHON}
COPY --from=build /app /app
RUN groupadd --gid 10001 seedream && useradd --no-create-home --uid 10001 --gid 10001 seedream
# By number, so that Kubernetes can tell that it is not root.
USER 10001:10001
WORKDIR /tmp
# WEB_CONCURRENCY=N serves in N processes.
ENV PATH="/app/bin:$PATH" PYTHONUNBUFFERED=1
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=3s --start-period=20s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=2)"]
# No shell in between: SIGTERM reaches the server, which answers the calls that wait before it ends.
ENTRYPOINT ["mcp-seedream"]
CMD ["--transport", "http", "--host", "0.0.0.0", "--port", "8000"]
