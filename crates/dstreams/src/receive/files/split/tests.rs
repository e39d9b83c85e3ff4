//! Records of any file, whatever the piece size, compared with a split of the whole text.

use proptest::prelude::*;

use super::*;

type Found = (Vec<(u64, String)>, Vec<(u64, String, u64)>);

/// Records, and bad lines with their numbers.
fn split(bytes: &[u8], format: Format, piece: usize, limit: usize) -> Found {
    let mut splitter = Splitter::new(bytes, format, piece, limit);
    let (mut records, mut bad) = (Vec::new(), Vec::new());
    let mut last = 0;
    while let Some(chunk) = splitter.next().unwrap() {
        for span in &chunk.records {
            let text = &chunk.bytes[span.start..span.end];
            records.push((span.line, String::from_utf8(text.to_vec()).unwrap()));
            assert!(span.line > last && span.line <= chunk.last);
        }
        for (line, found) in chunk.bad {
            let text = String::from_utf8(found.bytes).unwrap();
            bad.push((line, text, found.length));
            assert!(line > last && line <= chunk.last);
        }
        last = chunk.last;
        assert!(
            splitter.rest.len() <= piece + limit + 1,
            "memory is bounded"
        );
    }
    (records, bad)
}

/// The lines of a text, split as a whole.
fn lines(text: &str, limit: usize) -> Found {
    let (mut records, mut bad) = (Vec::new(), Vec::new());
    let whole = text.strip_suffix('\n').unwrap_or(text);
    let all = if text.is_empty() {
        None
    } else {
        Some(whole.split('\n'))
    };
    for (line, text) in (1..).zip(all.into_iter().flatten()) {
        let text = text.strip_suffix('\r').unwrap_or(text).to_owned();
        match text.len() > limit {
            true => bad.push((line, text.clone(), text.len() as u64)),
            false => records.push((line, text)),
        }
    }
    (records, bad)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn lines_do_not_depend_on_pieces(text in "[a\r\n]{0,60}", piece in 1..20usize, limit in 1..9usize) {
        prop_assert_eq!(split(text.as_bytes(), Format::Text, piece, limit), lines(&text, limit));
    }

    #[test]
    fn csv_does_not_depend_on_pieces(text in "[a,\"\r\n]{0,60}", piece in 1..20usize, limit in 1..30usize) {
        let whole = split(text.as_bytes(), Format::Csv, 1000, limit);
        prop_assert_eq!(split(text.as_bytes(), Format::Csv, piece, limit), whole);
    }
}

#[test]
fn line_feeds_in_quotes_are_part_of_a_record() {
    let text = "a,\"b\n\"\"c\"\nd,\"\"\n5\",e\n\"x\n";
    for piece in 1..20 {
        let (records, bad) = split(text.as_bytes(), Format::Csv, piece, 100);
        let wanted = [(1, "a,\"b\n\"\"c\""), (3, "d,\"\""), (4, "5\",e")];
        assert_eq!(records, wanted.map(|(line, text)| (line, text.to_owned())));
        assert_eq!(bad, [(5, "\"x".to_owned(), 2)]);
    }
}

#[test]
fn a_quote_that_is_never_closed_costs_its_line() {
    let mut text = "1,\"open\n".to_owned();
    (2..100).for_each(|n| text += &format!("{n},x\n"));
    for piece in [3, 50, 10_000] {
        let (records, bad) = split(text.as_bytes(), Format::Csv, piece, 60);
        assert_eq!(records.len(), 98);
        assert_eq!(records[0], (2, "2,x".to_owned()));
        assert_eq!(bad, [(1, "1,\"open".to_owned(), 7)]);
    }
}
