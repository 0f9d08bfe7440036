# Serving a model on a CPU. Never built where the project is developed: it is linted and its paths are checked, no more.
#
#   docker build -t passl-sot-serve .
#   docker run -p 8000:8000 -v "$PWD/export:/model:ro" passl-sot-serve
#
# /model is a folder that `passl-sot export` wrote, or a checkpoint.
FROM python:3.11-slim

WORKDIR /app
COPY requirements.txt requirements-common.txt setup.py pyproject.toml README.md LICENSE ./
COPY passl_sot passl_sot
COPY configs configs
RUN pip install --no-cache-dir -r requirements.txt ".[serve,export]" \
    && useradd --create-home --uid 10001 serve

USER 10001
WORKDIR /home/serve
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/ready', timeout=4)"]
CMD ["passl-sot", "serve", "/model", "--host", "0.0.0.0"]
