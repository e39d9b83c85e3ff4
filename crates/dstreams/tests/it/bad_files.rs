//! Unreadable or partly readable files: what the user learns, and that nothing else is lost.

use std::fs::{self, File};
use std::os::unix::fs::symlink;

use dstreams::files::{Files, Format};
use dstreams::{DeadLetter, Record};

use crate::dir::Dir;
use crate::files_source::{Reader, large, put, read_all, tight};
use crate::program::{block_on, small, until};

/// Exactly these dead letters: the end of the path and parts of the reason.
#[track_caller]
fn are(dead: &[DeadLetter], wanted: &[(&str, &[&str])]) {
    assert_eq!(dead.len(), wanted.len(), "{dead:#?}");
    for (letter, (file, parts)) in dead.iter().zip(wanted) {
        assert!(letter.producer.ends_with(file), "{letter:#?}");
        for part in *parts {
            let reason = &letter.reason;
            assert!(reason.contains(part), "`{part}` is not in: {reason}");
        }
    }
}

/// The findings of a program that reads `a`, which is larger than its memory; `change` happens meanwhile.
fn while_it_reads<T: Record>(
    dir: &Dir,
    format: Format,
    change: impl FnOnce(),
) -> (Vec<T>, Vec<DeadLetter>) {
    block_on(async {
        let files = Files::dir(dir.path(), format).piece_bytes(16 << 10).once();
        let reader = Reader::<T>::start(tight(), files).await;
        let used = || reader.live.running.status().block_memory;
        until("memory to be taken", || used() > 30 << 10).await;
        change();
        assert!(used() <= 64 << 10);
        reader.all().await
    })
}

#[test]
fn files_deleted_while_others_are_read_are_dead_letters() {
    let dir = Dir::new();
    put(&dir, "a", large(5000));
    put(&dir, "b", "gone");
    put(&dir, "c", "a directory soon");
    put(&dir, "d", "there");
    let (all, dead) = while_it_reads::<String>(&dir, Format::Text, || {
        fs::remove_file(dir.join("b")).unwrap();
        fs::remove_file(dir.join("c")).unwrap();
        fs::create_dir(dir.join("c")).unwrap();
    });
    assert_eq!((all.len(), all[5000].as_str()), (5001, "there"));
    let gone = ["given up: cannot open", "/b", "No such file"];
    let directory = ["given up: cannot read", "/c", "Is a directory"];
    are(&dead, &[("/b", &gone), ("/c", &directory)]);
}

/// The whole lines count, half a line is no record.
#[test]
fn a_file_that_becomes_shorter_while_it_is_read_is_given_up() {
    let dir = Dir::new();
    let text = large(5000);
    put(&dir, "a", &text);
    put(&dir, "b", "there");
    let whole = text[..300_000].lines().count() - 1;
    let (mut all, dead) = while_it_reads::<String>(&dir, Format::Text, || {
        let file = File::options().write(true).open(dir.join("a")).unwrap();
        file.set_len(300_000).unwrap();
    });
    assert_eq!(all.pop().unwrap(), "there");
    assert!(text.lines().take(whole).eq(all.iter().map(String::as_str)));
    let (before, parts) = (
        format!("had {} bytes", text.len()),
        ["has 300000 now", "rename it"],
    );
    are(&dead, &[("/a", &["given up", &before, parts[0], parts[1]])]);
}

#[test]
fn unreadable_paths_are_reported_once_and_the_rest_is_read() {
    let dir = Dir::new();
    put(&dir, "a", "first");
    symlink(dir.join("loop"), dir.join("loop")).unwrap();
    symlink(dir.join("later"), dir.join("nowhere yet")).unwrap();
    // A path that is too long: a directory that cannot be listed, not even by root.
    let (mut deep, long) = (dir.join("deep"), "x".repeat(200));
    while deep.as_os_str().len() < 3800 {
        deep.push(&long);
    }
    fs::create_dir_all(&deep).unwrap();
    let inner = dir.join("_inner");
    fs::create_dir_all(inner.join(&long).join(&long)).unwrap();
    fs::rename(inner, deep.join("more")).unwrap();
    put(&dir, "z", "last");
    let files = Files::dir(dir.path(), Format::Text);
    let (found, dead) = read_all::<String>(small(2, 4, 3), files.clone());
    assert_eq!(found, ["first", "last"]);
    let closed = ["given up: cannot list", "File name too long"];
    let open = ["given up: cannot open", "/loop", "symbolic links"];
    are(&dead, &[("x/", &closed), ("/loop", &open)]);
    // It is listed again and again.
    block_on(async {
        let files = files.every(std::time::Duration::from_millis(1));
        let mut reader = Reader::<String>::start(small(2, 4, 3), files).await;
        assert_eq!(reader.receive(2, 2).await.1.len(), 2);
        put(&dir, "later", "third");
        // By one of its two names.
        assert_eq!(reader.receive(1, 0).await, (vec!["third".into()], vec![]));
    });
}

