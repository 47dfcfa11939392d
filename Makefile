# ServerlessLoRA. `make help` lists the targets; ARCHITECTURE.md says why the code is cut this way.

BUILD    ?= build
CC       := gcc
CXX      := g++
SAN      ?=
DEVICE   ?= cpu
WARN     := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith \
            -Wcast-qual -Wvla -Wformat=2 -Werror
CFLAGS   := -std=gnu17 -O2 -g -fno-omit-frame-pointer -fstack-protector-strong -D_GNU_SOURCE \
            $(WARN) -Isrc $(if $(SAN),-fsanitize=$(SAN) -fno-sanitize-recover=all -DSLLORA_SANITIZED)
LDFLAGS  := $(if $(SAN),-fsanitize=$(SAN)) -Wl,--as-needed -Wl,-z,relro,-z,now
DEPFLAGS  = -MMD -MP

# Every folder of src/ is one static library; the programs and tests link the ones they need.
DIRS     := base policy sched wire model weights kernels engine gpu gpubench sandbox worker gateway store \
            daemon sim cli
MAINS    := src/worker/main.c src/cli/main.c
srcs      = $(filter-out $(MAINS),$(wildcard src/$(1)/*.c))
lib       = $(BUILD)/lib$(1).a

# -ffp-contract=off: a rounding is where the source says so, in the tail as in the body of a loop.
# Each tile is compiled for every number of rows: sanitizers and the places of variables would take
# minutes a file.
KERNEL_OPTIMISE      := $(if $(SAN),-O1,-O2) -fno-var-tracking
KERNEL_FLAGS_ref     := -O2 -ffp-contract=off
KERNEL_FLAGS_avx2    := $(KERNEL_OPTIMISE) -ffp-contract=off -mavx2 -mfma -mbmi2
KERNEL_FLAGS_avx512  := $(KERNEL_OPTIMISE) -ffp-contract=off -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma \
                        -mprefer-vector-width=512
KERNEL_FLAGS_avx512vnni := $(KERNEL_FLAGS_avx512) -mavx512vnni
KERNEL_FLAGS_avx512bf16 := $(KERNEL_FLAGS_avx512vnni) -mavx512bf16
KERNEL_FLAGS_amx        := $(KERNEL_FLAGS_avx512vnni) -mamx-tile -mamx-bf16 -mamx-int8

# The kernels for GPUs, for every architecture of today and as PTX for later ones, where there is a
# compiler for them (`make cuda` brings one). Without it the programs run on processors only.
NVCC       ?= $(firstword $(shell command -v nvcc) \
                          $(wildcard /usr/local/cuda/bin/nvcc .venv-cuda/lib/python3*/site-packages/nvidia/cu13/bin/nvcc))
CUDA_ARCHS := 80 89 90a 100
NVCCFLAGS  := -std=c++17 -O3 -Isrc -Isrc/kernels/cuda \
              $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$(a),code=sm_$(a)) \
              -gencode arch=compute_80,code=compute_80
CUDA_IMAGE := $(BUILD)/cuda/$(if $(NVCC),kernels.fatbin,none)

LLHTTP_OBJ := $(patsubst %,$(BUILD)/llhttp/%.o,api http llhttp)

# A peer of the kernels' benchmark, where somebody has installed libdnnl-dev.
ONEDNN := $(if $(wildcard /usr/include/oneapi/dnnl/dnnl.h),$(BUILD)/sllora-onednn)

# Reverse order of use: a library may call only what stands to its right (checked by `make tidy`).
SLLORA_LIBS := cli daemon sim gateway store sched policy sandbox gpu wire base
WORKER_LIBS := worker gpubench engine kernels weights model sandbox gpu wire base
SLLORA_SYS  := -levent -ljansson -lsqlite3 -lcurl -lcrypto -lseccomp -lm
# The worker's libraries are linked in: looking them up and relocating them is half of a start.
WORKER_SYS  := -Wl,-Bstatic -ljansson -lpcre2-8 -lutf8proc -lcrypto -lseccomp -Wl,-Bdynamic \
               -lpthread -lm
