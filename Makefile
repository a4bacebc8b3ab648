# make setup       makes .venv with torch, mmcv with compiled ops, the OpenMMLab libraries, this project
# make demo        sets up, then trains classifier, detector and segmentor on data that needs no download
# make demo-full   sets up, then searches, exports and retrains a detector and a segmentor on the same data
# make test        sets up, then runs the tests
# make test-slow   sets up, then runs the tests that take minutes each
# make lint        sets up, then runs ruff
#
# STACK=onedl   use the maintained forks, in .venv-onedl
# PYTHON=...    the interpreter to use, 3.10 or 3.11 (3.10 to 3.12 with STACK=onedl)
# CUDA=0        build CPU ops only, even if there is a GPU

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DELETE_ON_ERROR:

STACK ?= upstream
ifeq ($(STACK),upstream)
VENV := .venv
PYTHONS := 3.10 3.11
MMCV := mmcv
SUFFIX :=
else ifeq ($(STACK),onedl)
VENV := .venv-onedl
PYTHONS := 3.10 3.11 3.12
MMCV := onedl-mmcv
SUFFIX := -onedl
else
$(error STACK=$(STACK) is unknown: use STACK=upstream or STACK=onedl)
endif

PYTHON ?= $(shell for p in python3.11 python3.10 python3 python3.12; do \
  [[ " $(PYTHONS) " == *" $$($$p -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) "* ]] \
  && echo $$p && break; done)
CUDA ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo 1 || echo 0)
WHEELS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/autonl_mm

CONSTRAINTS := requirements/constraints$(SUFFIX).txt
MMCV_VERSION = $(shell sed -n 's/^$(MMCV)==\([^;]*\).*/\1/p' $(CONSTRAINTS))
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install -q -c $(CONSTRAINTS)
FAIL = { echo "setup: $(1)" >&2; exit 1; }
NET := check the network and the disk space (see pip's message above) and run make again

.PHONY: setup demo demo-full test test-slow lint
setup: $(VENV)/.project

$(VENV)/.python:
	@[ -n "$(PYTHON)" ] || $(call FAIL,found no Python of version $(PYTHONS): install one or give its path with PYTHON=/path/to/python)
	@v=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])') && [[ " $(PYTHONS) " == *" $$v "* ]] \
	  || $(call FAIL,$(PYTHON) is Python $$v but STACK=$(STACK) needs one of $(PYTHONS): give its path with PYTHON=/path/to/python)
	@echo "setup: making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear $(VENV) || $(call FAIL,python -m venv failed: install the venv package of your Python (Debian: python3-venv))
	@touch $@

$(VENV)/.torch: $(VENV)/.python $(CONSTRAINTS) requirements/build.txt
	@echo "setup: installing torch and torchvision (about 3 GB to download the first time)"
	@$(INSTALL) -r requirements/build.txt torch torchvision || $(call FAIL,torch did not install: $(NET))
	@touch $@