/// A recursive reader overflows the stack and ends the process, and the next one too.
#[test]
fn a_line_nested_too_deeply_is_a_dead_letter() {
    let dir = Dir::new();
    let deep = ["[".repeat(100_000), "]".repeat(100_000)].concat();
    let line = |member: &str| format!("{{\"key\":\"a\",\"{member}\":{deep}}}\n");
    let text = line("value") + &line("more") + "{\"key\":\"b\",\"value\":2}\n";
    put(&dir, "a", text);
    let files = Files::dir(dir.path(), Format::JsonLines);
    let (found, dead) = read_all::<(String, i64)>(small(2, 4, 3), files);
    assert_eq!(found, [("b".to_owned(), 2)]);
    let wanted = [&["line 1: ", "128 levels"], &["line 2: ", "128 levels"]];
    are(&dead, &wanted.map(|words| ("/a", words.as_slice())));
    assert!(dead.iter().all(|letter| letter.bytes.len() == 64 << 10));
}

/// Beside a readable file: compressed bytes, or text in another encoding, are one dead letter and no record.
#[test]
fn compressed_or_non_utf8_files_are_one_dead_letter() {
    let text: String = (0..3000).map(|n| format!("{{\"value\":{n}}}\n")).collect();
    let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let marked = [b"\xff\xfe".as_slice(), &wide].concat();
    // Compressed bytes contain line feeds, and the bytes between may be UTF-8.
    let gzip = [b"\x1f\x8b\x08\0\0\0\0\0\0\x03".as_slice(), text.as_bytes()].concat();
    let zstd = [b"\x28\xb5\x2f\xfd\x04".as_slice(), text.as_bytes()].concat();
    let mut formats = vec![Format::Text, Format::JsonLines, Format::Csv];
    #[cfg(feature = "parquet")]
    formats.push(Format::Parquet);
    for format in formats {
        let dir = Dir::new();
        put(&dir, "a.gz", &gzip);
        put(&dir, "b", &zstd);
        let mut wanted = vec![
            ("/a.gz", ["given up", "gzip"]),
            ("/b", ["given up", "Zstandard"]),
        ];
        let is_text = format == Format::Text;
        if format.extension() != "parquet" {
            put(&dir, "c", &wide);
            put(&dir, "d", &marked);
            wanted.extend([
                ("/c", ["given up", "UTF-16"]),
                ("/d", ["given up", "UTF-16"]),
            ]);
        }
        let files = Files::dir(dir.path(), format);
        let dead = match is_text {
            true => read_none(read_all::<String>(small(2, 4, 3), files)),
            false => read_none(read_all::<i64>(small(2, 4, 3), files)),
        };
        let wanted: Vec<_> = wanted
            .iter()
            .map(|(name, words)| (*name, words.as_slice()))
            .collect();
        are(&dead, &wanted);
    }
}

#[track_caller]
fn read_none<T: std::fmt::Debug>((found, dead): (Vec<T>, Vec<DeadLetter>)) -> Vec<DeadLetter> {
    assert!(found.is_empty(), "{found:?}");
    dead
}

#[test]
fn a_byte_order_mark_is_not_part_of_a_record() {
    let read = |format, text: &str| {
        let dir = Dir::new();
        put(&dir, "a", format!("\u{feff}{text}"));
        (Files::dir(dir.path(), format), dir)
    };
    let one = vec![("a".to_owned(), 1)];
    let pairs = |format, text| {
        let (files, _dir) = read(format, text);
        read_all::<(String, i64)>(small(2, 4, 3), files.piece_bytes(2))
    };
    assert_eq!(
        pairs(Format::JsonLines, "{\"key\":\"a\",\"value\":1}"),
        (one.clone(), vec![])
    );
    assert_eq!(pairs(Format::Csv, "\r\nkey,value\r\na,1"), (one, vec![]));
    let (files, _dir) = read(Format::Text, "a\n\u{feff}b");
    let lines = vec!["a".to_owned(), "\u{feff}b".to_owned()];
    assert_eq!(read_all::<String>(small(2, 4, 3), files), (lines, vec![]));
}

#[cfg(feature = "parquet")]
mod parquet {
    use std::sync::Arc;

    use super::*;
    use crate::files_source::write_groups;
    use dstreams::record::batch_of;

