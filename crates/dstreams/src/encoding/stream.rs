//! [`ByteOutput`] and [`ByteInput`]: frames ([`FrameFormat`]) piece by piece, so that they are never in memory as
//! a whole.
//!
//! The bytes are the same as those of a frame in one buffer. Frames may be nested; each has its own checksum,
//! which is verified at its end. Numbers are little-endian; a list begins with its length. A length beyond the
//! available bytes is an error, and allocates no memory beyond the bytes received.

use bytes::Bytes;
use datafusion::arrow::buffer::{Buffer, MutableBuffer};
use xxhash_rust::xxh3::Xxh3;

use super::frame::FrameFormat;
use crate::debug::debug_as;
use crate::error::{Error, Result};

/// The most bytes of a piece.
pub(crate) const PIECE: usize = 1 << 20;
/// Numbers that are converted to bytes at once.
const NUMBERS_AT_ONCE: usize = 512;

/// A writer of bytes, a piece at a time.
pub struct ByteOutput<'a> {
    each: &'a mut dyn FnMut(Vec<u8>) -> Result<()>,
    piece: Vec<u8>,
    /// The checksums of open frames, the outermost first.
    sums: Vec<Xxh3>,
}

debug_as!(ByteOutput<'_>);

impl<'a> ByteOutput<'a> {
    /// Calls `each` with every full piece, and with the last one at the end.
    pub fn new(each: &'a mut dyn FnMut(Vec<u8>) -> Result<()>) -> Self {
        ByteOutput {
            each,
            piece: Vec::new(),
            sums: Vec::new(),
        }
    }

    pub(crate) fn begin(&mut self, format: &FrameFormat) -> Result<()> {
        self.sums.push(Xxh3::new());
        self.put(&format.begin(0))
    }

    /// Ends the innermost frame.
    pub(crate) fn seal(&mut self) -> Result<()> {
        let sum = self.sums.pop().map_or(0, |sum| sum.digest());
        self.put_number(sum)
    }

    pub(crate) fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.sums.iter_mut().for_each(|sum| sum.update(bytes));
        while !bytes.is_empty() {
            let room = PIECE - self.piece.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.piece.extend_from_slice(now);
            bytes = later;
            if self.piece.len() == PIECE {
                (self.each)(std::mem::take(&mut self.piece))?;
            }
        }
        Ok(())
    }

    pub(crate) fn put_number(&mut self, number: u64) -> Result<()> {
        self.put(&number.to_le_bytes())
    }

    /// Bytes after their length.
    pub(crate) fn put_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.put_number(bytes.len() as u64)?;
        self.put(bytes)
    }

    pub(crate) fn put_numbers<'n>(
        &mut self,
        numbers: impl ExactSizeIterator<Item = &'n u64>,
    ) -> Result<()> {
        self.put_list(numbers.map(|number| number.to_le_bytes()))
    }

    pub(crate) fn put_slots(&mut self, slots: &[u32]) -> Result<()> {
        self.put_list(slots.iter().map(|slot| slot.to_le_bytes()))
    }

    fn put_list<const N: usize>(
        &mut self,
        mut items: impl ExactSizeIterator<Item = [u8; N]>,
    ) -> Result<()> {
        self.put_number(items.len() as u64)?;
        let mut some = Vec::with_capacity(NUMBERS_AT_ONCE * N);
        while items.len() > 0 {
            some.clear();
            items
                .by_ref()
                .take(NUMBERS_AT_ONCE)
                .for_each(|item| some.extend(item));
            self.put(&some)?;
        }
        Ok(())
    }

    /// Passes on the last piece.
    pub fn end(self) -> Result<()> {
        match self.piece.is_empty() {
            true => Ok(()),
            false => (self.each)(self.piece),
        }
    }
}

type Pieces<'a> = dyn FnMut() -> Result<Option<Bytes>> + 'a;

/// A reader of bytes, a piece at a time.
pub struct ByteInput<'a> {
    next: Box<Pieces<'a>>,
    piece: Bytes,
    /// The open frames, the outermost first: their names, and the checksums of the bytes read so far.
    frames: Vec<(&'static str, Xxh3)>,
    /// Bytes left of the part being read.
    left: u64,
    /// The largest buffer so far.
    #[cfg(test)]
    pub largest: usize,
}

