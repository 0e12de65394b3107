# What people do with Resuni. `make help` lists it; each target can be run twice, and installs what
# it needs on a Debian or Ubuntu that has only Rust (see packaging/setup.sh).

# Where Go is when it was not there before.
export PATH := $(PATH):/usr/local/go/bin:$(HOME)/.cache/resuni/tools/go/bin
export CARGO_TARGET_DIR ?= $(if $(CI),$(HOME)/.cache/resuni/target,$(CURDIR)/target)
DEBUG   := $(CARGO_TARGET_DIR)/debug
RELEASE := $(CARGO_TARGET_DIR)/release
SETUP   := packaging/setup.sh
# All commands of a test run name the whole workspace, so that everything is compiled once.
ALL     := --workspace --all-targets --locked
# What runs is built on a RocksDB of its own, which is quicker to compile; where it can't be, its crate does it.
ROCKS    = if lib=$$(packaging/rocksdb.sh -O3); then export ROCKSDB_LIB_DIR=$$lib ROCKSDB_STATIC=1; fi;
say      = @printf '\n== %s\n' "$(1)"

.PHONY: help run demo test rust-test bench bench-rooms crash simulate fuzz fmt fmt-check lint doc deny book example deb \
        complement complement-baseline complement-test clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22

run: ## build, and serve on http://localhost:8008 (data in ./data; Ctrl-C stops)
	@$(SETUP) build
	$(call say,Building resuni; the first time takes some minutes)
	@$(ROCKS) cargo build --release --locked -p resuni
	$(call say,Serving http://localhost:8008 – Ctrl-C stops)
	@exec $(RELEASE)/resuni serve $(if $(wildcard resuni.toml),--config resuni.toml)

demo: ## three servers of a consortium with people, posts and a chat, until Ctrl-C
	@$(SETUP) build
	$(call say,Building resuni and the demo; the first time takes some minutes)
	@$(ROCKS) cargo build --release --locked -p resuni -p resuni-testkit --bins
	@exec $(RELEASE)/resuni-demo

test: ## everything that must hold: format, lints, docs, licences, Rust, browser, Complement
	@$(SETUP) build test
	@$(MAKE) --no-print-directory fmt-check lint doc deny rust-test complement-test

rust-test:
	$(call say,Rust tests)
	cargo build $(ALL)
	cargo test --workspace --locked

fmt: ## format the code
	cargo fmt --all

fmt-check:
	$(call say,Format)
	cargo fmt --all --check

lint: ## clippy; a warning is an error
	@$(SETUP) build
	$(call say,Lints)
	cargo clippy $(ALL) -- -D warnings

# Nothing is linked for it, so RocksDB need not be compiled (without the tests' dependencies Cargo would do that
# once more).
doc: ## the documentation of the code; a warning is an error
	@$(SETUP) build
	$(call say,Documentation)
	ROCKSDB_LIB_DIR='$(or $(ROCKSDB_LIB_DIR),$(CURDIR))' RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked

deny: ## licences, advisories and origins of dependencies
	@$(SETUP) deny
	$(call say,Dependencies)
	$(HOME)/.cache/resuni/tools/bin/cargo-deny --locked check --hide-inclusion-graph bans licenses sources

example: ## write conf/resuni.toml from the code
	cargo run --locked -q -p resuni -- config example > conf/resuni.toml.new
	mv conf/resuni.toml.new conf/resuni.toml

# PKG=csapi RUN=TestRoomState make complement: one package, one test.
COMPLEMENT = cd complement-tests && go run ./run -binary $(DEBUG)/resuni -work $(CARGO_TARGET_DIR)/complement \
             $(if $(PKG),-pkg $(PKG)) $(if $(RUN),-run '$(RUN)')

complement: ## Complement against our binary; PKG=csapi RUN=TestX for a part of it
	@$(SETUP) build complement
	cargo build $(ALL)
	$(call say,Complement: the conformance tests of Matrix)
	@$(COMPLEMENT)

complement-baseline: ## the same, and write what passes to complement-tests/baseline.txt
	@$(SETUP) build complement
	cargo build $(ALL)
	@$(COMPLEMENT) -update

# Where Go or Complement can't be had nothing is tested, and the run says so.
complement-test:
	@$(SETUP) complement || { echo 'Complement was NOT run: no Go'; exit 0; }; \
	cargo build $(ALL) && \
	printf '\n== Complement against its baseline\n' && \
	cd complement-tests && go test ./run && cd .. && \
	{ $(COMPLEMENT); code=$$?; \
	  [ $$code != 77 ] || { echo 'Complement was NOT run: it could not be had'; exit 0; }; exit $$code; }

crash: ## kill -9 under load, 500 rounds, and look for anything lost
	@$(SETUP) build
	cargo build $(ALL)
	RESUNI_CRASH_ROUNDS=500 cargo test $(filter-out --all-targets,$(ALL)) --test crash -- --nocapture

# SEEDS=10000 FROM=200 make simulate; a seed that fails is printed with how to run it again.
SEEDS ?= 1000
FROM  ?= 0

simulate: ## servers on a network and disks that fail; SEEDS=10000 FROM=0, as long as you like
	@$(SETUP) build
	cargo build $(ALL)
	$(call say,The simulated consortium)
	$(DEBUG)/resuni-simulate --from $(FROM) --seeds $(SEEDS) --jobs $$(nproc)

# libFuzzer guides itself by what the code covers, by hooks that stable Rust has too. RocksDB is not among what is built.
GUIDED  := src/fuzz/guided
HOOKS   := -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
           -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
           -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1
HOST     = $(shell rustc -vV | sed -n 's/^host: //p')
FUZZED   = $(CARGO_TARGET_DIR)/fuzz
SECONDS ?= 60
TARGET  ?= $(sort $(notdir $(wildcard src/fuzz/corpus/*)))

fuzz: ## what others send, made up at random under libFuzzer; SECONDS=600 TARGET=events
	@$(SETUP) build
	$(call say,Fuzzing: $(SECONDS) s each for $(TARGET))
	cp Cargo.lock $(GUIDED)/
	RUSTFLAGS='$(HOOKS)' CARGO_TARGET_DIR=$(FUZZED) cargo build --release --target $(HOST) --manifest-path $(GUIDED)/Cargo.toml
	@set -e; for target in $(TARGET); do \
	  mkdir -p $(FUZZED)/found/$$target; printf '\n== %s\n' $$target; \
	  $(FUZZED)/$(HOST)/release/$$target -max_total_time=$(SECONDS) -rss_limit_mb=2048 -timeout=20 -print_final_stats=1 \
	    -artifact_prefix=$(FUZZED)/found/$$target- $(FUZZED)/found/$$target src/fuzz/corpus/$$target; \
	done

bench: ## measure Resuni and Synapse on this machine; writes docs/performance.md
	@$(SETUP) build bench
	@$(ROCKS) cargo build --release --locked -p resuni -p resuni-bench
	$(RELEASE)/resuni-bench --out docs/performance.md --remarks src/bench/remarks.md

bench-rooms: ## measure what the size of a room costs, up to 50,000 members; writes docs/performance-rooms.md
	@$(SETUP) build bench
	@$(ROCKS) cargo build --release --locked -p resuni -p resuni-bench
	$(RELEASE)/resuni-bench --servers synapse,resuni --size rooms --out docs/performance-rooms.md --remarks src/bench/remarks-rooms.md

deb: ## a Debian package in $CARGO_TARGET_DIR/debian
	@$(SETUP) build deb
	@$(ROCKS) $(HOME)/.cache/resuni/tools/bin/cargo-deb -p resuni --locked --strip

clean: ## remove what was built, and nothing else
	cargo clean
