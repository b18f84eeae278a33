# Two commands do all the set-up: `make demo` and `make test`. `make help` lists the rest.
.DEFAULT_GOAL := help
SHELL := /bin/bash
# Builds need no database: the queries are checked against .sqlx.
export SQLX_OFFLINE ?= true

# What demo and tests need beside Rust: OpenSSL for a library that links it, a PostgreSQL server,
# BMCs that speak IPMI, and for the tests two BMC clients that are not ours, a browser, Python, a
# proxy, and a pooler of databases.
DEMO_PACKAGES := pkg-config libssl-dev postgresql openipmi
TEST_PACKAGES := $(DEMO_PACKAGES) ipmitool freeipmi-tools chromium chromium-driver python3-venv openssl \
    tinyproxy-bin pgbouncer
FUZZ_PACKAGES := $(DEMO_PACKAGES) g++
# Servers of PyPI that the tests talk to, in a Python environment of their own below target/.
PEERS := jira820==0.12

.PHONY: help demo demo-script test test-long bench bench-fleet bench-slack fuzz lint queries install

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: install-demo ## Show everything on a simulated rack, in a browser
	cargo run --release -p metalbot-demo

demo-script: install-demo ## Tell the story at the console and in Slack; fails if a step goes wrong
	cargo run --release -p metalbot-demo -- --script
	cargo run --release -p metalbot-demo -- --script --chat slack-sim

# Most of a test's time is waiting, so there are more at a time than processors.
TEST_THREADS ?= 6
CARGO_TEST := .ci/with-postgres cargo test --workspace --features failpoints --no-fail-fast --

test: install-test ## Run the tests, the long ones in a short form (8 minutes)
	$(CARGO_TEST) --test-threads=$(TEST_THREADS)

test-long: install-test ## Run the long tests: each fail-point, hundreds of races, the release before
	$(CARGO_TEST) --test-threads=$(TEST_THREADS) --ignored

bench: bench-fleet bench-slack ## Measure everything that has a budget

bench-fleet: install-test ## Measure the IPMI client beside its peers, and the executor (8 minutes)
	cargo bench --quiet --bench fleet

bench-slack: install-test ## Measure how soon Slack is answered at 200 commands a second (2 minutes)
	cargo bench --quiet --bench slack

# cargo-fuzz asks for a nightly compiler; the stable one has what it needs behind RUSTC_BOOTSTRAP.
FUZZ_SECONDS ?= 120
fuzz: install-fuzz ## Look for bytes that break the IPMI client or the simulated BMCs
	@cp Cargo.lock fuzz/Cargo.lock
	for target in client responder; do \
	    RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none $$target -- \
	        -max_total_time=$(FUZZ_SECONDS) -max_len=1200 -use_value_profile=1 || exit 1; \
	done

lint: install-demo ## Formatting, clippy, documentation, queries against the schema
	cargo fmt --check
	cargo clippy --workspace --all-targets --all-features --quiet -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet
	.ci/queries check

queries: install-demo ## Bring .sqlx up to date after a change of queries or migrations
	.ci/queries write

install: install-test ## Install what demo and tests need (Debian, Ubuntu)

# Installs the packages that are missing, or says what to install by hand.
define install
	@command -v cargo >/dev/null || { echo "Rust is missing: see https://rustup.rs" >&2; exit 1; }
	@missing=; for package in $(1); do \
	    dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || \
	    missing="$$missing $$package"; \
	done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if ! command -v apt-get >/dev/null; then \
	    echo "Please install what your system calls these Debian packages:$$missing" >&2; exit 1; \
	fi; \
	as_root=; if [ "$$(id -u)" != 0 ]; then as_root=sudo; fi; \
	echo "Installing:$$missing"; \
	export DEBIAN_FRONTEND=noninteractive; \
	$$as_root apt-get update -qq && \
	$$as_root apt-get install -y -qq --no-install-recommends $$missing >/dev/null
endef

.PHONY: install-demo install-test install-fuzz
install-demo:
	$(call install,$(DEMO_PACKAGES))

install-test:
	$(call install,$(TEST_PACKAGES))
	@if [ "$$(cat target/peers/installed 2>/dev/null)" = "$(PEERS)" ]; then exit 0; fi; \
	echo "Installing: $(PEERS)"; \
	python3 -m venv --clear target/peers && \
	target/peers/bin/pip install --quiet --disable-pip-version-check $(PEERS) && \
	echo "$(PEERS)" >target/peers/installed

install-fuzz:
	$(call install,$(FUZZ_PACKAGES))
	@cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz
