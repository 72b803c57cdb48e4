//! The models that are measured, in shape.

use clap::ValueEnum;
use peft_core::{Error, Result};
use peft_models::DecoderConfig;
use serde_json::Value;

/// `config.json` of each shape; the peer reads the same file.
const SHAPES: &str = include_str!("../../../../xtask/gpu/shapes.json");

/// A shape of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// As Llama-3.2-1B.
    #[value(name = "1b")]
    B1,
    /// As Llama-3.2-3B.
    #[value(name = "3b")]
    B3,
    /// As Llama-3.1-8B.
    #[value(name = "8b")]
    B8,
    /// Small, to try the suite with.
    Tiny,
}

impl Shape {
    /// Its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().into())
    }

    /// The configuration. No token ends a text, so that generation always runs to its full length.
    pub fn config(self) -> Result<DecoderConfig> {
        let shapes: Value = serde_json::from_str(SHAPES).map_err(|e| Error::InvalidConfig(e.to_string()))?;
        let mut config = shapes[self.name()].clone();
        config["model_type"] = "llama".into();
        DecoderConfig::parse(&config.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shapes_have_the_parameters_of_the_models() {
        let parameters = |shape: Shape| shape.config().unwrap().num_params();
        assert_eq!(parameters(Shape::B1), 1_235_814_400);
        assert_eq!(parameters(Shape::B3), 3_212_749_824);
        assert_eq!(parameters(Shape::B8), 8_030_261_248);
    }
}
