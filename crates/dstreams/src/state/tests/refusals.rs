//! State that cannot be imported: damaged, impossible, of other windows.

use super::*;
use crate::state::encoding::STATE;

#[test]
fn flipped_bits_are_refused_and_change_nothing() {
    let (_, windows, mut bytes) = example();
    // One bit of each byte: the checksum is read last.
    for at in 0..bytes.len() {
        bytes[at] ^= 1 << (at % 8);
        assert!(windows.import_of(PARTITION, &bytes).is_err(), "byte {at}");
        bytes[at] ^= 1 << (at % 8);
    }
    for end in (0..bytes.len()).step_by(7) {
        assert!(
            windows.import_of(PARTITION, &bytes[..end]).is_err(),
            "{end}"
        );
    }
    assert_eq!(windows.export(PARTITION).unwrap(), bytes);
}

/// Made-up bytes with a valid checksum are an error or a working state.
#[test]
fn made_up_bytes_never_panic() {
    let (program, _, bytes) = example();
    let (mut refused, mut taken) = (0, 0);
    let body = bytes.len() - 8;
    let untouched = program.windows().export(PARTITION).unwrap();
    for at in 12..body {
        let mut lie = bytes[..body].to_vec();
        lie[at] ^= [0x01, 0x80, 0x40, 0xff][at % 4];
        let windows = program.windows();
        if windows.import_of(PARTITION, &STATE.seal(lie)).is_err() {
            assert_eq!(windows.export(PARTITION).unwrap(), untouched);
            refused += 1;
            continue;
        }
        taken += 1;
        let version = windows.version(PARTITION).unwrap().0 / 100;
        for next in version + 1..version + 7 {
            // Other keys than those of the bytes, so that these expire and slots are renumbered.
            let rows = (0..12).map(|n| (100 * next as u16 + n, 1, 1)).collect();
            program.install(&windows, next, &[rows]);
            // A value beyond its column's type is an error here.
            for window in 0..2 {
                let _ = windows.read(window, PARTITION);
            }
        }
    }
    assert!(
        refused > 500 && taken > 100,
        "{refused} refused, {taken} taken"
    );
}

/// Impossible contents are refused.
#[test]
fn impossible_contents_are_refused_with_the_reason() {
    let shape = (0, vec![0, 1, 4], 9, 1);
    let program = Program::new(&[shape]);
    let windows = program.windows();
    for (at, records) in [(1, 201), (2, 202), (3, 203)] {
        program.install(&windows, at, &[vec![(3, records, 1), (6, 1, 1)]]);
    }
    let bytes = windows.export(PARTITION).unwrap();
    let refusal = |from: &[u8], to: &[u8]| {
        let mut lie = bytes[..bytes.len() - 8].to_vec();
        let at: Vec<_> = lie.windows(from.len()).enumerate().collect();
        let at = at.into_iter().filter(|(_, part)| *part == from);
        let [at] = at.map(|(at, _)| at).collect::<Vec<_>>()[..] else {
            panic!("{from:?} is not there once");
        };
        lie[at..at + to.len()].copy_from_slice(to);
        let lie = STATE.seal(lie);
        program
            .windows()
            .import_of(PARTITION, &lie)
            .unwrap_err()
            .to_string()
    };
    let number = |n: u64| n.to_le_bytes();
    let longer = STATE.seal([&bytes[..bytes.len() - 8], b"x"].concat());
    let longer = program.windows().import_of(PARTITION, &longer).unwrap_err();
    assert!(longer.to_string().contains("1 bytes after"), "{longer}");
    // The stacks are at the end: two numbers, the values of 6 entries, two numbers for each of 2 keys.
    let stacks = bytes.len() - 8 - (8 + 8 + (8 + 6 * 8) + 2 * (8 + 2 * 8));
    let beyond = |at: usize| {
        let mut lie = bytes[..bytes.len() - 8].to_vec();
        lie[at..at + 8].fill(0xff);
        let refused = program.windows().import_of(PARTITION, &STATE.seal(lie));
        refused.unwrap_err().to_string()
    };
    let cases = [
        (beyond(stacks), "more entries or panes"),
        (beyond(stacks + 8), "more entries or panes"),
        (refusal(b"k6", b"k3"), "two slots"),
        (refusal(&number(202), &number(0)), "and 0 records"),
        (
            refusal(&number(202), &number(u64::MAX)),
            "18446744073709551615 records",
        ),
        (refusal(&number(300), &number(200)), "batch"),
        (refusal(&number(300), &number(u64::MAX)), "batch"),
    ];
    for (error, text) in cases {
        assert!(error.contains(text), "{text} in: {error}");
    }
}

