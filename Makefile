# Everything that a person or the CI does with this repository. One cargo profile (release) for all of
# it, and always the whole workspace, so that RocksDB is compiled once.

CARGO ?= cargo

# Outside the checkout, so that every clone and the CI share one RocksDB. To use cargo by hand beside
# make, export the same.
CARGO_TARGET_DIR ?= $(HOME)/.cache/raft-in-layers/target
export CARGO_TARGET_DIR

PROFILE := --release --workspace

# As in .cargo/config.toml, and the faults are built in. A directory of its own: nothing else is
# compiled with them.
MUTANTS_FLAGS := -C target-cpu=x86-64-v2 --cfg raft_mutants

.PHONY: help demo build test check bench-core bench-log bench-kv bench-net bench-cluster bench-check bench-growth bench-in-process bench-steady profile power-cuts fmt clippy doc core setup simulate replay shrink mutants fuzz fuzz-kv fuzz-led

help: ## Show what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: build ## Run three nodes, kill the leader, show that nothing is lost (ARGS=--exit to stop then)
	@"$(CARGO_TARGET_DIR)/release/raft" demo $(ARGS)

test: build ## Run every test
	$(CARGO) test $(PROFILE)
	$(MAKE) mutants ARGS="--sample 8 --kills 1"

build: setup ## Compile everything; the first time takes about 20 minutes on 2 cores (RocksDB)
	$(CARGO) build $(PROFILE)

check: ## What CI runs: tests, format, lints, documentation, dependency rules
	.ci/run

bench-core: ## Measure the consensus core, then the same work by it and by raft-rs in turns
	$(CARGO) test --release -p raft-core --test allocations --test memory -- --nocapture
	$(CARGO) bench -p raft-core --bench core -- $(ARGS)
	$(CARGO) run --release --manifest-path raft-core/benches/versus/Cargo.toml --locked

bench-log: setup ## Measure the log beside the disk's limit and raft-engine (ARGS=append|recovery|amplification)
	$(CARGO) build --release --manifest-path raft-log/benches/raft-engine/Cargo.toml --locked
	BENCH_RAFT_ENGINE="$(CARGO_TARGET_DIR)/release/bench-raft-engine" \
		$(CARGO) bench --workspace --bench log -- $(ARGS)

bench-kv: setup ## Measure the store alone (ARGS=apply|read|watch|million|snapshot|open)
	$(CARGO) bench --workspace --bench kv -- $(ARGS)

bench-net: ## Measure the transport beside TLS on TCP and plain TCP, then calls of clients (ARGS=ping|256|4096|65536)
	$(CARGO) run --release --manifest-path raft-net-quic/benches/versus/Cargo.toml --locked -- $(ARGS)
	$(CARGO) run --release -p raft-net-quic --example bench_net --locked

# etcd's client is made with protoc. Its features would compile RocksDB again, so the one of the ordinary
# build is linked.
WITH_ETCD = $(CARGO_TARGET_DIR)/with-etcd

bench-cluster: build ## Measure three nodes beside three of etcd, on this machine (ARGS="--rounds 3 --only put")
	@command -v protoc >/dev/null || { echo "protoc is missing: apt-get install protobuf-compiler libprotobuf-dev" >&2; exit 1; }
	ROCKSDB_STATIC=1 CARGO_TARGET_DIR="$(WITH_ETCD)" \
	ROCKSDB_LIB_DIR="$$(dirname "$$(ls -t "$(CARGO_TARGET_DIR)"/release/build/librocksdb-sys-*/out/librocksdb.a | head -1)")" \
		$(CARGO) build --release --locked --package raft-cli --features etcd
	"$(CARGO_TARGET_DIR)/release/bench_cluster" --raft "$(WITH_ETCD)/release/raft" $(ARGS)

bench-check: build ## Compare the crates' benchmarks with the last accepted run (ACCEPT=1 stores this one)
	"$(CARGO_TARGET_DIR)/release/bench_check" $(if $(ACCEPT),--accept) $(ARGS)

profile: build ## Show what each stage of a write costs, and draw flame graphs (FLAMES=DIRECTORY)
	$(BENCH_OURS) --stages --flames "$(or $(FLAMES),$(CARGO_TARGET_DIR)/flames)" $(ARGS)

bench-growth: build ## Measure our cluster as keys, values, nodes and connections grow (ARGS="--rounds 3")
	$(BENCH_OURS) --growth $(ARGS)

bench-steady: build ## Ten minutes at full load, in which nobody may hold an election (SECONDS=600)
	$(BENCH_OURS) --steady $(or $(SECONDS),600) $(ARGS)

