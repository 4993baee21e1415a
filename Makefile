# Needs Python 3.11 or 3.12 and make; everything else goes into .venv. `make help` lists the targets.

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
# False also where making $(VENV) was interrupted after its interpreter and before its pip.
HAS_PIP := $(PY) -m pip --version >/dev/null 2>&1
# Debian's packages that the tests marked `full` need, and a file of each that shows it is there. Java and npm are kept where they came
# from somewhere else.
FULL_TOOLS := g++-aarch64-linux-gnu:/usr/bin/aarch64-linux-gnu-g++ qemu-user:/usr/bin/qemu-aarch64 cmake:/usr/bin/cmake aapt:/usr/bin/aapt2 \
	android-framework-res:/usr/share/android-framework-res/framework-res.apk junit4:/usr/share/java/junit4.jar \
	libhamcrest-java:/usr/share/java/hamcrest.jar libandroid-json-org-java:/usr/share/java/json-android.jar
TWO_WORKERS := OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile

CHECKPOINT := calibration/demo/checkpoint
VIDEO := calibration/demo/sample.mp4
BUNDLE := bundles/demo
QUESTION := Which appears first, the circle or the square?

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test test-full slow lint clean distclean

help:
	@echo "make demo       build a bundle of the demo checkpoint, ask it about a clip, compare it with the model, time both"
	@echo "make test       the tests, without the slow and the full ones"
	@echo "make test-full  the tests marked 'full', which continuous integration adds"
	@echo "make slow       released-size tests: minutes and gigabytes each"
	@echo "make lint       ruff"
	@echo "make install    only make $(VENV) and install into it"
	@echo "make clean      remove the demo bundle and caches"
	@echo "make distclean  the same, and $(VENV)"
	@echo "Another interpreter than python3: make install PYTHON=python3.12"

install: $(STAMP)

# Again only when pyproject.toml is newer than the last installation that succeeded.
$(STAMP): pyproject.toml
	@$(HAS_PIP) || $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null || { \
		echo "error: $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo not there), and Python 3.11 or 3.12 is needed:" \
			"install one and name it, for example make install PYTHON=python3.12" >&2; exit 2; }
	@$(HAS_PIP) || $(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); \
		echo "error: $(PYTHON) cannot make virtual environments: install its venv package (Debian: apt install python3-venv)" >&2; exit 2; }
	@echo "installing into $(VENV): a few minutes the first time"
	@$(PIP) install -qq --editable '.[executorch,coreml,test]'
	@$(PY) -m export.ops.native --optional
	@touch $@

demo: $(STAMP)
	@echo "== 1 of 4: build $(BUNDLE) from $(CHECKPOINT)"
	@if $(PY) -m export.ops.native 2>/dev/null; then kernels=fused; else kernels=stock; echo "no C++ compiler: stock kernels"; fi; \
		$(PY) -m export.build --target executorch --kernels $$kernels --out $(BUNDLE)
	@echo
	@echo "== 2 of 4: ask it about $(VIDEO): $(QUESTION)"
	@$(PY) -m runtime_py.chat --bundle $(BUNDLE) --video $(VIDEO) --prompt "$(QUESTION)" --max-new-tokens 32
	@echo
	@echo "== 3 of 4: parity. This table is what proves something: how far each stage of the bundle is from the model's, and its bound"
	@$(PY) -m runtime_py.parity --bundle $(BUNDLE)
	@echo
	@echo "== 4 of 4: time of the bundle, then of the eager model that it is compared with (eager-sequential: fp32, CPU)"
	@$(PY) -m runtime_py.bench --bundle $(BUNDLE)
	@$(PY) -m runtime_py.bench --checkpoint $(CHECKPOINT)

test: $(STAMP)
	@$(TWO_WORKERS) -m 'not slow and not full'

# What continuous integration adds to `make test`: the tests marked `full`, which need more than Python and a compiler: the kernels on
# emulated Arm, and the demo apps under Kotlin's and Swift's own compilers. Where the tools cannot be installed, the tests say so: skipped,
# or failed where the environment variable CI is set. Kotlin's compiler comes from npm and Swift's from Debian trixie, into build/.
test-full: $(STAMP)
	@missing=; for tool in $(FULL_TOOLS); do test -e $${tool#*:} || missing="$$missing $${tool%%:*}"; done; \
		command -v javac >/dev/null || missing="$$missing default-jdk-headless"; \
		command -v npm >/dev/null || missing="$$missing npm"; \
		test -z "$$missing" || { test "$$(id -u)" -eq 0 && command -v apt-get >/dev/null && echo "installing$$missing with apt-get" && \
		apt-get -qq update </dev/null && DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends \
			$$missing </dev/null >/dev/null; } || true
	@$(TWO_WORKERS) -m 'full and not slow'

slow: $(STAMP)
	@$(PY) -m pytest -m slow

lint: $(STAMP)
	@$(PIP) install -qq --editable '.[dev]'
	@$(PY) -m ruff check .

clean:
	rm -rf $(BUNDLE) build export/ops/build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
