# make setup       makes .venv with torch, mmcv with compiled ops, the OpenMMLab libraries, this project
# make demo        sets up, then trains classifier, detector and segmentor on data that needs no download,
#                  and writes work_dirs/demo/report.html; after an interruption the same command resumes it
# make demo-full   sets up, then searches, exports and retrains a detector and a segmentor on the same data,
#                  and writes work_dirs/demo-full/report.html
# make test        sets up, then runs the tests
# make test-long   sets up, then runs the tests that take 6 to 40 seconds each
# make test-slow   sets up, then runs the tests that take minutes each
# make lint        sets up, then runs ruff
# make docs        sets up, then builds the documentation in build/docs
#
# It takes the first Python that works: with 3.10 and 3.11 the upstream libraries, with
# newer ones the maintained forks (onedl-*), which are all that installs there.
#
# STACK=upstream|onedl  ask for one of the two; the forks are then in .venv-onedl
# PYTHON=...    the interpreter to use
# CUDA=0        build CPU ops only, even if there is a GPU

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DELETE_ON_ERROR:

PYTHONS_upstream := 3.10 3.11
PYTHONS_onedl := 3.10 3.11 3.12 3.13

version = $(shell $(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
ifeq ($(STACK),)
VENV := .venv
else ifneq ($(filter $(STACK),upstream onedl),)
VENV := $(if $(filter onedl,$(STACK)),.venv-onedl,.venv)
else
$(error STACK=$(STACK) is unknown: use STACK=upstream or STACK=onedl)
endif

# An environment that is there already stays what it is: the marker has its Python's
# version and its stack.
MADE := $(shell cat $(VENV)/.python 2>/dev/null)
WANTED := $(or $(PYTHONS_$(STACK)),$(PYTHONS_onedl))
ifneq ($(PYTHON),)
VERSION := $(call version,$(PYTHON))
else ifneq ($(MADE),)
VERSION := $(firstword $(MADE))
else
PYTHON := $(firstword $(foreach p,python3.11 python3.10 python3.12 python3.13 python3, \
  $(if $(filter $(WANTED),$(call version,$(p))),$(p))))
VERSION := $(if $(PYTHON),$(call version,$(PYTHON)))
endif
ifeq ($(STACK),)
STACK := $(or $(word 2,$(MADE)),$(if $(filter $(PYTHONS_upstream),$(VERSION)),upstream,onedl))
endif
ifneq ($(MADE),)
ifneq ($(MADE),$(VERSION) $(STACK))
$(error $(VENV) holds Python and stack "$(MADE)", not "$(VERSION) $(STACK)": remove it, or name another folder with VENV=...)
endif
endif
MMCV := $(if $(filter onedl,$(STACK)),onedl-mmcv,mmcv)
SUFFIX := $(if $(filter onedl,$(STACK)),-onedl)

CUDA ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo 1 || echo 0)
WHEELS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/autonl_mm

CONSTRAINTS := requirements/constraints$(SUFFIX).txt
MMCV_VERSION = $(shell sed -n 's/^$(MMCV)==\([^;]*\).*/\1/p' $(CONSTRAINTS))
# Own cache: the wheel depends on Python, torch and CUDA, which pip's wheel cache does
# not tell apart.
WHEEL = $(WHEELS)/$(MMCV)-$(MMCV_VERSION)-$(shell $(VENV)/bin/python -c \
  'import sys, torch; print("cp%d%d-torch%s" % (*sys.version_info[:2], torch.__version__))')-cuda$(CUDA)
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
# Not quiet: the downloads take minutes.
INSTALL := $(PIP) install -c $(CONSTRAINTS)
FAIL = { echo "setup: $(1)" >&2; exit 1; }
NET := check the network and the disk space (see pip's message above) and run make again

.PHONY: setup demo demo-full test test-long test-slow lint docs
setup: $(VENV)/.project

$(VENV)/.python:
	@[ -n "$(PYTHON)" ] || $(call FAIL,found no Python of version $(WANTED): install one or give its path with PYTHON=/path/to/python)
	@[ -n "$(VERSION)" ] || $(call FAIL,$(PYTHON) does not run: give the path of a Python of version $(PYTHONS_$(STACK)) with PYTHON=/path/to/python)
	@[ -n "$(filter $(VERSION),$(PYTHONS_$(STACK)))" ] \
	  || $(call FAIL,$(PYTHON) is Python $(VERSION) but STACK=$(STACK) needs one of $(PYTHONS_$(STACK)): give its path with PYTHON=/path/to/python)
	@echo "setup: making $(VENV) with Python $(VERSION) and the $(if $(SUFFIX),maintained forks (onedl-*),upstream libraries)"
	@$(PYTHON) -m venv --clear $(VENV) || $(call FAIL,python -m venv failed: install the venv package of your Python (Debian: python3-venv))
	@echo $(VERSION) $(STACK) > $@

$(VENV)/.torch: $(VENV)/.python $(CONSTRAINTS) requirements/build.txt
	@echo "setup: installing torch and torchvision (about 3 GB to download the first time)"
	@$(INSTALL) -r requirements/build.txt torch torchvision || $(call FAIL,torch did not install: $(NET))
	@touch $@

# mmcv's ops are compiled while the libraries are downloaded.
$(VENV)/.wheel: $(VENV)/.torch requirements/build_mmcv.py
	@command -v c++ >/dev/null || $(call FAIL,mmcv's ops need a C++ compiler: install g++ (Debian: apt-get install g++))
	@[ "$(CUDA)" = 0 ] || command -v nvcc >/dev/null \
	  || $(call FAIL,there is a GPU but no nvcc: install the CUDA toolkit of the version that torch was built for or run make with CUDA=0 for CPU ops)
	@[ -n "$(MMCV_VERSION)" ] || $(call FAIL,$(CONSTRAINTS) does not pin $(MMCV): add the line $(MMCV)==VERSION)
	@if ! ls $(WHEEL)/*.whl >/dev/null 2>&1; then \
	  echo "setup: compiling mmcv's ops, about 5 minutes on two cores, once per machine (log: $(VENV)/mmcv-build.log)"; \
	  $(VENV)/bin/python requirements/build_mmcv.py $(MMCV) -c $(CONSTRAINTS) --cuda $(CUDA) \
	    --out $(WHEEL) --log $(VENV)/mmcv-build.log \
	  || $(call FAIL,mmcv did not build: see the end of $(VENV)/mmcv-build.log); \
	fi
	@touch $@

$(VENV)/.libraries: $(VENV)/.torch $(wildcard requirements/*.txt)
	@echo "setup: installing the OpenMMLab libraries"
	@$(INSTALL) -r requirements/mminstall$(SUFFIX).txt -r requirements/optional.txt \
	  -r requirements/tests.txt -r requirements/docs.txt \
	  || $(call FAIL,the OpenMMLab libraries did not install: $(NET))
	@touch $@

$(VENV)/.project: $(VENV)/.torch setup.py $(wildcard requirements/*)
	@$(MAKE) --no-print-directory -j2 $(VENV)/.wheel $(VENV)/.libraries STACK=$(STACK) VENV=$(VENV) CUDA=$(CUDA)
	@$(INSTALL) --no-deps $(WHEEL)/*.whl || $(call FAIL,mmcv did not install: $(NET))
	@$(INSTALL) --no-build-isolation --no-deps -e . || $(call FAIL,the project did not install: $(NET))
	@echo "setup: compiling the fused operators, half a minute on two cores"
	@$(VENV)/bin/python -m autonl_mm.ops || $(call FAIL,the fused operators did not compile: see above)
	@touch $@

test: setup
	$(VENV)/bin/python -m pytest -n 2 --dist worksteal

test-long: setup
	$(VENV)/bin/python -m pytest -n 2 --dist worksteal -m 'long and not slow'

test-slow: setup
	$(VENV)/bin/python -m pytest -n 2 --dist worksteal -m slow

lint: setup
	$(VENV)/bin/ruff check .

docs: setup
	$(VENV)/bin/python -m sphinx -W -b html docs build/docs

demo: setup
	@$(VENV)/bin/python tools/demo.py

demo-full: setup
	@$(VENV)/bin/python tools/demo.py --full