$(VENV)/.mmcv: $(VENV)/.torch
	@command -v c++ >/dev/null || $(call FAIL,mmcv's ops need a C++ compiler: install g++ (Debian: apt-get install g++))
	@[ "$(CUDA)" = 0 ] || command -v nvcc >/dev/null \
	  || $(call FAIL,there is a GPU but no nvcc: install the CUDA toolkit of the version that torch was built for or run make with CUDA=0 for CPU ops)
	@[ -n "$(MMCV_VERSION)" ] || $(call FAIL,$(CONSTRAINTS) does not pin $(MMCV): add the line $(MMCV)==VERSION)
	@# Own cache: the wheel depends on Python, torch and CUDA, which pip's wheel cache does not tell apart.
	@dir=$(WHEELS)/$(MMCV)-$(MMCV_VERSION)-$$($(VENV)/bin/python -c 'import sys, torch; print("cp%d%d-torch%s" % (*sys.version_info[:2], torch.__version__))')-cuda$(CUDA); \
	if ! ls $$dir/*.whl >/dev/null 2>&1; then \
	  echo "setup: compiling mmcv's ops, 7 to 13 minutes on two cores, once per machine (log: $(VENV)/mmcv-build.log)"; \
	  rm -rf $$dir.part && \
	  MMCV_WITH_OPS=1 FORCE_CUDA=$(CUDA) $(PIP) wheel -v --no-cache-dir --no-build-isolation --no-deps \
	    -c $(CONSTRAINTS) -w $$dir.part $(MMCV) >$(VENV)/mmcv-build.log 2>&1 && \
	  mkdir -p $$dir && mv $$dir.part/*.whl $$dir/ && rm -r $$dir.part \
	  || $(call FAIL,mmcv did not build: see the end of $(VENV)/mmcv-build.log); \
	fi; \
	$(INSTALL) $$dir/*.whl || $(call FAIL,mmcv did not install: $(NET))
	@touch $@

$(VENV)/.project: $(VENV)/.mmcv setup.py $(wildcard requirements/*.txt)
	@echo "setup: installing the OpenMMLab libraries and this project"
	@$(INSTALL) -r requirements/mminstall$(SUFFIX).txt -r requirements/optional.txt -r requirements/tests.txt \
	  || $(call FAIL,the OpenMMLab libraries did not install: $(NET))
	@$(INSTALL) --no-build-isolation --no-deps -e . || $(call FAIL,the project did not install: $(NET))
	@touch $@

test: setup
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile

test-slow: setup
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile -m slow

lint: setup
	$(VENV)/bin/ruff check .

RUN := $(VENV)/bin/python
TOOLS := tools/analysis_tools
CLS := autonl-s_1xb32_demo-cls
DET := retinanet_autonl-s_1xb8_demo-det
SEG := semantic-fpn_autonl-s_1xb8_demo-seg
# Evaluate again, from the checkpoint, and visualise the predictions: $(1) config,
# $(2) its work dir, $(3) metric.
SHOW = $(RUN) tools/test.py $(1) $$(cat $(2)/last_checkpoint) --work-dir $(2)/test --show-dir $(2)/vis \
  && $(RUN) $(TOOLS)/analyze_logs.py $(2) --metric $(3) \
  && $(RUN) $(TOOLS)/contact_sheet.py $(2)/vis --out $(2)/predictions.png

# Options that load the backbone of the checkpoint $(1) before training.
FROM = model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=$(1) \
  model.backbone.init_cfg.prefix=backbone.

demo: setup
	$(RUN) tools/dataset_converters/make_demo_data.py
	$(RUN) tools/train.py configs/demo/$(CLS).py --work-dir work_dirs/$(CLS)
	@# Detector and segmentor start from the classifier's backbone.
	$(RUN) tools/train.py configs/demo/$(DET).py --work-dir work_dirs/$(DET) \
	  --cfg-options $(call FROM,$$(cat work_dirs/$(CLS)/last_checkpoint))
	$(RUN) tools/train.py configs/demo/$(SEG).py --work-dir work_dirs/$(SEG) \
	  --cfg-options $(call FROM,$$(cat work_dirs/$(CLS)/last_checkpoint))
	@$(call SHOW,configs/demo/$(DET).py,work_dirs/$(DET),coco/bbox_mAP_50)
	@$(call SHOW,configs/demo/$(SEG).py,work_dirs/$(SEG),mIoU)
	@$(RUN) $(TOOLS)/analyze_logs.py work_dirs/$(CLS)

SEARCH := autonl-supernet_retinanet_1xb8_demo-det
FULL := work_dirs/demo-full
# The searched network gives feature maps of 24, 40 and 80 channels at strides 4, 8, 16.
SEARCHED := model.backbone.arch=$(FULL)/arch.txt
demo-full: setup
	$(RUN) tools/dataset_converters/make_demo_data.py --sets det seg
	$(RUN) tools/train.py configs/demo/$(SEARCH).py --work-dir $(FULL)/search
	$(RUN) tools/export_arch.py configs/demo/$(SEARCH).py $$(cat $(FULL)/search/last_checkpoint) \
	  --out $(FULL)/arch.txt --weights $(FULL)/subnet.pth
	$(RUN) $(TOOLS)/plot_arch.py $(FULL)/arch.txt --out $(FULL)/arch.png --input-shape 160 160
	$(RUN) tools/train.py configs/demo/$(DET).py --work-dir $(FULL)/det --cfg-options \
	  $(SEARCHED) 'model.backbone.out_indices=(3,4)' 'model.neck.in_channels=[40,80]' \
	  $(call FROM,$(FULL)/subnet.pth)
	@# The segmentor starts from the detector's backbone.
	$(RUN) tools/train.py configs/demo/$(SEG).py --work-dir $(FULL)/seg --cfg-options \
	  $(SEARCHED) 'model.backbone.out_indices=(2,3,4)' 'model.neck.in_channels=[24,40,80]' \
	  $(call FROM,$$(cat $(FULL)/det/last_checkpoint))
	@$(call SHOW,$(FULL)/det/$(DET).py,$(FULL)/det,coco/bbox_mAP_50)
	@$(call SHOW,$(FULL)/seg/$(SEG).py,$(FULL)/seg,mIoU)
