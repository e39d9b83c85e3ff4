//! Runs the commands on pages of `docs/`, and checks the promised results.

use std::process::Command;

use crate::dir::Dir;

/// All shell blocks of a page as one script.
fn script(page: &str) -> String {
    let blocks = page.split("```sh\n").skip(1);
    let blocks = blocks.map(|block| block.split("```").next().unwrap());
    format!("set -eu\n{}", blocks.collect::<String>())
}

/// Runs the commands of a page in an empty directory; returns their output.
fn run(page: &str) -> String {
    let command = std::path::Path::new(env!("CARGO_BIN_EXE_dstreams"));
    let place = Dir::new();
    let path = std::env::var("PATH").unwrap();
    let output = Command::new("bash")
        .args(["-m", "-c", &script(page)])
        .current_dir(place.path())
        .env(
            "PATH",
            format!("{}:{path}", command.parent().unwrap().display()),
        )
        .output()
        .unwrap();
    let (said, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{said}\n{errors}");
    said.into_owned()
}

#[test]
fn from_laptop_to_cluster() {
    let page = include_str!("../../../../docs/from-laptop-to-cluster.md");
    let said = run(page);
    let totals: Vec<_> = said
        .lines()
        .filter(|line| line.contains("records_total"))
        .collect();
    // The totals that the page promises, in its order.
    let promised = [10_000, 20_000, 10_000].map(|n| format!("{{\"records_total\":{n}}}"));
    assert_eq!(totals, promised, "{said}");
    assert!(page.contains(&promised[0]) && page.contains(&promised[1]));
}

#[test]
fn kill_it() {
    let page = include_str!("../../../../docs/kill-it.md");
    let said = run(page);
    assert!(said.contains("journal of 1 process(es)"), "{said}");
    let promised = "[\"be\",20000]";
    assert_eq!(said.matches(promised).count(), 3, "{said}");
    assert!(page.contains(promised));
}
