# syntax=docker/dockerfile:1
# One image for `serve`, `worker`, `migrate` and the rest of the command line.
# It runs with a read-only root file system, given a /tmp, as any user id.

ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY requirements.lock requirements-build.lock ./
# Behind a proxy that re-signs TLS, or with an index of your own:
# docker build --secret id=ca,src=ca.pem --secret id=pip,src=pip.conf .
RUN --mount=type=secret,id=ca,target=/run/secrets/ca.pem --mount=type=secret,id=pip,target=/etc/pip.conf \
    if [ -s /run/secrets/ca.pem ]; then export PIP_CERT=/run/secrets/ca.pem; fi \
    && python -m venv --without-pip /opt/venv \
    && python -m pip --python /opt/venv/bin/python install --no-compile --require-hashes -r requirements.lock \
    && python -m pip install --require-hashes -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY service service
RUN python -m pip wheel --no-deps --no-build-isolation --no-index --wheel-dir wheels . \
    && python -m pip --python /opt/venv/bin/python install --no-compile --no-deps --no-index wheels/*.whl \
    && /opt/venv/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv/lib

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ekabridge" \
      org.opencontainers.image.description="The gateway between hospital software and EkaScribe" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN groupadd --gid 10001 ekabridge \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin ekabridge
COPY --from=build /opt/venv /opt/venv
# The byte code is made above. PORT is the health check's: 8080 for `serve`, to be set to 8081 for `worker`.
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PORT=8080
WORKDIR /tmp
USER 10001:10001
EXPOSE 8080 8081
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s CMD ["python", "-c", "\
import http.client, os, sys; \
connection = http.client.HTTPConnection('127.0.0.1', int(os.environ['PORT']), timeout=4); \
connection.request('GET', '/health/live'); \
sys.exit(connection.getresponse().status != 200)"]
ENTRYPOINT ["ekabridge"]
CMD ["serve", "--host", "0.0.0.0"]
