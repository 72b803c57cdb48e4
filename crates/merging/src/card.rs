//! The model card of a merge.

use crate::method::BaseUse;
use crate::plan::Plan;
use crate::recipe::ModelRef;
use peft_core::Result;
use peft_core::files::write_atomic;
use std::path::Path;

/// The recipe beside the result.
const RECIPE_FILE: &str = "merge_recipe.yaml";

impl Plan {
    /// Writes `README.md` and the recipe into `dir`; `name` is what the result is called.
    ///
    /// # Errors
    /// [`peft_core::Error::Io`].
    pub(crate) fn write_card(&self, dir: &Path, name: &str) -> Result<()> {
        write_atomic(&dir.join("README.md"), self.card(name).as_bytes())?;
        write_atomic(&dir.join(RECIPE_FILE), self.recipe.text.as_bytes())
    }

    fn card(&self, name: &str) -> String {
        let method = self.recipe.method;
        let base = self.recipe.base.as_ref().filter(|_| method.base != BaseUse::Ordinary);
        let hub_ids: Vec<String> =
            self.models.iter().filter(|model| is_hub_id(&model.name)).map(|model| format!("- {}\n", model.name.model)).collect();
        let models: Vec<String> =
            self.models.iter().filter(|model| Some(&model.name) != base).map(|model| format!("- {}\n", link(&model.name))).collect();
        let mut card = String::from("---\nlibrary_name: transformers\ntags:\n- merge\n");
        if !hub_ids.is_empty() {
            card += &format!("base_model:\n{}", hub_ids.concat());
        }
        card += &format!("---\n\n# {name}\n\nA merge by [{}]({})", method.title, method.reference);
        if let Some(base) = base {
            card += &format!(" on the base {}", link(base));
        }
        card += &format!(" of\n\n{}\nmade with `peft merge` from this recipe", models.concat());
        if self.is_random() {
            card += &format!(", with `--seed {}`", self.seed);
        }
        card + &format!(":\n\n```yaml\n{}\n```\n", self.recipe.text.trim_end())
    }

    /// Whether the method draws random numbers.
    pub fn is_random(&self) -> bool {
        ["dare", "della"].iter().any(|name| self.recipe.method.name.starts_with(name))
    }
}

fn is_hub_id(model: &ModelRef) -> bool {
    let parts: Vec<&str> = model.model.split('/').collect();
    matches!(parts[..], [org, name] if !org.is_empty() && !name.is_empty() && org != "." && org != "..")
        && !Path::new(&model.model).exists()
}

fn link(model: &ModelRef) -> String {
    match is_hub_id(model) {
        true => format!("[{model}](https://huggingface.co/{})", model.model.split('@').next().unwrap_or_default()),
        false => format!("`{model}`"),
    }
}
