# podpair: `make help` lists what there is. Each target does its own set-up.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UV := $(shell command -v uv || echo .cache/uv/bin/uv)
PROJECTS := client common gateway inference operator
IMAGES := gateway inference operator
KAFKA ?=
PORT ?= 8080

.DEFAULT_GOAL := help
.PHONY: help setup demo rag rag-ingest llm test test-slow test-faults test-producers test-models test-resources coverage fuzz e2e lint format lock crd proto bench bench-fanout bench-channels bench-drain bench-direct bench-queued bench-whole bench-amqp bench-hot bench-features bench-cached bench-growth bench-rag bench-inference bench-http bench-start bench-operator bench-openai bench-frames bench-report reference images clean

help: ## what there is
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## the environment in .venv, exactly as requirements.lock pins it

# A machine without uv gets the one that the lock pins.
.cache/uv/bin/uv:
	@$(PYTHON) -m venv .cache/uv
	@awk '/^[^ ]/ {p = /^uv==/} p' requirements.lock > .cache/uv/requirements.txt
	@.cache/uv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .cache/uv/requirements.txt

# --no-build-isolation: the build backend is pinned in the lock like everything else. Everything is compiled once: where Python
# may not write bytecode (PYTHONDONTWRITEBYTECODE) each of the many processes that tests start would compile it anew, which
# takes longer than all else that they do before they serve.
$(STAMP): requirements.lock $(PROJECTS:%=%/pyproject.toml) | $(UV)
	@test -x $(BIN)/python || $(UV) venv --quiet --no-project --python $(PYTHON) $(VENV)
	@$(UV) pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation $(PROJECTS:%=-e ./%)
	@$(BIN)/python -m compileall -q $(PROJECTS:%=%/src)
	@touch $@

demo: setup ## the whole pair on this machine; KAFKA=host:port for a real broker
	@exec $(BIN)/python examples/demo.py --port $(PORT) $(if $(KAFKA),--kafka $(KAFKA))

# The retrieval example has an environment of its own; the embedding model is made of what a package in it carries.
RAG := .cache/rag
RAG_MODEL := examples/rag/models/embedding/1/model.onnx
$(RAG)/.installed: examples/rag/requirements.lock common/pyproject.toml inference/pyproject.toml | $(UV)
	@$(UV) venv --quiet --clear --no-project --python $(PYTHON) $(RAG)
	@$(UV) pip sync --quiet --compile-bytecode --python $(RAG)/bin/python --require-hashes examples/rag/requirements.lock
	@$(UV) pip install --quiet --python $(RAG)/bin/python --no-deps --no-build-isolation -e ./common -e ./inference
	@touch $@

$(RAG_MODEL): examples/rag/prepare.py $(RAG)/.installed
	@$(RAG)/bin/python examples/rag/prepare.py $@

rag: setup $(RAG_MODEL) ## ask podpair about itself: retrieval over its docs (KAFKA=host:port, DATABASE=postgresql://…)
	@exec $(BIN)/python examples/rag/rag.py --environment $(RAG) --port $(PORT) \
	  $(if $(KAFKA),--kafka $(KAFKA)) $(if $(DATABASE),--database $(DATABASE))

rag-ingest: setup ## documents into the retrieval example while it runs (FILES=…, REMOVE=…, KAFKA=host:port)
	@$(BIN)/python examples/rag/ingest.py $(FILES) $(if $(REMOVE),--remove $(REMOVE)) $(if $(KAFKA),--kafka $(KAFKA))

# llama-cpp-python is built from its source, once: what builds it is pinned in the same lock.
LLM := .cache/llm
$(LLM)/.installed: examples/llm/requirements.lock common/pyproject.toml inference/pyproject.toml | $(UV)
	@command -v $(firstword $(CXX)) > /dev/null || { echo "make llm: llama-cpp-python is built here, and this machine lacks a C++ compiler (Debian: g++)" >&2; exit 1; }
	@echo "make llm: builds llama.cpp, which takes some minutes the first time"
	@$(UV) venv --quiet --clear --no-project --python $(PYTHON) $(LLM)
	@CMAKE_ARGS="-DLLAVA_BUILD=OFF" $(UV) pip sync --quiet --compile-bytecode --python $(LLM)/bin/python --require-hashes \
	  --build-constraints examples/llm/requirements.lock examples/llm/requirements.lock
	@$(UV) pip install --quiet --python $(LLM)/bin/python --no-deps --no-build-isolation -e ./common -e ./inference
	@touch $@

llm: setup $(LLM)/.installed ## a small language model behind OpenAI's API (KAFKA=host:port)
	@exec $(BIN)/python examples/llm/llm.py --environment $(LLM) --port $(PORT) $(if $(KAFKA),--kafka $(KAFKA))

# Tests wait more than they compute, so two workers share them, by file. What has a node or faults of its own, or watches how
# fresh something stays, runs before them, by itself.
WORKERS ?= 2
ALONE := tests/cluster/test_brokers.py tests/faults tests/operator/kafka/test_processes_of_brokers.py tests/e2e
test: setup ## all tests, or those of ARGS; what this machine lacks is skipped by name (PODPAIR_TEST_REQUIRE=all: fails instead)
ifneq ($(ARGS),)
	@$(BIN)/python -m pytest $(ARGS)
