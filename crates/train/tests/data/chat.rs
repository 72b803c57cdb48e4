//! What is learned of conversations, over templates of every structure: nothing that others say, all that the assistant says.
//!
//! With `PEFT_CHAT_TEMPLATES`, a folder of `*.jinja` files, the same is checked of those.

use crate::templates::TEMPLATES;
use crate::{Dir, checkpoint};
use peft_train::data::*;
use serde_json::{Value, json};

/// Conversations of words that occur once: those of the assistant begin with `w`, those of others with `q`.
fn conversations() -> Vec<(&'static str, Value)> {
    let call = |id: &str, name: &str, key: &str, value: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": {key: value}}});
    let tool = |name: &str| json!({"type": "function", "function": {"name": name, "description": "qdescription", "parameters": {"type": "object", "properties": {}}}});
    vec![
        ("one question", json!({"messages": [{"role": "user", "content": "qone qtwo"}, {"role": "assistant", "content": "wone wtwo"}]})),
        (
            "several turns",
            json!({"messages": [
                {"role": "system", "content": "qsystem"},
                {"role": "user", "content": "qone\nqtwo "}, {"role": "assistant", "content": " wone\n\nwtwo\n"},
                {"role": "user", "content": "(qthree)"}, {"role": "assistant", "content": "\"wthree\": {wfour}"},
                {"role": "user", "content": "qfour?"}, {"role": "assistant", "content": "<b>wfive</b>"}]}),
        ),
        (
            "no system prompt, an open end",
            json!({"messages": [
                {"role": "user", "content": "qone"}, {"role": "assistant", "content": "wone"},
                {"role": "user", "content": "qtwo"}, {"role": "assistant", "content": "wtwo"}, {"role": "user", "content": "qthree"}]}),
        ),
        (
            "thoughts",
            json!({"messages": [
                {"role": "user", "content": "qone"}, {"role": "assistant", "reasoning_content": "wthought", "content": "wone"},
                {"role": "user", "content": "qtwo"}, {"role": "assistant", "reasoning_content": "wmore\nwthoughts", "content": "wtwo"}]}),
        ),
        (
            "thoughts in contents",
            json!({"messages": [
                {"role": "user", "content": "qone"}, {"role": "assistant", "content": "<think>\nwthought\n</think>\n\nwone"},
                {"role": "user", "content": "qtwo"}, {"role": "assistant", "content": "<think>\nwmore\n</think>\n\nwtwo"}]}),
        ),
        (
            "a tool",
            json!({"tools": [tool("wtool")], "messages": [
                {"role": "user", "content": "qone"},
                {"role": "assistant", "content": null, "tool_calls": [call("abcdefghi", "wtool", "wkey", "wvalue")]},
                {"role": "tool", "tool_call_id": "abcdefghi", "name": "wtool", "content": "qresult"},
                {"role": "assistant", "content": "wdone"}]}),
        ),
        (
            "tools, thoughts and words, and more turns",
            json!({"tools": [tool("wtool"), tool("wother")], "messages": [
                {"role": "system", "content": "qsystem"},
                {"role": "user", "content": "qone"},
                {"role": "assistant", "content": "wlook", "reasoning_content": "wthought", "tool_calls": [call("abcdefghi", "wtool", "wkey", "wvalue")]},
                {"role": "tool", "tool_call_id": "abcdefghi", "name": "wtool", "content": "{\"qkey\": \"qresult\"}"},
                {"role": "assistant", "content": "", "reasoning_content": "wagain", "tool_calls": [call("bcdefghij", "wother", "wname", "wit's \"quoted\"")]},
                {"role": "tool", "tool_call_id": "bcdefghij", "name": "wother", "content": "qother"},
                {"role": "assistant", "content": "wdone", "reasoning_content": "wlast"},
                {"role": "user", "content": "qtwo"},
                {"role": "assistant", "content": "wthanks"}]}),
        ),
        (
            "an unlearned message",
            json!({"messages": [
                {"role": "user", "content": "qone"}, {"role": "assistant", "content": "qanswer", "weight": 0},
                {"role": "user", "content": "qtwo"}, {"role": "assistant", "content": "wtwo", "weight": 1}]}),
        ),
    ]
}

/// Words of `text` that begin with `letter`.
fn words(text: &str, letter: char) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| word.starts_with(letter) && word.len() > 2);
    words.map(String::from).collect()
}

#[derive(Default)]
struct Tally {
    right: usize,
    /// Parts are missing, and the statistics say so.
    told: usize,
    refused: usize,
    wrong: Vec<String>,
}

