# make             target/debug/bottomless.so and target/debug/bottomless-cli
# make release     the same in target/release, optimised
# make demo        a first session: write, look into the bucket, lose the file, get it back
# make test        all tests but the heavy ones
# make bench       what a commit and a read cost, side by side with their floors
# make lint        format, clippy, rustdoc, licences and sources of the dependencies

CARGO ?= cargo
TEST_TOOLS = .tools/installed
DENY = .tools/bin/cargo-deny --config deny.toml

.PHONY: all release demo bench test test-heavy test-tools golden lint fmt advisories

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
	cd e2e && $(CARGO) test --test it -- --ignored --test-threads=1 --nocapture

# Commits and reads next to their floors, in one run, with the release build.
bench: release test-tools
	cd e2e && BOTTOMLESS_EXTENSION=$(CURDIR)/target/release/bottomless.so $(CARGO) bench --bench side_by_side

# Writes the expectations of e2e/golden anew.
golden: all test-tools
	cd e2e && BOTTOMLESS_GOLDEN=write $(CARGO) test --test it golden

lint: test-tools
	$(CARGO) fmt --all --check
	cd e2e && $(CARGO) fmt --all --check
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