    /// Incompressible texts, and their numbers.
    fn rows(rows: std::ops::Range<i64>) -> Vec<(String, i64)> {
        let text = |n: i64| {
            (0..6)
                .map(|k| format!("{:016x}", (n + 1).wrapping_mul((k + 7) * 0x9E37_79B9_7F4A)))
                .collect()
        };
        rows.map(|n| (text(n), n)).collect()
    }

    /// Other writers' variants of the expected columns: with fewer bits, in a dictionary; but never one of two
    /// columns.
    #[test]
    fn columns_of_narrower_types_are_read_and_ambiguous_ones_refused() {
        use dstreams::arrow::array::{
            ArrayRef, DictionaryArray, Int32Array, Int64Array, RecordBatch,
        };
        use dstreams::arrow::datatypes::{Field, Int8Type, Schema};
        let key: DictionaryArray<Int8Type> = ["a", "b", "a"].into_iter().collect();
        let key: ArrayRef = Arc::new(key);
        let narrow: ArrayRef = Arc::new(Int32Array::from(vec![1, -2, i32::MAX]));
        let wide: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
        let columns = |columns: &[(&str, &ArrayRef)]| {
            let fields = columns
                .iter()
                .map(|(name, of)| Field::new(*name, of.data_type().clone(), true));
            let arrays = columns.iter().map(|(_, array)| Arc::clone(array)).collect();
            RecordBatch::try_new(Arc::new(Schema::new(fields.collect::<Vec<_>>())), arrays).unwrap()
        };
        let dir = Dir::new();
        write_groups(
            &dir.join("a"),
            10,
            &columns(&[("value", &narrow), ("more", &wide), ("key", &key)]),
        );
        write_groups(
            &dir.join("b"),
            10,
            &columns(&[("key", &key), ("value", &wide), ("value", &narrow)]),
        );
        write_groups(
            &dir.join("c"),
            10,
            &columns(&[("key", &wide), ("value", &wide)]),
        );
        let files = Files::dir(dir.path(), Format::Parquet);
        let (found, dead) = read_all::<(String, i64)>(small(2, 50, 30), files);
        let wanted = [("a", 1), ("b", -2), ("a", i64::from(i32::MAX))];
        assert_eq!(found, wanted.map(|(key, value)| (key.to_owned(), value)));
        let twice = ["given up: column \"value\" appears twice"];
        let types = ["key: Utf8View", "key: Int64"];
        are(&dead, &[("/b", &twice), ("/c", &types)]);
    }

    #[test]
    fn damage_costs_the_rows_of_its_row_group() {
        let dir = Dir::new();
        let path = dir.join("a");
        write_groups(&path, 100, &batch_of(rows(0..500)).unwrap());
        let bytes = fs::read(&path).unwrap();
        // The length of a text of the third group.
        let mut torn = bytes.clone();
        let text = &rows(230..231)[0].0;
        let at = torn
            .windows(text.len())
            .position(|found| found == text.as_bytes());
        let at = at.unwrap();
        torn[at - 4..at].fill(0xff);
        put(&dir, "a", torn);
        // The names of the columns are at the end.
        put(&dir, "b", &bytes[..bytes.len() - 20]);
        fs::write(dir.join("c"), bytes).unwrap();
        let files = Files::dir(dir.path(), Format::Parquet);
        let (found, dead) = read_all::<(String, i64)>(small(2, 50, 30), files);
        let wanted = [rows(0..200), rows(300..500), rows(0..500)].concat();
        assert_eq!(found, wanted);
        are(
            &dead,
            &[
                ("/a", &["rows 201 to 300: bytes of a Parquet file"]),
                ("/b", &["given up"]),
            ],
        );
    }

    /// A Parquet file of plain numbers, 100 in each group, whose pages have checksums, as some writers make them: Arrow's
    /// does not.
    fn with_checksums(rows: &[i64]) -> Vec<u8> {
        use ::parquet::column::writer::ColumnCloseResult;
        use ::parquet::file::metadata::ParquetMetaDataReader;
        use ::parquet::file::properties::WriterProperties;
        use ::parquet::file::writer::SerializedFileWriter;
        let plain = WriterProperties::builder()
            .set_dictionary_enabled(false)
            .set_max_row_group_row_count(Some(100))
            .build();
        let batch = batch_of(rows.iter().copied()).unwrap();
        let mut writer =
            ::parquet::arrow::ArrowWriter::try_new(Vec::new(), batch.schema(), Some(plain))
                .unwrap();
        writer.write(&batch).unwrap();
        let bytes = bytes::Bytes::from(writer.into_inner().unwrap());
        let known = ParquetMetaDataReader::new().parse_and_finish(&bytes);
        let known = known.unwrap();
        let columns = known.file_metadata().schema_descr().root_schema_ptr();
        let mut writer = SerializedFileWriter::new(Vec::new(), columns, Arc::default()).unwrap();
        for group in known.row_groups() {
            let column = group.column(0);
            let (start, length) = column.byte_range();
            let pages = add_checksums(&bytes[start as usize..][..length as usize]);
            let metadata = column.clone().into_builder().set_data_page_offset(0);
            let metadata = metadata.set_total_compressed_size(pages.len() as i64);
            let column = ColumnCloseResult {
                bytes_written: pages.len() as u64,
                rows_written: group.num_rows() as u64,
                metadata: metadata.build().unwrap(),
                bloom_filter: None,
                column_index: None,
                offset_index: None,
            };
            let mut to = writer.next_row_group().unwrap();
            to.append_column(&bytes::Bytes::from(pages), column)
                .unwrap();
            to.close().unwrap();
        }
        writer.into_inner().unwrap()
    }

