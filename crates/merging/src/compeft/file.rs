//! The file of a compressed expert. docs/src/compeft.md specifies it.

use super::compress::{Scope, Settings};
use super::expert::{Content, Entry, Expert, Kind};
use super::table::{self, Reader, put_varint};
use peft_core::files::write_atomic;
use peft_core::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;

const MAGIC: [u8; 4] = *b"CPFT";
const VERSION: u32 = 1;
/// Magic, version, and the length of the file.
const HEAD: usize = 16;
const CHECKSUM: usize = 4;

/// What a file says of itself in JSON.
#[derive(Serialize, Deserialize)]
struct About {
    kind: Kind,
    #[serde(flatten)]
    settings: Settings,
    files: Map<String, Value>,
}

impl Expert {
    /// Write the file `path`, and return its size in bytes. After an error an existing file is as it was.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] if a tensor has a type that the format does not know.
    pub fn write(&self, path: &Path) -> Result<u64> {
        let bytes = self.to_bytes().map_err(|reason| Error::file(path, reason))?;
        write_atomic(path, &bytes)?;
        Ok(bytes.len() as u64)
    }

    /// Read the file `path`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] if it is no such file, of another version, cut, damaged, or contradicts itself.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        Self::from_bytes(&bytes).map_err(|reason| Error::file(path, reason))
    }

    /// The content of the file.
    fn to_bytes(&self) -> Result<Vec<u8>, String> {
        let about = About { kind: self.kind, settings: self.settings, files: self.files.clone() };
        let about = serde_json::to_vec(&about).map_err(|e| e.to_string())?;
        let scale = self.common_scale();
        let table = table::write(&self.entries, scale.is_none())?;
        let mut bytes = [MAGIC, VERSION.to_le_bytes(), [0; 4], [0; 4]].concat();
        put_varint(&mut bytes, about.len() as u64);
        bytes.extend_from_slice(&about);
        if let Some(scale) = scale {
            bytes.extend_from_slice(&scale.to_le_bytes());
        }
        bytes.extend_from_slice(&table);
        for entry in &self.entries {
            match &entry.content {
                Content::Ternary { packed, .. } => bytes.extend_from_slice(&packed.bytes),
                Content::Verbatim(verbatim) => bytes.extend_from_slice(verbatim),
                Content::Unchanged { .. } | Content::Copy(_) => {}
            }
        }
        let length = (bytes.len() + CHECKSUM) as u64;
        bytes[HEAD - 8..HEAD].copy_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        Ok(bytes)
    }

    fn from_bytes(file: &[u8]) -> Result<Self, String> {
        let mut reader = Reader(verified(file)?);
        let length = usize::try_from(reader.varint()?).map_err(|e| e.to_string())?;
        let about: About = serde_json::from_slice(reader.take(length)?).map_err(|e| format!("its description: {e}"))?;
        let scale = match about.settings.scope {
            Scope::Global => Some(f32::from_le_bytes(reader.take(4)?.try_into().expect("four bytes"))),
            Scope::PerTensor => None,
        };
        let entries = reader.entries(scale)?;
        let fill = |(mut entry, stored): (Entry, usize)| {
            let stored = reader.take(stored).map_err(|reason| format!("tensor `{}`: {reason}", entry.name))?.to_vec();
            match &mut entry.content {
                Content::Ternary { packed, .. } => packed.bytes = stored,
                Content::Verbatim(bytes) => *bytes = stored,
                Content::Unchanged { .. } | Content::Copy(_) => {}
            }
            Ok::<_, String>(entry)
        };
        let entries = entries.into_iter().map(fill).collect::<Result<_, _>>()?;
        match reader.0.len() {
            0 => Ok(Self { kind: about.kind, settings: about.settings, files: about.files, entries }),
            extra => Err(format!("{extra} bytes belong to no tensor")),
        }
    }

    /// The scalar of all tensors, where they have the same.
    fn common_scale(&self) -> Option<f32> {
        let scale = |entry: &Entry| if let Content::Ternary { scale, .. } = entry.content { Some(scale) } else { None };
        (self.settings.scope == Scope::Global).then(|| self.entries.iter().find_map(scale).unwrap_or_default())
    }
}

