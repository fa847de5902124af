# `make demo`, `make demo-det` and `make test` do their own set-up; a second call starts at once.
VENV ?= .venv
PY = $(VENV)/bin/python
SEEDS ?= 0
export VENV PYTHON
ARGS ?=
# Test processes side by side; the first that is done takes over half of what another has left. JOBS=0 runs the tests in
# one (for --pdb).
JOBS ?= logical
# Bytecode is kept, whatever the shell says: without it each process that a test starts compiles 4,000 modules, for 8 seconds.
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(PY) -m pytest -n $(JOBS) --maxprocesses 4 --dist worksteal

.PHONY: help demo demo-det test test-zoo test-upstream soak golden lint format docs site audit results setup clean

help:
	@echo 'make demo [SEEDS=0,1,2]  train a teacher, a student alone and a distilled student on generated images'
	@echo 'make demo-det            the same for detection; compiles parts of mmcv once'
	@echo 'make test [ARGS=...]     run the tests (ARGS goes to pytest; JOBS=0: one process)'
	@echo 'make test-zoo            build all configs that can be named, and train each for a step at reduced width'
	@echo 'make test-upstream       what meets the stack, with the upstream packages in .venv-upstream'
	@echo 'make soak                run the long tests alone'
	@echo 'make golden              compare with the stored reference values'
	@echo 'make docs                write the table of methods and the metafiles anew'
	@echo 'make results ARGS=YAML   write the page of a finished suite to docs/results/'
	@echo 'make site                build the documentation into work_dirs/site; a warning is an error'
	@echo 'make lint                ruff and mypy'
	@echo 'make audit               look the installed packages up for known vulnerabilities, where the index is reachable'
	@echo 'make setup               the environment alone, complete (compiled mmcv, detection, test tools)'
	@echo 'make clean               remove the environment and build folders'

demo:
	@tools/setup_env.sh demo
	@$(PY) tools/demo.py --seeds $(SEEDS) $(ARGS)

demo-det:
	@echo 'Detection needs the compiled operations of mmcv; where they are missing they are built first, once.'
	@tools/setup_env.sh det
	@$(PY) tools/demo.py det --seeds $(SEEDS) $(ARGS)

setup:
	@tools/setup_env.sh test

test: setup
	@$(PYTEST) $(ARGS)

test-zoo: setup
	@$(PYTEST) tests/zoo -m zoo --dist load $(ARGS)

# What meets the stack's own classes; and a teacher, a student and a distilled student on generated images.
UPSTREAM_TESTS = tests/networks/test_taps.py tests/networks/test_teacher.py tests/networks/test_inherit.py tests/weights \
	tests/model/test_model.py tests/engine/test_distill_hook.py tests/engine/test_start.py tests/engine/test_resume.py \
	tests/utils tests/fuzz

test-upstream: PY = .venv-upstream/bin/python
test-upstream:
	@VENV=.venv-upstream tools/setup_env.sh upstream
	@$(PYTEST) $(UPSTREAM_TESTS) $(ARGS)
	@$(PY) tools/demo.py --short --out work_dirs/demo_upstream

soak: setup
	@$(PYTEST) -m soak $(ARGS)

golden: setup
	@$(PY) -m pytest tests/golden $(ARGS)

lint: setup
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(PY) -m mypy examples

docs: setup
	@$(PY) tools/catalogue.py

site: setup
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build

results: setup
	@$(PY) tools/results.py $(ARGS)

audit: setup
	@$(PY) tools/audit.py

format: setup
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

clean:
	rm -rf $(VENV) .venv-upstream build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
