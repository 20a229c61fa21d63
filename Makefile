# The two commands of the README, and what developers use daily. Everything sets itself up on first use.

PYTHON ?= python3.11
BOARD ?= native,qemu-m7
TEST_BOARDS ?= native,qemu-m7,f405,pico
TEST_ARGS ?= --hil-episodes 2 --hil-seconds 2 --hil-inputs 2000
TEST_JOBS ?= 3
NIGHTLY_BOARDS ?= native,qemu-m3,qemu-m4,qemu-m7,qemu-m55,f405,pico
MODEL ?= models/ppo
SECONDS ?= 60
FAULTS ?= 10000
ARGS ?=
UPLOT ?= 1.6.32
THREE ?= 0.187.0
ESBUILD ?= 0.28.2
HIL := .venv/bin/hil

POLICIES := $(patsubst %/bundle.json,%,$(wildcard models/*/bundle.json))

export PLATFORMIO_CORE_DIR := $(CURDIR)/.platformio
# The tests start several hundred Python processes: compiled modules are kept also where containers set this.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: run test slow nightly guarantees setup setup-run check format fuzz vendor clean help docs

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

run: setup-run ## balance the robot with the policy on two emulated boards, in real time; BOARD=native takes one
	@$(HIL) run $(MODEL) --board $(BOARD) $(ARGS)

test: setup ## the tests, the HIL suite on four emulated boards included (TEST_BOARDS=native: on one)
	@.venv/bin/python -m pytest -n $(TEST_JOBS) --dist loadscope --no-loadscope-reorder --hil-board $(TEST_BOARDS) --hil-bundle models/ppo $(TEST_ARGS) $(ARGS)

slow: setup ## the tests that make test leaves out because they take long; CI runs both
	@.venv/bin/python -m pytest -n $(TEST_JOBS) --dist loadscope --no-loadscope-reorder host/tests -m 'slow and not nightly' $(ARGS)

nightly: setup ## the HIL suite in full length, every shipped policy on every emulated board, and every environment: over an hour
	@mkdir -p build
	@$(HIL) test $(POLICIES) --board $(NIGHTLY_BOARDS) --junitxml build/nightly.xml $(ARGS)
	@.venv/bin/python -m pytest host/tests -m nightly --junitxml build/nightly-robots.xml

guarantees: setup ## inject 10,000 faults of each kind and check what must hold all the same (FAULTS=N: N of each)
	@.venv/bin/python -m pytest -n $(TEST_JOBS) host/tests/guarantees -m "" -v --faults $(FAULTS) --timeout 7200 $(ARGS)

setup: ## install everything: training, export, tests
	@$(PYTHON) host/bootstrap.py all

setup-run: ## install what the bench needs
	@$(PYTHON) host/bootstrap.py run

check: setup ## formatter, linters, type check, import contract, generated files
	@.venv/bin/ruff format --check host hil_tests examples docs/*.py
	@.venv/bin/ruff check host hil_tests examples docs/*.py
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-cache
	@.venv/bin/python -m balance_hil.protocol.generate --check
	@.venv/bin/python docs/generate_api.py --check
	@git ls-files 'firmware/*.cpp' 'firmware/*.h' | xargs .venv/bin/clang-format --dry-run --Werror
	@.venv/bin/python firmware/lint.py

format: setup ## rewrite the sources in the project's format
	@.venv/bin/ruff format host hil_tests examples docs/*.py
	@.venv/bin/ruff check --fix host hil_tests examples docs/*.py
	@git ls-files 'firmware/*.cpp' 'firmware/*.h' | xargs .venv/bin/clang-format -i

docs: setup ## build the documentation site into build/site
	@.venv/bin/python docs/build_site.py

fuzz: ## look for inputs that break the firmware, SECONDS for each of the four targets (needs clang)
	@$(PYTHON) firmware/test/fuzz/fuzz.py --seconds $(SECONDS) $(ARGS)

vendor: ## refresh the vendored uPlot and three.js of the pages (needs npm)
	@cd $$(mktemp -d) && npm install --silent uplot@$(UPLOT) three@$(THREE) esbuild@$(ESBUILD) && cd node_modules && \
	  cp uplot/dist/uPlot.iife.min.js uplot/dist/uPlot.min.css "$(CURDIR)/host/balance_hil/reporting/assets/" && \
	  cp uplot/LICENSE "$(CURDIR)/host/balance_hil/reporting/assets/uPlot.LICENSE" && \
	  cp "$(CURDIR)/host/balance_hil/live/assets/three.js" ../entry.js && .bin/esbuild ../entry.js --bundle --minify --format=iife \
	    --global-name=THREE --legal-comments=eof --outfile="$(CURDIR)/host/balance_hil/live/assets/three.iife.min.js" && \
	  cp three/LICENSE "$(CURDIR)/host/balance_hil/live/assets/three.LICENSE"

clean: ## remove what was built and installed here
	rm -rf .venv .pio .platformio build runs