debug_as!(ByteInput<'_>);

impl<'a> ByteInput<'a> {
    /// Bytes whose pieces come from `next`.
    pub fn new(next: impl FnMut() -> Result<Option<Bytes>> + 'a) -> Self {
        ByteInput {
            next: Box::new(next),
            piece: Bytes::new(),
            frames: Vec::new(),
            left: u64::MAX,
            #[cfg(test)]
            largest: 0,
        }
    }

    /// Bytes in one buffer.
    pub fn of(bytes: impl Into<Bytes>) -> Self {
        let mut bytes = Some(bytes.into());
        ByteInput::new(move || Ok(bytes.take()))
    }

    /// An error about these bytes.
    pub(crate) fn wrong(&self, message: impl Into<String>) -> Error {
        Error::Bytes {
            what: self.frames.last().map_or("bytes", |(what, _)| what).into(),
            message: message.into(),
        }
    }

    /// Whether there is another byte; if so, it is in the piece.
    fn has_more(&mut self) -> Result<bool> {
        while self.left > 0 && self.piece.is_empty() {
            match (self.next)()? {
                Some(piece) => self.piece = piece,
                None => return Ok(false),
            }
        }
        Ok(self.left > 0)
    }

    /// The next bytes: at least one, at most `most`.
    fn some(&mut self, most: u64) -> Result<Bytes> {
        if !self.has_more()? {
            return Err(self.wrong("there are not enough bytes: they end too early"));
        }
        let most = most.min(self.left).min(self.piece.len() as u64);
        self.left -= most;
        Ok(self.piece.split_to(most as usize))
    }

    /// Calls `each` with the next `length` bytes, in pieces.
    fn each(&mut self, length: u64, mut each: impl FnMut(&[u8])) -> Result<()> {
        let mut left = length;
        while left > 0 {
            let some = self.some(left)?;
            left -= some.len() as u64;
            self.frames
                .iter_mut()
                .for_each(|(_, sum)| sum.update(&some));
            each(&some);
        }
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (mut array, mut at) = ([0; N], 0);
        self.each(N as u64, |some| {
            array[at..at + some.len()].copy_from_slice(some);
            at += some.len();
        })?;
        Ok(array)
    }

    /// Reads the beginning of a frame.
    pub(crate) fn open(&mut self, format: &FrameFormat) -> Result<()> {
        self.frames.push((format.what, Xxh3::new()));
        let head: [u8; 12] = self.array()?;
        format.open_unsealed(&head).map(drop)
    }

    /// Reads the beginning of a frame in one of several formats of a kind, the newest first; returns which.
    pub(crate) fn open_one_of<const N: usize>(
        &mut self,
        formats: [&FrameFormat; N],
    ) -> Result<usize> {
        self.frames.push((formats[0].what, Xxh3::new()));
        let head: [u8; 12] = self.array()?;
        let fits = |format: &&FrameFormat| format.open_unsealed(&head).is_ok();
        match formats.iter().position(fits) {
            Some(format) => Ok(format),
            None => formats[0].open_unsealed(&head).map(|_| 0),
        }
    }

    /// Reads the end of the innermost frame, which must also be the end of the part or of all bytes.
    pub(crate) fn close(&mut self) -> Result<()> {
        let sum = self.frames.last().map_or(0, |(_, sum)| sum.digest());
        let found = self.array()?;
        let more = self.rest()?;
        let error = match more {
            0 if sum == u64::from_le_bytes(found) => None,
            0 => Some(self.wrong("they are damaged: their checksum does not match")),
            more => Some(self.wrong(format!("{more} bytes after the end"))),
        };
        self.frames.pop();
        error.map_or(Ok(()), Err)
    }

    /// Skips the rest; returns its length.
    fn rest(&mut self) -> Result<u64> {
        let mut bytes = 0;
        while self.has_more()? {
            let most = self.piece.len() as u64;
            self.each(most.min(self.left), |some| bytes += some.len() as u64)?;
        }
        Ok(bytes)
    }

    /// Reads a part, which follows its length, and must be read completely.
    pub(crate) fn part<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let length = self.number()?;
        if length > self.left {
            return Err(self.wrong("a part is longer than the bytes left"));
        }
        let after = std::mem::replace(&mut self.left, length) - length;
        let part = read(self)?;
        if self.left > 0 {
            return Err(self.wrong(format!("{} bytes after the end", self.left)));
        }
        // An unlimited input stays unlimited.
        self.left = if after > u64::MAX / 2 {
            u64::MAX
        } else {
            after
        };
        Ok(part)
    }

    pub(crate) fn number(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A buffer of this length, in the form that Arrow takes.
    pub(crate) fn buffer(&mut self, length: u64) -> Result<Buffer> {
        if length > self.left {
            return Err(self.wrong("a part is longer than the bytes left"));
        }
        let mut bytes = MutableBuffer::new(length.min(PIECE as u64) as usize);
        self.each(length, |some| bytes.extend_from_slice(some))?;
        #[cfg(test)]
        {
            self.largest = self.largest.max(bytes.len());
        }
        Ok(bytes.into())
    }

    pub(crate) fn text(&mut self) -> Result<String> {
        let bytes = self.list::<1, u8>(|[byte]| byte)?;
        String::from_utf8(bytes).map_err(|error| self.wrong(error.to_string()))
    }

    /// A list of `count` numbers.
    pub(crate) fn numbers<T: FromIterator<u64>>(&mut self, count: usize) -> Result<T> {
        let list = self.list(u64::from_le_bytes)?;
        match list.len() {
            found if found == count => Ok(list.into_iter().collect()),
            found => Err(self.wrong(format!("{found} numbers where {count} belong"))),
        }
    }

    /// A list of slots, all below `slots`.
    pub(crate) fn slots(&mut self, slots: usize) -> Result<Vec<u32>> {
        let list = self.list(u32::from_le_bytes)?;
        match list.iter().find(|slot| **slot as usize >= slots) {
            Some(slot) => Err(self.wrong(format!("slot {slot} where there are {slots} slots"))),
            None => Ok(list),
        }
    }

    fn list<const N: usize, T>(&mut self, of: impl Fn([u8; N]) -> T) -> Result<Vec<T>> {
        let items = self.number()?;
        let length = items
            .checked_mul(N as u64)
            .filter(|length| *length <= self.left);
        let too_long = "a list is longer than the bytes left";
        let length = length.ok_or_else(|| self.wrong(too_long))?;
        let mut list = Vec::new();
        // The bytes so far of an item that spans two pieces.
        let mut partial: Vec<u8> = Vec::new();
        self.each(length, |mut some| {
            while !partial.is_empty() && partial.len() < N && !some.is_empty() {
                partial.push(some[0]);
                some = &some[1..];
            }
            list.extend(partial.as_chunks().0.iter().map(|item| of(*item)));
            if partial.len() == N {
                partial.clear();
            }
            if partial.is_empty() {
                let (items, rest) = some.as_chunks();
                list.extend(items.iter().map(|item| of(*item)));
                partial.extend(rest);
            }
        })?;
        Ok(list)
    }
}

/// The written bytes in one buffer.
#[cfg(test)]
pub(crate) fn in_one(write: impl FnOnce(&mut ByteOutput<'_>) -> Result<()>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut each = |piece: Vec<u8>| {
        bytes.extend(piece);
        Ok(())
    };
    let mut to = ByteOutput::new(&mut each);
    write(&mut to)?;
    to.end()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OUTER: FrameFormat = FrameFormat {
        what: "a test",
        magic: *b"dstr-tst",
        version: 3,
    };
    const INNER: FrameFormat = FrameFormat {
        what: "a part",
        magic: *b"dstr-prt",
        version: 1,
    };

    fn write(to: &mut ByteOutput<'_>, numbers: &[u64], slots: &[u32]) -> Result<()> {
        to.begin(&OUTER)?;
        to.put_number(7)?;
        to.put_number(12 + 8 + 8 * numbers.len() as u64 + 8)?;
        to.begin(&INNER)?;
        to.put_numbers(numbers.iter())?;
        to.seal()?;
        to.put_slots(slots)?;
        to.put_bytes("text".as_bytes())?;
        to.seal()
    }

    fn read(from: &mut ByteInput<'_>, count: usize) -> Result<(Vec<u64>, Vec<u32>, String)> {
        from.open(&OUTER)?;
        assert_eq!(from.number()?, 7);
        let numbers = from.part(|from| {
            from.open(&INNER)?;
            let numbers = from.numbers(count)?;
            from.close()?;
            Ok(numbers)
        })?;
        let (slots, text) = (from.slots(1 << 20)?, from.text()?);
        from.close()?;
        Ok((numbers, slots, text))
    }

    proptest! {
        /// The bytes equal those of a frame in one buffer, and can be read however they are cut.
        #[test]
        fn written_bytes_can_be_read_in_any_pieces(
            numbers in prop::collection::vec(any::<u64>(), 0..1500),
            slots in prop::collection::vec(0_u32..1 << 20, 0..1500),
            cut in 1_usize..5000,
        ) {
            let bytes = in_one(|to| write(to, &numbers, &slots)).unwrap();
            let body = OUTER.open(&bytes).unwrap();
            INNER.open(&body[16..body.len() - 8 - 4 * slots.len() - 12]).unwrap();
            let mut pieces = bytes.chunks(cut);
            let mut from = ByteInput::new(|| Ok(pieces.next().map(Bytes::copy_from_slice)));
            let (found, found_slots, text) = read(&mut from, numbers.len()).unwrap();
            prop_assert_eq!((found, found_slots), (numbers, slots));
            prop_assert_eq!(text, "text");
        }
    }

    #[test]
    fn damaged_bytes_and_wrong_lengths_are_refused() {
        let mut bytes = in_one(|to| write(to, &[1, 2], &[3])).unwrap();
        for bit in 0..8 * bytes.len() {
            // The reader checks the number itself.
            if !(96..160).contains(&bit) {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(
                    read(&mut ByteInput::of(bytes.clone()), 2).is_err(),
                    "bit {bit}"
                );
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
        for end in 0..bytes.len() {
            assert!(read(&mut ByteInput::of(bytes[..end].to_vec()), 2).is_err());
        }
        bytes.push(0);
        let longer = read(&mut ByteInput::of(bytes), 2).unwrap_err().to_string();
        assert!(longer.contains("1 bytes after the end"), "{longer}");
    }

    #[test]
    fn pieces_have_bounded_size() {
        let mut sizes = Vec::new();
        let mut each = |piece: Vec<u8>| {
            sizes.push(piece.len());
            Ok(())
        };
        let mut to = ByteOutput::new(&mut each);
        to.put_bytes(&vec![0; 3 * PIECE]).unwrap();
        to.end().unwrap();
        assert_eq!(sizes, [PIECE, PIECE, PIECE, 8]);
    }
}
