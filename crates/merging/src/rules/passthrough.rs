//! One model's weight as it is, which stacks layers of several models.

use super::Rule;
use crate::stack::{Output, Stack};
use peft_core::Result;

/// The only input, times a factor if there is one.
#[derive(Clone, Copy, Debug)]
pub struct Passthrough {
    /// The factor.
    pub scale: Option<f64>,
}

impl Rule for Passthrough {
    fn merge(&self, stack: &Stack, out: &mut Output) -> Result<()> {
        let scale = self.scale.unwrap_or(1.0) as f32;
        stack.fill(1, out, |block, out| block.others[0].iter().zip(out).for_each(|(x, out)| *out = scale * x))
    }

    fn is_copy(&self) -> bool {
        self.scale.is_none()
    }
}
