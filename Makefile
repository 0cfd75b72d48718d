# The commands a user types; each says what it needs and does nothing twice. See docs/workflow.md.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup report lift fluid deployment corrections robots watch studio settle drills checkup screenshot bundle audit-crate unlock clean-results clean-env \
	test lint check conformance fuzz check-envs lock nano lift-train fluid-train \
	fidelity verify-success verify-lift bench-engine bench-gpu gpu-day kernels-compile bench-server bench-rollouts bench-dag bench-evidence bench-convert
override NO := 0 no false off
PROFILE ?= $(if $(filter-out $(NO),$(FULL)),profiles/full,profiles/local)
PYTHON ?= $(shell for p in python3.11 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(not (3, 11, 2) <= sys.version_info < (3, 12))' 2>/dev/null && { echo $$p; break; }; \
	done; true)
BIN := .venv/bin
T :=
PYTEST :=
# Two workers on two cores: a library's threads would wait for the other worker's, busily.
test check: export OMP_NUM_THREADS ?= 1
test check: export OPENBLAS_NUM_THREADS ?= 1
GOLDEN := tests/golden
export PYTHONPATH := $(CURDIR)/src
unexport PYTHONDONTWRITEBYTECODE # where an image sets it, each of a run's processes compiles its libraries anew
export MUJOCO_GL ?= osmesa
export PYOPENGL_PLATFORM ?= $(MUJOCO_GL)
export PATH := $(CURDIR)/$(BIN):$(PATH)

##@ Use

help: ## this list
	@awk -F ':.*## ' '/^##@ / {print "\n" substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## make .venv from the pins of envs/*.yaml; install OSMesa when root
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 (3.11.2 or later) was not found; apt-get install -y python3.11 python3.11-venv, or make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" scripts/setup_env.py

report: setup ## run the whole workflow on this machine and write reports/final.html; FULL=1: 183 episodes in place of 69
	@$(BIN)/snakemake --profile $(PROFILE)
	@$(BIN)/python -m flashtrail reports

lift: setup ## a small VLA in robosuite's Lift, four metrics side by side, its report's claims judged: reports/lift.html
	@$(BIN)/snakemake --profile profiles/lift reports/lift.html
	@$(BIN)/python -m flashtrail reports

fluid: setup ## a policy without attention beside its controls, its dial and its memory measured: reports/fluid.html
	@$(BIN)/snakemake --profile profiles/fluid reports/fluid.html
	@$(BIN)/python -m flashtrail reports

deployment: setup ## limits between a policy and a robot, with hostile policies and controls: reports/deployment.html
	@$(BIN)/snakemake --profile profiles/deployment reports/deployment.html
	@$(BIN)/python -m flashtrail reports

corrections: setup ## a policy corrected where it doubts, trained further, judged anew (hours): reports/corrections.html
	@$(BIN)/snakemake --profile profiles/corrections reports/corrections.html
	@$(BIN)/python -m flashtrail reports

robots: setup ## one policy for four robots, its token and heads tried, a robot added (hours): reports/robots.html
	@$(BIN)/snakemake --profile profiles/robots reports/robots.html
	@$(BIN)/python -m flashtrail reports

watch: setup ## a run in a browser on this machine, as it comes: RUN=directory of another run, PORT=8765 for a fixed address
	@$(BIN)/python -m flashtrail watch --port "$(or $(PORT),0)" -- "$(or $(RUN),.)"

studio: setup ## ask a policy, watch it act and break its camera, in a browser on this machine: PORT=8766 for a fixed address, DATA=directory of sets
	@$(BIN)/python scripts/setup_env.py --studio
	@$(BIN)/python -m flashtrail.studio --port "$(or $(PORT),0)" $(if $(DATA),--data "$(DATA)")

settle: setup ## the next episodes to the claims nearest to a decision, until all have ended: BUDGET=60m, or 40 episodes
	@$(BIN)/python -m flashtrail settle --profile $(PROFILE) -- "$(BUDGET)"
	@$(BIN)/python -m flashtrail reports

drills: setup ## silent failures on demand, and which predicate tells them apart: reports/drills.html
	@$(BIN)/snakemake --profile $(PROFILE) reports/drills.html
	@$(BIN)/python -m flashtrail reports

checkup: setup ## one task at its 50 init states against the policy's published success: reports/checkup.html (4-20 min)
	@$(BIN)/snakemake --profile $(PROFILE) reports/checkup.html
	@$(BIN)/python -m flashtrail.claims.checkup results/checkup/checkup.json
	@$(BIN)/python -m flashtrail reports

screenshot: setup ## open the report and its episodes in Chromium and Firefox, say what is wrong, leave reports/final.png (3 min)
	@$(BIN)/python tools/browser.py reports

bundle: setup ## the finished run as one directory, bundle/, and bundle.zip, that a stranger can check (PROFILE or FULL=1 as in the run)
	@$(BIN)/python -m flashtrail bundle --profile $(PROFILE)

audit-crate: setup ## hold bundle/'s RO-Crate to the Workflow Run RO-Crate profile, with its community's validator, offline
	@$(BIN)/python tools/validation.py bundle

unlock: setup ## after a power cut or kill -9: let the workflow start again (finished episodes are kept)
	@$(BIN)/snakemake --profile $(PROFILE) --unlock

clean-results: ## remove results/, reports/ and what Snakemake knows of them
	rm -rf results reports .snakemake

clean-env: ## remove .venv and .venv-studio
	rm -rf .venv .venv-studio

##@ Develop

test: setup ## run the test suite, or one part: T=tests/statistics/test_power.py, PYTEST="-x -k words"
	@$(BIN)/python -m pytest $(or $(T),-n 2 --dist loadfile --no-loadscope-reorder) $(PYTEST)

lint: setup ## ruff, mypy, imports between rooms, snakefmt, snakemake --lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check src scripts tests tools benchmarks
	$(BIN)/mypy
	@said=$$($(BIN)/lint-imports --no-cache) || { printf '%s\n' "$$said"; exit 1; }
	$(BIN)/snakefmt --no-sort --line-length 120 --check Snakefile rules
	$(BIN)/snakemake --lint

check: lint conformance ## lint, conformance, and the unit tests that run neither simulator nor snakemake
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --ignore tests/workflow -m "not slow and not simulator and not conformance"

conformance: setup ## our engine against reference data of the official code: GOLDEN=directory, laid out as tests/golden
	@$(BIN)/python -m pytest tests/conformance/test_golden.py --golden "$(GOLDEN)" -qq -rN --tb no

fuzz: setup ## 100,000 malformed messages for the server's decoder, 2,000 of them over a socket (1 min)
	@$(BIN)/python -m pytest tests/serving/test_fuzz.py -k mutants --fuzz-messages 100000 --fuzz-wire 2000 -qq -s

check-envs: setup ## ask pip to resolve each env file by itself (network)
	@$(BIN)/python scripts/setup_env.py --check

lock: setup ## renew envs/constraints.txt from what .venv holds
	@head -2 envs/constraints.txt > .venv/lock
	@$(BIN)/python -m pip freeze | sed 's/+cpu$$//' | grep -viE '^flashtrail=' >> .venv/lock
	@mv .venv/lock envs/constraints.txt

nano: setup ## train pi0_nano and its variants from nothing (3 h on 2 cores, resumable)
	@$(BIN)/python -m flashtrail.training all

lift-train: setup ## record Lift's demonstrations and train lift_nano and its blind control (2 h on 2 cores, resumable)
	@$(BIN)/python -m flashtrail.training.lift demonstrations --work results/lift
	@for name in lift_nano lift_nano_blind; do \
		$(BIN)/python -m flashtrail.training.lift train --data results/lift --out results/lift/$$name \
			$$([ $$name = lift_nano ] || echo --blind) && \
		$(BIN)/python -m flashtrail.training.lift card --run results/lift/$$name --to resources/$$name || exit; \
	done

fluid-train: setup ## record pi0_nano's demonstrations and train fluid_nano and its controls (2 h on 2 cores, resumable)
	@$(BIN)/python -m flashtrail.training demonstrations
	@train() { $(BIN)/python -m flashtrail.training.fluid --out results/fluid/$$1 "$${@:2}" && \
		$(BIN)/python -m flashtrail.training.fluid.card --run results/fluid/$$1 --to resources/$$1 --measured resources/measured; }; \
	train fluid_nano && train fluid_none --core none && train fluid_cnn --core cnn && train fluid_vit --core vit && \
	train fluid_v1 --core document --raw --steps 1000 --dims '{"views": 1, "prompt": null, "pool": 1, "skip": false, "action_horizon": 1, "absolute": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5]}'

##@ Measure

fidelity: setup ## rollouts against the official client's loop, step by step: 3 tasks, 24 checks (15 min on 2 cores)
	@$(BIN)/python tools/fidelity.py

verify-success: setup ## verified success against the scripted expert's honest episodes: 10 tasks x 10 init states
	@$(BIN)/python tools/agreement.py

verify-lift: export OMP_NUM_THREADS ?= 1
verify-lift: setup ## what four criteria say of attacks on Lift, and of the expert's honest episodes with each of its robots
	@$(BIN)/python tools/lift_agreement.py --processes 2

bench-engine: setup ## the engine's routes on this CPU, pi0_nano's dims, beside torch.compile (3 min; wants a quiet machine)
	@$(BIN)/python -m flashtrail.benchmark --device cpu --random pi0_nano --samples 5 --json results/benchmarks/engine_cpu.json

bench-gpu: setup ## the same on a GPU with pi0_libero's dims and random weights; OFFICIAL=checkout, BACKEND=torch or triton
	@$(BIN)/python -m flashtrail.benchmark --device cuda --random pi0_libero --backend $(or $(BACKEND),triton) \
		$(if $(OFFICIAL),--official $(OFFICIAL)) --json results/benchmarks/engine_gpu_$(or $(BACKEND),triton).json

gpu-day: setup ## all that only a GPU can say, in 9 minutes: docs/gpu/DEVICE-DATE.md; DRY=1 without one: tiny sizes, results/gpu-dry
	@$(BIN)/python benchmarks/gpu_day.py $(if $(filter-out $(NO),$(DRY)),--dry)

kernels-compile: setup ## every Triton kernel compiled for an L40S and an H200, neither of which needs to be there (10 min)
	@$(BIN)/python -m flashtrail.benchmark compile --json results/benchmarks/kernels.json

bench-server: setup ## the policy server under load: 8 sessions against 1, 32 for a minute, 1,000 connections (2 min)
	@$(BIN)/snakemake --profile $(PROFILE) --quiet all -- results/artifacts/pi0_nano/draft/manifest.json
	@$(BIN)/python benchmarks/server.py --artifact results/artifacts/pi0_nano/base --draft results/artifacts/pi0_nano/draft

bench-rollouts: setup ## rollouts against the naive loop: episodes/min, steps/s (15 min; wants a quiet machine)
	@$(BIN)/python benchmarks/rollouts.py

bench-dag: setup ## the finished report here: its necessary work over the cores against its wall time, and where the rest went (2 min)
	@$(BIN)/python benchmarks/dag.py

bench-evidence: setup ## merge, summaries and claims of 1,000,000 synthetic episodes, 20,000,000 rounds (5 min, 6 GB of disk)
	@$(BIN)/python benchmarks/evidence.py

bench-convert: setup ## conversion at pi0_libero's size, 3.24 B random values: seconds, peak memory, same bytes (20 GB of disk)
	@$(BIN)/python benchmarks/convert.py