/// What lies between the head of `file` and its checksum, if they are right.
fn verified(file: &[u8]) -> Result<&[u8], String> {
    if file.len() < HEAD + CHECKSUM || file[..4] != MAGIC {
        return Err(match file.is_empty() {
            true => "the file is empty".into(),
            false => "not a compressed expert: it does not begin with `CPFT`, or is cut at once".into(),
        });
    }
    let version = u32::from_le_bytes(file[4..8].try_into().expect("four bytes"));
    if version != VERSION {
        return Err(format!("version {version} of the format, where this program knows version {VERSION}"));
    }
    let length = u64::from_le_bytes(file[8..HEAD].try_into().expect("eight bytes"));
    if length != file.len() as u64 {
        let what = if length > file.len() as u64 { "truncated" } else { "too long" };
        return Err(format!("{what}: it announces {length} bytes and has {}; copy or download it again", file.len()));
    }
    let (content, checksum) = file.split_at(file.len() - CHECKSUM);
    let (stored, found) = (u32::from_le_bytes(checksum.try_into().expect("four bytes")), crc32c::crc32c(content));
    match stored == found {
        true => Ok(&content[HEAD..]),
        false => Err(format!("damaged: its checksum is {stored:08x}, its content has {found:08x}; copy or download it again")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compeft::expert::Reference;
    use crate::compeft::rice::Packed;
    use crate::compeft::ternary::tests::random;
    use peft_core::files::{Dtype, TensorInfo};

    fn expert(scope: Scope) -> Expert {
        let info = |shape: &[usize]| TensorInfo { dtype: Dtype::F32, shape: shape.into() };
        let ternary = |name: &str, shape: &[usize], reference, scale| {
            let packed = Packed::new(&random(shape.iter().product(), 0.2, scale, 9));
            Entry { name: name.into(), info: info(shape), content: Content::Ternary { reference, scale, packed } }
        };
        let other = match scope {
            Scope::Global => 0.5,
            Scope::PerTensor => 0.25,
        };
        let entries = vec![
            ternary("a.lora_A.weight", &[3, 50], Reference::Zero, 0.5),
            ternary("a.lora_B.weight", &[0, 7], Reference::One, other),
            ternary("a.ü", &[], Reference::Base { checksum: 77 }, other),
            Entry { name: "b".into(), info: info(&[2]), content: Content::Verbatim(vec![1, 2, 3, 4, 5, 6, 7, 8]) },
            Entry { name: "c".into(), info: info(&[9]), content: Content::Unchanged { checksum: 5 } },
            Entry { name: "d".into(), info: info(&[2]), content: Content::Copy(3) },
        ];
        let files = Map::from_iter([("adapter_config.json".to_owned(), serde_json::json!({ "r": 3, "alpha": 0.1 }))]);
        Expert { kind: Kind::Adapter, settings: Settings { scope, ..Settings::default() }, files, entries }
    }

    #[test]
    fn a_file_is_read_back_as_it_was_written() {
        for scope in [Scope::Global, Scope::PerTensor] {
            let expert = expert(scope);
            assert_eq!(Expert::from_bytes(&expert.to_bytes().unwrap()).unwrap(), expert);
        }
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_refused_with_the_reason() {
        let bytes = expert(Scope::PerTensor).to_bytes().unwrap();
        let reason = |bytes: &[u8]| Expert::from_bytes(bytes).unwrap_err();
        for length in 0..bytes.len() {
            reason(&bytes[..length]);
        }
        for at in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[at / 8] ^= 1 << (at % 8);
            reason(&damaged);
        }
        assert!(reason(&bytes[..bytes.len() - 1]).contains("truncated: it announces"));
        assert!(reason(&[&bytes[..], &[0]].concat()).contains("too long"));
        assert!(reason(&[]).contains("empty"));
        assert!(reason(&[0; 100]).contains("CPFT"));
        let mut damaged = bytes.clone();
        damaged[40] ^= 1;
        assert!(reason(&damaged).contains("checksum"), "{}", reason(&damaged));
        let mut newer = bytes.clone();
        newer[4] = 9;
        assert!(reason(&newer).contains("version 9"));
    }

    #[test]
    fn nonsense_with_a_right_checksum_is_an_error_and_no_panic() {
        let bytes = expert(Scope::PerTensor).to_bytes().unwrap();
        for at in HEAD..bytes.len() - CHECKSUM {
            for value in [0, 1, 5, 127, 128, 255] {
                let mut damaged = bytes[..bytes.len() - CHECKSUM].to_vec();
                damaged[at] = value;
                damaged.extend_from_slice(&crc32c::crc32c(&damaged).to_le_bytes());
                if let Ok(expert) = Expert::from_bytes(&damaged) {
                    expert.entries.iter().filter(|entry| entry.info.num_bytes() < Some(1 << 20)).for_each(|entry| {
                        let _ = expert.ternary(&entry.name);
                    });
                }
            }
        }
    }
}
