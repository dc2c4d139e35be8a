# Every target sets up what it needs (tools/set_up), which costs a moment when it is all there.
# PYTHON=/path/to/python3.x chooses the interpreter; ARGS="..." goes to the demo or to pytest.

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast faults soak bench bench-quick bench-growth bench-offload bench-two-arms lint format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

setup: ## install everything under build/ and stop; then: . build/setup.sh
	@tools/set_up
	@echo 'Ready. For this shell: . build/setup.sh'

demo: ## simulated arm, node and a policy: a circle, a move, a cancelled move; results in build/demo
	@tools/set_up
	@tools/run python -u -m aiofranka_ros.demo --output build/demo $(ARGS)

test: ## lint, types and all tests
	@tools/set_up
	@tools/run tools/check $(ARGS)

test-fast: ## only the tests that need neither an arm nor a ROS graph, in less than a minute; ARGS=test/test_laws.py
	@tools/set_up
	@tools/run tools/check --fast $(ARGS)

faults: ## break things on purpose and check what comes of each; results in build/faults
	@tools/set_up
	@tools/run python -u -m bench.faults --output build/faults $(ARGS)

MINUTES ?= 60
soak: ## everything at once for MINUTES (60), and who was late; results in build/soak
	@tools/set_up
	@tools/run python -u -m bench.soak --output build/soak --minutes $(MINUTES) $(ARGS)

bench: ## our loop and aiofranka's beside each other, under every load; takes long; results in build/bench
	@tools/set_up
	@tools/run python -u -m bench.loops --output build/bench $(ARGS)

bench-quick: ## the same with fewer loads and rounds: some four minutes
	@tools/set_up
	@tools/run python -u -m bench.loops --quick --output build/bench $(ARGS)

bench-growth: ## how cost grows with publish rates, subscribers and arms; results in build/bench
	@tools/set_up
	@tools/run python -m bench.loops.growth --output build/bench $(ARGS)

bench-offload: ## what the offload helpers cost, beside the obvious alternatives; results in build/bench
	@tools/set_up
	@tools/run python -m bench.offload --output build/bench/offload.json $(ARGS)

bench-two-arms: ## two simulated arms that move at once for a minute: how many cycles they lose
	@tools/set_up
	@TWO_ARMS_SECONDS=60 tools/run python -m pytest -q -s test/test_two_arms.py -k move_at_once $(ARGS)

lint: ## only ruff and mypy
	@tools/set_up
	@tools/run tools/check --lint-only

format: ## rewrite the sources as ruff formats them
	@tools/set_up
	@tools/run ruff check --fix . && tools/run ruff format .

clean: ## remove everything that was built or installed here
	rm -rf build install log .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
