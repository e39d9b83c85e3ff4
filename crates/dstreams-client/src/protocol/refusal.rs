//! Refusals that reach the client: a text too long for a header takes the code with it.

use tonic::Status;

/// The longest text of a refusal, in bytes. It travels in a header, where a byte may become three, and common gRPC
/// libraries accept headers of 8 KiB: with a longer one the client sees a broken stream, and retries a final error.
pub const MAX_REFUSAL_BYTES: usize = 2 << 10;

/// The refusal with its text cut to a length that reaches the client.
pub fn refusal(status: Status) -> Status {
    if status.message().len() <= MAX_REFUSAL_BYTES {
        return status;
    }
    let text = cut(status.message().to_owned());
    Status::with_metadata(status.code(), text, status.metadata().clone())
}

/// At most [`MAX_REFUSAL_BYTES`] of a text that may contain remote input.
pub(super) fn cut(mut text: String) -> String {
    const END: &str = " ... (cut)";
    if text.len() > MAX_REFUSAL_BYTES {
        let most = MAX_REFUSAL_BYTES - END.len();
        let end = (0..=most).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
        text.push_str(END);
    }
    text
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters_and_a_short_one_stays() {
        for letter in ["x", "\u{e9}", "\u{20ac}", "\u{1f980}"] {
            for count in [0, 1, 500, 510, 511, 512, 513, 1024, 2047, 2048, 2049, 9999] {
                let text = letter.repeat(count);
                let short = refusal(Status::not_found(text.clone()));
                assert_eq!(short.code(), Code::NotFound);
                if text.len() <= MAX_REFUSAL_BYTES {
                    assert_eq!(short.message(), text);
                } else {
                    let length = short.message().len();
                    assert!((2040..=MAX_REFUSAL_BYTES).contains(&length), "{length}");
                    let whole = short.message().strip_suffix(" ... (cut)").unwrap();
                    assert!(text.starts_with(whole));
                }
            }
        }
    }
}
