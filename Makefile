# The interface of kmlite. `make help` lists it.
SHELL := /bin/bash
PYTHON ?= python3
RAW ?= data/01_raw
REFINED ?= data/02_refined
OUT ?= model
BASE ?=
HARNESS ?=
MODEL ?=
A ?=
B ?=
ARGS ?=
GPUS ?= 1
UV ?=

PY := .venv/bin/python
STAMP := .venv/.done
EXTRAS := .venv/.extras
LOCK ?= requirements/$(shell nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu).txt
INSTALL = $(if $(UV),uv pip install --python $(PY) --quiet,$(PY) -m pip install -qq) --no-deps
# A variable as one word of the shell, whatever is in it: blanks, quotes, $. ARGS holds several words, quoted as in a shell.
# Not exported: make would expand the $ in them for that.
unexport RAW REFINED OUT BASE MODEL A B ARGS
quoted = '$(subst ','\'',$(value $(1)))'
# BASE is passed on only where it was given: each recipe knows its own default
BASE_ARG = $(if $(value BASE),--base $(call quoted,BASE))
FOLDERS = --refined $(call quoted,REFINED) --out $(call quoted,OUT)

.DEFAULT_GOAL := help
.PHONY: help setup extras lock demo doctor data refine stage0 stage1 stage2 eval compare report chat export pipeline bench bench-gpu test-gpu rehearse-gpu test test-docs check format clean

help: ## this page
	@echo "kmlite: teach MedGemma Korean medicine on one graphics card"
	@echo
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "  Variables: RAW="$(call quoted,RAW)"  REFINED="$(call quoted,REFINED)"  OUT="$(call quoted,OUT)"  BASE=a model (default google/medgemma-4b-it)"
	@echo "             MODEL=the one to chat with  GPUS=cards for stage0  HARNESS=1 evaluates by lm-eval  LLAMA_CPP=its folder, for export"
	@echo "  ARGS=… goes to the recipe; .venv/bin/python -m recipes.stage0 --help lists what it takes, with the reasons"
	@echo "  Example: make stage0 OUT=model/try ARGS=\"--max-steps 20\""

setup: $(STAMP) ## set up .venv with the locked packages (every other target does it by itself; UV=1 by uv)

# The stamp comes last, so a set-up that was interrupted is done anew, and so is one of older locks.
$(STAMP): $(LOCK) requirements/torch.in pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "kmlite needs Python 3.11 or newer; name one: make setup PYTHON=python3.12"; exit 1; }
	@echo "setting up .venv from $(LOCK), a few minutes once"
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(INSTALL) -r requirements/torch.in
	$(INSTALL) --require-hashes -r $(LOCK)
	$(INSTALL) --no-build-isolation -e .
	@touch $(STAMP)

extras: $(EXTRAS) ## add what make eval HARNESS=1, make chat ARGS=--web and all tests need

$(EXTRAS): $(STAMP) requirements/eval.txt requirements/web.txt
	$(INSTALL) --require-hashes -r requirements/eval.txt -r requirements/web.txt
	@touch $(EXTRAS)

lock: $(STAMP) ## write requirements/*.txt anew from the .in files
	$(PY) requirements/lock.py $(value ARGS)

demo: $(STAMP) ## the whole pipeline on sample data and an embedded base, or BASE=a small Gemma 3, on any machine
	$(PY) -m recipes.demo $(BASE_ARG) $(value ARGS)

doctor: $(STAMP) ## what this machine can do, what is missing, and the plan of each stage
	$(PY) -m recipes.doctor $(BASE_ARG) --raw $(call quoted,RAW) $(FOLDERS) $(value ARGS)

data: $(STAMP) ## fetch public Korean data into RAW (recipes/data.py has the table)
	$(PY) -m recipes.data --raw $(call quoted,RAW) $(value ARGS)

refine: $(STAMP) ## clean the raw data in RAW, write REFINED
	$(PY) -m recipes.refine --raw $(call quoted,RAW) --refined $(call quoted,REFINED) $(value ARGS)

