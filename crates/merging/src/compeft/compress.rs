//! From a task vector to a compressed expert.

use super::expert::{Content, Entry, Expert, Reference};
use super::rice::Packed;
use super::select::{Cut, cut, lowest, masks};
use super::task_vector::{Part, Role, TaskVector};
use super::ternary::Ternary;
use peft_core::files::TensorSource;
use peft_core::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// What the kept entries become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Their signs times alpha times the standard deviation of all entries.
    #[default]
    Compeft,
    /// Their signs times alpha times the mean of their magnitudes: sparse ternary compression.
    Stc,
}

/// What is taken as one vector: there the largest entries are sought, and there is one scalar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// All tensors together.
    #[default]
    Global,
    /// Each tensor.
    PerTensor,
}

/// How to compress.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The part of the entries that is kept, above 0 and at most 1.
    pub density: f64,
    /// Factor of the scalar, above 0. Large models do with 1, small ones need 2 or 3.
    pub alpha: f64,
    /// What the kept entries become.
    pub mode: Mode,
    /// What is taken as one vector.
    pub scope: Scope,
}

impl Default for Settings {
    fn default() -> Self {
        Self { density: 0.2, alpha: 2.0, mode: Mode::default(), scope: Scope::default() }
    }
}

impl Settings {
    /// Refuse what cannot be.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a setting out of its range.
    pub fn check(&self) -> Result<()> {
        if !(self.density > 0.0 && self.density <= 1.0) {
            return Err(Error::InvalidConfig(format!("a density of {} is not above 0 and at most 1", self.density)));
        }
        match self.alpha > 0.0 && self.alpha.is_finite() {
            true => Ok(()),
            false => Err(Error::InvalidConfig(format!("an alpha of {} is not above 0", self.alpha))),
        }
    }
}

impl TaskVector {
    /// Keep the signs of the largest entries, `⌊density · entries⌋` of them (fewer if more are 0; of equal ones the first), and one
    /// scalar.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for settings out of range, if nothing was changed, and if the density keeps nothing;
    /// [`Error::NonFinite`] with the tensor's name if a number is not finite.
    pub fn compress(&self, settings: &Settings) -> Result<Expert> {
        settings.check()?;
        let changed: Vec<usize> = self.changed().collect();
        let groups: Vec<&[usize]> = match settings.scope {
            Scope::Global => vec![&changed],
            Scope::PerTensor => changed.chunks(1).collect(),
        };
        let packed: Vec<_> = groups.par_iter().map(|group| self.group(group, settings)).collect::<Result<_>>()?;
        let mut packed = packed.into_iter().flatten();
        let entries: Vec<Entry> = self.parts.iter().map(|part| self.entry(part, &mut packed)).collect::<Result<_>>()?;
        let expert = Expert { kind: self.kind, settings: *settings, files: self.files.clone(), entries };
        match (expert.kept(), self.elements()) {
            (0, all) => Err(Error::InvalidConfig(format!(
                "{}: a density of {} keeps none of {all} entries; or nothing was changed, and all are 0",
                self.tuned.path().display(),
                settings.density
            ))),
            _ => Ok(expert),
        }
    }

    /// The parts of `group`, taken as one vector, with their scalar.
    fn group(&self, group: &[usize], settings: &Settings) -> Result<Vec<(Packed, f32)>> {
        let cut = cut(self, group, settings.density)?;
        let pack = |(i, part): (usize, &usize)| self.pack(&self.parts[*part], &cut, cut.ties[i], settings.mode);
        let packed: Vec<(Packed, f64)> = group.par_iter().enumerate().map(pack).collect::<Result<_>>()?;
        let kept: u64 = packed.iter().map(|(packed, _)| packed.count).sum();
        let scale = match settings.mode {
            Mode::Compeft => settings.alpha * cut.deviation,
            Mode::Stc => settings.alpha * packed.iter().map(|(_, sum)| sum).sum::<f64>() / kept.max(1) as f64,
        } as f32;
        if kept > 0 {
            self.check_scale(group, scale)?;
        }
        Ok(packed.into_iter().map(|(packed, _)| (packed, scale)).collect())
    }

    fn check_scale(&self, group: &[usize], scale: f32) -> Result<()> {
        if scale > 0.0 && scale.is_finite() {
            return Ok(());
        }
        let what = match group {
            [one] => format!("tensor `{}`", self.parts[*one].name),
            _ => "the task vector".into(),
        };
        Err(Error::InvalidConfig(format!(
            "{}: the scalar of {what} would be {scale}, since all of its entries are alike; the mode stc can compress it",
            self.tuned.path().display()
        )))
    }

    /// The signs of the entries of `part` that are kept, and if the mode needs it the sum of their magnitudes.
    fn pack(&self, part: &Part, cut: &Cut, mut ties: u64, mode: Mode) -> Result<(Packed, f64)> {
        let mut ternary = Ternary::zeros(part.elements(), 1.0);
        let (mut sum, mut word) = (0.0, 0);
        self.blocks(part, |block| {
            // Blocks are whole words, except the last.
            for numbers in block.chunks(64) {
                let (mut keep, equal, negative) = masks(numbers, cut.threshold);
                if ties > 0 && equal != 0 {
                    let first = lowest(equal, ties);
                    ties -= u64::from(first.count_ones());
                    keep |= first;
                }
                ternary.put_word(word, keep, negative);
                if mode == Mode::Stc {
                    sum += super::ternary::bits(keep).map(|bit| f64::from(numbers[bit].abs())).sum::<f64>();
                }
                word += 1;
            }
        })?;
        Ok((Packed::new(&ternary), sum))
    }

    fn entry(&self, part: &Part, packed: &mut impl Iterator<Item = (Packed, f32)>) -> Result<Entry> {
        let checksum = || Ok::<_, Error>(crc32c::crc32c(self.base.as_ref().map_or(Ok(&[][..]), |base| base.bytes(&part.name))?));
        let content = match part.role {
            Role::Changed(reference) => {
                let (packed, scale) = packed.next().expect("one for each part that was changed");
                let reference = match reference {
                    Reference::Base { .. } => Reference::Base { checksum: checksum()? },
                    other => other,
                };
                Content::Ternary { reference, scale, packed }
            }
            Role::Verbatim => Content::Verbatim(TensorSource::from_checkpoint(&self.tuned, &part.name)?.bytes()?.into_owned()),
            Role::Unchanged => Content::Unchanged { checksum: checksum()? },
            Role::Copy(of) => Content::Copy(of),
        };
        Ok(Entry { name: part.name.clone(), info: part.info.clone(), content })
    }
}
