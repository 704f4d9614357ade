# The MLflow server alone, without TensorFlow. Versions are those of requirements.lock and requirements-s3.lock.
ARG BASE=python:3.11.14-slim-bookworm
FROM ${BASE}
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 MLFLOW_DISABLE_TELEMETRY=true
WORKDIR /srv
COPY requirements.lock requirements-s3.lock deploy/requirements-server.txt ./
# As in the Dockerfile: pip installs uv, checked by its hash in the lock file, and uv checks all other packages of the file.
RUN awk '/^uv==/{on=1} on{print} on&&!/\\$/{exit}' requirements.lock > uv.lock \
    && pip install --quiet --no-cache-dir --require-hashes --no-deps -r uv.lock \
    && uv pip install --system --no-cache --requirement requirements-server.txt --constraint requirements.lock \
        --constraint requirements-s3.lock \
    && useradd --uid 10001 --create-home mlflow
USER 10001
EXPOSE 5000
CMD ["mlflow", "server", "--host=0.0.0.0", "--port=5000"]