else
	@$(BIN)/python -m pytest $(ALONE)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ALONE:%=--ignore=%)
endif

test-slow: setup ## the tests that take minutes, which `make test` leaves out
	@$(BIN)/python -m pytest -m slow $(ARGS)

MINUTES ?= 10
test-faults: setup ## everything dies and comes back for MINUTES, and nothing may be lost (PODPAIR_FAULT_SEED repeats a run's choices)
	@PODPAIR_FAULT_MINUTES=$(MINUTES) $(BIN)/python -m pytest tests/faults/test_under_fire.py tests/faults/test_stale_answers.py -o log_cli=true -o log_cli_level=INFO $(ARGS)

test-producers: setup ## docs/producers.md, measured again: builds Kafka clients of other languages (Go, Node.js, Rust)
	@PODPAIR_TEST_PRODUCERS=1 $(BIN)/python -m pytest tests/producers --timeout 0 -o log_cli=true -o log_cli_level=INFO $(ARGS)

test-models: setup ## onnx's backend suite and models of wheels, all of them served and asked; prints the tables of docs/models.md
	@PODPAIR_TEST_MODELS=all $(BIN)/python -m pytest tests/inference/outside tests/inference/test_rows_of_onnx_suite.py --timeout 0 $(ARGS)

test-resources: setup ## 10,000 resources made from the CRD's schema, 300 of them at an API server: all who read one say the same of it
	@PODPAIR_RESOURCES=$${PODPAIR_RESOURCES:-10000} PODPAIR_RESOURCES_AT_API=$${PODPAIR_RESOURCES_AT_API:-300} \
	  $(BIN)/python -m pytest tests/operator/test_generated_resources.py tests/cluster/test_generated_resources.py --timeout 0 $(ARGS)

# One process is measured, by its lines and branches: what gateways and models do that tests start is not seen. Measurements
# (tests/bench) mean nothing while this one is taken.
coverage: setup ## how much of each package the pure tests run, or those of ARGS, in their own process
	@mkdir -p var
	@$(BIN)/coverage run -m pytest $(or $(ARGS),-m pure --ignore=tests/bench)
	@$(BIN)/coverage json --quiet -o - | $(BIN)/python tests/coverage_by_package.py

fuzz: setup ## 1,000,000 frames, heads and records (or PODPAIR_FUZZ of them) for the parsers and for a gateway
	@PODPAIR_FUZZ=$${PODPAIR_FUZZ:-1000000} $(BIN)/python -m pytest tests/gateway/fuzz --timeout 0 $(ARGS)

e2e: setup ## the end-to-end tests on the cluster of KUBECONFIG, else on a throw-away node (Linux, root)
	@PODPAIR_E2E_KUBECONFIG="$$KUBECONFIG" $(BIN)/python -m pytest tests/e2e $(ARGS)

bench-direct: setup ## WebSocket → model → WebSocket, one pair (ARGS="--loads 64x16 --seconds 10")
	@$(BIN)/python tests/bench/direct.py $(ARGS)

bench-queued: setup ## WebSocket → Kafka → model → Kafka → WebSocket, one pair and a real broker (ARGS="--loads 64x16 --against ../other")
	@$(BIN)/python tests/bench/queued.py $(ARGS)

bench-whole: setup ## both routes beside FastAPI with a WebSocket, with the model in its process and with Celery and Redis
	@$(BIN)/python tests/bench/whole.py $(ARGS)

bench-amqp: setup ## a queue of RabbitMQ → model → reply queue, beside Celery's workers with the same model and broker
	@$(BIN)/python tests/bench/amqp.py $(ARGS)

bench-hot: setup ## direct requests beside a queue that is never empty (ARGS="--against ../other")
	@$(BIN)/python tests/bench/hot_and_cold.py $(ARGS)

bench-features: setup ## what tracing, metrics, TLS, exactly-once and resuming cost: each beside the plain gateway
	@$(BIN)/python tests/bench/features.py $(ARGS)

bench-cached: setup ## what an answer from the cache costs the pair, beside one of the model (ARGS="--models cnn")
	@$(BIN)/python tests/bench/cached.py $(ARGS)

bench-growth: setup ## what a fleet reads with 1 to 16 gateways (from 8 on simulated), and what 1,000 to 10,000 sessions need
	@$(BIN)/python tests/bench/growth.py $(ARGS)

bench-rag: setup ## the retrieval example under 500 users beside the same on FastAPI (ARGS="--users 500,1000 --ingest")
	@$(BIN)/python tests/bench/rag.py $(ARGS)

bench-fanout: setup ## Kafka → 5,000 WebSocket sessions on a real broker: a JSON line a run (ARGS="--gateways all --sessions 1000,5000")
	@$(BIN)/python tests/bench/fanout.py $(ARGS)

bench-channels: setup ## one publication → 10,000 subscribed sessions, beside as many records of their own (ARGS="--sessions 1000")
	@$(BIN)/python tests/bench/channels.py $(ARGS)