impl Tally {
    fn check(&mut self, name: &str, template: &ChatTemplate, tokenizer: &TextTokenizer, (title, row): (&str, Value)) {
        let example = read_one(&row);
        let mut encoder = Encoder::new(tokenizer, Some(template), EncodeConfig { max_length: 1 << 20, train_on_prompt: false }).unwrap();
        let rows = match encoder.encode(&example) {
            Ok(rows) => rows,
            Err(e) if e.to_string().contains("the chat template failed") => return self.refused += 1,
            Err(e) => return self.wrong.push(format!("{name}, {title}: {e}")),
        };
        let learned: Vec<String> = rows.iter().map(|row| learned(tokenizer, row)).collect();
        let all = learned.join(" | ");
        let foreign: Vec<_> = words(&all, 'q').into_iter().filter(|word| word != "quoted").collect();
        // Of calls, what the row says of tools is not meant.
        let said = words(&row["messages"].to_string().replace("\\n", "\n"), 'w');
        let spoken = row["messages"].as_array().unwrap().iter().filter(|message| message["role"] == "assistant").map(Value::to_string);
        let spoken: String = spoken.collect::<Vec<_>>().join(" ").replace("\\n", "\n");
        let missing: Vec<_> =
            said.iter().filter(|word| spoken.contains(*word) && word.as_str() != "weight" && !all.contains(*word)).collect();
        let stats = encoder.stats();
        let counted = stats.incomplete + stats.skipped.all() > 0;
        match (foreign.is_empty(), missing.is_empty()) {
            (true, true) => self.right += 1,
            (true, false) if counted => {
                eprintln!("{name}, {title}: lacks {missing:?}, and the statistics say so");
                self.told += 1
            }
            _ => self.wrong.push(format!("{name}, {title}: learned of others {foreign:?}, lacks {missing:?}: {learned:?} {stats:?}")),
        }
    }
}

fn read_one(row: &Value) -> Example {
    let dir = Dir::new().with("data.jsonl", row.to_string());
    read_examples(dir.0.join("data.jsonl")).unwrap().remove(0)
}

/// What is learned, with `…` for what is not.
fn learned(tokenizer: &TextTokenizer, row: &Encoded) -> String {
    let runs = (0..row.ids.len()).collect::<Vec<_>>();
    let runs = runs.chunk_by(|a, b| row.labels_mask[*a] == row.labels_mask[*b]);
    let text = |run: &[usize]| match row.labels_mask[run[0]] {
        true => tokenizer.decode(&run.iter().map(|i| row.ids[*i]).collect::<Vec<_>>(), false).unwrap(),
        false => "…".into(),
    };
    runs.map(text).collect()
}

fn tokens() -> SpecialTokens {
    [("bos_token", "<s>"), ("eos_token", "</s>")].into_iter().collect()
}

#[test]
fn nothing_that_others_say_is_learned_and_all_that_the_assistant_says() {
    let tokenizer = checkpoint().tokenizer();
    let mut tally = Tally::default();
    let mut templates: Vec<(String, String)> = TEMPLATES.iter().map(|(name, source)| (name.to_string(), source.to_string())).collect();
    let owned = templates.len();
    if let Some(dir) = std::env::var_os("PEFT_CHAT_TEMPLATES") {
        let files = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
        let mut files: Vec<_> = files.filter(|file| file.extension().is_some_and(|extension| extension == "jinja")).collect();
        files.sort();
        templates
            .extend(files.iter().map(|file| (file.file_name().unwrap().to_string_lossy().into(), std::fs::read_to_string(file).unwrap())));
    }
    for (index, (name, source)) in templates.iter().enumerate() {
        let template = match ChatTemplate::new(source, &tokens(), "chat_template.jinja") {
            Ok(template) => template,
            Err(e) if index >= owned => {
                eprintln!("{name}: {e}");
                continue;
            }
            Err(e) => panic!("{name}: {e}"),
        };
        let before = (tally.right, tally.told, tally.refused);
        conversations().into_iter().for_each(|conversation| tally.check(name, &template, &tokenizer, conversation));
        let (right, told, refused) = (tally.right - before.0, tally.told - before.1, tally.refused - before.2);
        eprintln!("{name}: {right} right, {told} with parts that the template leaves out, {refused} refused by the template");
        assert!(index >= owned || right + told > 0, "{name}");
    }
    eprintln!(
        "{} templates: {} right, {} told, {} refused, {} wrong",
        templates.len(),
        tally.right,
        tally.told,
        tally.refused,
        tally.wrong.len()
    );
    assert!(tally.wrong.is_empty(), "{}", tally.wrong.join("\n"));
}
