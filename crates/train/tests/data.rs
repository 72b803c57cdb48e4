//! What data files, templates and tokenizers are made into, and what is said when they cannot be used.

use peft_core::device::host;
use peft_train::data::*;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

#[path = "data/chat.rs"]
mod chat;
#[path = "data/forms.rs"]
mod forms;
#[path = "data/templates.rs"]
mod templates;
#[path = "data/tokens.rs"]
mod tokens;

/// A directory that goes away with the test.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("peft-train-data-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn with(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        std::fs::write(self.0.join(name), content).unwrap();
        self
    }

    fn with_json(self, name: &str, content: Value) -> Self {
        self.with(name, content.to_string())
    }

    fn tokenizer(&self) -> TextTokenizer {
        TextTokenizer::load(&self.0).unwrap()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl AsRef<Path> for Dir {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

// ---- tokenizers to test with

const SPECIAL: [&str; 6] = ["<s>", "</s>", "<pad>", "<user>", "<assistant>", "<end>"];

/// A byte-level tokenizer: six special tokens, the 256 bytes, and the merges ` b` and ` bo`. Texts begin with `<s>`.
fn byte_level() -> Value {
    let mut alphabet: Vec<char> = ::tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let tokens = SPECIAL.iter().map(|s| s.to_string()).chain(alphabet.iter().map(char::to_string)).chain(["Ġb".into(), "Ġbo".into()]);
    let vocab: serde_json::Map<_, _> = tokens.enumerate().map(|(id, token)| (token, json!(id))).collect();
    let added = |(id, content): (usize, &&str)| json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false});
    json!({
        "version": "1.0",
        "added_tokens": SPECIAL.iter().enumerate().map(added).collect::<Vec<_>>(),
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": ["Ġ b", "Ġb o"]},
    })
}