TEST_SYS    := -lcmocka -levent -ljansson -lsqlite3 -lcurl -lpcre2-8 -lutf8proc -lcrypto \
               -lseccomp -lpthread -lm

# The reference of the differential test, where somebody has installed it.
REFERENCE_PYTHON := $(or $(SLLORA_REFERENCE_PYTHON),.venv/bin/python)
REFERENCE_HERE   := from importlib.util import find_spec; import sys; \
                    sys.exit(not all(map(find_spec, ('peft', 'torch', 'transformers'))))
CASES            ?= 200

UNIT  := $(patsubst tests/unit/%.c,$(BUILD)/tests/%,$(wildcard tests/unit/test_*.c))
# A driver without a GPU, for the tests of what is asked of one.
FAKE_CUDA := $(BUILD)/tests/fake/libcuda.so.1
# What a real one protects of shared memory: a program to run where there is a GPU.
GPU_PROBE := $(BUILD)/tests/gpu_probe
FUZZ  := $(patsubst tests/fuzz/%.c,$(BUILD)/tests/%,$(wildcard tests/fuzz/fuzz_*.c))

.PHONY: help all demo test unit live differential check bench sim tidy format cuda setup clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

all: $(BUILD)/sllora $(BUILD)/sllora-worker $(ONEDNN) ## build both programs into build/

demo: ## install what is missing, build, start the service, ask three functions
	@tools/setup.sh --no-python
	@$(MAKE) --no-print-directory -j2 all
	@tools/demo.sh $(BUILD) $(DEVICE)

test: setup ## install what is missing, build, run every test
	@$(MAKE) --no-print-directory -j2 all tests
	@python3 tests/run.py --build $(BUILD) unit fuzz live

unit: all tests ## only the tests that need no daemon
	@python3 tests/run.py --build $(BUILD) unit fuzz

live: all $(FAKE_CUDA) $(GPU_PROBE) ## only the tests that drive the real daemon
	@python3 tests/run.py --build $(BUILD) live

differential: $(BUILD)/tests/test_parity ## random models and adapters against transformers + peft
	@if $(REFERENCE_PYTHON) -c "$(REFERENCE_HERE)" 2>/dev/null; then \
	    $(REFERENCE_PYTHON) tests/vectors/differential.py --build $(BUILD) --cases $(CASES) \
	        $(if $(SEED),--seed $(SEED)) $(if $(CASE),--case $(CASE)); \
	else \
	    echo "differential: skipped: $(REFERENCE_PYTHON) has no torch, transformers and peft;"; \
	    echo "  pip install them and name it: make differential SLLORA_REFERENCE_PYTHON=PYTHON"; \
	fi

check: setup ## ASan + UBSan over unit and fuzz tests, longer fuzzing; TSan where threads meet
	@$(MAKE) --no-print-directory -j2 BUILD=build-asan SAN=address,undefined all tests
	@python3 tests/run.py --build build-asan --fuzz-seconds 20 --worlds 10000 unit fuzz live
	@$(MAKE) --no-print-directory -j2 BUILD=build-tsan SAN=thread tests
	@python3 tests/run.py --build build-tsan --only threads unit

bench: all ## the figures of PERF.md, one JSON object a line
	@$(BUILD)/sllora bench all --json

sim: all ## replay the last live event log through the scheduler core
	@$(BUILD)/sllora sim

tidy: ## include direction, line and function length, banned calls, leftover marks, format
	@python3 tools/tidy.py

format: ## rewrite the sources in the house format
	@clang-format -i $$(git ls-files 'src/*.c' 'src/*.h' 'src/*.cu' 'src/*.cuh' 'tests/*.c' 'tests/*.h' 'bench/*.c')

