# `make test` is what the continuous integration runs; it first installs what is missing.

.DEFAULT_GOAL := help
.PHONY: help run test fmt lint unit e2e api chaos audit bench tools

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## Serve the chat at http://localhost:9000
	cargo run --release

test: tools fmt lint unit e2e api audit ## Check everything: format, lints, unit, wire, client, browser
	@echo "make test: all passed"

fmt: ## Check the format (to repair it: cargo fmt)
	cargo fmt --check

lint: ## Check the lints
	cargo clippy --locked --all-targets -- -D warnings

unit: tools tests/e2e/node_modules ## Run the Rust tests, unit and over the wire
	cargo test --locked

e2e: tools tests/e2e/node_modules ## Run the official socket.io-client and a browser against the server
	cargo build --locked
	cd tests/e2e && npm test

api: tools ## Try the REST API with generated requests, against its OpenAPI document
	cargo build --locked
	.ci/api

chaos: tools tests/e2e/node_modules ## Break everything, again and again, over 20 seeds (half an hour)
	ROOMCAST_SEEDS=20 ROOMCAST_ROUNDS=2 cargo test --locked --test it chaos

audit: ## Check licences, sources and advisories of the dependencies
	@.ci/audit

bench: ## Run the benchmarks
	cargo bench --locked

tests/e2e/node_modules: tests/e2e/package-lock.json
	cd tests/e2e && npm ci --no-fund --no-audit
	@touch $@

tools:
	@.ci/tools
