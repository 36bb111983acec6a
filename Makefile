# Two commands on a fresh machine: `make demo` and `make test`. Both make .venv and install what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DATA ?= faces
FULL ?= $(filter-out faces,$(DATA))
OUT ?= runs/$(if $(FULL),demo-$(DATA),first-look)

.PHONY: demo test test-core mutants lint clean

# glibc gives torch's buffers back to the system after every operation unless told not to, which costs page faults.
demo: $(STAMP)
	MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296 \
	$(BIN)/shapkit-diffusion demo --data $(DATA) --out $(OUT) --overwrite $(if $(FULL),,--quick)

test: lint
	$(BIN)/python -m pytest -q --numprocesses auto --dist worksteal

# The core alone, without torch, on any Python: make test-core PYTHON=python3.13
CORE_VENV = .venv-core-$(notdir $(PYTHON))
test-core:
	test -x $(CORE_VENV)/bin/python || $(PYTHON) -m venv $(CORE_VENV)
	$(CORE_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test-core]'
	$(CORE_VENV)/bin/python -m pytest -q --numprocesses auto --dist worksteal \
		--ignore tests/shapkit/differentiable --ignore shapkit/differentiable tests/shapkit shapkit

# The wheel, installed in a clean environment and tested from outside of the sources, on every Python:
# make test-all PYTHONS="python3.11 python3.12 python3.13"
PYTHONS ?= python3.11 python3.12 python3.13
.PHONY: test-all test-wheel test-lowest
test-all:
	set -e; for python in $(PYTHONS); do $(MAKE) test-wheel PYTHON=$$python; done

WHEEL_DIR = .wheel-$(notdir $(PYTHON))
NOT_OF_A_WHEEL = test_house.py test_packaging.py test_docs.py
test-wheel: $(STAMP)
	rm -rf $(WHEEL_DIR) && mkdir $(WHEEL_DIR)
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir $(WHEEL_DIR) .
	$(PYTHON) -m venv $(WHEEL_DIR)/venv
	$(WHEEL_DIR)/venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		"$$(ls $(WHEEL_DIR)/*.whl)[test]"
	git archive HEAD tests benchmarks examples docs README.md pyproject.toml | tar -x -C $(WHEEL_DIR)
	rm $(addprefix $(WHEEL_DIR)/tests/,$(NOT_OF_A_WHEEL))
	cd $(WHEEL_DIR) && venv/bin/python -m pytest -q --numprocesses auto --dist worksteal tests

# The core with the oldest version of each dependency that it says it runs with.
test-lowest:
	test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-lowest.txt -e '.[test-core]'
	.venv-lowest/bin/python -m pytest -q --numprocesses auto --dist worksteal \
		--ignore tests/shapkit/differentiable --ignore shapkit/differentiable tests/shapkit shapkit

# Small faults put into the code, and whether the tests notice: docs/testing.md. Hours; goes on where it was stopped.
mutants: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,mutants]'
	$(BIN)/python -m benchmarks.reliability.mutants

# The site, in site/: pages, the API, and a gallery whose scripts are run. No page is fetched, no link may be broken.
.PHONY: docs
docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,docs]'
	NO_MKDOCS_2_WARNING=1 MPLBACKEND=agg $(BIN)/mkdocs build --quiet --strict

lint: $(STAMP)
	$(BIN)/ruff format --check shapkit adapters tests benchmarks examples docs/gallery docs/doctests.py docs/tables.py
	$(BIN)/ruff check shapkit adapters tests benchmarks examples docs/gallery docs/doctests.py docs/tables.py
	$(BIN)/mypy

# The constraints file pins the development set; torch among it, because an unpinned torch brings several GB of CUDA.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) .venv-core-* .venv-lowest .wheel-* runs site