#[test]
fn a_length_beyond_the_bytes_allocates_nothing() {
    for length in [u64::MAX, 1 << 62, 1 << 61, 1 << 60, 1 << 40] {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend([0; 64]);
        let reader = || ByteInput::of(bytes.clone());
        assert!(reader().text().is_err());
        assert!(reader().part(|from| from.buffer(length)).is_err());
        assert!(reader().slots(usize::MAX).is_err());
        assert!(reader().numbers::<Vec<u64>>(length as usize).is_err());
    }
    let bytes = [2u64, 5, 6].map(u64::to_le_bytes).concat();
    let numbers = |count| ByteInput::of(bytes.clone()).numbers::<Vec<u64>>(count);
    assert_eq!(numbers(2).unwrap(), [5, 6]);
    assert!(numbers(1).is_err() && numbers(3).is_err());
}

#[test]
fn state_of_other_windows_is_refused_with_the_difference() {
    let shape = (0, vec![0, 1], 3, 1);
    let bytes = |shapes: &[Shape], partitions| {
        let specs = Program::new(shapes)
            .0
            .into_iter()
            .map(|(_, spec)| StateSpec::Window(Arc::new(spec)));
        let windows = States::new(specs.collect(), partitions, None).unwrap();
        windows.export(PARTITION).unwrap()
    };
    let ours = Program::new(std::slice::from_ref(&shape)).windows();
    let refusal = |bytes: &[u8]| ours.import_of(PARTITION, bytes).unwrap_err().to_string();
    ours.import_of(PARTITION, &bytes(std::slice::from_ref(&shape), PARTITIONS))
        .unwrap();

    let others: [(Shape, [&str; 2]); 5] = [
        (
            (2, vec![0, 1], 3, 1),
            ["key0: Utf8View not null", "key1: Int32"],
        ),
        ((0, vec![0, 2], 3, 1), ["Sum(value1)", "Sum(value2)"]),
        (
            (0, vec![1, 0], 3, 1),
            ["records are part 0", "records are part 1"],
        ),
        ((0, vec![0, 1], 4, 1), ["length 300 ms", "length 400 ms"]),
        ((0, vec![0, 1], 3, 2), ["every 100 ms", "every 200 ms"]),
    ];
    for (other, differs) in others {
        let error = refusal(&bytes(&[other], PARTITIONS));
        for text in differs {
            assert!(error.contains(text), "{text} in: {error}");
        }
    }
    let error = refusal(&bytes(&[(0, vec![0, 1], 4, 1)], PARTITIONS));
    assert!(!error.contains("key0"), "names an equal part: {error}");
    let error = refusal(&bytes(&[shape.clone(), shape.clone()], PARTITIONS));
    assert!(error.contains("2 states, this program 1"), "{error}");
    let error = refusal(&bytes(&[shape], 2));
    assert!(error.contains("2 partitions, this program 3"), "{error}");
}

#[test]
fn state_of_another_partition_is_refused() {
    let (_, windows, bytes) = example();
    let error = windows.import_of(PARTITION + 1, &bytes).unwrap_err();
    assert!(error.to_string().contains("partition 1, not 2"), "{error}");
    assert!(windows.export(PARTITIONS).is_err());
    let none = windows.export(PARTITIONS - 1).unwrap();
    assert!(windows.import_of(PARTITIONS, &none).is_err());
}
