# Everything that you or CI do with this repository. Each target does its own set-up.
.DEFAULT_GOAL := help
.PHONY: help run test test-frameworks check format bench gpu soak clean

PORT ?= 8501
ARGS ?=
MARKED ?= not thorough
export PYTHON

help:
	@echo "make run     set up, then start the dashboard on http://127.0.0.1:$(PORT) (PORT=8600, ARGS=--no-browser)"
	@echo "make test    set up with Chromium, then run the tests, without those that take long (ARGS='-k resume')"
	@echo "make test-frameworks   run the tests that need Lightning or Hugging Face, in a .venv-frameworks of its own"
	@echo "make check   check format, lint, types, layers, Dockerfile, links in the docs, phrases"
	@echo "make format  let ruff fix format and lint"
	@echo "make soak    run the tests that take long, and kill real trainings at random moments (ARGS='--kills 100')"
	@echo "make bench   run the benchmarks, next to other tools"
	@echo "make gpu     run every CUDA test and the GPU benchmarks; no network (PYTHON=/path/to/python3, ARGS=--rehearse)"
	@echo "make clean   remove what make has made: .venv, caches; never runs/ or data/"

run:
	@scripts/set-up-venv run
	@.venv/bin/relight up --port $(PORT) $(ARGS)

# One worker more than there are cores: many tests wait for processes and browsers.
# Tests in one xdist group share a server or a browser. --dist loadgroup runs them on one worker.
test:
	@scripts/set-up-venv dev
	@chromium="$$(scripts/install-chromium)" && \
	PATH="$(CURDIR)/.venv/bin:$$PATH" RELIGHT_CHROMIUM="$$chromium" \
	.venv/bin/python -m pytest -n $$(($$(getconf _NPROCESSORS_ONLN) + 1)) --maxprocesses 8 --dist loadgroup -m "$(MARKED)" $(ARGS)

test-frameworks:
	@scripts/set-up-frameworks
	@.venv-frameworks/bin/python -m pytest -n logical --maxprocesses 8 $(ARGS) \
	tests/training/test_lightning_callback.py tests/training/test_transformers_callback.py

check:
	@scripts/set-up-venv dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/hadolint Dockerfile
	.venv/bin/python scripts/check_docs.py
	.venv/bin/python scripts/check_prose.py

format:
	@scripts/set-up-venv dev
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

bench:
	@scripts/set-up-venv dev
	@for script in benchmarks/*.py; do echo "== $$script" && .venv/bin/python "$$script" || exit 1; done

# .venv-gpu uses the machine's own PyTorch. Setting it up needs no network.
gpu:
	@scripts/set-up-gpu $(ARGS)
	@.venv-gpu/bin/python scripts/run_gpu.py $(ARGS)

soak:
	@scripts/set-up-venv dev
	@.venv/bin/python -m tests.integration.soak $(ARGS)
	@.venv/bin/python -m tests.integration.rank_soak --kills 5
	@.venv/bin/python -m tests.durability.kills
	@.venv/bin/python -m tests.durability.power_cuts --if-possible
	@.venv/bin/python -m tests.durability.nfs --if-possible
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-soak.txt || true
	@.venv/bin/python -m tests.mirror.server_kills --if-possible
	@.venv/bin/python tests/exactness/matrix.py --jobs 2
	@for seed in 0 1 2; do .venv/bin/python -m tests.exactness.loop_matrix --seed $$seed || exit 1; done
	@.venv/bin/python -m tests.exactness.loop_matrix --leaky
	@.venv/bin/python -m tests.processors
	@RELIGHT_CHROMIUM="$$(scripts/install-chromium)" .venv/bin/python -m tests.e2e.server_kills
	@RELIGHT_CHROMIUM="$$(scripts/install-chromium)" .venv/bin/python -m tests.e2e.press_storm --presses 40
	@$(MAKE) test MARKED=thorough ARGS=
	@$(MAKE) test-frameworks ARGS=
	@$(MAKE) gpu ARGS=--rehearse

# A .venv that make did not make is not ours to remove.
clean:
	@if [ -e .venv/made-by-relight ]; then rm -rf .venv; \
	elif [ -e .venv ]; then echo "make did not make .venv; it is left as it is."; fi
	@rm -rf .venv-frameworks .venv-gpu .gpu-bundle .gpu-run .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache test-results
	@find app core tests benchmarks scripts -name __pycache__ -type d -prune -exec rm -rf {} +
