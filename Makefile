# Every command is a line in a shell of its own; `make` only gives them names.

.PHONY: demo test lint contract interop manifests image-test bench chaos fuzz histories planted-bugs supply-chain

demo: ## the whole relay on this machine, against the simulator
	cargo run -- demo

test: ## installs RabbitMQ if it is missing, and runs every test
	tests/run.sh

lint: ## what CI checks besides the tests
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

histories: ## a long campaign of simulated histories: HISTORIES=1000000 make histories
	cargo test --release --test histories -- --nocapture

planted-bugs: ## a test of the test: plants bugs one at a time, and expects the histories to find each
	tests/histories/planted-bugs.sh

chaos: ## faults at random under load, and nothing is lost: SEED=7 FAULTS=200 NOTIFICATIONS=5000000 make chaos; QUICK=1: five minutes
	tests/chaos/run.sh

contract: ## writes schemas/, its examples and the README's table of object types as the code has them now
	for part in the_schemas the_examples the_readmes_table; do UPDATE_CONTRACT=1 cargo test --quiet --test it $$part || exit 1; done

interop: ## other people's clients: HubSpot's SDKs, pika, amqplib, CloudEvents; installs them if missing
	tests/interop/run.sh

manifests: ## k8s/ against Kubernetes, the CRDs, a policy scanner and the program; alerts by promtool
	tests/manifests/run.sh

fuzz: ## what strangers, HubSpot and broken disks may send: FUZZ_SECONDS=3600 make fuzz
	fuzz/run.sh

supply-chain: ## dependencies against deny.toml, and an SBOM into target/supply-chain
	tests/supply-chain/run.sh

image-test: ## builds the image on bases made here, and runs the program in what it holds; needs root and ten minutes
	tests/image/run.sh

bench: ## how fast, how late, at what cost: ceiling, receiver, worker, end to end, beside a hand-written integration
	benches/run.sh
