# `make` alone lists what can be done. PYTHON names the interpreter that .venv is made with.
PYTHON ?= python3
JOBS ?= 2
PY := .venv/bin/python
STRIP := $(PY) -m nbstripout --keep-id --extra-keys "metadata.papermill cell.metadata.papermill"
# one thread a process: jobs run side by side, and results do not depend on the number of cores
export OMP_NUM_THREADS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# the stamp's name carries a checksum of pyproject.toml and of where the checkout lies
STAMP := .venv/.installed-$(shell (cat pyproject.toml; pwd) | cksum | tr -dc 0-9)

# STRICT=1: a sentence about live training that comes out differently is an error, as in CI
STRICT ?=
WAYS ?=
PAGES ?=

.PHONY: help setup test book browse portable lint bench clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## install everything into .venv (nothing to do when pyproject.toml is unchanged)

$(STAMP):
	@$(PY) -m pip --version >/dev/null 2>&1 || { \
	  $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	    echo "$(PYTHON) is no Python 3.11 to 3.13; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }; \
	  $(PYTHON) -m venv --clear .venv || { \
	    echo "no venv module (Debian, Ubuntu: apt install python3-venv)"; rm -rf .venv; exit 1; }; }
	@echo "installing into .venv (some minutes the first time)"
	@$(PY) -m pip install -q -e ".[book,cluster,test,dev]"
	@$(PY) -m pip install -q -e ".[knn]" || echo "warning: hnswlib did not install (it needs a C++" \
	  "compiler); neighbours use the exact search instead"
	@rm -f .venv/.installed-* && touch $@

test: lint ## lint, then all tests (JOBS=2 side by side)
	$(PY) -m pytest -n $(JOBS) --dist worksteal

lint: setup ## ruff, mypy, and that notebooks hold no outputs
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(STRIP) --verify notebooks/*.ipynb

book: setup ## run the notebooks that are out of date, then build _build/html
	$(PY) book/build.py --jobs $(JOBS) $(if $(filter-out 0 no,$(STRICT)),--strict)

browse: setup ## check the built book in Chromium (its links, pictures, two widths)
	NOISYLABELS_BROWSER=$${NOISYLABELS_BROWSER-needed} $(PY) -m pytest -n $(JOBS) \
	  --dist worksteal tests/test_browser.py

portable: setup ## run the pages as other machines would (WAYS=avx2,threads PAGES=sanm: some)
	$(PY) book/portable.py --jobs $(JOBS) --ways "$(WAYS)" --pages "$(PAGES)"

bench: setup ## time the parts that cost most
	$(PY) -m noisylabels bench

clean: ## remove what the book build made (keeps .venv, data and runs)
	rm -rf _build book/executed .pytest_cache .ruff_cache .mypy_cache
