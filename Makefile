# Everything runs through .venv/, made on first use from the hashed requirements. Needs Python 3.11 or newer and make.
.DEFAULT_GOAL := help
PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo serve test test-slow check evidence fuzz soak bench proto contract requirements wheel clean

help: ## Show what there is.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(READY): requirements/dev.txt pyproject.toml
	@scripts/make-venv "$(PYTHON)" $(VENV)
	@touch $@

demo: $(READY) ## The main job on real data. ARGS="--assignment sticky_stored" or "--arms 3".
	@$(BIN)/bandit-router demo $(ARGS)

serve: $(READY) ## Run a router on 127.0.0.1:50051, with its data below build/data.
	@mkdir -p build && $(BIN)/bandit-router serve --data-dir build/data $(ARGS)

test: $(READY) ## Every test but the slow ones.
	$(BIN)/python -m pytest -m "not slow" -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(READY) ## Format, lint, types, imports, proto, generated code.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/check-proto

test-slow: $(READY) ## The slow tests: minutes.
	$(BIN)/python -m pytest -m slow $(ARGS)

evidence: $(READY) ## The statistics beside published values: up to 15 minutes. ARGS="--only delay --quick".
	@$(BIN)/python -m benchmarks.evidence $(ARGS)

bench: $(READY) ## Measure beside baselines of the same run, up to 12 minutes. ARGS="--only route --quick".
	@$(BIN)/python -m benchmarks $(ARGS)

fuzz: $(READY) ## Fuzz on with new seeds until something fails. ARGS="--minutes 10".
	scripts/fuzz $(ARGS)

soak: $(READY) ## Faults under load and the books after each: about 8 minutes. ARGS="--minutes 4" or "--only keeper".
	$(BIN)/python -m benchmarks.soak $(ARGS)

proto: $(READY) ## Generate router/v1 from proto/.
	scripts/generate-proto

contract: $(READY) ## Accept the proto as what clients are promised.
	mkdir -p build && PATH="$(CURDIR)/$(BIN):$$PATH" scripts/check-breaking build/contract.binpb
	cp build/contract.binpb proto/contract.binpb

requirements: $(READY) ## Resolve requirements/ anew, with hashes.
	scripts/resolve-requirements

wheel: $(READY) ## Build the wheel into dist/.
	rm -rf dist && $(BIN)/python -m build --no-isolation --wheel --outdir dist .

clean: ## Remove what builds made. Data below build/data too.
	rm -rf build dist $(VENV)
