//! [`Fields`]: the fields of a CSV record, without their quotes.
//!
//! A quote is special only at the beginning of a field; inside such a field, two quotes stand for one, and anything
//! after the closing quote belongs to the field as it is.

use std::ops::Range;

/// Memory for the fields of a record, reused for each record.
#[derive(Default)]
pub(super) struct Fields {
    /// The place of each field: in the record, or in `copied`.
    places: Vec<(bool, Range<usize>)>,
    /// Fields that contain quotes.
    copied: String,
}

impl Fields {
    /// Finds the fields of a record; returns their number.
    pub fn split(&mut self, record: &str) -> usize {
        self.places.clear();
        self.copied.clear();
        let bytes = record.as_bytes();
        let mut start = 0;
        loop {
            let end = match bytes.get(start) {
                Some(b'"') => self.quoted(record, start + 1),
                _ => {
                    let end = end_of(bytes, start);
                    self.places.push((false, start..end));
                    end
                }
            };
            if end >= bytes.len() {
                return self.places.len();
            }
            start = end + 1;
        }
    }

    /// Reads a field after its opening quote; returns the position of the comma after it, or the end.
    fn quoted(&mut self, record: &str, start: usize) -> usize {
        let bytes = record.as_bytes();
        let close = |from: usize| {
            let place = memchr::memchr(b'"', &bytes[from..]);
            place.map_or(bytes.len(), |place| from + place)
        };
        let mut closed = close(start);
        let next = bytes.get(closed + 1);
        if next.is_none_or(|next| *next == b',') {
            self.places.push((false, start..closed));
            return (closed + 1).min(bytes.len());
        }
        let (copied, mut from) = (self.copied.len(), start);
        while bytes.get(closed + 1) == Some(&b'"') {
            self.copied.push_str(&record[from..=closed]);
            from = closed + 2;
            closed = close(from);
        }
        self.copied.push_str(&record[from..closed]);
        let end = end_of(bytes, (closed + 1).min(bytes.len()));
        let more = record.get(closed + 1..end).unwrap_or_default();
        self.copied.push_str(more);
        self.places.push((true, copied..self.copied.len()));
        end
    }

    /// Whether there is a carriage return outside of quotes, where other readers end a record.
    pub fn are_cut(&self, record: &str) -> bool {
        let mut inside = false;
        for at in memchr::memchr2_iter(b'\r', b'"', record.as_bytes()) {
            match record.as_bytes()[at] {
                b'"' => inside = !inside,
                _ if inside => {}
                _ => return true,
            }
        }
        false
    }

    /// A field of the record that was split last.
    pub fn get<'a>(&'a self, record: &'a str, place: usize) -> &'a str {
        match self.places.get(place) {
            Some((true, range)) => &self.copied[range.clone()],
            Some((false, range)) => &record[range.clone()],
            None => "",
        }
    }
}

/// The position of the next comma, or the end.
fn end_of(bytes: &[u8], from: usize) -> usize {
    let place = memchr::memchr(b',', &bytes[from..]);
    place.map_or(bytes.len(), |place| from + place)
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::AsArray;
    use datafusion::arrow::csv;
    use datafusion::arrow::datatypes::{DataType, Field, Schema};
    use proptest::prelude::*;
    use std::sync::Arc;

    use super::*;

    fn split(record: &str) -> Vec<String> {
        let mut fields = Fields::default();
        let found = fields.split(record);
        (0..found)
            .map(|n| fields.get(record, n).to_owned())
            .collect()
    }

    #[test]
    fn quotes_are_not_part_of_a_field() {
        let cases: [(&str, &[&str]); 8] = [
            ("", &[""]),
            (",", &["", ""]),
            ("a,\"b\",c", &["a", "b", "c"]),
            ("\"a,\"\"b\"\"\",\"\"", &["a,\"b\"", ""]),
            ("5\",e\"\"", &["5\"", "e\"\""]),
            ("\"a\"b\"\",c", &["ab\"\"", "c"]),
            ("\"\"\"\"", &["\""]),
            ("\"ä\n\"\"ö\",", &["ä\n\"ö", ""]),
        ];
        for (record, wanted) in cases {
            assert_eq!(split(record), wanted, "{record}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

        /// Compares with Arrow's own reader, for complete records.
        #[test]
        fn fields_are_those_that_arrow_finds(record in "[a,\"]{1,12}") {
            let found = split(&record);
            let names = (0..found.len()).map(|n| Field::new(format!("{n}"), DataType::Utf8, true));
            let schema = Arc::new(Schema::new(names.collect::<Vec<_>>()));
            // Arrow's reader accepts an open quote at the end; the splitter never passes on such a record.
            let reader = csv::ReaderBuilder::new(schema).with_header(false).build(record.as_bytes());
            let rows = reader.unwrap().next().unwrap().unwrap();
            let wanted: Vec<_> = rows.columns().iter().map(|column| {
                let texts = column.as_string::<i32>();
                texts.iter().next().unwrap().unwrap_or_default().to_owned()
            }).collect();
            prop_assert_eq!(found, wanted);
        }
    }
}