cuda: ## install a compiler for GPU kernels from PyPI; the next build embeds them
	@tools/setup.sh --cuda

setup: ## install the packages of packages.apt and the Python environment of the live tests
	@tools/setup.sh

clean: ## remove everything that was built
	rm -rf build build-asan build-tsan

.PHONY: tests
tests: $(UNIT) $(FUZZ) $(FAKE_CUDA) $(GPU_PROBE)

# --- objects and libraries ---

define dir_rules
$(BUILD)/lib$(1).a: $(patsubst src/%.c,$(BUILD)/obj/%.o,$(call srcs,$(1)))
	@rm -f $$@
	@ar rcs $$@ $$^
endef
$(foreach d,$(DIRS),$(eval $(call dir_rules,$(d))))

# The shipped profiles are part of the program.
$(BUILD)/libsim.a: $(BUILD)/obj/sim/profiles.o
$(BUILD)/obj/sim/profiles.o: src/sim/profiles.S $(wildcard profiles/*.json)
	@mkdir -p $(@D)
	@echo "  AS    $<"
	@$(CC) -c -o $@ $<

$(BUILD)/libkernels.a: $(BUILD)/obj/kernels/cuda_image.o
$(BUILD)/obj/kernels/cuda_image.o: src/kernels/cuda/image.S $(CUDA_IMAGE)
	@mkdir -p $(@D)
	@$(CC) -c -DIMAGE='"$(CUDA_IMAGE)"' -o $@ $<

$(BUILD)/cuda/kernels.fatbin: $(wildcard src/kernels/cuda/*.cu src/kernels/cuda/*.cuh) src/kernels/cuda/cuda.h
	@mkdir -p $(@D)
	@echo "  NVCC  $@"
	@$(NVCC) $(NVCCFLAGS) -fatbin -o $@ src/kernels/cuda/kernels.cu

$(BUILD)/cuda/none:
	@mkdir -p $(@D)
	@echo "built without nvcc: no kernels for GPUs" > $@

$(BUILD)/obj/kernels/%.o: src/kernels/%.c
	@mkdir -p $(@D)
	@echo "  CC    $<"
	@$(CC) $(CFLAGS) $(KERNEL_FLAGS_$*) $(DEPFLAGS) -c -o $@ $<

# Rounding where the source says so, here too; and comparisons become vectors only so.
$(BUILD)/obj/weights/quantise.o: CFLAGS += -ffp-contract=off -fno-trapping-math

$(BUILD)/obj/%.o: src/%.c
	@mkdir -p $(@D)
	@echo "  CC    $<"
	@$(CC) $(CFLAGS) $(DEPFLAGS) -c -o $@ $<

# llhttp comes as C sources in Debian's node-llhttp; it is generated code with its own warnings.
$(BUILD)/llhttp/%.o: /usr/share/llhttp/%.c
	@mkdir -p $(@D)
	@$(CC) -O2 -g -DLLHTTP_STRICT_MODE=1 $(if $(SAN),-fsanitize=$(SAN)) \
	    -I/usr/share/include/llhttp -I/usr/include/llhttp -c -o $@ $<

$(BUILD)/obj/gateway/%.o: CFLAGS += -isystem /usr/share/include/llhttp

# --- programs ---

$(BUILD)/sllora: $(BUILD)/obj/cli/main.o $(foreach l,$(SLLORA_LIBS),$(call lib,$(l))) $(LLHTTP_OBJ)
	@echo "  LD    $@"
	@$(CC) $(LDFLAGS) -o $@ $^ $(SLLORA_SYS)

$(BUILD)/sllora-worker: $(BUILD)/obj/worker/main.o $(foreach l,$(WORKER_LIBS),$(call lib,$(l)))
	@echo "  LD    $@"
	@$(CC) $(LDFLAGS) -o $@ $^ $(WORKER_SYS)

# What the engine is made of, and nothing that a machine for something else may lack.
GPU_BENCH_OBJ := $(patsubst %,$(BUILD)/obj/%.o,base/clock base/digest base/error base/memfile \
                     base/rng model/config_check weights/adapter weights/backbone weights/image \
                     gpu/device gpu/driver gpu/memory gpu/range kernels/cuda_image) \
                 $(patsubst src/%.c,$(BUILD)/obj/%.o, \
                     $(foreach d,gpubench engine kernels,$(call srcs,$(d))))
$(BUILD)/gpu-bench: bench/gpu/main.c $(GPU_BENCH_OBJ)
	@mkdir -p $(@D)
	@echo "  LD    $@"
	@$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ -lpthread -lm -ldl

$(BUILD)/sllora-onednn: bench/onednn.c
	@mkdir -p $(@D)
	@echo "  LD    $@"
	@$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $< -ldnnl

# --- tests: each its own program ---

TEST_LIBS := $(foreach l,$(filter-out sandbox wire base,$(SLLORA_LIBS)) $(WORKER_LIBS),$(call lib,$(l)))

$(BUILD)/tests/test_%: tests/unit/test_%.c $(TEST_LIBS) $(LLHTTP_OBJ)
	@mkdir -p $(@D)
	@echo "  TEST  $@"
	@$(CC) $(CFLAGS) -Itests $(DEPFLAGS) -Wno-missing-prototypes $(LDFLAGS) -o $@ $< \
	    -Wl,--start-group $(TEST_LIBS) -Wl,--end-group $(LLHTTP_OBJ) $(TEST_SYS)

$(BUILD)/tests/fake/%.o: tests/%.c
	@mkdir -p $(@D)
	@echo "  CC    $<"
	@$(CC) $(CFLAGS) -Itests -Wno-missing-prototypes $(DEPFLAGS) -fPIC -c -o $@ $<

# The kernels for GPUs, on the CPU. Not sanitized: a thread of theirs has a stack that nobody knows.
$(BUILD)/tests/fake/kernels.o: tests/cuda_emulation/kernels.cc
	@mkdir -p $(@D)
	@echo "  CXX   $<"
	@$(CXX) -std=c++17 -O2 -g -Wall -Wextra -Wshadow -Wno-unknown-pragmas \
	    -Werror -fno-exceptions -fno-rtti \
	    -Itests/cuda_emulation -Isrc $(DEPFLAGS) -fPIC -c -o $@ $<

# It computes with the kernels for GPUs.
$(BUILD)/tests/test_parity: | $(FAKE_CUDA)

$(FAKE_CUDA): $(patsubst %,$(BUILD)/tests/fake/%.o,fake_cuda fake_cuda_memory fake_cuda_work kernels)
	@echo "  LD    $@"
	@$(CXX) -shared -Wl,-soname,libcuda.so.1 -Wl,-Bsymbolic $(LDFLAGS) -o $@ $^

$(GPU_PROBE): tests/gpu_probe.c tests/gpu_probe_try.c tests/gpu_probe.h tests/gpu_probe_job.h \
              $(foreach l,gpu wire base,$(call lib,$(l)))
	@mkdir -p $(@D)
	@echo "  LD    $@"
	@$(CC) $(CFLAGS) -Itests $(LDFLAGS) -o $@ $(filter %.c %.a,$^) \
	    -Wl,-Bstatic -lseccomp -Wl,-Bdynamic -ldl

$(BUILD)/tests/fuzz_%: tests/fuzz/fuzz_%.c tests/fuzz/driver.c $(TEST_LIBS) $(LLHTTP_OBJ)
	@mkdir -p $(@D)
	@echo "  FUZZ  $@"
	@$(CC) $(CFLAGS) -Itests -MMD -MP -MF $@.d -Wno-missing-prototypes $(LDFLAGS) -o $@ $< \
	    tests/fuzz/driver.c -Wl,--start-group $(TEST_LIBS) -Wl,--end-group $(LLHTTP_OBJ) $(TEST_SYS)

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
