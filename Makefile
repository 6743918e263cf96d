# mytalk: `make serve` is all a user needs, `make test` and `make check` all a contributor needs.
# Settings come from the command line: make serve PORT=9000 ARGS='--max-sessions 2'

PYTHON ?= python3
HOST = 127.0.0.1
PORT = 8080
# more options: of `python -m server` under serve, of pytest under test
ARGS =
# Where the tests' torch comes from. A plain torch==2.13.0 is, on Linux, the CUDA build (6.2 GB in all); for
# the CPU build give the address of PyTorch's CPU index (see CONTRIBUTING.md) or a wheel: TORCH=path/to/torch-….whl
TORCH ?= torch==2.13.0
TORCH_INDEX ?=

# The server's environment stays free of torch; everything else has one of its own.
VENV = .venv
TEST_VENV = .venv-test
SERVE_READY = $(VENV)/.mytalk-serve
ACTORS_READY = $(VENV)/.mytalk-actors
TEST_READY = $(TEST_VENV)/.mytalk-test
PIP = -m pip -qq --no-input --disable-pip-version-check
TEST_PYTHON = '$(TEST_VENV)/bin/python'

.DEFAULT_GOAL := help
.PHONY: help serve actors test soak check format clean distclean
.DELETE_ON_ERROR:
.NOTPARALLEL:

help: ## print this list
	@sed -n 's/^\([a-z]*\):[^#]*## /\1|/p' Makefile | while IFS='|' read -r name text; do \
		printf '  make %-10s %s\n' "$$name" "$$text"; done

serve: $(SERVE_READY) ## set up what is missing and serve on http://127.0.0.1:8080 (HOST=, PORT=, ARGS=)
	@exec '$(VENV)/bin/python' -m server --host '$(HOST)' --port '$(PORT)' $(ARGS)

actors: $(ACTORS_READY) ## add what `mytalk actor make` and `mytalk dub` need to find faces (MediaPipe, 0.9 GB)

test: $(TEST_READY) ## set up what is missing and run the tests (ARGS= goes to pytest; TORCH=, TORCH_INDEX=)
	$(TEST_PYTHON) -m pytest -rs $(ARGS)

soak: $(TEST_READY) ## look for what grows: simulated hours and 1,000 real calls; an hour or so (ARGS=, see docs/benchmarks.md)
	$(TEST_PYTHON) benchmarks/soak.py $(ARGS)

check: $(TEST_READY) ## lint, formatting, types, import rules
	$(TEST_PYTHON) -m ruff check .
	$(TEST_PYTHON) -m ruff format --check .
	$(TEST_PYTHON) -m mypy
	$(TEST_PYTHON) -m pytest tests/test_layers.py

format: $(TEST_READY) ## lay out the code and mend what ruff can mend
	$(TEST_PYTHON) -m ruff check --fix-only .
	$(TEST_PYTHON) -m ruff format .

clean: ## remove caches and build products (environments, runs/ and certs/ stay)
	rm -rf build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean ## remove the environments too
	rm -rf '$(VENV)' '$(TEST_VENV)'

# $(call new_environment,FOLDER): an environment, or one line that says what is missing
define new_environment
	@command -v '$(PYTHON)' >/dev/null || { echo 'No $(PYTHON) here: sudo apt install python3 python3-venv'; exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || { \
		echo "mytalk needs Python 3.11 or 3.12, and $(PYTHON) is $$('$(PYTHON)' --version 2>&1):" \
			'give another one, as in: make $(MAKECMDGOALS) PYTHON=python3.12'; exit 1; }
	@'$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make environments yet: sudo apt install python3-venv" \
			"(or python$$('$(PYTHON)' -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv)"; exit 1; }
	@'$(PYTHON)' -m venv '$(1)'
endef

$(SERVE_READY): pyproject.toml constraints.txt
	$(call new_environment,$(VENV))
	@echo 'Setting up $(VENV), about 380 MB; this happens once and takes a minute or so ...'
	@'$(VENV)/bin/python' $(PIP) install -c constraints.txt -e .
	@touch '$@'

$(ACTORS_READY): $(SERVE_READY)
	@echo 'Adding MediaPipe to $(VENV) ...'
	@'$(VENV)/bin/python' $(PIP) install -c constraints.txt -e '.[actors]'
	@touch '$@'

# From an index of its own torch comes alone (--no-deps): what it needs is taken, pinned, from the usual place after it.
$(TEST_READY): pyproject.toml constraints.txt
	$(call new_environment,$(TEST_VENV))
	@echo 'Setting up $(TEST_VENV), 2.7 GB with the CPU build of torch (CUDA: 6.4 GB); once, some minutes ...'
	$(if $(TORCH_INDEX),@$(TEST_PYTHON) $(PIP) install --no-deps --index-url '$(TORCH_INDEX)' '$(TORCH)')
	@$(TEST_PYTHON) $(PIP) install -c constraints.txt -e '.[actors,train,openvino,dev]' '$(TORCH)'
	@touch '$@'
