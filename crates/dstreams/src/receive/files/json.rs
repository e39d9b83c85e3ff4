//! [`object()`]: the members of one line of JSON, strictly by RFC 8259.
//!
//! One pass over the bytes, without recursion and without allocation: the nesting of values is bounded, also of
//! those that belong to no column.

/// Maximum nesting of lists and objects in a line, including the line's own object; the same bound as in
/// serde_json.
pub(super) const DEPTH: u32 = 128;

/// A syntax error: its position in the line, and a description.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub at: usize,
    pub what: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JsonType {
    Null,
    True,
    False,
    Number,
    /// A text, with whether it has escapes.
    Text(bool),
    List,
    Object,
}

/// A value and its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Value<'a> {
    pub kind: JsonType,
    pub text: &'a str,
}

/// Passes the members of the single object in `line` to `member`, in order: name (possibly with escapes) and value.
/// The line may also be the text of an object that was found in another line.
pub(super) fn object<'a>(
    line: &'a str,
    mut member: impl FnMut(Value<'a>, Value<'a>),
) -> Result<(), Fault> {
    let mut scan = Scan { text: line, at: 0 };
    scan.skip_blanks();
    if scan.peek() != Some(b'{') {
        return scan.fault("it is not a JSON object");
    }
    scan.at += 1;
    scan.skip_blanks();
    if scan.peek() == Some(b'}') {
        scan.at += 1;
        return scan.end();
    }
    loop {
        let name = scan.name()?;
        let value = scan.value(1)?;
        member(name, value);
        scan.skip_blanks();
        match scan.peek() {
            Some(b',') => scan.at += 1,
            Some(b'}') => break,
            _ => return scan.fault(NEXT_MEMBER),
        }
        scan.skip_blanks();
    }
    scan.at += 1;
    scan.end()
}

/// Passes the items of a list to `item`; the list was found by [`object()`].
pub(super) fn items<'a>(
    list: &'a str,
    mut item: impl FnMut(Value<'a>) -> Result<(), String>,
) -> Result<(), String> {
    let mut scan = Scan { text: list, at: 1 };
    loop {
        scan.skip_blanks();
        match scan.peek() {
            Some(b']') | None => return Ok(()),
            Some(b',') => scan.at += 1,
            Some(_) => match scan.value(0) {
                Ok(value) => item(value)?,
                Err(fault) => return Err(fault.what.into()),
            },
        }
    }
}

/// Appends a text without its escapes to `to`; fails at half a surrogate pair.
pub(super) fn unescape(text: &str, to: &mut String) -> Result<(), String> {
    let mut left = text;
    while let Some((before, escape)) = left.split_once('\\') {
        to.push_str(before);
        let (found, length) = match escape.as_bytes().first() {
            Some(b'b') => ('\x08', 1),
            Some(b'f') => ('\x0c', 1),
            Some(b'n') => ('\n', 1),
            Some(b'r') => ('\r', 1),
            Some(b't') => ('\t', 1),
            Some(b'u') => unicode(escape)
                .ok_or("a text has half of a surrogate pair, which is not a character")?,
            Some(other) => (char::from(*other), 1),
            None => break,
        };
        to.push(found);
        left = escape.get(length..).unwrap_or_default();
    }
    to.push_str(left);
    Ok(())
}

/// The character of the escape `uXXXX`, or `uXXXX\uXXXX`, at the beginning of `escape`, and its length.
fn unicode(escape: &str) -> Option<(char, usize)> {
    let unit = |escape: Option<&str>| {
        let digits = escape?.strip_prefix('u')?.get(..4)?;
        u32::from_str_radix(digits, 16).ok()
    };
    let high = unit(Some(escape))?;
    if let Some(found) = char::from_u32(high) {
        return Some((found, 5));
    }
    let low = unit(escape.get(5..)?.strip_prefix('\\'))?;
    let is_pair = (0xD800..0xDC00).contains(&high) && (0xDC00..0xE000).contains(&low);
    let found = is_pair.then(|| 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00));
    Some((char::from_u32(found?)?, 11))
}

const NEXT_MEMBER: &str = "expected a comma or the end of the object";

struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    fn fault<T>(&self, what: &'static str) -> Result<T, Fault> {
        Err(Fault { at: self.at, what })
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    #[inline]
    fn skip_blanks(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.peek() {
            self.at += 1;
        }
    }

    fn end(&mut self) -> Result<(), Fault> {
        self.skip_blanks();
        match self.peek() {
            None => Ok(()),
            Some(_) => self.fault("something follows the object"),
        }
    }

    /// A name and its colon.
    fn name(&mut self) -> Result<Value<'a>, Fault> {
        if self.peek() != Some(b'"') {
            return self.fault("expected a name in quotes");
        }
        let name = self.scalar()?;
        self.skip_blanks();
        if self.peek() != Some(b':') {
            return self.fault("expected a colon");
        }
        self.at += 1;
        Ok(name)
    }

    /// A value nested in `depth` lists and objects.
    fn value(&mut self, mut depth: u32) -> Result<Value<'a>, Fault> {
        self.skip_blanks();
        let (start, outside) = (self.at, depth);
        let kind = match self.peek() {
            Some(b'{') => JsonType::Object,
            Some(b'[') => JsonType::List,
            _ => return self.scalar(),
        };
        // One bit for each level: 1 for objects.
        let mut levels: u128 = 0;
        loop {
            match self.peek() {
                Some(open @ (b'{' | b'[')) => {
                    if depth == DEPTH {
                        return self.fault("lists and objects are nested deeper than 128 levels");
                    }
                    let is_object = open == b'{';
                    (depth, levels) = (depth + 1, levels << 1 | u128::from(is_object));
                    self.at += 1;
                    self.skip_blanks();
                    match self.peek() {
                        Some(b'}') if is_object => {}
                        Some(b']') if !is_object => {}
                        _ if is_object => {
                            self.name()?;
                            self.skip_blanks();
                            continue;
                        }
                        _ => continue,
                    }
                }
                _ => {
                    self.scalar()?;
                }
            }
            // Ends of lists and objects, then what follows.
            loop {
                self.skip_blanks();
                let is_object = levels & 1 == 1;
                match self.peek() {
                    Some(b'}') if is_object => {}
                    Some(b']') if !is_object => {}
                    Some(b',') => {
                        self.at += 1;
                        self.skip_blanks();
                        if is_object {
                            self.name()?;
                            self.skip_blanks();
                        }
                        break;
                    }
                    _ if is_object => return self.fault(NEXT_MEMBER),
                    _ => return self.fault("expected a comma or the end of the list"),
                }
                self.at += 1;
                (depth, levels) = (depth - 1, levels >> 1);
                if depth == outside {
                    return Ok(self.found(kind, start));
                }
            }
        }
    }

    #[inline]
    fn scalar(&mut self) -> Result<Value<'a>, Fault> {
        let start = self.at;
        let kind = match self.peek() {
            Some(b'"') => return self.text(),
            Some(b'-' | b'0'..=b'9') => {
                self.number()?;
                JsonType::Number
            }
            Some(b't') => self.literal(b"true", JsonType::True)?,
            Some(b'f') => self.literal(b"false", JsonType::False)?,
            Some(b'n') => self.literal(b"null", JsonType::Null)?,
            _ => return self.fault("expected a value"),
        };
        Ok(self.found(kind, start))
    }

    /// The value from `start` to here.
    #[inline]
    fn found(&self, kind: JsonType, start: usize) -> Value<'a> {
        // Values begin and end next to ASCII.
        let text = self.text.get(start..self.at).unwrap_or_default();
        Value { kind, text }
    }

    fn literal(&mut self, word: &[u8], kind: JsonType) -> Result<JsonType, Fault> {
        if !self.text.as_bytes()[self.at..].starts_with(word) {
            return self.fault("expected a value");
        }
        self.at += word.len();
        Ok(kind)
    }

    #[inline]
    fn text(&mut self) -> Result<Value<'a>, Fault> {
        self.at += 1;
        let (start, mut escapes) = (self.at, false);
        loop {
            let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
            let plain = rest
                .iter()
                .position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20));
            self.at += plain.unwrap_or(rest.len());
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    escapes = true;
                    self.at += 1;
                    self.escape()?;
                }
                Some(_) => return self.fault("a text has a control character in it"),
                None => return self.fault("a text has no end"),
            }
        }
        let text = self.found(JsonType::Text(escapes), start);
        self.at += 1;
        Ok(text)
    }

    /// After the backslash.
    fn escape(&mut self) -> Result<(), Fault> {
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                let digits = self.text.as_bytes().get(self.at + 1..self.at + 5);
                if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
                    return self.fault("an escape has no four hexadecimal digits");
                }
                self.at += 5;
            }
            _ => return self.fault("invalid escape"),
        }
        Ok(())
    }

    #[inline]
    fn number(&mut self) -> Result<(), Fault> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => {
                self.at += 1;
                if let Some(b'0'..=b'9') = self.peek() {
                    return self.fault("a number begins with 0");
                }
            }
            _ => self.digits()?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    /// At least one digit.
    #[inline]
    fn digits(&mut self) -> Result<(), Fault> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        match self.at > start {
            true => Ok(()),
            false => self.fault("expected a digit"),
        }
    }
}

#[cfg(test)]
mod tests;
