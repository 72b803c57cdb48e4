//! Unsupervised FixMatch: pseudo-labels for inputs without labels.
//!
//! Once, the base model says how probable each class is for each input. The inputs that it is surest of form the trusted set, whose
//! pseudo-labels stay. Each batch has a quarter of trusted inputs; the others get a pseudo-label in each step from a weak view, if its
//! probability is above a threshold, and all learn theirs from a strong view
//! (`peft_objectives::confident_cross_entropy`).

use crate::composition::Indices;
use peft_core::{Error, Result};

/// The trusted pseudo-label of each input, for those that have one.
///
/// `probabilities` has `classes` numbers for each input. Of each class, the `K = min(⌊N/C/10⌋, most)` inputs are taken for which it is
/// most probable, and kept where no other class is more so.
///
/// # Errors
/// [`Error::InvalidConfig`] for one class, or for fewer inputs than classes; [`Error::NonFinite`].
pub fn trusted(probabilities: &[f32], classes: usize, most: usize) -> Result<Vec<Option<usize>>> {
    if classes < 2 {
        return Err(Error::InvalidConfig(format!("pseudo-labels need at least 2 classes, not {classes}")));
    }
    let rows: Vec<&[f32]> = probabilities.chunks_exact(classes).collect();
    if rows.len() < classes {
        return Err(Error::InvalidConfig(format!("pseudo-labels for {classes} classes need as many inputs, not {}", rows.len())));
    }
    if probabilities.iter().any(|p| !p.is_finite()) {
        return Err(Error::NonFinite { what: "a probability of the base model".into() });
    }
    let best = |row: &[f32]| row.iter().enumerate().rev().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(class, _)| class);
    let count = (rows.len() / classes / 10).min(most);
    let mut labels = vec![None; rows.len()];
    for class in 0..classes {
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by(|a, b| rows[*b][class].total_cmp(&rows[*a][class]));
        for input in &order[..count] {
            if best(rows[*input]) == class {
                labels[*input] = Some(class);
            }
        }
    }
    Ok(labels)
}

/// Batches of three quarters of inputs without and a quarter with a trusted label.
#[derive(Debug)]
pub struct MixedIndices {
    plain: Option<Indices>,
    trusted: Option<Indices>,
}

impl MixedIndices {
    /// Batches of `batch`; if all inputs are of one kind, all of a batch are.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] without inputs, or for a batch of less than 4.
    pub fn new(labels: &[Option<usize>], batch: usize, seed: u64, task: &str) -> Result<Self> {
        if batch < 4 {
            return Err(Error::InvalidConfig(format!("batch: at least 4 where a quarter is trusted, not {batch}")));
        }
        let of = |trusted: bool| labels.iter().enumerate().filter(move |(_, label)| label.is_some() == trusted).map(|(input, _)| input);
        let some = of(true).next().is_some();
        let others = of(false).next().is_some();
        let quarter = if others { batch / 4 } else { batch };
        let stream = |trusted: bool, size: usize, name: &str| Indices::new(of(trusted), size, seed, &format!("{task}{name}"));
        Ok(Self {
            trusted: some.then(|| stream(true, quarter, ", trusted")).transpose()?,
            plain: (others || !some).then(|| stream(false, if some { batch - quarter } else { batch }, "")).transpose()?,
        })
    }

    /// The next inputs without and with a trusted label.
    pub fn next_batch(&mut self) -> [Vec<usize>; 2] {
        [&mut self.plain, &mut self.trusted].map(|indices| indices.as_mut().map(Indices::next_batch).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_surest_inputs_of_each_class_are_trusted_if_the_class_is_theirs() {
        // Twenty inputs of two classes, so that one input of each class can be trusted.
        let mut probabilities: Vec<f32> = (0..20).flat_map(|i| [0.5 + i as f32 / 50.0, 0.5 - i as f32 / 50.0]).collect();
        let labels = trusted(&probabilities, 2, 100).unwrap();
        assert_eq!(labels.iter().filter(|label| label.is_some()).count(), 1, "class 1 is nowhere the most probable");
        assert_eq!(labels[19], Some(0));
        probabilities[..2].copy_from_slice(&[0.4, 0.6]);
        assert_eq!(trusted(&probabilities, 2, 100).unwrap()[0], Some(1));
        assert!(trusted(&probabilities, 2, 0).unwrap().iter().all(Option::is_none));
    }

    #[test]
    fn what_has_no_classes_to_tell_apart_is_an_error() {
        assert!(trusted(&[1.0; 4], 1, 100).unwrap_err().to_string().contains("at least 2 classes"));
        assert!(trusted(&[0.2; 10], 5, 100).unwrap_err().to_string().contains("need as many inputs, not 2"));
    }

    #[test]
    fn a_quarter_of_a_batch_is_trusted() {
        let labels: Vec<Option<usize>> = (0..40).map(|i| (i % 10 == 0).then_some(1)).collect();
        let [plain, trusted] = MixedIndices::new(&labels, 8, 0, "t").unwrap().next_batch();
        assert_eq!((plain.len(), trusted.len()), (6, 2));
        assert!(plain.iter().all(|i| labels[*i].is_none()) && trusted.iter().all(|i| labels[*i].is_some()));
        let [plain, trusted] = MixedIndices::new(&[None, None], 8, 0, "t").unwrap().next_batch();
        assert_eq!((plain.len(), trusted.len()), (8, 0));
    }
}
