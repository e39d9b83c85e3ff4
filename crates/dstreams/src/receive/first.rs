//! [`First`]: what the first bytes of a file or a connection reveal about its format.

/// Number of bytes that are enough to decide.
pub(super) const HEAD: usize = 64;

/// The format of a file or a connection, judged by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum First {
    /// UTF-8 text, after a byte order mark of this many bytes.
    Text(usize),
    /// Text in this other encoding.
    Encoded(&'static str),
    /// Bytes of this format, not lines.
    Packed(&'static str),
}

/// The byte order mark of UTF-8.
const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";

/// Longer marks come before those that they start with.
const ENCODINGS: [(&[u8], &str); 4] = [
    (b"\xff\xfe\0\0", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
];

/// Each contains a byte that text does not start with, or more letters than chance would produce.
const FORMATS: [(&[u8], &str); 11] = [
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "Zstandard"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x04\x22\x4d\x18", "LZ4"),
    (b"\xff\x06\0\0sNaPpY", "Snappy"),
    (b"BZh", "bzip2"),
    (b"PK\x03\x04", "zip"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"PAR1\x15", "Parquet"),
    (b"ARROW1\0", "Arrow IPC"),
    (b"Obj\x01", "Avro"),
];

impl First {
    /// The format of input that begins with `head`: all of it, or at least [`HEAD`] bytes.
    pub fn of(head: &[u8]) -> Self {
        if head.starts_with(UTF8_MARK) {
            return First::Text(UTF8_MARK.len());
        }
        let begins = |(magic, _): &&(&[u8], &'static str)| head.starts_with(magic);
        if let Some((_, name)) = ENCODINGS.iter().find(begins) {
            return First::Encoded(name);
        }
        match FORMATS.iter().find(begins) {
            Some((_, "bzip2")) if !is_bzip2(head) => First::Text(0),
            Some((_, name)) => First::Packed(name),
            None if has_zeros(head, 4) => First::Encoded("UTF-32"),
            None if has_zeros(head, 2) => First::Encoded("UTF-16"),
            None => First::Text(0),
        }
    }

    /// Why it is not UTF-8 text; `None` if it is.
    pub fn refuses(self) -> Option<String> {
        match self {
            First::Text(_) => None,
            First::Encoded(name) => Some(format!(
                "its text is {name}, not UTF-8; convert it (`iconv -t UTF-8`)"
            )),
            First::Packed(name) => Some(format!(
                "its bytes are {name}; unpack it, or exclude such files"
            )),
        }
    }
}

/// A compression level, then the digits of pi, or those of its square root for an empty file.
fn is_bzip2(head: &[u8]) -> bool {
    let digits = head.get(4..10).unwrap_or_default();
    matches!(head.get(3), Some(b'1'..=b'9'))
        && (digits == b"\x31\x41\x59\x26\x53\x59" || digits == b"\x17\x72\x45\x38\x50\x90")
}

/// Whether these are characters of `width` bytes, nearly all of them ASCII: padded with zeros on one side.
fn has_zeros(head: &[u8], width: usize) -> bool {
    let all = head.chunks_exact(width);
    let (mut before, mut behind, number) = (0, 0, all.len());
    for unit in all {
        match (unit.first(), unit.last()) {
            (Some(0), Some(0)) | (None, _) | (_, None) => return false,
            (Some(0), _) => before += usize::from(unit[..width - 1].iter().all(|byte| *byte == 0)),
            (_, Some(0)) => behind += usize::from(unit[1..].iter().all(|byte| *byte == 0)),
            _ => {}
        }
    }
    let most = number - number / 4;
    number > 0 && head.len() >= 4 && (before >= most || behind >= most)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf_16(text: &str, bytes: impl Fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(bytes).collect()
    }

    fn utf_32(text: &str, bytes: impl Fn(u32) -> [u8; 4]) -> Vec<u8> {
        text.chars().flat_map(|c| bytes(c.into())).collect()
    }

    #[test]
    fn encodings_are_known_with_and_without_a_mark() {
        for text in [
            "a\n",
            "to be\nor not\n",
            "{\"key\":\"für\",\"value\":1}\n",
            "\u{feff}日本\n",
        ] {
            let (sixteen, thirty_two) = (First::Encoded("UTF-16"), First::Encoded("UTF-32"));
            assert_eq!(
                First::of(&utf_16(text, u16::to_le_bytes)),
                sixteen,
                "{text}"
            );
            assert_eq!(
                First::of(&utf_16(text, u16::to_be_bytes)),
                sixteen,
                "{text}"
            );
            assert_eq!(
                First::of(&utf_32(text, u32::to_le_bytes)),
                thirty_two,
                "{text}"
            );
            assert_eq!(
                First::of(&utf_32(text, u32::to_be_bytes)),
                thirty_two,
                "{text}"
            );
        }
    }

    #[test]
    fn plain_text_is_recognised() {
        let all = [
            "",
            "\n",
            "a",
            "\0",
            "a\0b",
            "a\0\0b\0c",
            "\0\0\0\0",
            "BZh",
            "BZh9 is how it begins",
            "PAR1",
            "Obj",
            "PK",
            "ä",
        ];
        for text in all {
            assert_eq!(First::of(text.as_bytes()), First::Text(0), "{text:?}");
        }
        assert_eq!(First::of("\u{feff}a".as_bytes()), First::Text(3));
        assert_eq!(First::of(b"\xfcber"), First::Text(0));
        assert_eq!(First::Text(0).refuses(), None);
    }

    #[test]
    fn compressed_formats_are_named() {
        assert_eq!(First::of(b"BZh91AY&SY..."), First::Packed("bzip2"));
        assert_eq!(First::of(b"\x1f\x8b\x08\0\0\0"), First::Packed("gzip"));
        let why = First::of(b"\x28\xb5\x2f\xfd\x04").refuses().unwrap();
        assert!(why.contains("Zstandard") && why.contains("unpack"), "{why}");
    }
}
