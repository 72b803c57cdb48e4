//! What a measurement depends on besides the code.

use crate::workspace_root;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// The machine, the versions and the day.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// In UTC, `YYYY-MM-DD`.
    pub date: String,
    /// The processor's name.
    pub cpu: String,
    /// Cores that the process may use.
    pub cores: usize,
    /// Threads that each side used.
    pub threads: u32,
    /// Operating system and architecture.
    pub system: String,
    /// Versions by name.
    pub versions: BTreeMap<String, String>,
}

impl Facts {
    /// Those of this machine now, with the other side's versions.
    pub fn gather(threads: u32, peer_versions: BTreeMap<String, String>) -> Self {
        let days = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() / 86_400);
        let mut versions = peer_versions;
        let commit = said_by("git", &["describe", "--always", "--dirty", "--exclude=*"]);
        versions.insert("burn-peft".into(), [env!("CARGO_PKG_VERSION").into(), commit].join(" ").trim().into());
        versions.insert("burn".into(), locked("burn"));
        versions.insert("rustc".into(), said_by("rustc", &["--version"]).split(' ').nth(1).unwrap_or_default().into());
        versions.retain(|_, version| !version.is_empty());
        Self {
            date: date(days as i64),
            cpu: cpu(),
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            threads,
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            versions,
        }
    }

    /// The same as a sentence.
    pub fn sentence(&self) -> String {
        let Self { date, cpu, cores, threads, system, versions } = self;
        let versions: Vec<_> = versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        format!("{date}, {cpu} with {cores} cores, {threads} threads, {system}; {}", versions.join(", "))
    }
}

fn cpu() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.split_once(':').map(|(_, value)| value.trim().to_owned()));
    value("model name").unwrap_or_else(|| "unknown processor".into())
}

/// The version of a crate in Cargo.lock.
fn locked(name: &str) -> String {
    let lock = fs::read_to_string(workspace_root().join("Cargo.lock")).unwrap_or_default();
    let after = lock.split_once(&format!("name = \"{name}\"\nversion = \"")).map_or("", |(_, after)| after);
    after.split('"').next().unwrap_or_default().into()
}

/// What a program says, or nothing.
fn said_by(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).current_dir(workspace_root()).output();
    output.map_or_else(|_| String::new(), |output| String::from_utf8_lossy(&output.stdout).trim().into())
}

/// The date of a day counted from 1970-01-01, by the calendar of 400 years that begin in March.
fn date(days: i64) -> String {
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    format!("{}-{month:02}-{day:02}", era * 400 + year + i64::from(month <= 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_dates() {
        assert_eq!([0, 58, 59, 11_016, 20_453].map(date), ["1970-01-01", "1970-02-28", "1970-03-01", "2000-02-29", "2025-12-31"]);
    }

    #[test]
    fn the_version_of_a_dependency_is_found() {
        assert!(locked("burn").starts_with("0."), "{}", locked("burn"));
        assert_eq!(locked("no-such-crate"), "");
    }
}
