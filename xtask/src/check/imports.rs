//! Which crate of the workspace may import which.
//!
//! `peft-kernels` imports none of the others, `peft-core` the kernels alone. A family of methods imports the core alone, so that families stay independent of each
//! other and of any backbone. The backbones import the core, training the core and the objectives. The program, these tasks and the
//! benchmarks import what they like, and so do tests (development dependencies).

use serde::Deserialize;

/// What `cargo metadata --no-deps` says, as far as it matters here.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `null` for an ordinary dependency, `dev` or `build`.
    kind: Option<String>,
}

/// The crates of the workspace that `package` may import; `None` if it may import all.
///
/// A package without a rule of its own is a family.
fn allowed(package: &str) -> Option<&'static [&'static str]> {
    match package {
        "peft" | "xtask" | "peft-benches" => None,
        "peft-kernels" => Some(&[]),
        "peft-core" => Some(&["peft-kernels"]),
        "peft-train" => Some(&["peft-core", "peft-objectives"]),
        _ => Some(&["peft-core"]),
    }
}

/// A sentence for each import that the rule forbids.
///
/// # Errors
/// If the text is not the JSON of `cargo metadata`.
pub fn violations(metadata: &str) -> Result<Vec<String>, String> {
    let metadata: Metadata = serde_json::from_str(metadata).map_err(|e| format!("cargo metadata: {e}"))?;
    let is_ours = |name: &str| metadata.packages.iter().any(|package| package.name == name);
    let mut found = Vec::new();
    for Package { name, dependencies } in &metadata.packages {
        let Some(allowed) = allowed(name) else { continue };
        let imported = dependencies.iter().filter(|d| d.kind.as_deref() != Some("dev") && is_ours(&d.name));
        for dependency in imported.filter(|d| !allowed.contains(&d.name.as_str())) {
            let may = if allowed.is_empty() { "none of the other crates".into() } else { format!("{} only", allowed.join(" and ")) };
            found.push(format!("{name} imports {}, but may import {may}", dependency.name));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A package with its dependencies and their kinds.
    type Listed<'a> = (&'a str, &'a [(&'a str, Option<&'a str>)]);

    /// What is wrong with a workspace of these packages.
    fn found(packages: &[Listed]) -> Vec<String> {
        let dependency = |(name, kind): &(&str, Option<&str>)| json!({ "name": name, "kind": kind, "req": "*" });
        let package =
            |(name, dependencies): &Listed| json!({ "name": name, "dependencies": dependencies.iter().map(dependency).collect::<Value>() });
        violations(&json!({ "packages": packages.iter().map(package).collect::<Value>() }).to_string()).unwrap()
    }

    const CORE: Listed = ("peft-core", &[("burn", None)]);

    #[test]
    fn imports_along_the_layers_are_fine() {
        let packages: [Listed; 6] = [
            CORE,
            ("peft-adapters", &[("peft-core", None), ("serde", None)]),
            ("peft-objectives", &[("burn", None)]),
            ("peft-models", &[("peft-core", None)]),
            ("peft-train", &[("peft-core", None), ("peft-objectives", None)]),
            ("peft", &[("peft-adapters", None), ("peft-models", None), ("peft-train", None)]),
        ];
        assert!(found(&packages).is_empty());
    }

    #[test]
    fn the_core_imports_no_family() {
        let packages: [Listed; 2] = [("peft-core", &[("peft-adapters", None)]), ("peft-adapters", &[])];
        assert_eq!(found(&packages), ["peft-core imports peft-adapters, but may import peft-kernels only"]);
    }

    #[test]
    fn families_do_not_import_each_other_nor_a_backbone() {
        let packages: [Listed; 4] = [
            CORE,
            ("peft-quant", &[("peft-core", None), ("peft-adapters", None)]),
            ("peft-adapters", &[("peft-core", None), ("peft-models", Some("build"))]),
            ("peft-models", &[("peft-core", None)]),
        ];
        let expected = [
            "peft-quant imports peft-adapters, but may import peft-core only",
            "peft-adapters imports peft-models, but may import peft-core only",
        ];
        assert_eq!(found(&packages), expected);
    }

    #[test]
    fn training_imports_the_core_and_the_objectives_only() {
        let packages: [Listed; 3] = [CORE, ("peft-models", &[]), ("peft-train", &[("peft-objectives", None), ("peft-models", None)])];
        assert_eq!(found(&packages), ["peft-train imports peft-models, but may import peft-core and peft-objectives only"]);
    }

    #[test]
    fn tests_import_what_they_like() {
        let packages: [Listed; 2] = [("peft-models", &[]), ("peft-adapters", &[("peft-models", Some("dev"))])];
        assert!(found(&packages).is_empty());
    }

    #[test]
    fn what_is_not_metadata_is_an_error() {
        assert!(violations("{}").unwrap_err().starts_with("cargo metadata: missing field `packages`"));
    }
}
