//! Expressions with the values that Python gives, and templates made to do harm.

use super::{Options, Rendering, Template, Value};

fn render(source: &str) -> Result<String, String> {
    let context = || vec![("x".to_string(), Value::from_json(&serde_json::json!({"a": [1, 2.0, null], "b": "é"})))];
    let template = Template::new(source, Options { trim: true, ..Options::default() }).map_err(|e| e.to_string())?;
    template.render(context, Rendering::default()).map_err(|e| e.to_string())
}

#[test]
fn values_print_as_in_python() {
    assert_eq!(render("{{ x }}").unwrap(), "{'a': [1, 2.0, None], 'b': 'é'}");
}
