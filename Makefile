# Every command is a line in a shell of its own; `make` only gives them names.

.PHONY: demo test lint interop bench

demo: ## the whole relay on this machine, against the simulator
	cargo run -- demo

test: ## installs RabbitMQ if it is missing, and runs every test
	tests/run.sh

lint: ## what CI checks besides the tests
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

interop: ## other people's clients: HubSpot's SDKs, pika, amqplib, CloudEvents; installs them if missing
	tests/interop/run.sh

bench: ## throughput of the receiver, and API calls per thousand events
	cargo bench --bench throughput
