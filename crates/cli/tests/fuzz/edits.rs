//! Damage to valid files, byte by byte and value by value.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

#[derive(Clone, Debug)]
enum Edit {
    Set(Index, u8),
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize, u8),
    Cut(Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        (any::<Index>(), 0..8u8).prop_map(|(at, bit)| Edit::Flip(at, bit)),
        (any::<Index>(), vec(any::<u8>(), 1..9)).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        (any::<Index>(), 1..64usize).prop_map(|(at, count)| Edit::Remove(at, count)),
        (any::<Index>(), 1..64usize, 1..9u8).prop_map(|(at, count, times)| Edit::Repeat(at, count, times)),
        any::<Index>().prop_map(Edit::Cut),
    ]
}

impl Edit {
    fn apply(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        if bytes.is_empty() {
            return bytes;
        }
        let length = bytes.len();
        match self {
            Self::Set(at, byte) => bytes[at.index(length)] = *byte,
            Self::Flip(at, bit) => bytes[at.index(length)] ^= 1 << bit,
            Self::Insert(at, new) => drop(bytes.splice(at.index(length)..at.index(length), new.iter().copied())),
            Self::Remove(at, count) => drop(bytes.drain(at.index(length)..length.min(at.index(length) + count))),
            Self::Repeat(at, count, times) => {
                let end = length.min(at.index(length) + count);
                let part = bytes[at.index(length)..end].repeat(*times as usize);
                bytes.splice(end..end, part);
            }
            Self::Cut(at) => bytes.truncate(at.index(length)),
        }
        bytes
    }
}

/// `valid` with a few edits.
pub fn edited(valid: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    vec(edit(), 1..6).prop_map(move |edits| edits.iter().fold(valid.clone(), |bytes, edit| edit.apply(bytes)))
}

/// Bytes that have nothing to do with a valid file.
pub fn noise() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..256)
}

/// Any JSON value, mostly of the kind that programs stumble over.
pub fn any_json() -> impl Strategy<Value = Value> {
    let edges = vec![
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(-1),
        json!(1),
        json!(2),
        json!(3),
        json!(7),
        json!(1u64 << 31),
        json!(1u64 << 53),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(0.5),
        json!(-0.0),
        json!(1e308),
        json!(1e-320),
        json!(1e19),
        json!(""),
        json!("a"),
        json!("\u{0}"),
        json!("é😀"),
        json!("("),
        json!(".*"),
        json!("(a|a)*b"),
        json!("../../x"),
        json!("all-linear"),
        json!([]),
        json!({}),
        json!([[]]),
        json!("1000000000000"),
        json!("none"),
        json!("default"),
    ];
    let deep = (1..200usize).prop_map(|depth| (0..depth).fold(json!(1), |value, _| json!([value])));
    let leaf = prop_oneof![8 => select(edges), 2 => any::<i64>().prop_map(Value::from), 1 => any::<f64>().prop_map(Value::from), 2 => ".{0,12}".prop_map(Value::from), 1 => deep];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((".{0,6}", inner), 0..4).prop_map(|entries| Value::Object(entries.into_iter().collect()))
        ]
    })
}

#[derive(Clone, Debug)]
enum Change {
    Replace(Value),
    Remove(Index),
    Add(String, Value),
    Double(Index),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        5 => any_json().prop_map(Change::Replace),
        2 => any::<Index>().prop_map(Change::Remove),
        1 => (".{0,8}", any_json()).prop_map(|(key, value)| Change::Add(key, value)),
        1 => any::<Index>().prop_map(Change::Double),
    ]
}

impl Change {
    fn apply(&self, value: &mut Value) {
        match (self, value) {
            (Self::Replace(new), value) => *value = new.clone(),
            (Self::Remove(at), Value::Array(items)) if !items.is_empty() => drop(items.remove(at.index(items.len()))),
            (Self::Remove(at), Value::Object(entries)) if !entries.is_empty() => {
                let key = entries.keys().nth(at.index(entries.len())).cloned().unwrap_or_default();
                entries.remove(&key);
            }
            (Self::Add(_, new), Value::Array(items)) => items.push(new.clone()),
            (Self::Add(key, new), Value::Object(entries)) => drop(entries.insert(key.clone(), new.clone())),
            (Self::Double(at), Value::Array(items)) if !items.is_empty() => items.push(items[at.index(items.len())].clone()),
            (Self::Double(at), Value::Number(number)) => {
                *number = (number.as_i64().unwrap_or(1).wrapping_mul(1 + at.index(9) as i64)).into()
            }
            (Self::Double(_), Value::String(text)) => *text = text.repeat(2),
            _ => {}
        }
    }
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(entries) => entries.values().map(count).sum(),
        _ => 0,
    }
}

/// The `n`th value of the tree, itself first.
fn nth<'a>(value: &'a mut Value, n: &mut usize) -> Option<&'a mut Value> {
    if *n == 0 {
        return Some(value);
    }
    *n -= 1;
    match value {
        Value::Array(items) => items.iter_mut().find_map(|item| nth(item, n)),
        Value::Object(entries) => entries.values_mut().find_map(|item| nth(item, n)),
        _ => None,
    }
}

/// `valid` with a few of its values changed.
pub fn edited_json(valid: Value) -> impl Strategy<Value = Value> {
    vec((any::<Index>(), change()), 1..4).prop_map(move |changes| {
        let mut value = valid.clone();
        for (at, change) in &changes {
            let mut n = at.index(count(&value));
            if let Some(place) = nth(&mut value, &mut n) {
                change.apply(place);
            }
        }
        value
    })
}

/// A damaged text file of a JSON value: changed values, changed bytes, or no JSON at all.
pub fn json_file(valid: Value) -> impl Strategy<Value = Vec<u8>> {
    let text = serde_json::to_vec_pretty(&valid).unwrap();
    prop_oneof![6 => edited_json(valid).prop_map(|value| value.to_string().into_bytes()), 3 => edited(text), 1 => noise()]
}
