# make             target/debug/bottomless.so and target/debug/bottomless-cli
# make release     the same in target/release, optimised
# make demo        a first session: write, look into the bucket, lose the file, get it back
# make test        all tests but the heavy ones
# make soak        the long ones: fuzzing, Miri, AddressSanitizer, random kills; needs a nightly toolchain
# make bench       what a commit and a read cost, side by side with their floors
# make lint        format, clippy, rustdoc, licences and sources of the dependencies

CARGO ?= cargo
TEST_TOOLS = .tools/installed
DENY = .tools/bin/cargo-deny --config deny.toml

# For what a stable toolchain can't: fuzzing, Miri, AddressSanitizer.
NIGHTLY ?= nightly
FUZZ_TARGETS = ltx_decode local_state object_key wal_frames
FUZZ_SECONDS ?= 30

.PHONY: all release demo bench test test-heavy test-tools golden lint fmt advisories
.PHONY: soak fuzz fuzz-build fuzz-minimise miri asan nightly

# SQLite finds the entry point by the file's name, which must not begin with lib. The copy is put in place by a rename,
# and only when something changed: a program that has the old file loaded keeps it whole.
put_in_place = cmp -s target/$(1)/libbottomless.so target/$(1)/bottomless.so || { \
	cp target/$(1)/libbottomless.so target/$(1)/bottomless.so.$$$$ && \
	mv -f target/$(1)/bottomless.so.$$$$ target/$(1)/bottomless.so; }

all:
	$(CARGO) build --package bottomless --package bottomless-cli
	@$(call put_in_place,debug)

release:
	$(CARGO) build --release --package bottomless --package bottomless-cli
	@$(call put_in_place,release)

demo: all
	$(CARGO) build --package bottomless-devserver
	@test/demo.sh

test-tools:
	tools/install-test-tools.sh

test: all test-tools
	$(CARGO) test --workspace
	cd e2e && $(CARGO) test --workspace

# Transactions and databases of a gigabyte: some minutes, and some 5 GiB of disk.
test-heavy: all test-tools
	cd e2e && $(CARGO) test --test it large:: -- --ignored --test-threads=1 --nocapture

# Everything that is long or needs a nightly toolchain. The soak tests run one after the other: each takes the machine.
soak: fuzz miri asan all test-tools
	cd e2e && $(CARGO) test --test it soak_ -- --ignored --test-threads=1 --nocapture

nightly:
	@rustup run $(NIGHTLY) rustc --version > /dev/null 2>&1 || rustup toolchain install $(NIGHTLY) --profile minimal

fuzz-build: nightly
	@test -x .tools/bin/cargo-fuzz || $(CARGO) install cargo-fuzz --locked --version 0.13.2 --root .tools
	PATH="$(CURDIR)/.tools/bin:$$PATH" $(CARGO) +$(NIGHTLY) fuzz build

# What is found new goes to fuzz/found, what fails to fuzz/artifacts; fuzz/corpus is what the repository keeps. The memory
# of a run is bounded, and of one allocation, too: a small input must not take much.
run_fuzz = mkdir -p fuzz/found/$(1) fuzz/artifacts/$(1) && \
	fuzz/target/x86_64-unknown-linux-gnu/release/$(1) fuzz/found/$(1) fuzz/corpus/$(1) -max_total_time=$(FUZZ_SECONDS) \
	-max_len=8192 -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=64 -artifact_prefix=fuzz/artifacts/$(1)/ \
	-print_final_stats=1

fuzz: $(FUZZ_TARGETS:%=fuzz-%)

fuzz-%: fuzz-build
	$(call run_fuzz,$*)

# The unsafe code of the shim, in a host of our own in Rust (crates/vfs/src/fake.rs): Miri runs no C.
miri: nightly
	rustup component add miri rust-src --toolchain $(NIGHTLY)
	MIRIFLAGS=-Zmiri-disable-isolation $(CARGO) +$(NIGHTLY) miri test --target-dir target/miri --package bottomless-vfs --lib

# The extension under AddressSanitizer in the newest host, which is built with it: an extension takes the sanitizer's
# functions from the program. The C code of SQLite is as it always is, but what it hands to malloc and free is seen.
ASAN_TARGET = x86_64-unknown-linux-gnu
ASAN_FLAGS = -Zsanitizer=address -Zexport-executable-symbols -Clink-arg=-rdynamic
ASAN_TESTS = commit:: no_commit:: changes:: exclusive:: restore:: outage::
asan: export RUSTFLAGS = $(ASAN_FLAGS)
asan: nightly test-tools
	$(CARGO) +$(NIGHTLY) build --target $(ASAN_TARGET) --target-dir target/asan --package bottomless
	cd e2e && $(CARGO) +$(NIGHTLY) test --target $(ASAN_TARGET) --target-dir ../target/asan --test it --no-run
	rm -rf target/asan/reports && mkdir -p target/asan/reports
	cp target/asan/$(ASAN_TARGET)/debug/libbottomless.so target/asan/bottomless.so
	cd e2e && BOTTOMLESS_ASAN=1 BOTTOMLESS_EXTENSION=$(CURDIR)/target/asan/bottomless.so \
		ASAN_OPTIONS=log_path=$(CURDIR)/target/asan/reports/report:detect_leaks=0 \
		$(CARGO) +$(NIGHTLY) test --target $(ASAN_TARGET) --target-dir ../target/asan --test it $(firstword $(ASAN_TESTS)) \
		-- $(wordlist 2,99,$(ASAN_TESTS)) || { cat $(CURDIR)/target/asan/reports/*; exit 1; }
	@test -z "$$(ls target/asan/reports)" || { cat target/asan/reports/*; exit 1; }

# Replaces the corpus by few inputs that reach as much as it and what was found: sixty for a target are kept.
fuzz-minimise: fuzz-build
	set -e; for target in $(FUZZ_TARGETS); do \
		rm -rf fuzz/found/minimal; mkdir -p fuzz/found/$$target fuzz/found/minimal; \
		fuzz/target/x86_64-unknown-linux-gnu/release/$$target -set_cover_merge=1 -max_len=1500 fuzz/found/minimal \
			fuzz/corpus/$$target fuzz/found/$$target; \
		rm -rf fuzz/corpus/$$target; mkdir -p fuzz/corpus/$$target; \
		(cd fuzz/found/minimal && ls | head -n 60 | xargs -I{} mv {} ../../corpus/$$target/); \
	done

# Commits and reads next to their floors, in one run, with the release build.
bench: release test-tools
	cd e2e && BOTTOMLESS_EXTENSION=$(CURDIR)/target/release/bottomless.so $(CARGO) bench --bench side_by_side

# Writes the expectations of e2e/golden anew.
golden: all test-tools
	cd e2e && BOTTOMLESS_GOLDEN=write $(CARGO) test --test it golden

lint: test-tools
	$(CARGO) fmt --all --check
	cd e2e && $(CARGO) fmt --all --check
	cd fuzz && $(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	cd e2e && $(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --workspace --no-deps --document-private-items
	$(DENY) check bans licenses sources
	$(DENY) --manifest-path e2e/Cargo.toml check bans licenses sources

advisories: test-tools
	$(DENY) check advisories
	$(DENY) --manifest-path e2e/Cargo.toml check advisories

fmt:
	$(CARGO) fmt --all
	cd e2e && $(CARGO) fmt --all
	cd fuzz && $(CARGO) fmt --all