fn checkpoint() -> Dir {
    Dir::new()
        .with_json("tokenizer.json", byte_level())
        .with_json("tokenizer_config.json", json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": "<pad>"}))
}

const CHAT: &str = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>\n\n{% endfor %}\
                    {% if add_generation_prompt %}<assistant>{% endif %}";

/// Token by token, those that count in brackets.
fn marked(tokenizer: &TextTokenizer, row: &Encoded) -> String {
    assert_eq!(row.ids.len(), row.labels_mask.len());
    let token = |(&id, &counts): (&u32, &bool)| {
        let text = tokenizer.decode(&[id], false).unwrap();
        if counts { format!("[{text}]") } else { format!("({text})") }
    };
    row.ids.iter().zip(&row.labels_mask).map(token).collect()
}

fn example(content: Content) -> Example {
    Example::new(content, "data.jsonl", 7)
}

fn text(text: &str) -> Example {
    example(Content::Text { text: text.into() })
}

fn completion(prompt: &str, completion: &str) -> Example {
    example(Content::Completion { prompt: prompt.into(), completion: completion.into(), answer: None })
}

fn chat(messages: &[(&str, &str)]) -> Example {
    let messages: Vec<_> = messages.iter().map(|&(role, content)| Message::new(role, content)).collect();
    example(Content::Chat(messages.into()))
}

fn config(max_length: usize, train_on_prompt: bool) -> EncodeConfig {
    EncodeConfig { max_length, train_on_prompt }
}

fn encode_with(dir: &Dir, template: Option<&str>, example: &Example, config: &EncodeConfig) -> peft_core::Result<Option<String>> {
    let tokenizer = dir.tokenizer();
    let tokens = SpecialTokens::load(dir)?;
    let template = template.map(|source| ChatTemplate::new(source, &tokens, "chat_template.jinja").unwrap());
    let rows = encode_example(example, &tokenizer, template.as_ref(), config)?;
    assert!(rows.len() < 2, "{}", rows.len());
    Ok(rows.first().map(|row| marked(&tokenizer, row)))
}

fn encode(example: &Example) -> String {
    encode_with(&checkpoint(), Some(CHAT), example, &EncodeConfig::default()).unwrap().unwrap()
}

// ---- JSON Lines

fn read(content: impl AsRef<[u8]>) -> Result<Vec<Example>, String> {
    let dir = Dir::new().with("data.jsonl", content);
    let path = dir.0.join("data.jsonl");
    read_examples(&path).map_err(|e| e.to_string().replace(&path.display().to_string(), "data.jsonl"))
}

#[test]
fn every_shape_of_example_is_read() {
    let lines = "\u{feff}{\"text\": \"a\", \"id\": 1}\r\n\r\n  \n{\"prompt\": \"p\", \"completion\": \"c\"}\n\
                 {\"messages\": [{\"role\": \"user\", \"content\": \"u\", \"name\": \"x\"}], \"text\": \"t\"}\n\
                 {\"prompt\": \"p\", \"choices\": [\"a\", \"b\"], \"answer\": 1}\n\
                 {\"prompt\": \"p\", \"choices\": [\"a\", \"b\"], \"answer\": \"a\"}\n\
                 {\"prompt\": \"p\", \"answer\": 42}\n{\"prompt\": \"p\", \"completion\": \"c\", \"answer\": \"x\"}";
    let examples = read(lines).unwrap();
    let lines: Vec<_> = examples.iter().map(|e| e.line).collect();
    assert_eq!(lines, [1, 4, 5, 6, 7, 8, 9]);

    let prompt = || String::from("p");
    let choices = || vec!["a".into(), "b".into()];
    let mut named = Message::new("user", "u");
    named.extra.insert("name".into(), "x".into());
    let expected = [
        Content::Text { text: "a".into() },
        Content::Completion { prompt: prompt(), completion: "c".into(), answer: None },
        Content::Chat(vec![named].into()),
        Content::Choice { prompt: prompt(), choices: choices(), answer: 1 },
        Content::Choice { prompt: prompt(), choices: choices(), answer: 0 },
        Content::Question { prompt: prompt(), answer: "42".into() },
        Content::Completion { prompt: prompt(), completion: "c".into(), answer: Some("x".into()) },
    ];
    let contents: Vec<_> = examples.into_iter().map(|e| e.content).collect();
    assert_eq!(contents, expected);
}

fn contents(file: impl AsRef<[u8]>) -> Vec<Content> {
    read(file).unwrap().into_iter().map(|example| example.content).collect()
}

fn messages(spoken: &[(&str, &str)]) -> Content {
    chat(spoken).content
}

#[test]
fn conversations_of_sharegpt_are_read() {
    let lines = r#"{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a", "weight": 1}], "system": "s"}
        {"conversations": [{"from": "system", "value": "s"}, {"from": "user", "value": "q"}, {"from": "observation", "value": "o"}], "system": ""}
        {"conversations": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}"#;
    let [first, second, third] = contents(lines).try_into().unwrap();
    let Content::Chat(Conversation { messages: spoken, .. }) = &first else { panic!("{first:?}") };
    assert_eq!(spoken[2].extra["weight"], 1);
    let roles: Vec<_> = spoken.iter().map(|message| (message.role.as_str(), message.content.as_str())).collect();
    assert_eq!(roles, [("system", "s"), ("user", "q"), ("assistant", "a")]);
    assert_eq!(second, messages(&[("system", "s"), ("user", "q"), ("tool", "o")]));
    assert_eq!(third, messages(&[("user", "q"), ("assistant", "a")]));
}

#[test]
fn instructions_are_posed_by_the_chat_template_or_in_alpacas_words() {
    let lines = r#"{"instruction": "Add.", "input": "1 2", "output": "3", "text": "unused"}
        {"instruction": "Sing.", "input": "", "output": "La"}
        {"instruction": "Sing.", "output": "La", "system": "You are a bird."}"#;
    let posed = |template| contents(lines).iter().map(|content| content.posed(template).into_owned()).collect::<Vec<_>>();
    let expected = [
        messages(&[("user", "Add.\n\n1 2"), ("assistant", "3")]),
        messages(&[("user", "Sing."), ("assistant", "La")]),
        messages(&[("system", "You are a bird."), ("user", "Sing."), ("assistant", "La")]),
    ];
    assert_eq!(posed(true), expected);

    let task = "Below is an instruction that describes a task";
    let prompts = [
        format!(
            "{task}, paired with an input that provides further context. Write a response that appropriately completes the request.\n\n\
             ### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n"
        ),
        format!("{task}. Write a response that appropriately completes the request.\n\n### Instruction:\nSing.\n\n### Response:\n"),
        "You are a bird.\n\n### Instruction:\nSing.\n\n### Response:\n".into(),
    ];
    let expected = prompts.into_iter().zip(["3", "La", "La"]).map(|(prompt, output)| completion(&prompt, output).content);
    assert_eq!(posed(false), expected.collect::<Vec<_>>());

    let example = example(contents(lines)[1].clone());
    assert_eq!(encode(&example), "(<s>)(<user>)(S)(i)(n)(g)(.)(<end>)(\n)(\n)(<assistant>)[L][a][<end>](\n)(\n)");
    let plain = encode_with(&checkpoint(), None, &example, &EncodeConfig::default()).unwrap().unwrap();
    assert!(plain.ends_with("(:)(\n)[L][a][</s>]"), "{plain}");
}

#[test]
fn an_array_of_objects_is_read_with_the_lines_they_begin_in() {
    let array =
        "\u{feff}\r\n[\r\n  {\"text\": \"a,]\"},\n  {\n    \"prompt\": \"p\",\n    \"completion\": \"c\"\n  }, {\"text\": \"b\"}\n]\n";
    let examples = read(array).unwrap();
    let found: Vec<_> = examples.iter().map(|example| (example.line, &example.content)).collect();
    let [a, p, b] = [text("a,]"), completion("p", "c"), text("b")].map(|example| example.content);
    assert_eq!(found, [(3, &a), (4, &p), (7, &b)]);
    assert_eq!(read("[]").unwrap_err(), "data.jsonl: holds no examples");
}

#[test]
fn an_array_that_is_not_well_formed_is_named_with_the_line() {
    let cases = [
        ("[{\"text\": \"a\"},\n{\"text\": 3}]", "data.jsonl:2: `text` must be a string, found a number"),
        ("[{\"text\": \"a\"},\n\n\"b\"]", "data.jsonl:3: expected objects in the array, found a string"),
        ("[\n{\"text\": \"a\"}\n{\"text\": \"b\"}]", "data.jsonl:3: expected `,` or `]` after an object of the array"),
        ("[{\"text\": \"a\"}", "data.jsonl:1: expected `,` or `]` after an object of the array"),
        ("[{\"text\": \"a\"},\n", "data.jsonl:2: not valid JSON: the array does not end"),
        ("[{\"text\": \"a\"}, {\n\"text\":\n\"b\n\"}]", "data.jsonl:4: not valid JSON: control character"),
        ("[{\"text\": \"a\"}]\n[{\"text\": \"b\"}]", "data.jsonl:2: expected nothing after the array"),
    ];
    for (array, reason) in cases {
        let error = read(array).unwrap_err();
        assert!(error.starts_with(reason), "{array}\n{error}");
    }
}

#[test]
fn a_compressed_file_is_refused() {
    assert_eq!(read([0x1f, 0x8b, 8, 0]).unwrap_err(), "data.jsonl: is compressed; unpack it first, with gunzip");
}

#[test]
fn a_line_that_is_no_example_is_named_with_the_reason() {
    let cases = [
        ("{\"text\": ", "not valid JSON: EOF while parsing a value at column 9; each line must hold one whole JSON object"),
        ("[{\"text\": \"a\"}]", "expected one JSON object per line, found a list"),
        ("\"text\"", "expected one JSON object per line, found a string"),
        (
            "{\"question\": 1, \"reply\": 2}",
            "no known kind of example: found the keys `question`, `reply`; known are {\"text\"}, {\"prompt\", \"completion\"}",
        ),
        ("{}", "no known kind of example: found no keys"),
        ("{\"prompt\": \"p\"}", "no known kind of example: found the keys `prompt`"),
        ("{\"text\": 3}", "`text` must be a string, found a number"),
        ("{\"prompt\": null, \"completion\": \"c\"}", "no known kind of example: found the keys `completion`"),
        ("{\"prompt\": 1, \"completion\": \"c\"}", "`prompt` must be a string or a list of messages, found a number"),
        ("{\"messages\": {}}", "`messages` must be a list, found an object"),
        ("{\"messages\": []}", "`messages` is empty"),
        ("{\"messages\": [\"hi\"]}", "`messages[0]`: must be an object with `role` and `content`, found a string"),
        (
            "{\"messages\": [{\"role\": \"human\", \"content\": \"\"}]}",
            "`messages[0]`: unknown role `human`; known roles are `system`, `developer`, `user`, `assistant`, `tool`",
        ),
        ("{\"messages\": [{\"role\": \"user\"}]}", "`messages[0]`: `content` is missing"),
        ("{\"conversations\": [{\"from\": \"human\"}]}", "`conversations[0]`: `value` is missing"),
        (
            "{\"conversations\": [{\"from\": \"bot\", \"value\": \"v\"}]}",
            "`conversations[0]`: unknown speaker `bot`; known are `human`, `user`, `gpt`, `chatgpt`, `assistant`, `system`, `tool`, `observation`",
        ),
        ("{\"conversations\": [{\"from\": \"gpt\", \"value\": \"v\"}], \"system\": 1}", "`system` must be a string, found a number"),
        ("{\"instruction\": \"i\", \"input\": 1, \"output\": \"o\"}", "`input` must be a string, found a number"),
        (
            "{\"messages\": [{\"role\": \"user\", \"content\": [1]}]}",
            "`messages[0]`: `content` must be a string or a list of text parts, found a number in the list",
        ),
        ("{\"prompt\": \"p\", \"choices\": []}", "`choices` is empty"),
        ("{\"prompt\": \"p\", \"choices\": [1]}", "`choices` must hold strings, found a number"),
        ("{\"prompt\": \"p\", \"choices\": \"ab\"}", "`choices` must be a list of strings, found a string"),
        ("{\"prompt\": \"p\", \"choices\": [\"a\"]}", "`answer` must be the index of a choice or its text, found nothing"),
        ("{\"prompt\": \"p\", \"choices\": [\"a\"], \"answer\": 1}", "`answer` 1 is none of the 1 choices (indices start at 0)"),
        ("{\"prompt\": \"p\", \"choices\": [\"a\"], \"answer\": \"b\"}", "`answer` \"b\" is none of the 1 choices"),
        ("{\"prompt\": \"p\", \"answer\": true}", "`answer` must be a string or a number, found a boolean"),
    ];
    for (line, reason) in cases {
        let error = read(format!("{{\"text\": \"fine\"}}\n\n{line}\n")).unwrap_err();
        assert!(error.starts_with(&format!("data.jsonl:3: {reason}")), "{line}\n{error}");
    }
}

#[test]
fn a_line_that_is_not_utf8_is_named() {
    let error = read(b"{\"text\": \"fine\"}\n{\"text\": \"\xff\"}\n").unwrap_err();
    assert_eq!(error, "data.jsonl:2: not valid UTF-8 at byte 11");
}

#[test]
fn what_json_does_not_have_is_named_with_the_remedy() {
    let half = "half of a surrogate pair stands alone";
    let cases = [
        (r#"{"text": "a\ud800"}"#, half, r"\ud83d\ude00"),
        (r#"{"text": "\ud83d\n"}"#, half, r"\ud83d\ude00"),
        (r#"{"text": "\ude00 b"}"#, half, r"\ud83d\ude00"),
        (r#"{"text": "a", "score": NaN}"#, "NaN is no number of JSON", "write a number or null"),
        (r#"{"text": "a", "scores": [1,Infinity]}"#, "Infinity is no number of JSON", "write a number or null"),
        (r#"{"score":-Infinity, "text": "a"}"#, "-Infinity is no number of JSON", "write a number or null"),
    ];
    for (row, reason, remedy) in cases {
        for error in [read(format!("{{\"text\": \"fine\"}}\n{row}\n")), read(format!("[{{\"text\": \"fine\"}},\n{row}]"))] {
            let error = error.unwrap_err();
            assert!(error.starts_with(&format!("data.jsonl:2: not valid JSON: {reason}")) && error.contains(remedy), "{row}\n{error}");
        }
    }
    // Both halves are the character, and words within texts are no numbers.
    assert_eq!(contents(r#"{"text": "\ud83d\ude00 NaN"}"#), [text("😀 NaN").content]);
}

#[test]
fn a_row_that_is_too_long_is_refused_before_it_is_read() {
    const MOST: usize = 16 << 20;
    let row = |bytes: usize| format!("{{\"text\": \"{}\"}}", "a".repeat(bytes - 12));
    let reason =
        |bytes: usize| format!("data.jsonl:2: the row has {bytes} bytes, and {MOST} are the most that one may have; split its text");
    let fine = "{\"text\": \"fine\"}";
    for error in [read(format!("{fine}\n{}", row(MOST + 9))), read(format!("[{fine},\n{}, {fine}]", row(MOST + 9)))] {
        let error = error.unwrap_err();
        assert!(error.starts_with(&reason(MOST + 9)), "{error}");
    }
    let streamed = streamed_file(&checkpoint(), &format!("{fine}\n{}\n{fine}\n", row(MOST + 9))).unwrap_err().to_string();
    assert!(streamed.contains(&format!(":2: the row has {} bytes", MOST + 10)), "{streamed}");
    // A book of a few megabytes is read, and so are rows that are too long together.
    let book = row(MOST - 1);
    for file in [format!("{book}\n{fine}\n{book}\n"), format!("[{book}, {fine},\n{book}]")] {
        assert_eq!(read(file).unwrap().len(), 3);
    }
}

#[test]
fn a_file_without_examples_is_refused() {
    assert_eq!(read("").unwrap_err(), "data.jsonl: holds no examples");
    assert_eq!(read("\n  \r\n").unwrap_err(), "data.jsonl: holds no examples");
    assert!(read_examples("no/such/file.jsonl").unwrap_err().to_string().starts_with("no/such/file.jsonl: "));
}

// ---- chat templates

#[test]
fn templates_render_as_transformers_renders_them() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/chat/cases.json");
    let cases: Vec<Value> =
        serde_json::from_slice(&std::fs::read(&file).expect("fixtures/chat/cases.json is part of the repository")).unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let tokens = ["bos_token", "eos_token"].into_iter().filter_map(|key| Some((key, case[key].as_str()?))).collect();
        let template = ChatTemplate::new(case["chat_template"].as_str().unwrap(), &tokens, name).expect(name);
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
        let rendered = template.render(&messages, case["add_generation_prompt"].as_bool().unwrap());
        match case["expected"].as_str() {
            Some(expected) => assert_eq!(rendered.expect(name), expected, "{name}"),
            None => {
                let (error, reason) = (rendered.expect_err(name).to_string(), case["error"].as_str().unwrap());
                assert!(error.contains(&format!("the chat template failed: {reason}")), "{name}: {error}");
            }
        }
    }
}

fn rendered(dir: &Dir) -> String {
    ChatTemplate::load(dir).unwrap().unwrap().render(&[Message::new("user", "hi")], false).unwrap()
}

#[test]
fn the_template_is_found_in_either_file_and_its_own_file_wins() {
    let config = |template: Value| Dir::new().with_json("tokenizer_config.json", json!({"chat_template": template, "eos_token": "</s>"}));
    let named = json!([{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "default{{ eos_token }}"}]);
    assert_eq!(rendered(&config(json!("config{{ eos_token }}"))), "config</s>");
    assert_eq!(rendered(&config(named)), "default</s>");
    assert_eq!(rendered(&config(json!("config")).with("chat_template.jinja", "file{{ eos_token }}")), "file</s>");
    assert!(ChatTemplate::load(Dir::new()).unwrap().is_none());
    assert!(ChatTemplate::load(config(Value::Null)).unwrap().is_none());
}

#[test]
fn a_list_of_templates_without_a_default_is_refused() {
    let dir = Dir::new().with_json("tokenizer_config.json", json!({"chat_template": [{"name": "rag", "template": ""}]}));
    let error = ChatTemplate::load(&dir).unwrap_err().to_string();
    assert!(error.ends_with("tokenizer_config.json: `chat_template` lists `rag` but none called `default`"), "{error}");
}

// ---- tokenizer

#[test]
fn a_checkpoint_without_tokenizer_json_is_told_what_it_needs() {
    let error = TextTokenizer::load(Dir::new()).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json: no such file; a checkpoint needs its tokenizer.json"), "{error}");
    let error = TextTokenizer::load(Dir::new().with("tokenizer.model", "").with("vocab.json", "")).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json: no such file; found tokenizer.model and vocab.json instead"), "{error}");
    let error = TextTokenizer::load(Dir::new().with("tokenizer.json", "{}")).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json: not a tokenizer: "), "{error}");
    let dir = checkpoint().with("generation_config.json", "{");
    let error = TextTokenizer::load(&dir).unwrap_err().to_string();
    assert!(error.contains("generation_config.json: not valid JSON"), "{error}");
}

#[test]
fn special_tokens_come_from_every_file_that_names_them() {
    let tokenizer = checkpoint().tokenizer();
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_ids(), tokenizer.pad_id()), (Some(0), &[1][..], 2));
    assert_eq!(tokenizer.vocab_size(), 6 + 256 + 2);
    assert!(tokenizer.is_special(5) && !tokenizer.is_special(100));

    let dir = checkpoint()
        .with_json("tokenizer_config.json", json!({"eos_token": "<end>", "pad_token": "<missing>", "bos_token": null}))
        .with_json("special_tokens_map.json", json!({"eos_token": "</s>", "bos_token": {"content": "<user>"}}))
        .with_json("generation_config.json", json!({"eos_token_id": [1, 5]}))
        .with_json("config.json", json!({"eos_token_id": 4, "bos_token_id": 4, "pad_token_id": -1}));
    let tokenizer = dir.tokenizer();
    // As in transformers 5: the second file goes before the first, and a token that the vocabulary lacks is added to it.
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_ids(), tokenizer.pad_id()), (Some(3), &[1, 5][..], 264));

    let tokenizer = Dir::new().with_json("tokenizer.json", byte_level()).tokenizer();
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_ids(), tokenizer.pad_id()), (None, &[][..], 0));
}

#[test]
fn truncation_and_padding_in_the_tokenizer_file_are_ignored() {
    let mut file = byte_level();
    file["truncation"] = json!({"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"});
    file["padding"] = json!({"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 2, "pad_type_id": 0, "pad_token": "<pad>"});
    let tokenizer = Dir::new().with_json("tokenizer.json", file).tokenizer();
    assert_eq!(tokenizer.encode("abcdef", true).unwrap().len(), 7);
}

#[test]
fn text_survives_encoding_and_decoding() {
    let tokenizer = checkpoint().tokenizer();
    let ids = tokenizer.encode("Größe 😀 bo\n<end>", true).unwrap();
    assert_eq!((ids[0], *ids.last().unwrap()), (0, 5));
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "Größe 😀 bo\n");
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "<s>Größe 😀 bo\n<end>");
}

fn streamed(tokenizer: &TextTokenizer, context: &[u32], ids: &[u32]) -> Vec<String> {
    let mut stream = tokenizer.stream(context);
    let mut texts: Vec<_> = ids.iter().filter_map(|&id| stream.push(id).unwrap()).collect();
    texts.extend(stream.finish().unwrap());
    texts
}

#[test]
fn streamed_text_appears_character_by_character_and_never_in_pieces_of_one() {
    let tokenizer = checkpoint().tokenizer();
    let ids = tokenizer.encode("aé😀 bo!", true).unwrap();
    assert_eq!(streamed(&tokenizer, &[], &ids), ["a", "é", "😀", " bo", "!"]);
    let cut = &tokenizer.encode("a😀", false).unwrap()[..3];
    assert_eq!(streamed(&tokenizer, &[], cut), ["a", "\u{FFFD}"]);
}

#[test]
fn bytes_that_never_become_a_character_do_not_hold_the_stream_up() {
    let tokenizer = checkpoint().tokenizer();
    let mut ids = vec![tokenizer.encode("é", false).unwrap()[0]; 6];
    ids.extend(tokenizer.encode("ok", false).unwrap());
    let texts = streamed(&tokenizer, &[], &ids);
    assert!(texts.len() >= 2 && texts.concat().ends_with("ok"), "{texts:?}");
}

#[test]
fn special_tokens_are_not_streamed() {
    let tokenizer = checkpoint().tokenizer();
    assert_eq!(streamed(&tokenizer, &[0], &tokenizer.encode("a<end>b</s>", false).unwrap()), ["a", "b"]);
}

// ---- encoding

#[test]
fn all_of_a_text_is_learned_through_its_end() {
    assert_eq!(encode(&text("a bo")), "(<s>)[a][ bo][</s>]");
    assert_eq!(encode(&text("a</s>")), "(<s>)[a][</s>]", "the end is not added twice");
}

#[test]
fn a_completion_is_learned_and_its_prompt_is_not() {
    assert_eq!(encode(&completion("ab", "cd")), "(<s>)(a)(b)[c][d][</s>]");
    assert_eq!(encode(&completion("", "cd")), "(<s>)[c][d][</s>]");
    assert_eq!(encode(&completion("a", "é")), "(<s>)(a)[\u{FFFD}][\u{FFFD}][</s>]");
    assert_eq!(encode(&completion("a", "")), "(<s>)(a)[</s>]");
}

#[test]
fn a_token_across_the_boundary_belongs_to_the_completion() {
    assert_eq!(encode(&completion("a ", "bo")), "(<s>)(a)[ bo][</s>]");
    assert_eq!(encode(&completion("a b", "o")), "(<s>)(a)[ bo][</s>]");
}

#[test]
fn spaces_count_where_they_stand_although_the_tokenizer_trims_their_place() {
    let mut file = byte_level();
    let bos = json!({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}});
    let trim = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    file["post_processor"] = json!({"type": "Sequence", "processors": [trim, bos]});
    let dir = checkpoint().with_json("tokenizer.json", file);
    let encode = |example| encode_with(&dir, Some(CHAT), &example, &EncodeConfig::default()).unwrap().unwrap();
    assert_eq!(encode(completion("a ", " ")), "(<s>)(a)( )[ ][</s>]");
    assert_eq!(encode(completion("a", " c")), "(<s>)(a)[ ][c][</s>]");
    assert_eq!(encode(completion("a ", "c")), "(<s>)(a)( )[c][</s>]");
    assert_eq!(
        encode(chat(&[("user", " "), ("assistant", " c ")])),
        "(<s>)(<user>)( )(<end>)(\n)(\n)(<assistant>)[ ][c][ ][<end>](\n)(\n)"
    );
}

