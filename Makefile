# The commands of this project. `make help` lists them.

UV := $(shell command -v uv 2>/dev/null || echo .tools/bin/uv)
RUN := $(UV) run --quiet
# Tests and the local system start hundreds of processes: where nothing keeps what Python compiles,
# each compiles all of its packages anew, for three seconds.
unexport PYTHONDONTWRITEBYTECODE
# Two for each processor: many tests wait for a moment.
WORKERS := $(shell expr $$(getconf _NPROCESSORS_ONLN) \* 2)
.DEFAULT_GOAL := help
.PHONY: help setup run test check format bench chaos pictures package lock clean

help: ## list the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(UV) ## bring what a new machine lacks: uv, Python packages, Azurite
	@$(UV) sync --quiet
	@$(RUN) python -m local.azurite --install

# Without uv on the PATH one from PyPI is put into .tools, and nothing else of the machine changes.
.tools/bin/uv:
	@python3 -m pip --version >/dev/null 2>&1 || \
		{ echo "Python has no pip: install python3-pip, or put uv on the PATH." >&2; exit 1; }
	@mkdir -p .tools
	@PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check \
		--target .tools/packages uv
	@mkdir -p .tools/bin && cp .tools/packages/bin/uv $@ && rm -rf .tools/packages

run: setup ## start the local system, run a sweep, show what was sent; Ctrl-C ends it
	@$(RUN) nudge local

# Without npm's registry the tests that need its tools are skipped, and say so.
test: setup ## run all tests on all cores, and say what they prove
	-@$(RUN) python -m tests.web.tools --install
	-@$(RUN) python -m tests.infra.tools --install
	@$(RUN) pytest -n $(WORKERS)

check: setup ## formatting, lint, types, import contracts
	@$(RUN) ruff format --check .
	@$(RUN) ruff check .
	@$(RUN) basedpyright
	@$(RUN) lint-imports

format: setup ## put the code into shape
	@$(RUN) ruff format .
	@$(RUN) ruff check --fix .

bench: setup ## run the benchmarks; prints one table of ratios
	@$(RUN) python -m tests.bench

chaos: setup ## kill the host a hundred times in the middle of a wave, and see what came of it
	@$(RUN) python -m tests.chaos

pictures: setup ## take the pictures of the README
	@$(RUN) python -m tests.pictures

package: setup ## make what runs in Azure: build/mfa-nudge.zip, for Linux and Python 3.13
	@$(RUN) python -m infra.package

lock: setup ## take the newest versions of all packages, pin them and export requirements.txt
	@$(RUN) python -m tests.pins

clean: ## remove what the other commands made
	@rm -rf .venv .azurite .local .tools uv.lock build
	@rm -rf .hypothesis .import_linter_cache .pytest_cache .ruff_cache
