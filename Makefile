# Each target does all of its set-up by itself: `make demo` or `make test` on a fresh machine is enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check bench bench-simulator bench-machine bench-loop bench-eclipse overhead chaos chaos-orders chaos-faults chaos-attack chaos-deceit chaos-strangers chaos-soak train clean

demo: $(STAMP)
	$(BIN)/specswarm demo

# A file's tests share its swarm, so one process runs them; `tests/conftest.py` says how many processes there are.
# A test that ends its process ends the run: another process would try it again and again.
test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses auto --max-worker-restart 0 --dist loadfile

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Needs root: it makes network namespaces. Options: make bench ARGS="--delays 0 25"
bench: $(STAMP)
	$(BIN)/python -m benchmarks.bench $(ARGS)

# How near the simulator comes to the lab, how fast it is, and the pictures of docs/simulator.md. Needs root, an hour.
bench-simulator: $(STAMP)
	$(BIN)/python -m benchmarks.simulator $(ARGS)

# Peers and clients that share this machine's cores, with the threads they choose and with given numbers.
bench-machine: $(STAMP)
	$(BIN)/python -m benchmarks.shared_machine $(ARGS)

# How long what strangers send holds up a peer's event loop.
bench-loop: $(STAMP)
	$(BIN)/python -m benchmarks.loop $(ARGS)

# What free identities can hide on the DHT.
bench-eclipse: $(STAMP)
	$(BIN)/python -m benchmarks.eclipse $(ARGS)

# What this revision costs a generation that nothing disturbs, against a checkout of another one:
# make overhead ARGS="--against FOLDER"
overhead: $(STAMP)
	$(BIN)/python -m benchmarks.overhead $(ARGS)

# Peers die, hang and leave, links break, a stranger attacks; the tokens must stay the same. Needs root, and three hours.
# Each part can be made alone; `make -k chaos` goes on where one has missed a bar.
chaos: chaos-orders chaos-faults chaos-attack chaos-deceit chaos-strangers chaos-soak
	$(BIN)/python -m benchmarks.chaos.summary

chaos-orders: $(STAMP)
	SPECSWARM_PROPERTY_RUNS=5000 $(BIN)/python -m pytest tests/test_mending_property.py -o faulthandler_timeout=3600

chaos-faults: $(STAMP)
	$(BIN)/python -m benchmarks.chaos $(ARGS)

chaos-attack: $(STAMP)
	$(BIN)/python -m benchmarks.chaos.attack $(ARGS)

chaos-deceit: $(STAMP)
	$(BIN)/python -m benchmarks.chaos.deceit $(ARGS)

chaos-strangers: $(STAMP)
	$(BIN)/python -m benchmarks.chaos.strangers $(ARGS)

chaos-soak: $(STAMP)
	$(BIN)/python -m benchmarks.chaos.soak $(ARGS)

# The embedded pair anew; hours on two cores.
train: $(STAMP)
	$(BIN)/python -m training.train --out swarm/embedded $(ARGS)
	$(BIN)/python -m training.evaluate

# torch comes first and by its exact version, so that a machine without a GPU gets the build it has at hand.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
