# Works with GNU make 3.81, the one of macOS, and with any path of the checkout. `make` lists the targets.

.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# PYTHON=… names the interpreter of a new .venv; otherwise the newest of these that works is taken.
PYTHON ?=
PYTHONS := python3 python3.14 python3.13 python3.12 python3.11

# UPGRADE=1 lets `make lock` raise what is locked already to the newest versions.
UPGRADE ?=

CA_BUNDLES := /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt \
  /etc/ssl/ca-bundle.pem /etc/ssl/cert.pem

.PHONY: help setup demo dev test lint types imports scan audit pytest unit store api e2e manifests image image-test check bench dashboards \
  chaos attacks outcomes overload fuzz sizing growth lock clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9 ]*\):.*## \(.*\)$$/\1|\2/p' Makefile | awk -F'|' '{ printf "  %-20s %s\n", $$1, $$2 }'

setup: $(STAMP) ## make .venv and install everything into it

$(STAMP): requirements-dev.lock pyproject.toml $(BIN)/python
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip
	@$(trust_the_system); set -ex; \
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-dev.lock; \
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

# An interpreter must run (pyenv's shims may not), have wheels among the locked ones, and be able to make a venv.
$(BIN)/python:
	@version() { \
	  "$$1" -c 'import ensurepip, sys, venv; v = sys.version_info; \
	print(v[1]) if (3, 11) <= v[:2] < (3, 15) else sys.exit(1)' 2>/dev/null; \
	}; \
	newest=0; chosen=; \
	if [ -n "$(PYTHON)" ]; then set -- "$(PYTHON)"; else set -- $(PYTHONS); fi; \
	for candidate in "$$@"; do \
	  if found=$$(version "$$candidate") && [ "$$found" -gt "$$newest" ]; then newest=$$found; chosen=$$candidate; fi; \
	done; \
	if [ -z "$$chosen" ]; then \
	  echo "No Python of 3.11 to 3.14 that can make a venv among: $$*. Install one, or name it: make PYTHON=..." >&2; \
	  exit 1; \
	fi; \
	echo "Making $(VENV) with $$("$$chosen" --version)"; \
	"$$chosen" -m venv --clear $(VENV)

# Hospitals sit behind proxies that re-sign TLS, and an older pip trusts its own list: unless pip was told what to
# trust, let it trust what the system does.
define trust_the_system
if [ -z "$$PIP_CERT$$REQUESTS_CA_BUNDLE$$CURL_CA_BUNDLE" ] \
    && ! $(BIN)/python -m pip config get global.cert >/dev/null 2>&1; then \
  for bundle in "$$SSL_CERT_FILE" $(CA_BUNDLES); do \
    if [ -f "$$bundle" ]; then PIP_CERT=$$bundle; export PIP_CERT; break; fi; \
  done; \
fi; \
PIP_DISABLE_PIP_VERSION_CHECK=1; export PIP_DISABLE_PIP_VERSION_CHECK
endef

demo: $(STAMP) ## one dictation from start to a forwarded document, on this machine
	$(BIN)/ekabridge demo

dev: $(STAMP) ## everything on this machine, until Ctrl-C
	$(BIN)/ekabridge dev

test: lint types imports scan audit pytest ## what the CI runs

check: lint types imports unit ## what takes less than a minute: lint, types, imports, tests without a server

lint: $(STAMP) ## ruff: rules and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(STAMP) ## mypy
	$(BIN)/mypy

imports: $(STAMP) ## who may import whom
	$(BIN)/lint-imports

scan: $(STAMP) ## secrets in the sources
	$(BIN)/python -m tests.security.scan secrets

audit: $(STAMP) ## known vulnerabilities of what production installs; says so where nobody can be asked
	$(BIN)/python -m tests.security.scan audit

# Three workers for two cores, because many tests wait for time-outs. In the order of the folders: the last ones
# have the shortest files, so that no worker waits long for the others.
pytest: $(STAMP) ## all tests
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

manifests: $(STAMP) ## make the PrometheusRule of infra/prometheus/rules, check everything under infra/ and the Dockerfile
	$(BIN)/python -m tests.infra.prometheus_rule
	$(BIN)/python -m pytest tests/infra

# Two builds of one commit are the same to the byte, given the same base image: PYTHON_IMAGE=python@sha256:…
image: ## build the image into build/image.tar, its SBOM and provenance attached
	@mkdir -p build
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) docker buildx build --sbom=true --provenance=mode=max \
	  --build-arg REVISION=$$(git rev-parse HEAD) $(if $(PYTHON_IMAGE),--build-arg PYTHON_IMAGE=$(PYTHON_IMAGE)) \
	  --output type=oci,dest=build/image.tar,rewrite-timestamp=true .

image-test: $(STAMP) ## build the image with Docker, and start it
	$(BIN)/python -m pytest -m docker tests/infra/test_image.py

bench: $(STAMP) | build/peers/.installed ## measure beside others, and write docs/benchmarks.md; nginx, if there is one
	$(BIN)/python -m tests.tools.bench.report

