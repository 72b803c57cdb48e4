//! The table of tensors in a file: small numbers as varints, and of each name only what differs from the one before.

use super::expert::{Content, Entry, Reference};
use super::rice::Packed;
use peft_core::files::{Dtype, TensorInfo};

/// The types that a tensor can have; the place in this list is what the file says.
const DTYPES: [Dtype; 16] = [
    Dtype::F32,
    Dtype::F16,
    Dtype::BF16,
    Dtype::F64,
    Dtype::I64,
    Dtype::I32,
    Dtype::I16,
    Dtype::I8,
    Dtype::U64,
    Dtype::U32,
    Dtype::U16,
    Dtype::U8,
    Dtype::BOOL,
    Dtype::F8_E4M3,
    Dtype::F8_E5M2,
    Dtype::C64,
];

/// What an entry's first byte says.
const ZERO: u8 = 0;
const ONE: u8 = 1;
const BASE: u8 = 2;
const VERBATIM: u8 = 3;
const UNCHANGED: u8 = 4;
const COPY: u8 = 5;

/// Append `number`, seven bits to a byte, the lowest first; all bytes but the last have their highest bit set.
pub fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 128 {
        out.push(number as u8 | 128);
        number >>= 7;
    }
    out.push(number as u8);
}

/// The table of `entries`, which have a scalar each if `scales`.
///
/// # Errors
/// For a type that the format does not have.
pub fn write(entries: &[Entry], scales: bool) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    put_varint(&mut out, entries.len() as u64);
    let mut previous = "";
    for entry in entries {
        let shared = previous.bytes().zip(entry.name.bytes()).take_while(|(a, b)| a == b).count();
        put_varint(&mut out, shared as u64);
        put_varint(&mut out, (entry.name.len() - shared) as u64);
        out.extend_from_slice(&entry.name.as_bytes()[shared..]);
        previous = &entry.name;
        let TensorInfo { dtype, shape } = &entry.info;
        let code = DTYPES.iter().position(|known| known == dtype);
        out.push(code.ok_or_else(|| format!("tensor `{}`: the format has no {dtype}", entry.name))? as u8);
        put_varint(&mut out, shape.len() as u64);
        shape.iter().for_each(|size| put_varint(&mut out, *size as u64));
        put_content(&mut out, &entry.content, scales);
    }
    Ok(out)
}

fn put_content(out: &mut Vec<u8>, content: &Content, scales: bool) {
    match content {
        Content::Ternary { reference, scale, packed } => {
            match reference {
                Reference::Zero => out.push(ZERO),
                Reference::One => out.push(ONE),
                Reference::Base { checksum } => {
                    out.push(BASE);
                    out.extend_from_slice(&checksum.to_le_bytes());
                }
            }
            put_varint(out, packed.count);
            out.push(packed.parameter);
            put_varint(out, packed.bytes.len() as u64);
            if scales {
                out.extend_from_slice(&scale.to_le_bytes());
            }
        }
        Content::Verbatim(_) => out.push(VERBATIM),
        Content::Unchanged { checksum } => {
            out.push(UNCHANGED);
            out.extend_from_slice(&checksum.to_le_bytes());
        }
        Content::Copy(of) => {
            out.push(COPY);
            put_varint(out, *of as u64);
        }
    }
}

