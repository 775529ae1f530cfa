# Two commands do everything: `make run` builds and starts a cluster of three nodes, `make test` runs every check and test.
# System packages that are missing are installed on the way (Debian).

# One target directory keeps RocksDB compiled. Continuous integration starts from a fresh clone, so there it lives in
# the home directory's cache.
ifdef CI
export CARGO_TARGET_DIR ?= $(HOME)/.cache/dstore/target
else
export CARGO_TARGET_DIR ?= $(CURDIR)/target
endif

BUILD_PACKAGES := g++ libclang-dev
TEST_PACKAGES := git redis-server redis-tools python3 python3-venv iproute2 nftables
CARGO_FLAGS := --release --locked

.PHONY: help run build test test-power-loss test-redis test-failover test-membership sim sim-planted fmt packages test-packages chaos chaos-redis bench-single bench-keys bench-large bench-cold bench-cluster bench-raft-cost bench-net bench-raft bench-rpc

help:
	@echo "make run [ARGS=\"--nodes 5 --keep\"]   build and start a cluster on this machine"
	@echo "make test                 format, lints, docs, and all tests"
	@echo "make test-power-loss      lose power 20 times in a row under write load"
	@echo "make test-redis           compare a million requests with Redis, fuzz, and measure hostile clients and long commands"
	@echo "make test-failover        kill the leader 20 times and pause it 5 times, and print the gaps"
	@echo "make test-membership      nodes that come and go, a snapshot of 1 GB under load, 50 power cuts during snapshots"
	@echo "make sim [SEEDS=n] [SEED=s] [TRACE=1] [SHRINK=1]   simulated clusters on seeds, 200 of them from a fresh one by default"
	@echo "make sim-planted          plants known bugs into simulated clusters, and sees each caught"
	@echo "make chaos [MINUTES=m] [SEED=s]    five real nodes under real faults, 5 minutes by default"
	@echo "make chaos-redis [MINUTES=m]       the same clients and judge on a Redis primary with a replica"
	@echo "make build                build the dstore binary"
	@echo "make bench-single         one node beside redis-server, with ratios"
	@echo "make bench-keys           one node with 10^5, 10^6 and 10^7 keys"
	@echo "make bench-large          one node with ten times more data than memory"
	@echo "make bench-cold           one node on a disk with every cache empty; as root"
	@echo "make bench-cluster        three nodes beside three of etcd"
	@echo "make bench-raft-cost BASE=PROGRAM   one node beside an older build of the program"
	@echo "make bench-net            the network framework beside tokio, a bare epoll loop and DelayQueue"
	@echo "make bench-raft           consensus in memory beside the raft crate"
	@echo "make bench-rpc            calls and streams beside tonic and plain TCP"

packages:
	@scripts/need $(BUILD_PACKAGES)

test-packages: packages
	@scripts/need --index $(TEST_PACKAGES)

build: packages
	cargo build $(CARGO_FLAGS) -p dstore-server

# ARGS are the flags of `dstore demo`. For a node of a cluster to stay: `dstore start --help`.
ARGS ?=
run: build
	@exec $(CARGO_TARGET_DIR)/release/dstore demo $(ARGS)

fmt:
	cargo fmt --all

# The end-to-end tests start the binary, which `cargo test` alone would not build.
test: test-packages
	cargo fmt --all --check
	cargo clippy $(CARGO_FLAGS) --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc $(CARGO_FLAGS) --workspace --no-deps
	cargo build $(CARGO_FLAGS) -p dstore-server
	cargo test $(CARGO_FLAGS) --workspace
	cargo test $(CARGO_FLAGS) -p dstore-sim --features planted --test planted

# Whole clusters in one thread, one for each seed, with faults; closes with "seeds N failures F". A seed repeats exactly.
SEEDS ?= 200
sim: packages
	cargo run $(CARGO_FLAGS) -p dstore-sim --features marks -- --seeds $(SEEDS) $(if $(SEED),--seed $(SEED)) \
		$(if $(TRACE),--trace) $(if $(SHRINK),--shrink) $(ARGS)

sim-planted: packages
	cargo run $(CARGO_FLAGS) -p dstore-sim --features planted -- --planted all --seeds 6000 --seed $(or $(SEED),1)

# Real processes in network namespaces, real packets dropped, power cut, disks filled; closes with "chaos M min: operations N
# checked, violations V, acknowledged writes lost L, faults: ...". A seed repeats the faults. CHAOS_FLAGS: see --help.
MINUTES ?= 5
chaos: test-packages build
	cargo run $(CARGO_FLAGS) -p dstore-chaos -- --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(CHAOS_FLAGS)

chaos-redis: test-packages
	cargo run $(CARGO_FLAGS) -p dstore-chaos -- --redis --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(CHAOS_FLAGS)

# A longer run of one of the tests.
test-power-loss: test-packages build
	POWER_CUTS=20 cargo test $(CARGO_FLAGS) -p dstore-e2e --test power_loss -- --nocapture

test-membership: test-packages build
	SNAPSHOT_BYTES=1000000000 SNAPSHOT_KILLS=50 cargo test $(CARGO_FLAGS) -p dstore-e2e --test membership -- --nocapture

# Everything that is compared with Redis, at length: a million requests, ten thousand idle clients, a million keys.
test-redis: test-packages build
	KV_DIFFERENTIAL=200000 KV_FUZZ=1000000 cargo test $(CARGO_FLAGS) -p dstore-kv
	DSTORE_TEST_ROUNDS=200000 cargo test $(CARGO_FLAGS) -p dstore-resp --test random
	DIFFERENTIAL=1000000 cargo test $(CARGO_FLAGS) -p dstore-e2e --test differential -- --nocapture
	HOSTILE_IDLE=10000 COSTS_KEYS=1000000 LANGUAGES_MIN=5 cargo test $(CARGO_FLAGS) -p dstore-e2e \
		--test hostile --test costs --test languages --test clients -- --nocapture --test-threads 1

test-failover: test-packages build
	CLUSTER_KILLS=20 CLUSTER_PAUSES=5 cargo test $(CARGO_FLAGS) -p dstore-e2e --test cluster -- --nocapture \
		writes_go_on_when_the_leader_is_killed stood_still packets_are_dropped

# Benchmarks print their own tables and close with lines `ratio NAME VALUE`, higher is better. Run them on a quiet machine.
bench-single: test-packages build
	cargo run $(CARGO_FLAGS) -p dstore-bench --bin bench-single

bench-keys: test-packages build
	cargo run $(CARGO_FLAGS) -p dstore-bench --bin bench-single -- keys

bench-large: test-packages build
	cargo run $(CARGO_FLAGS) -p dstore-bench --bin bench-single -- large

bench-cold: test-packages build
	cargo run $(CARGO_FLAGS) -p dstore-bench --bin bench-single -- cold

bench-cluster: test-packages build
	@scripts/need etcd-server
	cargo run $(CARGO_FLAGS) -p dstore-bench --bin bench-cluster

# BASE is the path of an older dstore program, for instance of the last commit before consensus.
BASE ?= $(error BASE=path of an older dstore program is needed)
bench-raft-cost: test-packages build
	cargo run $(CARGO_FLAGS) -p dstore-bench --bin bench-raft-cost -- $(BASE)

bench-net: packages
	cargo run $(CARGO_FLAGS) -p dstore-bench-net

bench-raft: packages
	cargo run $(CARGO_FLAGS) -p dstore-bench-raft

bench-rpc: packages
	cargo run $(CARGO_FLAGS) -p dstore-bench-rpc