    /// The header of a page is Thrift's compact protocol: its kind, its size unpacked and packed, and then,
    /// optional, the checksum.
    fn add_checksums(mut pages: &[u8]) -> Vec<u8> {
        const NUMBER: u8 = 0x15;
        let mut to = Vec::new();
        while !pages.is_empty() {
            let (mut at, mut size) = (0, 0);
            for _ in 0..3 {
                assert_eq!(pages[at], NUMBER);
                let bytes = pages[at + 1..].iter().take_while(|byte| **byte > 127);
                let bytes = 1 + bytes.count();
                let digits = pages[at + 1..=at + bytes].iter().rev();
                size = digits.fold(0, |size, byte| size << 7 | usize::from(byte & 127)) / 2;
                at += 1 + bytes;
            }
            // Next come the fields of a data page, which end with zeros, of theirs and of the header.
            assert_eq!(pages[at], 0x2c);
            let rest = pages.windows(2).position(|end| end == [0, 0]).unwrap() + 2;
            let (page, next) = pages[rest..].split_at(size);
            let sum = crc32(page) as i32;
            let mut sum = ((sum << 1) ^ (sum >> 31)) as u32;
            to.extend_from_slice(&pages[..at]);
            to.push(NUMBER);
            while sum > 127 {
                to.push(sum as u8 | 128);
                sum >>= 7;
            }
            to.extend([sum as u8, 0x1c]);
            to.extend_from_slice(&pages[at + 1..rest]);
            to.extend_from_slice(page);
            pages = next;
        }
        to
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |sum, byte| {
            (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
                (sum >> 1) ^ (0xEDB8_8320 & (sum & 1).wrapping_neg())
            })
        })
    }

    /// A flipped bit in a page of plain numbers gives another number; only the checksum shows it.
    #[test]
    fn a_page_with_a_wrong_checksum_costs_its_row_group() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        let rows: Vec<i64> = (0..300).map(|n| (n + 1) * 0x0123_4567_89AB).collect();
        let flipped = |mut bytes: Vec<u8>| {
            let value = rows[142].to_le_bytes();
            let at = bytes.windows(8).position(|found| found == value).unwrap();
            bytes[at] ^= 1;
            bytes
        };
        let dir = Dir::new();
        let whole = with_checksums(&rows);
        put(&dir, "a", flipped(whole.clone()));
        put(&dir, "b", whole);
        let files = Files::dir(dir.path(), Format::Parquet);
        let (found, dead) = read_all::<i64>(small(2, 50, 30), files);
        let wanted = [&rows[..100], &rows[200..], &rows].concat();
        assert!(found == wanted, "{} rows", found.len());
        are(&dead, &[("/a", &["rows 101 to 200", "CRC checksum"])]);
    }

    #[test]
    fn a_file_that_becomes_shorter_while_it_is_read_is_given_up() {
        let dir = Dir::new();
        write_groups(&dir.join("a"), 1000, &batch_of(rows(0..6000)).unwrap());
        write_groups(&dir.join("b"), 1000, &batch_of(rows(0..1)).unwrap());
        let length = fs::metadata(dir.join("a")).unwrap().len();
        let (mut all, dead) = while_it_reads::<(String, i64)>(&dir, Format::Parquet, || {
            let file = File::options().write(true).open(dir.join("a")).unwrap();
            file.set_len(length / 3 * 2).unwrap();
        });
        assert_eq!(all.pop().unwrap(), rows(0..1)[0]);
        assert!(
            all.len() < 6000 && all == rows(0..all.len() as i64),
            "{}",
            all.len()
        );
        let had = format!("had {length} bytes");
        are(&dead, &[("/a", &["given up", &had])]);
    }
}