stage0: $(STAMP) ## teach BASE Korean text: new tokens, embeddings, LoRA (GPUS=N shares it among cards)
	$(PY) $(if $(filter-out 1,$(GPUS)),-m torch.distributed.run --standalone --nproc-per-node $(GPUS)) -m recipes.stage0 $(BASE_ARG) $(FOLDERS) $(value ARGS)

stage1: $(STAMP) ## teach the medical dictionary
	$(PY) -m recipes.stage1 $(BASE_ARG) $(FOLDERS) $(value ARGS)

stage2: $(STAMP) ## teach exam questions until the target accuracy on dev
	$(PY) -m recipes.stage2 $(BASE_ARG) $(FOLDERS) $(value ARGS)

eval: $(STAMP) ## score the final model (or BASE) on the test questions; HARNESS=1: by lm-eval itself
	$(PY) -m recipes.evaluate $(BASE_ARG) $(FOLDERS) $(if $(HARNESS),--scorer lm-eval) $(value ARGS)

compare: $(STAMP) ## compare two evaluations, A=folder B=folder (HARNESS=1: by lm-eval): the paired difference and what flipped
	$(PY) -m recipes.compare $(if $(value A),--a $(call quoted,A)) $(if $(value B),--b $(call quoted,B)) $(if $(HARNESS),--harness) $(value ARGS)

report: $(STAMP) ## write OUT/report.html: what every step did, on one page that opens from disk
	$(PY) -m recipes.report $(FOLDERS) $(value ARGS)

chat: $(STAMP) ## talk to MODEL (default: the last finished stage in OUT); ARGS=--web in the browser
	@$(PY) -m recipes.chat $(if $(value MODEL),--model $(call quoted,MODEL)) $(FOLDERS) $(value ARGS)

pipeline: $(STAMP) ## refine, stage 0, 1, 2 and eval, skipping what is done and unchanged
	$(PY) -m recipes.pipeline --raw $(call quoted,RAW) $(FOLDERS) $(BASE_ARG) $(value ARGS)

export: $(STAMP) ## write a stage's model for others: merged, adapter or gguf; --push puts it on the Hub
	$(PY) -m recipes.export $(FOLDERS) $(value ARGS)

bench: $(STAMP) ## how fast and how exact refine is (minutes)
	$(PY) -m benchmarks.refine $(value ARGS)
	$(PY) -m benchmarks.quality

bench-gpu: $(STAMP) ## what a CUDA card makes of each stage: fits or not, tokens/s (15 minutes)
	$(PY) -m benchmarks.gpu $(value ARGS)

test-gpu: $(STAMP) ## the tests that need a CUDA card
	$(PY) -m pytest tests/gpu $(value ARGS)

rehearse-gpu: $(STAMP) ## Unsloth's GPU code, computed on a CPU: the stages' tests and those of test-gpu (slow)
	test -d .venv/triton || $(PY) -m pip install -q --no-deps --target .venv/triton triton==3.7.1
	KMLITE_REHEARSE=1 $(PY) -m pytest -p tests.gpu.unsloth_on_cpu tests/gpu tests/test_stages.py tests/training/test_loss.py tests/models/test_new_rows.py $(value ARGS)

test: $(EXTRAS) ## run the tests in two processes; ARGS="tests/x.py -k y" chooses, ARGS="-n 0" takes one process
	$(PY) -m pytest -n 2 --no-loadscope-reorder $(value ARGS)

test-docs: $(EXTRAS) ## run the notebook, the Dockerfile's steps and uv in empty folders (slow)
	$(INSTALL) --require-hashes -r requirements/docs.txt
	KMLITE_RUN_DOCS=1 $(PY) -m pytest tests/test_ways_in.py $(value ARGS)

check: $(STAMP) ## lint, formatting and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(STAMP) ## format the code
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean: ## remove what the demo wrote and the caches; your data and models stay
	rm -rf data/demo model/demo .pytest_cache .ruff_cache unsloth_compiled_cache *.egg-info
	find kmlite recipes tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