#[test]
fn every_assistant_message_is_learned_through_the_token_that_closes_it() {
    let conversation = chat(&[("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]);
    let expected =
        "(<s>)(<user>)(a)(<end>)(\n)(\n)(<assistant>)[b][<end>](\n)(\n)(<user>)(c)(<end>)(\n)(\n)(<assistant>)[d][<end>](\n)(\n)";
    assert_eq!(encode(&conversation), expected);
}

#[test]
fn an_end_of_text_that_only_the_last_message_gets_is_learned_there() {
    let phi = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% else %}</s>{% endif %}";
    let conversation = chat(&[("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]);
    let row = encode_with(&checkpoint(), Some(phi), &conversation, &EncodeConfig::default()).unwrap().unwrap();
    assert_eq!(row, "(<user>)(a)(<end>)(<assistant>)[b][<end>](<user>)(c)(<end>)(<assistant>)[d][<end>][</s>]");
}

#[test]
fn a_turn_that_no_special_token_closes_is_learned_with_the_text_that_follows_it() {
    let plain = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n\n{% endfor %}{% if add_generation_prompt %}a:{% endif %}";
    let conversation = chat(&[("user", "x"), ("assistant", "y"), ("user", "z")]);
    let row = encode_with(&checkpoint(), Some(plain), &conversation, &EncodeConfig::default()).unwrap().unwrap();
    assert_eq!(row, "(u)(:)(x)(\n)(\n)(a)(:)[y][\n][\n](u)(:)(z)(\n)(\n)");
}

#[test]
fn with_train_on_prompt_everything_but_the_first_token_is_learned() {
    let all = |example: &Example| encode_with(&checkpoint(), Some(CHAT), example, &config(64, true)).unwrap().unwrap();
    assert_eq!(all(&completion("ab", "c")), "(<s>)[a][b][c][</s>]");
    assert_eq!(all(&chat(&[("user", "a")])), "(<s>)[<user>][a][<end>][\n][\n]");
}

#[test]
fn conversations_that_cannot_be_learned_are_named_with_the_reason() {
    let fails = |template, example| encode_with(&checkpoint(), template, &example, &EncodeConfig::default()).unwrap_err().to_string();
    let conversation = || chat(&[("user", "a"), ("assistant", "b")]);

    let error = fails(None, conversation());
    assert!(error.starts_with("data.jsonl:7: `messages` need a chat template, and the checkpoint has none"), "{error}");
    let error = fails(Some("{{ raise_exception('only poems') }}"), conversation());
    assert_eq!(error, "data.jsonl:7: the chat template failed: only poems (line 1 of the template)");
    let error = fails(Some("{{ messages[0].name.first }}"), conversation());
    assert!(error.starts_with("data.jsonl:7: the chat template failed: `messages[0].name` is undefined"), "{error}");
    let error = fails(Some("{% for m in messages[::-1] %}{{ m.content }}{% endfor %}"), conversation());
    assert!(error.starts_with("data.jsonl:7: the chat template does not show") && error.contains("--train-on-prompt"), "{error}");
    let error = fails(Some(CHAT), chat(&[("user", "a")]));
    assert!(error.starts_with("data.jsonl:7: `messages` holds no assistant message"), "{error}");
    let error = fails(Some(CHAT), example(Content::Question { prompt: "p".into(), answer: "a".into() }));
    assert_eq!(error, "data.jsonl:7: `prompt` with `answer` is for evaluation only; training needs a `completion`");
}

#[test]
fn long_examples_lose_their_end_and_are_skipped_if_nothing_to_learn_is_left() {
    let dir = checkpoint();
    let tokenizer = dir.tokenizer();
    let mut encoder = Encoder::new(&tokenizer, None, config(4, false)).unwrap();
    let unspoken = completion("abc", "");
    let examples = [text("ab"), text("abcdef"), completion("a", "bcd"), completion("abc", "d"), text(""), unspoken];
    let rows = encoder.encode_all(&examples).unwrap();
    let rows: Vec<_> = rows.iter().map(|row| marked(&tokenizer, row)).collect();
    assert_eq!(rows, ["(<s>)[a][b][</s>]", "(<s>)[a][b][c]", "(<s>)(a)[b][c]"]);
    let skipped = Skipped { empty: 1, too_long: 2, ..Skipped::default() };
    let (mean_length, longest) = (4.0, 8);
    let stats = EncodeStats {
        examples: 3,
        tokens: 12,
        supervised: 8,
        mean_length,
        longest,
        truncated: 2,
        cut_tokens: 6,
        skipped,
        ..EncodeStats::default()
    };
    assert_eq!(encoder.stats(), stats);

    let encoder = || Encoder::new(&tokenizer, None, config(4, false)).unwrap();
    let error = encoder().encode_all(&[completion("abc", "d"), text("")]).unwrap_err().to_string();
    let expected = "invalid configuration: there is nothing to learn in any of the 2 examples: 1 without text, \
                    1 with all that is to be learned beyond max_length; choose a max_length above 4";
    assert_eq!(error, expected);
    assert!(encoder().encode_all(&[text("")]).unwrap_err().to_string().ends_with("of the 1 examples: 1 without text"));
    let error = Encoder::new(&tokenizer, None, config(1, false)).unwrap_err().to_string();
    assert!(error.contains("max_length must be at least 2, found 1"), "{error}");
}

#[test]
fn an_example_without_a_token_to_learn_is_skipped_for_that() {
    let dir = Dir::new().with_json("tokenizer.json", byte_level());
    let tokenizer = dir.tokenizer();
    let mut encoder = Encoder::new(&tokenizer, None, EncodeConfig::default()).unwrap();
    assert_eq!(encoder.encode(&completion("abc", "")).unwrap(), []);
    assert_eq!(encoder.encode(&completion("", "")).unwrap(), []);
    assert_eq!(encoder.stats().skipped, Skipped { empty: 1, nothing_to_learn: 1, ..Skipped::default() });
}

#[test]
fn a_checkpoint_without_an_end_token_leaves_texts_open() {
    let dir = Dir::new().with_json("tokenizer.json", byte_level());
    assert_eq!(encode_with(&dir, None, &text("a"), &EncodeConfig::default()).unwrap().unwrap(), "(<s>)[a]");
}

#[test]
fn a_continuation_is_scored_without_an_end() {
    let tokenizer = checkpoint().tokenizer();
    let row = |special| marked(&tokenizer, &encode_continuation(&tokenizer, "a", " bo", special).unwrap());
    assert_eq!(row(true), "(<s>)(a)[ bo]");
    assert_eq!(row(false), "(a)[ bo]");
}

#[test]
fn tokens_that_the_tokenizer_puts_behind_a_text_close_it() {
    let mut file = byte_level();
    file["post_processor"]["single"].as_array_mut().unwrap().push(json!({"SpecialToken": {"id": "</s>", "type_id": 0}}));
    file["post_processor"]["special_tokens"]["</s>"] = json!({"id": "</s>", "ids": [1], "tokens": ["</s>"]});
    let dir = checkpoint().with_json("tokenizer.json", file);
    let row = encode_with(&dir, None, &completion("a", "b"), &EncodeConfig::default()).unwrap().unwrap();
    assert_eq!(row, "(<s>)(a)[b][</s>]");
    let tokenizer = dir.tokenizer();
    assert_eq!(marked(&tokenizer, &encode_continuation(&tokenizer, "a", "b", true).unwrap()), "(<s>)(a)[b]");
}

// ---- files that stay on disk

const LINES: &str = "\u{feff}{\"text\": \"ab\"}\r\n\n{\"prompt\": \"a\", \"completion\": \"bcd\"}\n{\"text\": \"\"}\n{\"text\": \"é bo\"}";

fn streamed_file(dir: &Dir, lines: &str) -> peft_core::Result<(Examples, EncodeStats)> {
    let path = dir.0.join("lines.jsonl");
    std::fs::write(&path, lines).unwrap();
    stream_examples(path, dir.tokenizer(), None, EncodeConfig::default(), |_, _| {})
}

fn all(examples: &Examples) -> Vec<Encoded> {
    (0..examples.len()).map(|i| examples.get(i).unwrap().into_owned()).collect()
}

#[test]
fn a_streamed_file_gives_the_examples_of_one_in_memory() {
    let dir = checkpoint();
    let (streamed, stats) = streamed_file(&dir, LINES).unwrap();
    let tokenizer = dir.tokenizer();
    let mut encoder = Encoder::new(&tokenizer, None, EncodeConfig::default()).unwrap();
    let rows = encoder.encode_all(&read_examples(dir.0.join("lines.jsonl")).unwrap()).unwrap();
    assert_eq!(stats, encoder.stats());
    assert_eq!(stats.skipped.empty, 1);
    let memory = Examples::from(rows.clone());
    assert_eq!((streamed.len(), streamed.lengths()), (3, memory.lengths()));
    assert!((0..3).all(|i| streamed.learned(i) == memory.learned(i)));
    assert_eq!((all(&streamed), all(&memory)), (rows.clone(), rows));

    let ((train, eval), (expected, set_aside)) = (streamed.split(1.0, 7).unwrap(), memory.split(1.0, 7).unwrap());
    assert_eq!((all(&train), eval), (all(&expected), set_aside));
}

#[test]
fn a_streamed_file_is_read_in_pieces_and_tells_how_far_it_is() {
    let dir = checkpoint();
    let path = dir.0.join("lines.jsonl");
    let lines: String = (0..2500).map(|i| format!("{{\"text\": \"{i}\"}}\n")).collect();
    std::fs::write(&path, &lines).unwrap();
    let mut seen = Vec::new();
    let told = |done, all| seen.push((done, all));
    let (examples, _) = stream_examples(&path, dir.tokenizer(), None, EncodeConfig::default(), told).unwrap();
    assert_eq!((examples.len(), seen.len()), (2500, 3));
    assert_eq!(seen[2], (lines.len() as u64, lines.len() as u64));
    let tokenizer = dir.tokenizer();
    assert_eq!(tokenizer.decode(&examples.get(1999).unwrap().ids, true).unwrap(), "1999");
}

#[test]
fn a_file_that_cannot_be_streamed_is_refused_with_its_line() {
    let dir = checkpoint();
    let fails = |lines: &str| streamed_file(&dir, lines).unwrap_err().to_string();
    assert!(fails("{\"text\": \"a\"}\n\n{\"text\": 3}\n").ends_with("lines.jsonl:3: `text` must be a string, found a number"));
    assert!(fails("\n\n").ends_with("lines.jsonl: holds no examples"));
    assert!(fails("{\"text\": \"\"}").contains("nothing to learn in any of the 1 examples: 1 without text"));
    assert!(fails("\n [{\"text\": \"a\"}]").ends_with("lines.jsonl: is a JSON array; streaming needs JSON Lines, one object per line"));
    assert!(fails("\u{1f}").contains("not valid JSON"));
    let missing = stream_examples("no/such.jsonl", dir.tokenizer(), None, EncodeConfig::default(), |_, _| {}).unwrap_err();
    assert!(missing.to_string().starts_with("no/such.jsonl: "), "{missing}");
}

#[test]
fn a_streamed_file_that_changes_is_noticed() {
    let dir = checkpoint();
    let (examples, _) = streamed_file(&dir, "{\"text\": \"ab\"}\n{\"text\": \"cd\"}\n").unwrap();
    std::fs::write(dir.0.join("lines.jsonl"), "{\"text\": \"ab\"}\n{\"text\": \"\u{1f600}\"}\n").unwrap();
    assert!(examples.get(0).is_ok());
    let error = examples.get(1).unwrap_err().to_string();
    assert!(error.ends_with("lines.jsonl: has changed since the run began; a file that is streamed must stay as it is"), "{error}");
    std::fs::write(dir.0.join("lines.jsonl"), "").unwrap();
    assert!(examples.get(0).unwrap_err().to_string().contains("has changed since the run began"));
}

// ---- a trained SentencePiece-style tokenizer

/// A small model's checkpoint among the data sets, which are not part of the repository.
fn stories() -> Option<TextTokenizer> {
    let data = std::env::var_os("PEFT_DATA").map(PathBuf::from);
    let data = data.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"));
    let dir = data.join("models/stories260K/hf");
    if !dir.is_dir() {
        eprintln!("skipped: {} is absent; set PEFT_DATA to the data directory", dir.display());
        return None;
    }
    Some(TextTokenizer::load(dir).unwrap())
}

#[test]
fn a_sentencepiece_tokenizer_marks_completions_and_keeps_spaces_when_streaming() {
    let Some(tokenizer) = stories() else { return };
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_ids(), tokenizer.vocab_size()), (Some(1), &[2][..], 512));

    let (prompt, told) = ("Once upon a time", ", there was a little girl. 😀 é!");
    let row = encode_example(&completion(prompt, told), &tokenizer, None, &EncodeConfig::default()).unwrap().remove(0);
    let first = row.labels_mask.iter().position(|&counts| counts).unwrap();
    assert!(row.labels_mask[first..].iter().all(|&counts| counts));
    let (given, learned) = row.ids.split_at(first);
    assert_eq!(given, tokenizer.encode(prompt, true).unwrap());
    assert_eq!(learned.last(), Some(&2));

    let texts = streamed(&tokenizer, given, learned);
    assert_eq!(texts.concat(), told);
    assert!(texts.iter().all(|text| !text.contains('\u{FFFD}')), "{texts:?}");
    let continued = tokenizer.encode("Once upon a time", false).unwrap();
    assert_eq!(streamed(&tokenizer, &[1], &continued).concat(), "Once upon a time");
    assert_eq!(streamed(&tokenizer, &continued, &continued).concat(), " Once upon a time");
}

// ---- batches

fn row(ids: &[u32], counts: &[usize]) -> Encoded {
    Encoded { ids: ids.to_vec(), labels_mask: (0..ids.len()).map(|i| counts.contains(&i)).collect() }
}

#[test]
fn a_batch_pads_on_the_right_and_points_before_every_token_to_learn() {
    let rows = [row(&[10, 11, 12, 13], &[2, 3]), row(&[20, 21], &[1])];
    let batch = Batcher::new(host(), 9).batch(&rows);
    assert_eq!(batch.ids.dims(), [2, 4]);
    let values = |data: burn::tensor::TensorData| data.iter::<i64>().collect::<Vec<_>>();
    assert_eq!(values(batch.ids.to_data()), [10, 11, 12, 13, 20, 21, 9, 9]);
    assert_eq!(values(batch.positions.to_data()), [1, 2, 4]);
    assert_eq!(values(batch.targets.to_data()), [12, 13, 21]);
    assert_eq!((batch.tokens, batch.rows), (6, 2));
}

#[test]
fn a_batch_can_be_made_of_chosen_rows() {
    let rows = [row(&[1, 2], &[1]), row(&[3, 4, 5], &[1, 2])];
    let batch = Batcher::new(host(), 0).batch([1, 0].map(|i| &rows[i]));
    assert_eq!(batch.targets.to_data().iter::<i64>().collect::<Vec<_>>(), [4, 5, 2]);
}

#[test]
fn packed_rows_hold_sequences_side_by_side_and_learn_nothing_across_their_borders() {
    let [a, b, c] = [row(&[1, 2], &[1]), row(&[3, 4, 5], &[1, 2]), row(&[6, 7, 8, 9], &[3])];
    let batch = HostBatch::new(&[vec![&a, &b], vec![&c]], 0).to_device(&host());
    let values = |data: burn::tensor::TensorData| data.iter::<i64>().collect::<Vec<_>>();
    assert_eq!(values(batch.ids.to_data()), [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]);
    assert_eq!(values(batch.positions.to_data()), [0, 2, 3, 7]);
    assert_eq!(values(batch.targets.to_data()), [2, 4, 5, 9]);
    assert_eq!((batch.tokens, batch.rows), (9, 2));
    assert_eq!(batch.packed.unwrap().starts(), [0, 0, 2, 2, 2, 0, 0, 0, 0, 4]);
    assert!(HostBatch::new(&[[&a], [&b]], 0).to_device(&host()).packed.is_none());
}

// ---- order

#[test]
fn an_epoch_sees_every_example_once_and_keeps_the_smaller_last_batch() {
    let sampler = Sampler::new(10, 4, 1).unwrap();
    let batches: Vec<_> = sampler.epoch(0).collect();
    assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2]);
    let mut seen = batches.concat();
    seen.sort_unstable();
    assert_eq!(seen, (0..10).collect::<Vec<_>>());
}

#[test]
fn the_order_depends_on_seed_and_epoch_alone() {
    let order = |seed, epoch| Sampler::new(100, 4, seed).unwrap().order(epoch);
    assert_eq!(order(1, 0), order(1, 0));
    assert_ne!(order(1, 0), order(2, 0));
    assert_ne!(order(1, 0), order(1, 1));
    assert_ne!(order(1, 0), (0..100).collect::<Vec<_>>());
    assert_eq!(Sampler::sequential(3, 2).unwrap().epoch(5).collect::<Vec<_>>(), [vec![0, 1], vec![2]]);
}

#[test]
fn the_order_never_changes_between_versions() {
    assert_eq!(Sampler::new(8, 1, 42).unwrap().order(3), [3, 6, 5, 4, 0, 7, 1, 2]);
}

#[test]
fn grouped_batches_hold_examples_of_similar_length_and_the_longest_come_first() {
    let lengths: Vec<u32> = (0..1003).map(|i| i * 37 % 500).collect();
    let sampler = Sampler::grouped(&lengths, 10, 3).unwrap();
    let batches: Vec<_> = sampler.epoch(0).collect();
    assert_eq!((batches.len(), batches.last().unwrap().len()), (101, 3));
    let mut all = batches.concat();
    all.sort_unstable();
    assert_eq!(all, (0..1003).collect::<Vec<_>>());
    let spread = |batch: &Vec<usize>| {
        let lengths = batch.iter().map(|i| lengths[*i]);
        lengths.clone().max().unwrap() - lengths.min().unwrap()
    };
    assert!(batches[..100].iter().map(spread).sum::<u32>() / 100 < 50, "500 in a batch of any");
    assert!(batches[0].iter().any(|i| lengths[*i] == 499));
    assert!(batches[1..100].windows(2).any(|pair| lengths[pair[0][0]] < lengths[pair[1][0]]), "batches are not sorted");
    assert_eq!(sampler.order(4), Sampler::grouped(&lengths, 10, 3).unwrap().order(4));
    assert_ne!(sampler.order(4), sampler.order(5));
}

#[test]
fn few_examples_can_be_grouped_too() {
    for len in [1, 3, 8, 9] {
        let mut order = Sampler::grouped(&vec![2; len], 8, 0).unwrap().order(0);
        order.sort_unstable();
        assert_eq!(order, (0..len).collect::<Vec<_>>());
    }
}

#[test]
fn sampling_resumes_where_it_stopped() {
    let sampler = Sampler::new(10, 4, 7).unwrap();
    let all: Vec<_> = sampler.steps(Position::default()).take(8).collect();
    let mut steps = sampler.steps(Position::default());
    for _ in 0..5 {
        steps.next();
    }
    let stored: Position = serde_json::from_value(serde_json::to_value(steps.position()).unwrap()).unwrap();
    assert_eq!(stored, Position { epoch: 1, batch: 2 });
    assert_eq!(sampler.steps(stored).take(3).collect::<Vec<_>>(), all[5..]);
    let end = Position { epoch: 0, batch: 3 };
    assert_eq!(sampler.steps(end).next(), Some(all[3].clone()), "the end of an epoch is the start of the next");
}

#[test]
fn impossible_samplers_are_refused() {
    assert!(Sampler::new(3, 0, 0).unwrap_err().to_string().contains("batch_size must be at least 1"));
    assert!(Sampler::sequential(0, 1).unwrap_err().to_string().contains("no examples"));
}
