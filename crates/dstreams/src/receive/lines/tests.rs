//! Lines, however their bytes are cut, compared with a split of the whole.

use datafusion::arrow::array::{Array, AsArray};
use futures::executor::block_on;
use proptest::prelude::*;

use super::*;
use crate::stream::record::Record;

const LIMIT: usize = 40;

/// What happens between two reads.
#[derive(Debug, Clone, Copy)]
enum Between {
    Nothing,
    Seal,
    Release,
    Pause,
}

/// Bytes that are special here, and any others.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => "[a-cäß€]{0,9}".prop_map(String::into_bytes),
        4 => Just(b"\n".to_vec()),
        2 => Just(b"\r\n".to_vec()),
        1 => Just(b"\r".to_vec()),
        1 => Just(vec![0xff]),
        1 => Just(b"\xef\xbb\xbf".to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..9),
        1 => (LIMIT - 2..LIMIT + 4).prop_map(|length| vec![b'x'; length]),
        1 => Just(vec![b'y'; 3 * LIMIT]),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

fn cuts() -> impl Strategy<Value = Vec<(usize, Between)>> {
    let between = prop_oneof![
        6 => Just(Between::Nothing),
        2 => Just(Between::Seal),
        1 => Just(Between::Release),
        1 => Just(Between::Pause),
    ];
    prop::collection::vec((1..60usize, between), 1..40)
}

/// Lines, and the lengths of bad ones.
type Read = (Vec<String>, Vec<u64>);

fn read(mut bytes: &[u8], cuts: &[(usize, Between)], clean: bool) -> Read {
    let budget = Budget::new(64 << 20);
    let mut lines = LineBuffer::new(String::schema(), LIMIT);
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    let take = |lines: &mut LineBuffer, give_up, good: &mut Vec<String>| {
        let Some((batch, used, _)) = lines.take(give_up).unwrap() else {
            return;
        };
        batch.column(0).to_data().validate_full().unwrap();
        let texts = batch.column(0).as_string_view();
        let held: usize = texts.data_buffers().iter().map(Buffer::len).sum();
        assert!(held <= used, "{held} bytes of {used} accounted for");
        good.extend(texts.iter().map(|text| text.unwrap().to_owned()));
    };
    let make_room = |lines: &mut LineBuffer, good: &mut Vec<String>| {
        if let Some(needed) = lines.needs() {
            assert!(needed <= LARGEST_CHUNK);
            take(lines, true, good);
            lines.release();
            let memory = block_on(budget.take(needed));
            lines.grow(needed, memory);
        }
    };
    for (length, between) in cuts.iter().cycle() {
        if bytes.is_empty() {
            break;
        }
        make_room(&mut lines, &mut good);
        let room = lines.room().remaining_mut();
        let (now, later) = bytes.split_at(bytes.len().min(*length).min(room));
        lines.room().put_slice(now);
        bytes = later;
        lines.scan(&mut bad);
        match between {
            Between::Nothing => {}
            Between::Seal => take(&mut lines, false, &mut good),
            Between::Release => {
                take(&mut lines, true, &mut good);
                lines.release();
            }
            Between::Pause => {
                take(&mut lines, true, &mut good);
                lines.pause(&budget);
            }
        }
    }
    if clean {
        // The end was read, too.
        make_room(&mut lines, &mut good);
    }
    lines.finish(clean, &mut bad);
    take(&mut lines, true, &mut good);
    let bad = bad.iter().inspect(|line| {
        assert!(line.bytes.len() <= STORED_BYTES && line.bytes.len() as u64 <= line.length);
    });
    let bad = bad.map(|line| line.length).collect();
    drop(lines);
    assert_eq!(budget.used(), 0);
    (good, bad)
}

/// The same from the whole.
fn split(bytes: &[u8], clean: bool) -> Read {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    let mut all: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    let rest = all.pop().filter(|rest| !rest.is_empty());
    let mut line = |line: &[u8]| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match std::str::from_utf8(line) {
            Ok(text) if line.len() <= LIMIT => good.push(text.to_owned()),
            _ => bad.push(line.len() as u64),
        }
    };
    all.into_iter().for_each(&mut line);
    match rest {
        // A line over the limit is bad however it ends.
        Some(rest) if clean || rest.len() > LIMIT + 1 => line(rest),
        Some(rest) => bad.push(rest.len() as u64),
        None => {}
    }
    (good, bad)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn lines_are_those_of_the_whole_however_it_is_cut(bytes in bytes(), cuts in cuts(), clean in any::<bool>()) {
        // The detection of the format is not tested here.
        let bytes = [b"text\n", &bytes[..]].concat();
        prop_assert_eq!(read(&bytes, &cuts, clean), split(&bytes, clean));
    }

    #[test]
    fn any_first_bytes_are_text_or_refused_alike_however_they_are_cut(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        mark in prop::sample::select(vec![&b""[..], b"\xef\xbb\xbf", b"\xff\xfe", b"\x1f\x8b", b"BZh", b"PK\x03\x04", b"\0a"]),
        cuts in cuts(),
    ) {
        let bytes = [mark, &bytes[..]].concat();
        let whole = read(&bytes, &[(usize::MAX, Between::Nothing)], true);
        let (cut_good, cut_bad) = read(&bytes, &cuts, true);
        prop_assert_eq!(&cut_good, &whole.0);
        prop_assert_eq!(cut_bad.len(), whole.1.len());
    }
}
