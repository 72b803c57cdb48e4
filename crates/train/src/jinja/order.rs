//! Filters that order what they are given.

use super::Error;
use super::calls::Args;
use super::lists::none_of;
use super::machine::Machine;
use super::value::{Kind, Value};
use std::cmp::Ordering;

impl Machine<'_> {
    /// What values are ordered by: an attribute, and texts in lower case unless case counts.
    fn sort_key(&mut self, value: &Value, attribute: Option<&Value>, default: Option<&Value>, case: bool) -> Result<Value, Error> {
        let key = match attribute {
            None | Some(Value::None) => value.clone(),
            Some(Value::Str(paths)) if paths.contains(',') => {
                let parts = paths.split(',').map(|path| self.sort_key(value, Some(&Value::str(path.trim())), default, case));
                return Value::list(parts.collect::<Result<_, _>>()?);
            }
            Some(attribute) => self.path(value, attribute, default)?,
        };
        Ok(match key {
            Value::Str(text) if !case => {
                self.spend_text(text.len())?;
                Value::str(text.to_lowercase())
            }
            other => other,
        })
    }

    /// In order of the keys. Keys that are equal need no order with `equal_first`, as if each were the one item of a list.
    fn sorted(&mut self, mut keyed: Vec<(Value, Value)>, reverse: bool, equal_first: bool) -> Result<Vec<(Value, Value)>, Error> {
        let mut failed = None;
        let mut order = |a: &(Value, Value), b: &(Value, Value)| {
            if failed.is_some() {
                return Ordering::Equal;
            }
            let equal = if equal_first { self.equal(&a.0, &b.0) } else { Ok(false) };
            let order = equal.and_then(|equal| if equal { Ok(None) } else { self.order(&a.0, &b.0, "<") });
            order.map(|order| order.unwrap_or(Ordering::Equal)).unwrap_or_else(|error| {
                failed = Some(error);
                Ordering::Equal
            })
        };
        match reverse {
            true => keyed.sort_by(|a, b| order(b, a)),
            false => keyed.sort_by(order),
        }
        failed.map_or(Ok(keyed), Err)
    }

    pub fn ordering_filter(&mut self, name: &str, value: &Value, args: Args) -> Result<Value, Error> {
        let flag = |machine: &Self, value: Option<Value>| value.map_or(Ok(false), |value| machine.truth(&value));
        if name == "dictsort" {
            let [case, by, reverse] = args.bind(name, ["case_sensitive", "by", "reverse"])?;
            let (case, reverse) = (flag(self, case)?, flag(self, reverse)?);
            let at = match by.as_ref().and_then(Value::as_str) {
                None | Some("key") => 0,
                Some("value") => 1,
                Some(_) => return Err(Error::new("You can only sort by either \"key\" or \"value\"")),
            };
            let pairs = self.list_filter("items", value.clone(), Args::default())?;
            let pairs = self.items(&pairs)?;
            let keyed = self.keyed(pairs, Some(&Value::Int(at)), None, case)?;
            return Value::list(self.sorted(keyed, reverse, false)?.into_iter().map(|(_, pair)| pair).collect());
        }
        let (reverse, case, attribute, default) = match name {
            "sort" => {
                let [reverse, case, attribute] = args.bind(name, ["reverse", "case_sensitive", "attribute"])?;
                (flag(self, reverse)?, flag(self, case)?, attribute, None)
            }
            "groupby" => {
                let [attribute, default, case] = args.bind(name, ["attribute", "default", "case_sensitive"])?;
                (false, flag(self, case)?, attribute, default)
            }
            _ => {
                let [case, attribute] = args.bind(name, ["case_sensitive", "attribute"])?;
                (false, flag(self, case)?, attribute, None)
            }
        };
        let items = self.items(value)?;
        let keyed = self.keyed(items, attribute.as_ref(), default.as_ref(), case)?;
        let values = |keyed: Vec<(Value, Value)>| keyed.into_iter().map(|(_, value)| value).collect::<Vec<_>>();
        match name {
            "sort" => Value::list(values(self.sorted(keyed, reverse, true)?)),
            "unique" => {
                let mut seen = std::collections::HashSet::new();
                let mut out = Vec::new();
                for (key, value) in keyed {
                    if seen.insert(self.key(&key)?) {
                        out.push(value);
                    }
                }
                Value::seq(Kind::Generator, out)
            }
            "groupby" => self.groups(keyed, attribute.as_ref(), default.as_ref(), case),
            _ => {
                let mut best: Option<(Value, Value)> = None;
                for (key, value) in keyed {
                    let better = match &best {
                        None => true,
                        Some((held, _)) => {
                            let (order, symbol) = if name == "min" { (Ordering::Less, "<") } else { (Ordering::Greater, ">") };
                            self.order(&key, held, symbol)? == Some(order)
                        }
                    };
                    if better {
                        best = Some((key, value));
                    }
                }
                Ok(best.map_or_else(|| none_of(name), |(_, value)| value))
            }
        }
    }

    fn keyed(
        &mut self,
        items: Vec<Value>,
        attribute: Option<&Value>,
        default: Option<&Value>,
        case: bool,
    ) -> Result<Vec<(Value, Value)>, Error> {
        items.into_iter().map(|item| Ok((self.sort_key(&item, attribute, default, case)?, item))).collect()
    }

    fn groups(
        &mut self,
        keyed: Vec<(Value, Value)>,
        attribute: Option<&Value>,
        default: Option<&Value>,
        case: bool,
    ) -> Result<Value, Error> {
        let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
        for (key, value) in self.sorted(keyed, false, false)? {
            match groups.last_mut() {
                Some((held, group)) if self.equal(held, &key)? => group.push(value),
                _ => groups.push((key, vec![value])),
            }
        }
        let mut out = Vec::new();
        for (key, group) in groups {
            // A group is called what its first member has, not that in lower case.
            let name = if case { key } else { self.sort_key(&group[0], attribute, default, true)? };
            out.push(Value::seq(Kind::Group, vec![name, Value::list(group)?])?);
        }
        Value::list(out)
    }
}
