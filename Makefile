# Every target first sets up what it needs (tools/set_up), which takes a moment if everything is up to date.
# PYTHON=/path/to/python3.x selects the interpreter; ARGS="..." goes to the program of the target.

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast stress faults soak bench bench-quick bench-growth bench-offload bench-policies bench-payload bench-recording bench-two-arms lint format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

setup: ## install everything under build/; then, in each shell: . build/setup.sh
	@tools/set_up
	@echo 'Ready. For this shell: . build/setup.sh'

demo: ## a policy draws a circle with a simulated arm, then two moves; results in build/demo
	@tools/set_up
	@tools/run python -u -m aiofranka_ros.demo --output build/demo $(ARGS)

test: ## lint, types and all tests
	@tools/set_up
	@tools/run tools/check $(ARGS)

test-fast: ## tests that need neither an arm nor a node, in less than a minute; ARGS=test/test_laws.py
	@tools/set_up
	@tools/run tools/check --fast $(ARGS)

COUNT ?= 5
stress: ## repeat the tests COUNT (5) times and count what fails; ARGS=test/test_shutdown.py; logs in build/stress
	@tools/set_up
	@tools/run python -u tools/stress.py --count $(COUNT) $(ARGS)

faults: ## cause faults and check the outcome of each; results in build/faults
	@tools/set_up
	@tools/run python -u -m bench.faults --output build/faults $(ARGS)

MINUTES ?= 60
soak: ## everything at once for MINUTES (60), and who was late; results in build/soak
	@tools/set_up
	@tools/run python -u -m bench.soak --output build/soak --minutes $(MINUTES) $(ARGS)

bench: ## compare our control loop with aiofranka's under every load; slow; results in build/bench
	@tools/set_up
	@tools/run python -u -m bench.loops --output build/bench $(ARGS)

bench-quick: ## the same with fewer loads and rounds: about four minutes
	@tools/set_up
	@tools/run python -u -m bench.loops --quick --output build/bench $(ARGS)

bench-growth: ## cost of the node by publish rates, subscribers and arms; results in build/bench
	@tools/set_up
	@tools/run python -m bench.loops.growth --output build/bench $(ARGS)

bench-offload: ## cost of the offload helpers and of the obvious alternatives; results in build/bench
	@tools/set_up
	@tools/run python -m bench.offload --output build/bench/offload.json $(ARGS)

bench-policies: ## what the arm makes of slow, repeated, late and chunked streams; plots in build/bench
	@tools/set_up
	@tools/run python -m bench.policies --output build/bench $(ARGS)

bench-payload: ## how well identify_payload weighs three loads on the simulated arm
	@tools/set_up
	@tools/run python -m bench.payload $(ARGS)

bench-recording: ## whether a recording has every cycle, and what it costs; results in build/bench
	@tools/set_up
	@tools/run python -m bench.recording --output build/bench $(ARGS)

bench-two-arms: ## cycles lost while two simulated arms move at once for a minute
	@tools/set_up
	@TWO_ARMS_SECONDS=60 tools/run python -m pytest -q -s test/test_two_arms.py -k move_at_once $(ARGS)

lint: ## ruff, mypy and the import contracts
	@tools/set_up
	@tools/run tools/check --lint-only

format: ## format the sources with ruff
	@tools/set_up
	@tools/run ruff check --fix . && tools/run ruff format .

clean: ## remove everything that was built or installed here
	rm -rf build install log .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
