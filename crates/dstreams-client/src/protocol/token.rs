//! The token that a cluster and its clients share, on the wire.

/// The gRPC header with the token, on every call: `Bearer <token>`.
pub const TOKEN_HEADER: &str = "authorization";

/// The value of [`TOKEN_HEADER`] for a token.
pub fn token_metadata(token: &str) -> String {
    format!("Bearer {token}")
}

/// Reads the value of [`TOKEN_HEADER`]: the token, or `None` if it is not `Bearer <token>`. The word may be
/// in any case.
///
/// A server should compare the token in constant time.
pub fn parse_token_metadata(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Can this text be sent as a token? Visible ASCII characters, at least one.
pub fn is_token(token: &str) -> bool {
    !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_wire() {
        assert_eq!(token_metadata("s3cret"), "Bearer s3cret");
        assert_eq!(parse_token_metadata("Bearer s3cret"), Some("s3cret"));
        assert_eq!(parse_token_metadata("bearer  s3cret"), Some("s3cret"));
        for other in ["", "Bearer", "Bearer ", "Basic s3cret", "s3cret"] {
            assert_eq!(parse_token_metadata(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_token_must_be_valid_in_a_header() {
        assert!(is_token("aZ09-._~+/="));
        for wrong in ["", " ", "two words", "line\n", "gr\u{fc}n"] {
            assert!(!is_token(wrong), "{wrong:?}");
        }
    }
}