bench-drain: setup ## SIGTERM for a gateway with 10,000 sessions, which move to another while records flow
	@$(BIN)/python tests/bench/drain.py $(ARGS)

bench-openai: setup ## streamed chat completions through a gateway, beside none, nginx and LiteLLM (ARGS="--streams 64 --rounds 3")
	@$(BIN)/python tests/bench/openai_streams.py $(ARGS)

bench-operator: setup ## 200 resources at an API server: requests a minute, memory, time to converge, takeover (ARGS="--resources 200")
	@$(BIN)/python tests/bench/reconciled.py $(ARGS)

bench-inference: setup ## the model's container beside its peers and session.run itself; needs wrk (ARGS="--only small --peers all")
	@$(BIN)/python tests/bench/inference.py $(ARGS)

bench-start: setup ## the pair from nothing to its first answer, and its memory when idle (ARGS="--against ../other --rounds 7")
	@$(BIN)/python tests/bench/start.py $(ARGS)

bench-http: setup ## the model's container's HTTP server alone, beside uvicorn and granian; needs wrk
	@$(BIN)/python tests/bench/http_server.py $(ARGS)

lint: setup ## ruff, mypy --strict, import-linter, the language of docstrings and pages
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python tests/lint/language.py

format: setup ## let ruff mend what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: $(UV) ## pin every dependency anew, with hashes and without addresses
	@$(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 \
	  $(if $(UPGRADE),--upgrade) --group build --group lint --group test --group bench --group train --group proto --group docs --extra images \
	  --no-emit-package podpair-common $(PROJECTS:%=%/pyproject.toml) -o requirements.lock
	@for name in $(addprefix tests/inference/,clients custom_ops envoy exporters kserve perf_analyzer uvicorn) \
	    tests/gateway/auth/outside/issuers tests/gateway/outside/autobahn tests/gateway/outside/langchain tests/gateway/outside/websockets \
	    tests/gateway/clients tests/gateway/amqp_clients; do \
	  $(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 \
	    $(if $(UPGRADE),--upgrade) $$name.in -o $$name.lock || exit 1; done
	@$(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 \
	  $(if $(UPGRADE),--upgrade) --no-emit-package podpair-common --constraints requirements.lock \
	  inference/pyproject.toml examples/rag/requirements.in -o examples/rag/requirements.lock
	@$(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 \
	  $(if $(UPGRADE),--upgrade) --no-emit-package podpair-common --constraints requirements.lock \
	  inference/pyproject.toml examples/llm/requirements.in -o examples/llm/requirements.lock
	@$(UV) pip compile --quiet --universal --generate-hashes --no-deps --no-emit-index-url --no-header --python-version 3.11 \
	  $(if $(UPGRADE),--upgrade) tests/inference/wheels.in -o tests/inference/wheels.lock
	@for folder in tests/bench/peers/*_server tests/bench/peers/socketio_gateway; do \
	  $(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 \
	    $(if $(UPGRADE),--upgrade) $$folder/requirements.in -o $$folder/requirements.lock || exit 1; done

PROTO := podpair/inference/grpc/proto
proto: setup ## generate the Python of the .proto files anew
	@cd inference/src && $(abspath $(BIN))/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. $(PROTO)/*.proto
	@cd gateway/src && $(abspath $(BIN))/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. podpair/gateway/upstream/proto/*.proto

crd: setup ## docs/resource.md and what of the charts follows from the resource or from values.yaml, made anew
	@$(BIN)/podpair crd --format doc > docs/resource.md
	@$(BIN)/python charts/generate.py

reference: setup ## docs/client-reference.md, made anew from the docstrings of podpair.client
	@$(BIN)/python client/reference.py > docs/client-reference.md

# Tagged twice: charts and `podpair plan` name the version; `dev` is for what is built again and again.
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' operator/pyproject.toml)
IMAGE_TAG ?= dev
build = docker build $(DOCKER_FLAGS) -f $(2)/Dockerfile -t podpair-$(1):$(IMAGE_TAG) -t podpair-$(1):$(VERSION)
images: ## the three images and podpair-digits, an example (BASE=image to build on, DOCKER_FLAGS, IMAGE_TAG)
	@for name in $(IMAGES); do $(call build,$$name,$$name) $(if $(BASE),--build-arg BASE=$(BASE)) . || exit 1; done
	@$(call build,digits,examples/digits) --build-arg BASE=podpair-inference:$(IMAGE_TAG) .

bench-frames: setup ## what a WebSocket frame costs to read, beside the sans-I/O protocol of `websockets`
	@$(BIN)/python tests/bench/frames.py

bench-report: setup ## tables and plots of docs/benchmarks.md, from what benches have left in var/bench
	@$(BIN)/python tests/bench/report.py

bench: bench-fanout bench-direct bench-queued bench-whole bench-hot bench-features bench-growth bench-inference bench-http bench-report ## every measurement in docs/benchmarks.md

clean: ## forget the environment and everything that was generated
	rm -rf $(VENV) .cache var .mypy_cache .ruff_cache .pytest_cache
