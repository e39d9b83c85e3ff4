# Short names for what CONTRIBUTING.md describes. `just` lists them.

[private]
default:
    @just --list

# Format, lints and types, without running tests
check:
    cargo fmt --all --check
    cargo clippy --locked --workspace --all-targets -- -D warnings

# Everything that the gate runs
gate:
    .ci/run

# All tests
test *ARGS:
    cargo test --locked {{ARGS}}

# The simulations of the controllers; `SIM_SEED=7 just sim` runs one schedule again
sim *ARGS:
    cargo test --locked -p dstreams-control {{ARGS}}

# The integration tests; `just it drain::` runs one module. All crates together: one alone builds DataFusion again
it *ARGS:
    cargo test --locked --test it {{ARGS}}

# The engine beside its peers (release; see bench/peers/README.md)
bench *ARGS:
    cargo run --release -p dstreams-bench -- compare {{ARGS}}

# The documentation, with private items
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items
