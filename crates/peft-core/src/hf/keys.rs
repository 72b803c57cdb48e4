//! The grammar of the keys in HF PEFT's tensor files.

/// What stands before a module's path.
pub const PREFIX: &str = "base_model.model.";
/// What stands before the name of a tensor that all modules share.
pub const SHARED_PREFIX: &str = "base_model.";

/// The tensors of adapters: the names behind a module's path, and what may follow them.
const TENSORS: [(&str, &[&str]); 8] = [
    ("lora_A", &["weight"]),
    ("lora_B", &["weight", "bias"]),
    ("lora_embedding_A", &[]),
    ("lora_embedding_B", &[]),
    ("lora_magnitude_vector", &[]),
    ("ia3_l", &[]),
    ("vera_lambda_b", &[]),
    ("vera_lambda_d", &[]),
];
/// The tensors that all modules share.
const SHARED: [&str; 2] = ["vera_A", "vera_B"];
/// How the names of adapters' tensors begin, also of those that are not read here.
const BEGINNINGS: [&str; 5] = ["lora_", "ia3_", "vera_", "token_adapter", "trainable_tokens"];

/// A key, understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// Path of the module; empty for a tensor that all modules share.
    pub module: String,
    /// What the tensor is.
    pub part: Part,
    /// The name of the adapter, where the file has it in its keys.
    pub adapter: Option<String>,
}

/// What a tensor of the file is.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// A tensor of an adapter on a module, such as `lora_A.weight`.
    Adapter(String),
    /// A tensor that all modules share, such as `vera_A`.
    Shared(String),
    /// A tensor of an adapter that is not read here, by what follows the module's path.
    Foreign(String),
    /// A parameter of the base, with the field's name. `adapted` says whether the key is that of a module under an adapter
    /// (`base_layer`).
    Whole {
        /// Name of the parameter in its module, such as `weight`.
        field: String,
        /// Whether the module is said to have an adapter.
        adapted: bool,
        /// Whether it belongs to the trained copy of a module, and is not called as files call it (`modules_to_save.default`).
        copy: bool,
    },
    /// The base's own parameter beside a trained copy of its module: nothing that a loaded adapter uses.
    Original,
}

impl Key {
    /// Understands a key with HF PEFT's prefix; `None` for what has another form.
    pub fn parse(key: &str) -> Option<Self> {
        if let Some(path) = key.strip_prefix(PREFIX) {
            return Self::on_module(path);
        }
        let mut names = key.strip_prefix(SHARED_PREFIX)?.split('.');
        let name = names.next().filter(|name| SHARED.contains(name))?;
        let adapter = names.next().map(String::from);
        let key = Self { module: String::new(), part: Part::Shared(name.into()), adapter };
        names.next().is_none().then_some(key)
    }

    /// Understands a key without the prefix.
    pub fn on_module(path: &str) -> Option<Self> {
        let names: Vec<&str> = path.split('.').collect();
        if names.iter().any(|name| name.is_empty()) {
            return None;
        }
        match names.iter().rposition(|name| BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))) {
            Some(at) => Some(Self::of_adapter(&names, at)),
            None => Self::whole(&names),
        }
    }

    fn of_adapter(names: &[&str], at: usize) -> Self {
        let (module, name, behind) = (names[..at].join("."), names[at], &names[at + 1..]);
        let known = TENSORS.iter().find(|(tensor, _)| *tensor == name);
        // `name[.adapter][.weight]`; a vector of magnitudes may have `.weight`, and loses it.
        let (adapter, ending) = match behind {
            [] => (None, None),
            [ending @ ("weight" | "bias")] => (None, Some(*ending)),
            [adapter] => (Some(*adapter), None),
            [adapter, ending @ ("weight" | "bias")] => (Some(*adapter), Some(*ending)),
            _ => return Self { module, part: Part::Foreign(names[at..].join(".")), adapter: None },
        };
        let part = match (known, ending) {
            (Some((name, endings)), Some(ending)) if endings.contains(&ending) => Part::Adapter(format!("{name}.{ending}")),
            (Some((name, [])), None) => Part::Adapter((*name).into()),
            (Some((name @ "lora_magnitude_vector", _)), Some("weight")) => Part::Adapter((*name).into()),
            _ => Part::Foreign(names[at..].join(".")),
        };
        Self { module, part, adapter: adapter.map(String::from) }
    }

    fn whole(names: &[&str]) -> Option<Self> {
        let (field, path) = names.split_last()?;
        if path.contains(&"original_module") {
            return Some(Self { module: path.join("."), part: Part::Original, adapter: None });
        }
        let mut path = path.to_vec();
        let (mut adapter, mut copy) = (None, false);
        if let Some(at) = path.iter().position(|name| *name == "modules_to_save") {
            path.remove(at);
            copy = true;
            // The adapter's name follows, where keys have it.
            if at < path.len() && is_adapter_name(path[at]) {
                adapter = Some(path.remove(at).to_owned());
            }
        }
        let adapted = path.last() == Some(&"base_layer");
        if adapted {
            path.pop();
        }
        Some(Self { module: path.join("."), part: Part::Whole { field: (*field).into(), adapted, copy }, adapter })
    }

    /// The key as HF PEFT writes it: without the adapter's name.
    pub fn canonical(&self) -> String {
        let on = |name: &str| format!("{PREFIX}{}.{name}", self.module);
        match &self.part {
            Part::Adapter(name) | Part::Foreign(name) => on(name),
            Part::Shared(name) => format!("{SHARED_PREFIX}{name}"),
            Part::Whole { field, adapted: true, .. } => on(&format!("base_layer.{field}")),
            Part::Whole { field, .. } => on(field),
            Part::Original => on("original_module"),
        }
    }
}