# ROWS=… another number of sessions; ten million take some 30 GB of disk and half an hour.
ROWS ?= 10000000

growth: $(STAMP) ## measure every call and statement at ten thousand and at ten million sessions; write docs/growth.md
	$(BIN)/python -m tests.tools.bench.growth $(ROWS)

# SEED=… SEEDS=… MINUTES=… DICTATIONS=… CHARACTER=… as docs/reliability.md says; WRITE=1 puts the figures into
# that page.
SEED ?= 1
SEEDS ?= 1
MINUTES ?= 5
DICTATIONS ?= 12
CHARACTER ?= hosted
WRITE ?=

overload: $(STAMP) ## offer twice what is sustained, and write docs/capacity.md
	$(BIN)/python -m tests.tools.chaos.overload

attacks: $(STAMP) ## attack a process as strangers and as readers who do not read, and write docs/capacity.md
	$(BIN)/python -m tests.tools.chaos.attacks

chaos: $(STAMP) ## kill -9 at every crash point, then seeded runs that break everything
	$(BIN)/python -m tests.tools.chaos.main_job --points --seed $(SEED) --seeds $(SEEDS) --minutes $(MINUTES) \
	  --dictations $(DICTATIONS) --character $(CHARACTER) $(if $(WRITE),--write)

# RUNS=… another number of dictations of each scenario; SEED=… other moments of chance.
RUNS ?= 50

outcomes: $(STAMP) ## every outcome that EkaScribe's servers have, RUNS times each; write docs/outcomes.md
	$(BIN)/python -m tests.tools.outcomes.report --runs $(RUNS) --seed $(SEED)

fuzz: $(STAMP) ## the security tests with fifty times the examples, other ones each time; half an hour
	$(BIN)/python -m pytest tests/security --hypothesis-profile=long --timeout=0

sizing: $(STAMP) ## measure what a dictation costs, and write docs/sizing.md
	$(BIN)/python -m tests.tools.bench.sizing

dashboards: $(STAMP) | build/plot/.installed ## write the dashboards, show them a load run, draw docs/pictures; needs prometheus
	$(BIN)/python -m tests.tools.dashboards.boards
	$(BIN)/python -m tests.tools.dashboards.load
	build/plot/bin/python tests/tools/dashboards/draw.py

# Tests that start no server of ours.
UNIT := tests/concurrency tests/diagnostics tests/domain tests/eka tests/forwarding tests/http_client \
  tests/redis tests/temporary_files \
  tests/observability/test_logging.py tests/test_settings.py

unit: $(STAMP) ## the tests that need no server
	$(BIN)/python -m pytest -n 2 $(UNIT)

store api e2e: $(STAMP) ## the tests of one folder
	$(BIN)/python -m pytest tests/$@

# requirements.lock is what production installs, -build.lock what makes the wheel and the image's SBOM, -dev.lock both and the tools.
# They hold names, versions and hashes but no index: an installation asks whichever its pip is set to. Packages
# that are locked keep their versions while these fit pyproject.toml; UPGRADE=1 takes the newest.
LOCK := pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-header --no-annotate --no-emit-index-url $(if $(UPGRADE),--upgrade)

lock: ## make the files of pinned requirements again (UPGRADE=1: with the newest versions)
	@set -e; \
	uv=$$(command -v uv || true); \
	if [ -z "$$uv" ]; then $(MAKE) --no-print-directory build/uv/bin/uv; uv=build/uv/bin/uv; fi; \
	UV_SYSTEM_CERTS=1; export UV_SYSTEM_CERTS; \
	"$$uv" $(LOCK) pyproject.toml -o requirements.lock >/dev/null; \
	printf 'hatchling>=1.27\neditables\ncyclonedx-bom>=7.5\n' | "$$uv" $(LOCK) - -o requirements-build.lock >/dev/null; \
	"$$uv" $(LOCK) pyproject.toml requirements-build.lock --extra embedded --group dev \
	  -c requirements.lock -o requirements-dev.lock >/dev/null

# Only pictures for the docs are drawn with it: too large for what everybody installs.
build/plot/.installed: | $(BIN)/python
	@$(trust_the_system); set -ex; \
	$(BIN)/python -m venv build/plot; \
	build/plot/bin/python -m pip install --quiet 'matplotlib>=3.11,<4'; \
	touch $@

# What we are measured against is no part of what we install.
build/peers/.installed: | $(BIN)/python
	@$(trust_the_system); set -ex; \
	$(BIN)/python -m venv build/peers; \
	build/peers/bin/python -m pip install --quiet 'fastapi-proxy-lib[standard]==0.3.0' uvicorn uvloop httptools; \
	touch $@

build/uv/bin/uv: | $(BIN)/python
	@$(trust_the_system); set -ex; \
	$(BIN)/python -m venv build/uv; \
	build/uv/bin/python -m pip install --quiet uv

clean: ## remove what was made, the .venv too
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
