# Two commands on a fresh machine: `make demo` and `make test`. Each sets up .venv by itself.
PYTHON ?= python3
PY := .venv/bin/python
export OMP_NUM_THREADS ?= 2

.PHONY: demo test tables figures notebooks report lint model
RESULTS := results/demo results/small results/cpu results/languages


.venv/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(PY) -m pip install -q -r requirements.txt
	$(PY) -m pip install -q --no-deps -e .
	touch $@

# A second process takes the second half of the cells; the first one takes what is left, and prints the table. The
# micro model gains nothing from threads, and two processes with several each would only wait for one another.
demo: export OMP_NUM_THREADS = 1
demo: .venv/ready            ## the main job on the embedded default: CSV, table and figures, in build/
	mkdir -p build
	$(PY) experiments/01_nusax_transfer.py --preset demo --output build --shard 2/2 > build/second.log 2>&1 & \
	$(PY) experiments/01_nusax_transfer.py --preset demo --output build
	$(PY) -m ctsft.report build/demo --tables build --figures build

test: .venv/ready            ## a process a core, four at most; without the flags, one
	$(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile

tables: .venv/ready          ## paper_tables/ and figures/ again from the committed rows, without a model
	$(PY) -m ctsft.report $(RESULTS) --documents
	$(PY) -m ctsft.advice.evidence results/demo results/small

figures: tables notebooks    ## and the notebooks

notebooks: .venv/ready       ## executed on the committed rows
	mkdir -p build
	$(PY) -m jupyter nbconvert --to html --execute --output-dir build notebooks/*.ipynb

report: .venv/ready          ## one self-contained page of tables, figures and claims: build/report.html
	$(PY) -m ctsft.report $(RESULTS) --page build/report.html

lint: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

model: .venv/ready           ## the demo's micro model again, from nothing
	$(PY) -m ctsft.tasks.demo.pretrain ctsft/tasks/demo/model
