//! Damaged Parquet: any byte may change, and losses are reported.

use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{WriterProperties, WriterVersion};
use proptest::prelude::*;
use proptest::sample::Index;

use super::super::Files;
use super::super::tests::{Positions, dir_of, read, rows};
use crate::stream::format::Format;
use crate::stream::record::batch_of;

type Row = (String, (i64, Option<f64>));

const ROWS: i64 = 90;

fn all() -> Vec<Row> {
    let row = |n: i64| {
        (
            format!("text {}", n % 50),
            (n * n, (n % 7 > 0).then_some(n as f64)),
        )
    };
    (0..ROWS).map(row).collect()
}

/// In three row groups, as different writers write it.
fn written(kind: usize) -> Vec<u8> {
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(30))
        .set_dictionary_enabled(kind.is_multiple_of(2))
        .set_compression(match kind % 4 {
            0 => Compression::SNAPPY,
            1 => Compression::UNCOMPRESSED,
            2 => Compression::ZSTD(ZstdLevel::default()),
            _ => Compression::LZ4_RAW,
        })
        .set_writer_version(match kind / 4 {
            0 => WriterVersion::PARQUET_1_0,
            _ => WriterVersion::PARQUET_2_0,
        });
    // For texts without a dictionary, version 2 writes deltas, whose reader allocates as many as they claim.
    let properties =
        properties.set_column_dictionary_enabled("key".into(), kind >= 4 || kind.is_multiple_of(2));
    let batch = batch_of(all()).unwrap();
    let mut writer =
        ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties.build())).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

/// Rows and dead letters of a file.
fn found(bytes: Vec<u8>) -> (Vec<Row>, u64) {
    let dir = dir_of(&[("a".into(), bytes)]);
    let files = Files::dir(dir.path(), Format::Parquet);
    let (blocks, _, dead) = read::<Row>(&files, Positions::new());
    (rows(&blocks), dead)
}

/// Applies some damage at a place.
fn damage(bytes: &mut Vec<u8>, (kind, at, from_end, value): (u8, Index, bool, u8)) {
    let place = at.index(bytes.len());
    // The footer is small, so it is hit as often as the rest.
    let place = if from_end {
        bytes.len() - 1 - place % bytes.len().min(700)
    } else {
        place
    };
    let end = bytes.len().min(place + usize::from(value));
    match kind {
        0..=3 => bytes[place] ^= 1 << (value % 8),
        4..=5 => bytes[place] = value,
        6 => bytes[place..end].fill(0),
        7 => {
            let again = bytes[place..end].to_vec();
            bytes.splice(place..place, again);
        }
        8 => drop(bytes.drain(place..end.max(place + 1))),
        _ => bytes.truncate(place.max(1)),
    }
    if bytes.is_empty() {
        bytes.push(value);
    }
}

#[test]
fn every_kind_of_file_is_read() {
    for kind in 0..8 {
        assert_eq!(found(written(kind)), (all(), 0), "{kind}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    /// Without page checksums a value may change, but no row is lost silently, and nothing panics.
    #[test]
    fn rows_of_a_damaged_file_are_there_or_told(
        kind in 0..8usize,
        damages in prop::collection::vec((0..10u8, any::<Index>(), any::<bool>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = written(kind);
        for damages in damages {
            damage(&mut bytes, damages);
        }
        let (rows, dead) = found(bytes);
        prop_assert!(dead > 0 || rows.len() as i64 == ROWS, "{} rows", rows.len());
    }
}

/// Start of the footer.
fn footer(bytes: &[u8]) -> usize {
    let tail = bytes.len() - 8;
    let length = bytes[tail..tail + 4].try_into().unwrap();
    tail - u32::from_le_bytes(length) as usize
}

/// The Parquet reader would allocate memory for them before it reads any.
#[test]
fn a_footer_that_claims_too_many_row_groups_is_refused() {
    let mut bytes = written(0);
    let begin = footer(&bytes);
    // A list of three structures, the fourth field.
    let at = bytes[begin..]
        .windows(3)
        .position(|found| found == [0x19, 0x3c, 0x19]);
    let at = begin + at.unwrap() + 1;
    bytes.splice(at..at + 1, [0xfc, 0xff, 0xff, 0xff, 0xff, 7]);
    let tail = bytes.len() - 8;
    let length = (tail - begin) as u32;
    bytes[tail..tail + 4].copy_from_slice(&length.to_le_bytes());
    assert_eq!(found(bytes), (vec![], 1));
}