bench-in-process: setup ## Measure three nodes in one process, without a client network (ARGS="--rounds 3")
	$(CARGO) bench --workspace --bench in_process -- $(ARGS)

BENCH_OURS = "$(CARGO_TARGET_DIR)/release/bench_cluster" --raft "$(CARGO_TARGET_DIR)/release/raft"

power-cuts: build ## Cut the power 200 times under a log on a real file system (Linux, root)
	command -v xfs_io >/dev/null || apt-get install --yes --no-install-recommends xfsprogs
	POWER_CUTS=200 $(CARGO) test $(PROFILE) --test faults -- --nocapture power

fmt: ## Format the code
	$(CARGO) fmt --all

clippy: setup ## Lint everything; a warning is an error
	$(CARGO) clippy $(PROFILE) --all-targets -- -D warnings

doc: setup ## Build the documentation; a warning is an error
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(PROFILE) --no-deps

simulate: ## Simulate clusters that break (SEEDS=2000 FIRST=1 EVENTS=20000): all cores, with a summary
	$(CARGO) run --release --package raft-tests --bin simulate -- run \
		--seeds $(or $(SEEDS),2000) --first $(or $(FIRST),1) --events $(or $(EVENTS),20000)

replay: ## Simulate one cluster again and print what happened (SEED=1)
	$(CARGO) run --release --package raft-tests --bin simulate -- replay $(SEED) \
		--events $(or $(EVENTS),20000)

shrink: ## Take away from a failing simulation what it does not need to fail (SEED=1)
	$(CARGO) run --release --package raft-tests --bin simulate -- shrink $(SEED) \
		--events $(or $(EVENTS),20000)

mutants: ## Break one rule after the other on purpose, and see that the tests notice (ARGS="NAME --kills 9")
	RUSTFLAGS="$(MUTANTS_FLAGS)" CARGO_TARGET_DIR="$(CARGO_TARGET_DIR)/mutants" \
		$(CARGO) run --release --package raft-tests --bin mutants -- $(ARGS)

# With the checks of a debug build: a number that overflows is found where it does.
fuzz: ## Feed one replica, one node and the decoders of the wire anything (RUNS=1000000 FIRST=SEED)
	$(FUZZ) --package raft-core --test fuzz
	$(FUZZ) --package raft-net-quic --lib fuzz

FUZZ = RUSTFLAGS="-C overflow-checks=on -C debug-assertions=on" \
	CARGO_TARGET_DIR="$(CARGO_TARGET_DIR)/fuzz" \
	FUZZ_RUNS=$(or $(RUNS),1000000) FUZZ_FIRST=$(or $(FIRST),$(shell date +%s)000000) \
	$(CARGO) test --release

# In the usual profile, or RocksDB would be compiled once more.
fuzz-kv: ## Feed the decoders of the store anything (RUNS=1000000 FIRST=SEED)
	FUZZ_RUNS=$(or $(RUNS),1000000) FUZZ_FIRST=$(or $(FIRST),$(shell date +%s)000000) \
	$(CARGO) test --release --workspace --lib -- what_is_said stored_rows

# What cargo-fuzz would set, less the sanitizers, which need another compiler and find nothing in safe code.
# A target is named, so that macros and build scripts are left alone.
LED_FLAGS := --cfg fuzzing -C overflow-checks=on -C debug-assertions=on -C codegen-units=1 \
	-C passes=sancov-module -C llvm-args=-sanitizer-coverage-level=4 \
	-C llvm-args=-sanitizer-coverage-inline-8bit-counters \
	-C llvm-args=-sanitizer-coverage-pc-table -C llvm-args=-sanitizer-coverage-trace-compares
LED_DIR = $(CARGO_TARGET_DIR)/fuzz-led

fuzz-led: ## The same, led by what code is reached (TARGET=replica or node, FOR=600 seconds)
	mkdir -p "$(LED_DIR)/corpus/$(or $(TARGET),replica)"
	RUSTFLAGS="$(LED_FLAGS)" CARGO_TARGET_DIR="$(LED_DIR)" $(CARGO) run --release --locked \
		--manifest-path raft-core/fuzz/Cargo.toml --bin $(or $(TARGET),replica) \
		--target $(shell rustc -vV | sed -n 's/^host: //p') -- -max_len=4096 \
		-max_total_time=$(or $(FOR),600) -artifact_prefix="$(LED_DIR)/" \
		"$(LED_DIR)/corpus/$(or $(TARGET),replica)"

core: ## Test the consensus core alone; needs no RocksDB
	$(CARGO) test --release -p raft-core

setup: ## Install what the build needs, if it is missing
	@.ci/setup
