//! The compared programs: how each is built and started.

use std::path::{Path, PathBuf};
use std::process::Command;

/// One program in one of its variants.
#[derive(Debug, Clone)]
pub struct Program {
    /// The name in results.
    pub name: &'static str,
    /// Its variant; empty for the default.
    pub variant: &'static str,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// This executable, as `bench run`.
    Own,
    /// A separate crate in `bench/peers/NAME`.
    Crate,
    /// `build.sh` and `run.sh` in `bench/peers/NAME`.
    Scripts,
}

/// The program that all others are compared with.
pub const REFERENCE: &str = "timely";

const ALL: [(&str, &str, Kind); 8] = [
    ("dstreams", "closures", Kind::Own),
    ("dstreams", "dataframes", Kind::Own),
    ("timely", "", Kind::Crate),
    ("renoir", "", Kind::Crate),
    ("spark", "plain", Kind::Scripts),
    ("spark", "tuned", Kind::Scripts),
    ("hand", "plain", Kind::Crate),
    ("hand", "tuned", Kind::Crate),
];

/// The folder of this package; peers and results are in it.
pub fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All programs, or those named by `only` as `NAME` or `NAME:VARIANT`.
pub fn select(only: &[String]) -> Result<Vec<Program>, String> {
    let program = |(name, variant, kind)| Program {
        name,
        variant,
        kind,
    };
    let all: Vec<Program> = ALL.into_iter().map(program).collect();
    let matches = |program: &Program, word: &String| {
        *word == program.name || *word == program.label().replace(' ', ":")
    };
    if let Some(word) = only
        .iter()
        .find(|word| !all.iter().any(|program| matches(program, word)))
    {
        return Err(format!(
            "no program {word:?}; there are {:?}",
            all.iter().map(Program::label).collect::<Vec<_>>()
        ));
    }
    let chosen =
        |program: &Program| only.is_empty() || only.iter().any(|word| matches(program, word));
    Ok(all.into_iter().filter(chosen).collect())
}

/// The programs of `bench nexmark` with these names, without variants.
pub fn select_by_name(names: &[String]) -> Vec<Program> {
    let all = [
        ("dstreams", Kind::Own),
        ("flink", Kind::Scripts),
        ("renoir", Kind::Crate),
    ];
    let program = |(name, kind)| Program {
        name,
        variant: "",
        kind,
    };
    let named = |(name, _): &(&str, Kind)| names.iter().any(|word| word == name);
    all.into_iter().filter(named).map(program).collect()
}

impl Program {
    /// The name with the variant.
    pub fn label(&self) -> String {
        format!("{} {}", self.name, self.variant)
            .trim_end()
            .to_owned()
    }

    fn home(&self) -> PathBuf {
        folder().join("peers").join(self.name)
    }

    /// Builds it from its sources; the error says why it is left out.
    pub fn build(&self) -> Result<(), String> {
        let mut command = match self.kind {
            Kind::Own => return Ok(()),
            Kind::Crate => {
                let mut cargo =
                    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
                cargo
                    .args(["build", "--release", "--locked", "--manifest-path"])
                    .arg(self.home().join("Cargo.toml"));
                cargo.arg("--target-dir").arg(self.home().join("target"));
                cargo
            }
            Kind::Scripts => {
                let mut shell = Command::new("sh");
                shell.arg(self.home().join("build.sh"));
                shell
            }
        };
        eprintln!("building {}", self.name);
        let output = command
            .output()
            .map_err(|error| format!("it cannot be built: {error}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            return Ok(());
        }
        eprint!("{said}");
        Err(format!(
            "it cannot be built: {}",
            said.lines().last().unwrap_or("no message")
        ))
    }

    /// The command that runs it, without flags.
    pub fn command(&self) -> Result<Command, String> {
        match self.kind {
            Kind::Own => {
                let own = std::env::current_exe()
                    .map_err(|error| format!("cannot find this executable: {error}"))?;
                let mut command = Command::new(own);
                command.arg("run");
                Ok(command)
            }
            Kind::Crate => {
                let file = self
                    .home()
                    .join("target/release")
                    .join(format!("peer-{}", self.name));
                if file.exists() {
                    Ok(Command::new(file))
                } else {
                    Err("it is not built".into())
                }
            }
            Kind::Scripts => {
                let mut command = Command::new("sh");
                command.arg(self.home().join("run.sh"));
                Ok(command)
            }
        }
    }
}
