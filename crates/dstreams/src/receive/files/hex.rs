//! Bytes and UUIDs from hexadecimal digits.

const NO_BYTES: &str = "it is not bytes as pairs of hexadecimal digits";
const NO_UUID: &str = "it is not a UUID of 32 hexadecimal digits, with or without dashes";
/// Places of the dashes in the text of a UUID.
const DASHES: [usize; 4] = [8, 13, 18, 23];

/// Replaces `to` by the bytes.
pub(super) fn bytes(text: &str, to: &mut Vec<u8>) -> Result<(), &'static str> {
    to.clear();
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    for pair in pairs {
        to.push(byte(*pair).ok_or(NO_BYTES)?);
    }
    match rest {
        [] => Ok(()),
        _ => Err(NO_BYTES),
    }
}

/// `30313233-3435-3637-3839-616263646566`, or the same without dashes.
pub(super) fn uuid(text: &str) -> Result<[u8; 16], &'static str> {
    let text = text.as_bytes();
    let mut digits = [0; 32];
    match text.len() {
        32 => digits.copy_from_slice(text),
        36 if DASHES.iter().all(|place| text[*place] == b'-') => {
            let is_digit = |place: &usize| !DASHES.contains(place);
            for (digit, place) in digits.iter_mut().zip((0..36).filter(is_digit)) {
                *digit = text[place];
            }
        }
        _ => return Err(NO_UUID),
    }
    let mut uuid = [0; 16];
    for (to, pair) in uuid.iter_mut().zip(digits.as_chunks::<2>().0) {
        *to = byte(*pair).ok_or(NO_UUID)?;
    }
    Ok(uuid)
}

fn byte([high, low]: [u8; 2]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    Some((digit(high)? << 4 | digit(low)?) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::record::Uuid;

    #[test]
    fn pairs_of_digits_are_bytes() {
        let mut found = vec![7];
        for (text, wanted) in [("", &[][..]), ("00ff7F", &[0, 255, 127])] {
            bytes(text, &mut found).unwrap();
            assert_eq!(found, wanted);
        }
        for text in ["0", "000", "0x00", "0g", "+1", " 00", "é"] {
            assert_eq!(bytes(text, &mut found), Err(NO_BYTES), "{text}");
        }
    }

    #[test]
    fn a_uuid_is_its_text() {
        let id = Uuid(*b"\0\x01\xff3456789abcdef");
        let text = id.to_string();
        for text in [text.clone(), text.replace('-', ""), text.to_uppercase()] {
            assert_eq!(uuid(&text), Ok(id.0), "{text}");
        }
        let wrong = [
            "".to_owned(),
            text[1..].to_owned(),
            text.replace('-', ":"),
            format!("{{{text}}}"),
            text.replace("ff", "fg"),
            text.replacen('-', "0", 1),
        ];
        for text in wrong {
            assert_eq!(uuid(&text), Err(NO_UUID), "{text}");
        }
    }
}
