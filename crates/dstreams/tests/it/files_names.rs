//! File names and their files: temporary, appended to, renamed, linked, reused, not UTF-8.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::time::Duration;

use dstreams::DeadLetter;
use dstreams::files::{Files, Format};

use crate::dir::Dir;
use crate::files_source::{Reader, put, read_all};
use crate::program::{block_on, small};

fn texts(dir: &Dir) -> Files {
    Files::dir(dir.path(), Format::Text).every(Duration::from_millis(2))
}

#[track_caller]
fn is_told(dead: &[DeadLetter], file: &str, words: &[&str]) {
    let [letter] = dead else { panic!("{dead:#?}") };
    assert!(letter.producer.ends_with(file), "{letter:#?}");
    for words in words {
        assert!(
            letter.reason.contains(words),
            "`{words}` is not in: {}",
            letter.reason
        );
    }
}

/// Half a line then becomes a record, which cannot be detected; but the rest is never lost silently.
#[test]
fn a_file_appended_to_is_reported_and_an_empty_one_is_waited_for() {
    block_on(async {
        let dir = Dir::new();
        put(&dir, "slow", "one\nth");
        fs::write(dir.join("late"), "").unwrap();
        let mut reader = Reader::<String>::start(small(2, 4, 3), texts(&dir)).await;
        assert_eq!(reader.receive(2, 0).await.0, ["one", "th"]);
        let slow = File::options().append(true).open(dir.join("slow"));
        slow.unwrap().write_all(b"ree\nfour\n").unwrap();
        let (found, dead) = reader.receive(0, 1).await;
        assert!(found.is_empty());
        let words = [
            "had 6 bytes",
            "has 15 now",
            "9 bytes are not read",
            "rename it",
        ];
        is_told(&dead, "/slow", &words);
        // Its name and inode stay.
        fs::write(dir.join("late"), "x\n").unwrap();
        assert_eq!(reader.receive(1, 0).await, (vec!["x".to_owned()], vec![]));
    });
}

#[test]
fn temporary_files_are_read_once_renamed() {
    block_on(async {
        let dir = Dir::new();
        let mut reader = Reader::<String>::start(small(2, 4, 3), texts(&dir)).await;
        let ends = [
            "._COPYING_",
            ".part",
            ".filepart",
            ".crdownload",
            ".partial",
            "~",
            ".inprogress",
            ".tmp.1234",
        ];
        for end in ends {
            fs::write(dir.join(format!("p{end}")), "first\n").unwrap();
        }
        put(&dir, "a", "there\n");
        assert_eq!(reader.receive(1, 0).await.0, ["there"]);
        for (n, end) in ends.iter().enumerate() {
            let name = dir.join(format!("p{end}"));
            let file = File::options().append(true).open(&name);
            writeln!(file.unwrap(), "{end}").unwrap();
            fs::rename(name, dir.join(format!("p{n}"))).unwrap();
        }
        let (mut found, dead) = reader.receive(2 * ends.len(), 0).await;
        found.retain(|line| line != "first");
        found.sort();
        let mut wanted = ends;
        wanted.sort();
        assert_eq!((found, dead), (wanted.map(str::to_owned).to_vec(), vec![]));
    });
}

#[test]
fn a_program_may_select_its_files() {
    let dir = Dir::new();
    fs::create_dir_all(dir.join("b/_c")).unwrap();
    for name in [
        "a.log",
        "a.part",
        "b/a.part",
        "b/a.log",
        "b/_c/d.part",
        ".hidden.part",
    ] {
        fs::write(dir.join(name), name).unwrap();
    }
    let files = Files::dir(dir.path(), Format::Text);
    let read = |files| read_all::<String>(small(2, 4, 3), files);
    assert_eq!(read(files.clone()).0, ["a.log", "b/a.log"]);
    let parts = files.only(|path| path.ends_with(".part") && !path.starts_with('b'));
    assert_eq!(
        read(parts),
        (vec![".hidden.part".to_owned(), "a.part".to_owned()], vec![])
    );
}

/// As in log rotation: a rename and a new file of the old name.
#[test]
fn a_renamed_file_is_not_read_again_and_a_reused_name_is_reported() {
    block_on(async {
        let dir = Dir::new();
        put(&dir, "app.log", "1\n2\n");
        let mut reader = Reader::<String>::start(small(2, 4, 3), texts(&dir)).await;
        assert_eq!(reader.receive(2, 0).await.0, ["1", "2"]);
        fs::rename(dir.join("app.log"), dir.join("app.log.1")).unwrap();
        symlink(dir.join("app.log.1"), dir.join("link")).unwrap();
        fs::hard_link(dir.join("app.log.1"), dir.join("hard")).unwrap();
        put(&dir, "app.log", "new\n");
        put(&dir, "last", "last\n");
        let (found, dead) = reader.receive(1, 1).await;
        assert_eq!(found, ["last"]);
        is_told(
            &dead,
            "/app.log",
            &["a file of this name was read before", "a name of its own"],
        );
        // The process with the open file appends.
        let log = File::options().append(true).open(dir.join("app.log.1"));
        log.unwrap().write_all(b"3\n").unwrap();
        let (found, dead) = reader.receive(0, 1).await;
        assert!(found.is_empty());
        assert!(dead[0].reason.contains("2 bytes are not read"), "{dead:#?}");
    });
}

/// Names that look the same as text are told apart by their bytes, and each is reported.
#[test]
fn a_name_that_is_not_utf8_is_a_dead_letter() {
    let dir = Dir::new();
    for name in [b"caf\xe9.txt", b"caf\xe8.txt"] {
        fs::write(dir.join(OsStr::from_bytes(name)), "lost\n").unwrap();
    }
    let inner = dir.join(OsStr::from_bytes(b"d\xff"));
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("e"), "lost\n").unwrap();
    put(&dir, "a,b {x}\n.txt", "found\n");
    let (found, mut dead) =
        read_all::<String>(small(2, 4, 3), Files::dir(dir.path(), Format::Text));
    assert_eq!(found, ["found"]);
    dead.sort_by(|a, b| a.producer.cmp(&b.producer));
    for (letter, name) in dead
        .iter()
        .zip(["/caf\\xe8.txt", "/caf\\xe9.txt", "/d\\xff"])
    {
        is_told(
            std::slice::from_ref(letter),
            name,
            &["not UTF-8; rename the file"],
        );
    }
    assert_eq!(dead.len(), 3);
}
