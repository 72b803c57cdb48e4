//! One job in a process of its own.

use crate::attempt::is_out_of_memory;
use crate::shape::Shape;
use crate::{Part, Suite};
use serde_json::{Value, json};
use std::process::{Command, Stdio};
use std::time::Instant;

/// What the job prints, with its shape; an `error` if it dies.
pub fn job(suite: &Suite, part: Part, shape: Option<Shape>) -> Value {
    let name = [Some(part.name()), shape.map(Shape::name)].into_iter().flatten().collect::<Vec<_>>().join(" ");
    eprintln!("== {name} on {}", suite.device);
    let start = Instant::now();
    let mut result = run(suite, part, shape).unwrap_or_else(|error| json!({ "error": error }));
    if let Some(error) = result["error"].as_str().map(String::from) {
        result["out_of_memory"] = is_out_of_memory(&error).into();
        eprintln!("   {error}");
    }
    eprintln!("   {name}: {:.1} s", start.elapsed().as_secs_f64());
    let Some(shape) = shape else { return result };
    let mut named = json!({ "shape": shape.name() });
    if let (Some(named), Some(result)) = (named.as_object_mut(), result.as_object_mut()) {
        named.append(result);
    }
    named
}

fn run(suite: &Suite, part: Part, shape: Option<Shape>) -> Result<Value, String> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut command = Command::new(program);
    command.args(["--here", "--device", &suite.device, "--only", &part.name()]);
    if let Some(shape) = shape {
        command.args(["--shape", &shape.name()]);
    }
    let numbers = [
        ("--batch", suite.batch),
        ("--seq", suite.seq),
        ("--rank", suite.rank),
        ("--steps", suite.steps),
        ("--warmup", suite.warmup),
        ("--prompt", suite.prompt),
        ("--new", suite.new),
    ];
    for (flag, number) in numbers {
        command.args([flag, &number.to_string()]);
    }
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    // A library may print too.
    let last = text.lines().rev().find_map(|line| serde_json::from_str(line).ok());
    last.ok_or_else(|| format!("the process ended without a result ({})", output.status))
}
