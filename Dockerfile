# syntax=docker/dockerfile:1
# One image for `serve`, `worker`, `migrate` and the rest of the command line.
# It runs with a read-only root file system, given a /tmp, as any user id.
#
# The same commit makes the same image: what is installed is locked with its hashes, and no time of the build gets in.
# For that give PYTHON_IMAGE by its digest, and build as `make image` does.

ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
# The commit's time, for the wheel; BuildKit hands it on by itself when it is in the environment.
ARG SOURCE_DATE_EPOCH
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PYTHONHASHSEED=0
WORKDIR /build
COPY requirements.lock requirements-build.lock ./
# Behind a proxy that re-signs TLS, or with an index of your own:
# docker build --secret id=ca,src=ca.pem --secret id=pip,src=pip.conf .
RUN --mount=type=secret,id=ca,target=/run/secrets/ca.pem --mount=type=secret,id=pip,target=/etc/pip.conf \
    if [ -s /run/secrets/ca.pem ]; then export PIP_CERT=/run/secrets/ca.pem; fi \
    && python -m venv --without-pip /opt/venv \
    && python -m venv /opt/tools \
    && python -m pip --python /opt/venv/bin/python install --no-compile --require-hashes -r requirements.lock \
    && /opt/tools/bin/python -m pip install --require-hashes -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY service service
RUN /opt/tools/bin/python -m pip wheel --no-deps --no-build-isolation --no-index --wheel-dir wheels . \
    && python -m pip --python /opt/venv/bin/python install --no-compile --no-deps --no-index wheels/*.whl \
    && /opt/tools/bin/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml \
        --output-file sbom.cdx.json /opt/venv/bin/python \
    && /opt/venv/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv/lib

FROM ${PYTHON_IMAGE}
ARG PYTHON_IMAGE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ekabridge" \
      org.opencontainers.image.description="The gateway between hospital software and EkaScribe" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}"
# Not by useradd, which writes the day into /etc/shadow.
RUN echo 'ekabridge:x:10001:' >> /etc/group \
    && echo 'ekabridge:x:10001:10001::/nonexistent:/usr/sbin/nologin' >> /etc/passwd
COPY --from=build /opt/venv /opt/venv
COPY --from=build /build/sbom.cdx.json /usr/share/doc/ekabridge/
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
