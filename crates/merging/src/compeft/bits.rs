//! Bits into bytes and back, the most significant bit of a byte first.

/// Collects bits.
#[derive(Default)]
pub struct BitWriter {
    bytes: Vec<u8>,
    /// The bits that fill no byte yet, in the lowest places.
    rest: u64,
    count: u32,
}

impl BitWriter {
    /// An empty writer with memory for so many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ..Self::default() }
    }

    /// Append the lowest `count` bits of `value`, at most 32; the others must be 0.
    #[inline]
    pub fn push(&mut self, value: u64, count: u32) {
        debug_assert!(count <= 32 && value >> count == 0);
        self.rest = self.rest << count | value;
        self.count += count;
        if self.count >= 32 {
            self.count -= 32;
            self.bytes.extend_from_slice(&((self.rest >> self.count) as u32).to_be_bytes());
        }
    }

    /// The bytes; the last is filled up with zeros.
    pub fn finish(mut self) -> Vec<u8> {
        let rest = (self.rest << ((64 - self.count) % 64)).to_be_bytes();
        self.bytes.extend_from_slice(&rest[..self.count.div_ceil(8) as usize]);
        self.bytes
    }
}

/// Reads bits.
pub struct BitReader<'a> {
    bytes: &'a [u8],
    /// The next bit.
    at: u64,
}

impl<'a> BitReader<'a> {
    /// From the first bit of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next bits, at least 57 of them, the next one in the highest place. Zeros follow the last bit.
    #[inline]
    pub fn peek(&self) -> u64 {
        let byte = (self.at / 8) as usize;
        let word = match self.bytes.get(byte..byte + 8) {
            Some(word) => u64::from_be_bytes(word.try_into().expect("eight bytes")),
            None => {
                let mut word = [0; 8];
                let rest = self.bytes.get(byte..).unwrap_or_default();
                word[..rest.len()].copy_from_slice(rest);
                u64::from_be_bytes(word)
            }
        };
        word << (self.at % 8)
    }

    /// Go on by `count` bits.
    #[inline]
    pub fn skip(&mut self, count: u32) {
        self.at += u64::from(count);
    }

    /// Whether more bits were taken than there are.
    #[inline]
    pub fn is_past_end(&self) -> bool {
        self.at > self.bytes.len() as u64 * 8
    }

    /// Whether what is left is less than a byte, and zeros.
    pub fn is_at_end(&self) -> bool {
        !self.is_past_end() && self.at.div_ceil(8) == self.bytes.len() as u64 && self.peek() == 0
    }
}