/// Reads a table.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next `count` bytes.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (head, tail) = self.0.split_at_checked(count).ok_or_else(|| format!("ends {} bytes early", count - self.0.len()))?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        Ok(self.take(N)?.try_into().expect("as many as were asked for"))
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.array::<1>()?[0])
    }

    /// A number as [`put_varint`] writes it.
    ///
    /// # Errors
    /// If it does not fit 64 bits.
    pub fn varint(&mut self) -> Result<u64, String> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 127);
            if bits << shift >> shift != bits {
                break;
            }
            number |= bits << shift;
            if byte < 128 {
                return Ok(number);
            }
        }
        Err("a number of more than 64 bits".into())
    }

    fn size(&mut self) -> Result<usize, String> {
        usize::try_from(self.varint()?).map_err(|_| "a size that does not fit this machine".into())
    }

    /// The entries, without their bytes: how many bytes each has after the table comes with it.
    ///
    /// # Errors
    /// For whatever [`write`] does not write.
    pub fn entries(&mut self, scale: Option<f32>) -> Result<Vec<(Entry, usize)>, String> {
        let count = self.size()?;
        let mut entries: Vec<(Entry, usize)> = Vec::new();
        for _ in 0..count {
            let previous = entries.last().map_or("", |(entry, _)| entry.name.as_str());
            let name = self.name(previous)?;
            let entry = self.entry(&name, scale, &entries).map_err(|reason| format!("tensor `{name}`: {reason}"))?;
            entries.push(entry);
        }
        Ok(entries)
    }

    fn name(&mut self, previous: &str) -> Result<String, String> {
        let (shared, own) = (self.size()?, self.size()?);
        let mut name = previous.as_bytes().get(..shared).ok_or("a name shares more than the one before has")?.to_vec();
        name.extend_from_slice(self.take(own)?);
        let name = String::from_utf8(name).map_err(|_| "a name is not UTF-8")?;
        match name.as_str() > previous {
            true => Ok(name),
            false => Err(format!("`{name}` follows `{previous}`, but names are sorted and differ")),
        }
    }

    fn entry(&mut self, name: &str, scale: Option<f32>, before: &[(Entry, usize)]) -> Result<(Entry, usize), String> {
        let code = self.byte()?;
        let dtype = *DTYPES.get(usize::from(code)).ok_or_else(|| format!("type {code} is not known"))?;
        let mut shape = Vec::new();
        for _ in 0..self.size()? {
            shape.push(self.size()?);
        }
        let info = TensorInfo { dtype, shape };
        let bytes = info.num_bytes().filter(|bytes| *bytes <= isize::MAX as usize);
        let bytes = bytes.ok_or_else(|| format!("{dtype} of shape {:?} fits no memory", info.shape))?;
        let len = info.shape.iter().product::<usize>() as u64;
        let (content, stored) = match self.byte()? {
            ZERO => self.ternary(Reference::Zero, len, scale)?,
            ONE => self.ternary(Reference::One, len, scale)?,
            BASE => {
                let checksum = u32::from_le_bytes(self.array()?);
                self.ternary(Reference::Base { checksum }, len, scale)?
            }
            VERBATIM => (Content::Verbatim(Vec::new()), bytes),
            UNCHANGED => (Content::Unchanged { checksum: u32::from_le_bytes(self.array()?) }, 0),
            COPY => {
                let of = self.size()?;
                let original = before.get(of).map(|(entry, _)| entry);
                let fits = original.is_some_and(|original| original.info == info && !matches!(original.content, Content::Copy(_)));
                (fits.then_some(Content::Copy(of)).ok_or_else(|| format!("entry {of} is not what it can be a copy of"))?, 0)
            }
            other => return Err(format!("kind {other} is not known")),
        };
        if matches!(content, Content::Ternary { .. }) && !super::task_vector::is_float(dtype) {
            return Err(format!("signs for {dtype}, which is no floating-point type"));
        }
        Ok((Entry { name: name.into(), info, content }, stored))
    }

    fn ternary(&mut self, reference: Reference, len: u64, scale: Option<f32>) -> Result<(Content, usize), String> {
        let (count, parameter, stored) = (self.varint()?, self.byte()?, self.size()?);
        let scale = match scale {
            Some(scale) => scale,
            None => f32::from_le_bytes(self.array()?),
        };
        if !scale.is_finite() {
            return Err(format!("a scalar of {scale}"));
        }
        Ok((Content::Ternary { reference, scale, packed: Packed { len, count, parameter, bytes: Vec::new() } }, stored))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_longer_ones_are_refused() {
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, number);
            assert_eq!(Reader(&bytes).varint(), Ok(number));
        }
        assert!(Reader(&[255; 11]).varint().unwrap_err().contains("64 bits"));
        assert!(Reader(&[255, 255, 255, 255, 255, 255, 255, 255, 255, 2]).varint().is_err());
        assert!(Reader(&[128]).varint().unwrap_err().contains("early"));
    }
}
