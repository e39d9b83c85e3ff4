//! Journals that earlier versions wrote.

use super::*;

/// Bytes written by earlier versions of this code: they must stay readable forever.
#[test]
fn old_bytes_are_read() {
    let files: [&[u8]; 6] = [
        include_bytes!("../fixtures/journal-1.log"),
        include_bytes!("../fixtures/journal-1-gone.log"),
        include_bytes!("../fixtures/journal-1-block.log"),
        include_bytes!("../fixtures/journal-1-opening.log"),
        include_bytes!("../fixtures/journal-1-wide.log"),
        include_bytes!("../fixtures/journal-1-skip.log"),
    ];
    let expected = [
        fixture(),
        receiver_lost_fixture(),
        block_fixture(),
        vec![JournalEntry::Opening(Box::new(opening(7)))],
        wide_fixture(),
        skip_fixture(),
    ];
    for (bytes, expected) in files.into_iter().zip(expected) {
        let dir = tempdir().unwrap();
        std::fs::write(dir.path().join(segment::name(1)), bytes).unwrap();
        assert_eq!(entries(dir.path()).unwrap(), expected);
    }
}

const BLOCK: BlockId = BlockId {
    receiver: ReceiverId(3),
    seq: 5,
};

/// The first kinds of entries.
fn fixture() -> Vec<JournalEntry> {
    vec![
        JournalEntry::Opened { incarnation: 2 },
        JournalEntry::SealedBlock {
            input: 1,
            bytes: b"some block".to_vec().into(),
        },
        JournalEntry::Cut {
            batch: BatchTime(1_000),
            after: None,
            blocks: vec![BLOCK],
        },
        committed(1_000),
    ]
}

/// A kind added later.
fn block_fixture() -> Vec<JournalEntry> {
    vec![JournalEntry::Block {
        input: 1,
        bytes: b"some block".to_vec().into(),
    }]
}

/// Receivers of more than 32 bits.
fn wide_fixture() -> Vec<JournalEntry> {
    let receiver = ReceiverId(ReceiverId::first_of(70_000).0 + 3);
    let blocks = vec![BLOCK, BlockId { receiver, seq: 5 }];
    vec![
        JournalEntry::Cut {
            batch: BatchTime(1_000),
            after: None,
            blocks: blocks.clone(),
        },
        JournalEntry::ReceiverLost { receiver, blocks },
    ]
}

/// A kind added later.
fn receiver_lost_fixture() -> Vec<JournalEntry> {
    let receiver = BLOCK.receiver;
    let blocks = vec![BLOCK];
    vec![
        JournalEntry::ReceiverLost { receiver, blocks },
        JournalEntry::ReceiverLost {
            receiver,
            blocks: vec![],
        },
    ]
}

/// A kind added later.
fn skip_fixture() -> Vec<JournalEntry> {
    vec![JournalEntry::Cut {
        batch: BatchTime(86_400_000),
        after: Some(BatchTime(1_000)),
        blocks: vec![BLOCK],
    }]
}

/// Writes the fixture of the newest format; its name says which.
#[test]
#[ignore = "writes a fixture"]
fn write_fixture() {
    let dir = tempdir().unwrap();
    write(dir.path(), &[skip_fixture()]);
    let to = "src/journal/fixtures/journal-1-skip.log";
    std::fs::copy(last_file(dir.path()), to).unwrap();
}
