//! Metrics as pure functions of predictions and references, each with its standard error.
//!
//! A mean over examples has the analytic standard error; what is no mean (F1, Matthews' coefficient, correlations) has that of a
//! seeded bootstrap over the examples. The numbers are those of scikit-learn, scipy, SQuAD's script and rouge-score.

mod classification;
mod confusion;
mod estimate;
mod normalise;
mod numeric;
mod regression;
mod rouge;
mod token_f1;

pub use classification::Classification;
pub use confusion::{Average, ClassScores, Confusion};
pub use estimate::Estimate;
pub use normalise::{Normalise, normalised};
pub use numeric::{last_number, same_number};
pub use regression::{Regression, pearson, spearman};
pub use rouge::rouge_l;
pub use token_f1::token_f1;
