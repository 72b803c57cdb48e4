//! The value of a parameter, which may differ from layer to layer and from weight to weight.

use super::known_fields;
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;

/// What a recipe says of a parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Setting {
    /// The same everywhere.
    One(Scalar),
    /// From the first layer to the last, with the values in between interpolated.
    Gradient(Vec<Scalar>),
    /// By the name of the weight: the first entry that fits it.
    Filtered(Vec<Filtered>),
}

/// A number, or true or false as 1 or 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    /// A number.
    Number(f64),
    /// True or false.
    Flag(bool),
}

/// A value for the weights with `filter` in their names.
#[derive(Clone, Debug, PartialEq)]
pub struct Filtered {
    /// A part of the name; `None` fits all.
    pub filter: Option<String>,
    /// One value or a gradient.
    pub value: Vec<Scalar>,
}

impl Scalar {
    fn of(value: &Value) -> Result<Self, String> {
        match value {
            Value::Bool(flag) => Ok(Self::Flag(*flag)),
            Value::Number(number) => number.as_f64().map(Self::Number).ok_or_else(|| format!("{number} is out of range")),
            // YAML 1.1 takes 1e-5, without a point, for a text.
            Value::String(text) => match text.trim().parse::<f64>() {
                Ok(number) if number.is_finite() => Ok(Self::Number(number)),
                Ok(number) => Err(format!("`{text}` is {number}, where a finite number is asked for")),
                Err(_) => Err(format!("`{text}` is no number")),
            },
            // What a value of JSON becomes that is not finite.
            Value::Null => Err("no value, or one that is not a finite number".into()),
            other => Err(format!("{other} is no value")),
        }
    }

    fn number(self) -> f64 {
        match self {
            Self::Number(number) => number,
            Self::Flag(flag) => f64::from(u8::from(flag)),
        }
    }
}

impl From<f64> for Setting {
    fn from(value: f64) -> Self {
        Self::One(Scalar::Number(value))
    }
}

impl Setting {
    fn of(value: &Value) -> Result<Self, String> {
        match value {
            Value::Array(items) if items.is_empty() => Err("an empty list".into()),
            Value::Array(items) if items.iter().all(|item| !item.is_object()) => scalars(value).map(Self::Gradient),
            Value::Array(items) => items.iter().map(Filtered::of).collect::<Result<_, _>>().map(Self::Filtered),
            Value::Object(_) => Ok(Self::Filtered(vec![Filtered::of(value)?])),
            _ => Scalar::of(value).map(Self::One),
        }
    }

    /// The value for the weight `name` at `t`, which goes from 0 in the first layer to 1 in the last; `None` if no filter fits.
    ///
    /// True and false are 1 and 0, and are chosen rather than interpolated.
    pub fn at(&self, name: &str, t: f64) -> Option<f64> {
        self.chosen(name, t).map(|(_, value)| value)
    }

    /// The same with the number of the entry that it comes from; a setting without filters is one entry.
    pub(crate) fn chosen(&self, name: &str, t: f64) -> Option<(usize, f64)> {
        match self {
            Self::One(value) => Some((0, value.number())),
            Self::Gradient(values) => Some((0, interpolate(values, t))),
            Self::Filtered(entries) => entries.iter().position(|entry| entry.fits(name)).map(|i| (i, interpolate(&entries[i].value, t))),
        }
    }

    /// The filters of its entries; a setting without filters is one entry that fits all.
    pub(crate) fn filters(&self) -> Vec<Option<&str>> {
        match self {
            Self::Filtered(entries) => entries.iter().map(|entry| entry.filter.as_deref()).collect(),
            _ => vec![None],
        }
    }
}

impl Filtered {
    fn of(value: &Value) -> Result<Self, String> {
        let Value::Object(entry) = value else { return Err(format!("{value} among entries with a filter")) };
        known_fields(entry, &["filter", "value"])?;
        let filter = match entry.get("filter") {
            None | Some(Value::Null) => None,
            Some(Value::String(filter)) if filter == "*" => None,
            Some(Value::String(filter)) => Some(filter.clone()),
            Some(other) => return Err(format!("a filter is a part of a name, not {other}")),
        };
        let value = entry.get("value").ok_or("a filter without a value")?;
        Ok(Self { filter, value: scalars(value)? })
    }

    fn fits(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()))
    }
}

fn scalars(value: &Value) -> Result<Vec<Scalar>, String> {
    match value {
        Value::Array(items) if items.is_empty() => Err("an empty list".into()),
        Value::Array(items) => items.iter().map(Scalar::of).collect(),
        _ => Ok(vec![Scalar::of(value)?]),
    }
}

fn interpolate(values: &[Scalar], t: f64) -> f64 {
    let last = values.len() - 1;
    let place = t * last as f64;
    let first = (place as usize).min(last);
    if values.iter().any(|value| matches!(value, Scalar::Flag(_))) {
        return values[first].number();
    }
    let share = place - first as f64;
    (1.0 - share) * values[first].number() + share * values[(first + 1).min(last)].number()
}

impl<'de> Deserialize<'de> for Setting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::of(&Value::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(value: Value, name: &str, t: f64) -> Option<f64> {
        Setting::of(&value).unwrap().at(name, t)
    }

    #[test]
    fn a_gradient_goes_through_its_values_from_the_first_layer_to_the_last() {
        let values: Vec<_> = [0.0, 0.25, 0.5, 1.0].iter().map(|t| at(json!([0, 0.5, 0.3, 0.7, 1]), "w", *t).unwrap()).collect();
        assert_eq!(values, [0.0, 0.5, 0.3, 1.0]);
        assert!((at(json!([0, 1]), "w", 0.3).unwrap() - 0.3).abs() < 1e-12);
        assert_eq!(at(json!([true, false]), "w", 0.9), Some(1.0), "flags are chosen, not interpolated");
    }

    #[test]
    fn the_first_filter_that_fits_the_name_counts() {
        let value = || json!([{ "filter": "mlp", "value": [1, 0] }, { "filter": "attn", "value": 0.25 }]);
        assert_eq!(at(value(), "model.layers.0.mlp.up_proj.weight", 0.5), Some(0.5));
        assert_eq!(at(value(), "model.layers.0.self_attn.q_proj.weight", 0.5), Some(0.25));
        assert_eq!(at(value(), "model.norm.weight", 0.5), None);
        assert_eq!(at(json!([{ "filter": "*", "value": 3 }]), "model.norm.weight", 0.0), Some(3.0));
        assert_eq!(at(json!({ "value": "1e-5" }), "w", 0.0), Some(1e-5));
    }

    #[test]
    fn what_is_no_value_is_an_error() {
        for value in [
            json!([]),
            json!("half"),
            json!([{ "filter": "mlp" }]),
            json!([{ "filtr": "mlp", "value": 1 }]),
            json!([1, { "value": 1 }]),
            json!(null),
            json!("1e999"),
            json!([1, "nan"]),
            json!({ "filter": "mlp", "value": ".inf" }),
        ] {
            assert!(Setting::of(&value).is_err(), "{value}");
        }
    }
}