/// Whether the component behind `modules_to_save` is the name of an adapter, and no part of the module that was saved.
fn is_adapter_name(name: &str) -> bool {
    name == "default"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(key: &str) -> (String, Option<String>) {
        let key = Key::parse(key).unwrap();
        (key.canonical(), key.adapter)
    }

    #[test]
    fn a_key_may_have_the_name_of_the_adapter() {
        // The first of each pair is a key of `model.state_dict()`, the second that of the file which HF PEFT 0.21 writes for it.
        for (key, written) in [
            ("model.q.lora_A.default.weight", "model.q.lora_A.weight"),
            ("model.q.lora_B.default.bias", "model.q.lora_B.bias"),
            ("model.emb.lora_embedding_A.default", "model.emb.lora_embedding_A"),
            ("model.q.lora_magnitude_vector.default.weight", "model.q.lora_magnitude_vector"),
            ("model.k.ia3_l.default", "model.k.ia3_l"),
            ("model.k.vera_lambda_b.default", "model.k.vera_lambda_b"),
            ("model.mlp.modules_to_save.default.up.bias", "model.mlp.up.bias"),
        ] {
            assert_eq!(read(&format!("{PREFIX}{key}")), (format!("{PREFIX}{written}"), Some("default".into())), "{key}");
            assert_eq!(read(&format!("{PREFIX}{written}")), (format!("{PREFIX}{written}"), None), "{written}");
        }
        assert_eq!(read("base_model.vera_A.default"), ("base_model.vera_A".into(), Some("default".into())));
        assert_eq!(read("base_model.vera_B"), ("base_model.vera_B".into(), None));
        assert_eq!(read("base_model.model.q.lora_A.other.weight").1, Some("other".into()));
    }

    #[test]
    fn parameters_of_the_base_are_told_from_those_of_adapters() {
        let part = |key: &str| Key::parse(&format!("{PREFIX}{key}")).unwrap().part;
        let whole = |field: &str, adapted, copy| Part::Whole { field: field.into(), adapted, copy };
        assert_eq!(part("lm_head.weight"), whole("weight", false, false));
        assert_eq!(part("model.q.base_layer.bias"), whole("bias", true, false));
        assert_eq!(part("lm_head.modules_to_save.weight"), whole("weight", false, true));
        assert_eq!(part("lm_head.original_module.weight"), Part::Original);
        assert_eq!(part("model.q.lora_diag.default"), Part::Foreign("lora_diag.default".into()));
        assert_eq!(part("emb.token_adapter.trainable_tokens_delta"), Part::Foreign("trainable_tokens_delta".into()));
        for other in ["model.q.lora_A.weight", "base_model.q.weight", "base_model.model.", "base_model.model.a..b"] {
            assert_eq!(Key::parse(other), None, "{other}");
        }
    }
}
