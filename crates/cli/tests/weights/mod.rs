//! Weights tell the truth: numbers that are none go nowhere, and what is written says whether head and embedding are one.

use crate::common::{Place, TINY, failure, result};
use peft_core::files::{Checkpoint, Dtype, TensorSource, pytorch_metadata, write_safetensors};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::path::Path;

/// Put `bytes` in place of the first of a tensor's, in a file that no writer of this program would write.
fn spoil(file: &Path, key: &str, bytes: &[u8]) {
    let mut content = std::fs::read(file).unwrap();
    let length = u64::from_le_bytes(content[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&content[8..8 + length]).unwrap();
    let begin = 8 + length + header[key]["data_offsets"][0].as_u64().unwrap() as usize;
    content[begin..begin + bytes.len()].copy_from_slice(bytes);
    std::fs::write(file, content).unwrap();
}

fn edit(dir: &Path, file: &str, key: &str, value: Value) {
    let file = dir.join(file);
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    config[key] = value;
    std::fs::write(file, config.to_string()).unwrap();
}

fn config(dir: &str) -> Value {
    serde_json::from_slice(&std::fs::read(Path::new(dir).join("config.json")).unwrap()).unwrap()
}

fn adapter(place: &Place, name: &str, extra: &[&str]) -> String {
    let (data, out) = (place.data(), place.path(name));
    let fixed = ["finetune", "--model", TINY, "--data", &data, "--max-steps", "1", "--lr", "0.01", "--out", &out];
    result(&[&fixed, extra].concat());
    out
}

fn logits(place: &Place, model: &[&str]) -> Vec<f32> {
    let file = place.path("logits.safetensors");
    result(&[&["logits", "--tokens", "1,20,30,40,50", "--out", &file, "--model"], model].concat());
    Checkpoint::open_file(Path::new(&file)).unwrap().f32s("logits").unwrap()
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f32], tolerance: f32) {
    let scale = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
    let distance = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(found.len() == expected.len() && distance <= tolerance * scale, "differ by {distance} at {scale}");
}

/// The command fails with the name of the tensor, and writes nothing.
#[track_caller]
fn assert_named(place: &Place, tensor: &str, arguments: &[&str]) {
    let out = place.path("nothing");
    let message = failure(&[arguments, &["--out", &out]].concat());
    assert!(message.contains(&format!("tensor `{tensor}`")) && message.contains("not a finite number"), "{arguments:?}: {message}");
    assert!(!Path::new(&out).exists(), "{arguments:?} wrote");
}

#[test]
fn a_base_with_what_is_no_number_is_named_by_every_command() {
    let place = Place::new();
    let (adapter, model) = (adapter(&place, "adapter", &[]), place.checkpoint());
    // Not a number, and minus infinity.
    for bits in [0x7e00u16, 0xfc00] {
        spoil(&model.join("model.safetensors"), "model.norm.weight", &bits.to_le_bytes());
        let (model, data) = (model.to_string_lossy().into_owned(), place.data());
        let recipe = place.write("recipe.yaml", &format!("merge_method: passthrough\nmodels: [{{model: {model}}}]\n"));
        let norm = "model.norm.weight";
        assert_named(&place, norm, &["logits", "--model", &model, "--tokens", "1,2"]);
        assert_named(&place, norm, &["logits", "--model", &model, "--tokens", "1,2", "--adapter", &adapter]);
        assert_named(&place, norm, &["merge-adapter", "--model", &model, "--adapter", &adapter]);
        assert_named(&place, norm, &["finetune", "--model", &model, "--data", &data, "--max-steps", "1"]);
        assert_named(&place, norm, &["finetune", "--model", &model, "--data", &data, "--max-steps", "1", "--method", "full"]);
        assert_named(&place, norm, &["fisher", "--model", &model, "--data", &data]);
        assert_named(&place, norm, &["compress", &model, "--base", TINY]);
        let message = failure(&["merge", &recipe, "--out", &place.path("nothing")]);
        assert!(message.contains("tensor `model.norm.weight`") && message.contains("not a finite number"), "{message}");
        assert!(!place.file("nothing").exists());
        for read in [
            ["generate", "--model", &model, "--prompt", "a", "--max-new-tokens", "2"].as_slice(),
            &["eval", "--model", &model, "--data", &data, "--metric", "perplexity"],
            &["eval", "--model", &model, "--data", &data, "--metric", "exact-match"],
        ] {
            let message = failure(read);
            assert!(message.contains("tensor `model.norm.weight`") && message.contains("not a finite number"), "{message}");
        }
    }
}

/// Old exports hold masks with infinities, which no layer of the model reads.
#[test]
fn a_tensor_that_the_model_does_not_use_may_hold_anything() {
    let place = Place::new();
    let model = place.checkpoint();
    let before = logits(&place, &[TINY]);
    let file = model.join("model.safetensors");
    let source = Checkpoint::open_file(Path::new(TINY).join("model.safetensors").as_path()).unwrap();
    let mask = TensorSource::new("model.layers.0.attn.masked_bias", Dtype::F32, &[1], || Ok(Cow::Owned(vec![0; 4])));
    let tensors = source.keys().map(|key| TensorSource::from_checkpoint(&source, key).unwrap()).chain([mask]);
    write_safetensors(&file, tensors, &pytorch_metadata()).unwrap();
    spoil(&file, "model.layers.0.attn.masked_bias", &f32::NEG_INFINITY.to_le_bytes());
    assert_eq!(logits(&place, &[&model.to_string_lossy()]), before);
}

#[test]
fn an_adapter_with_what_is_no_number_is_named_by_every_command() {
    let place = Place::new();
    let (good, bad) = (adapter(&place, "good", &[]), adapter(&place, "bad", &[]));
    let tensor = "base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight";
    spoil(&Path::new(&bad).join("adapter_model.safetensors"), tensor, &f32::NAN.to_le_bytes());
    let recipe = place.write("recipe.yaml", &format!("merge_method: passthrough\nmodels: [{{model: {TINY}+{bad}}}]\n"));
    assert_named(&place, tensor, &["logits", "--model", TINY, "--tokens", "1,2", "--adapter", &bad]);
    assert_named(&place, tensor, &["merge-adapter", "--model", TINY, "--adapter", &bad]);
    assert_named(&place, tensor, &["merge-adapters", &good, &bad, "--weights", "1,1"]);
    assert_named(&place, tensor, &["compress", &bad]);
    let message = failure(&["merge", &recipe, "--out", &place.path("nothing")]);
    assert!(message.contains(&format!("tensor `{tensor}`")) && message.contains("not a finite number"), "{message}");
    let message = failure(&["generate", "--model", TINY, "--adapter", &bad, "--prompt", "a"]);
    assert!(message.contains(&format!("tensor `{tensor}`")), "{message}");
}

/// The tiny checkpoint is stored in f16, whose largest number is 65504.
#[test]
fn what_overflows_when_it_is_rounded_is_not_written() {
    let place = Place::new();
    let adapter = adapter(&place, "adapter", &["--target-modules", "q_proj"]);
    edit(Path::new(&adapter), "adapter_config.json", "lora_alpha", json!(8e9));
    let message = failure(&["merge-adapter", "--model", TINY, "--adapter", &adapter, "--out", &place.path("o1")]);
    assert!(message.contains("q_proj.weight") && message.contains("not a finite number"), "{message}");
    let recipe = place.write("recipe.yaml", &format!("merge_method: passthrough\nmodels: [{{model: {TINY}+{adapter}}}]\n"));
    let message = failure(&["merge", &recipe, "--out", &place.path("o2")]);
    assert!(message.contains("q_proj.weight` for model.safetensors, rounded to F16, whose largest number is 65504"), "{message}");

    // The same numbers fit f32, which a base in f32 has.
    let wide = place.path("wide");
    result(&[
        "merge",
        &place.write("f32.yaml", &format!("merge_method: passthrough\ndtype: float32\nmodels: [{{model: {TINY}}}]\n")),
        "--out",
        &wide,
    ]);
    result(&["merge-adapter", "--model", &wide, "--adapter", &adapter, "--out", &place.path("merged")]);

    spoil(&Path::new(&wide).join("model.safetensors"), "model.norm.weight", &3e5f32.to_le_bytes());
    for dtype in ["float16", "bfloat16"] {
        let weight = "parameters: {weight: 1}";
        let text = format!("merge_method: linear\ndtype: {dtype}\nmodels: [{{model: {wide}, {weight}}}, {{model: {TINY}, {weight}}}]\n");
        let (recipe, out) = (place.write("recipe.yaml", &text), place.path(dtype));
        match dtype {
            "bfloat16" => drop(result(&["merge", &recipe, "--out", &out])),
            _ => assert!(failure(&["merge", &recipe, "--out", &out]).contains("tensor `model.norm.weight` for model.safetensors")),
        }
    }
    for command in [["logits", "--tokens", "1,2", "--out", &place.path("l")].as_slice(), &["generate", "--prompt", "a"]] {
        let message = failure(&[command, &["--model", &wide, "--dtype", "f16"]].concat());
        assert!(message.contains("tensor `model.norm.weight`, rounded to F16"), "{message}");
    }
    for name in ["o1", "o2", "float16", "l"] {
        assert!(!place.file(name).exists(), "{name}");
    }
}

/// The tiny model with a head of its own, which its configuration does not tell of.
fn with_another_head(place: &Place) -> String {
    let dir = place.checkpoint();
    let source = Checkpoint::open(Path::new(TINY)).unwrap();
    let mut head = source.bytes("model.embed_tokens.weight").unwrap().to_vec();
    head.rotate_right(2 * 128);
    let head = TensorSource::new("lm_head.weight", Dtype::F16, &[100, 128], || Ok(Cow::Owned(head)));
    let tensors = source.keys().map(|key| TensorSource::from_checkpoint(&source, key).unwrap()).chain([head]);
    write_safetensors(&dir.join("model.safetensors"), tensors, &pytorch_metadata()).unwrap();
    dir.to_string_lossy().into_owned()
}

/// As transformers 5.23 reads it: logits of the rotated head are the rotated logits.
#[test]
fn a_stored_head_is_read_and_written_by_every_command() {
    let place = Place::new();
    let (model, adapter) = (with_another_head(&place), adapter(&place, "adapter", &[]));
    let mut expected = logits(&place, &[TINY]);
    expected.chunks_mut(100).for_each(|row| row.rotate_right(1));
    let found = logits(&place, &[&model]);
    assert_close(&found, &expected, 1e-5);
    assert_eq!(result(&["inspect", &model])["settings"]["tied head"], "false");
    assert_eq!(result(&["inspect", TINY])["settings"]["tied head"], "true");

    let adapted = logits(&place, &[&model, "--adapter", &adapter]);
    let (merged, passed, full) = (place.path("merged"), place.path("passed"), place.path("full"));
    result(&["merge-adapter", "--model", &model, "--adapter", &adapter, "--out", &merged]);
    let recipe = place.write("recipe.yaml", &format!("merge_method: passthrough\nmodels: [{{model: {model}+{adapter}}}]\n"));
    result(&["merge", &recipe, "--out", &passed]);
    for out in [&merged, &passed] {
        assert_eq!(config(out)["tie_word_embeddings"], false);
        assert_eq!(Checkpoint::open(Path::new(out)).unwrap().info("lm_head.weight").unwrap().dtype, Dtype::F16);
        assert_close(&logits(&place, &[out]), &adapted, 5e-3);
    }
    // The embedding is no head here, so that an adapter may change it on the way.
    let (embedding, passed) = (self::adapter(&place, "embedding", &["--target-modules", "embed_tokens"]), place.path("embedded"));
    let text = format!("merge_method: passthrough\nmodels: [{{model: {model}+{embedding}}}]\n");
    result(&["merge", &place.write("recipe.yaml", &text), "--out", &passed]);
    assert_close(&logits(&place, &[&passed]), &logits(&place, &[&model, "--adapter", &embedding]), 5e-3);
    let message = failure(&["merge", &place.write("recipe.yaml", &text.replace(&model, TINY)), "--out", &place.path("none")]);
    assert!(message.contains("embedding and head of the model share") && message.contains("peft merge-adapter"), "{message}");

    let data = place.data();
    let train = ["finetune", "--method", "full", "--data", &data, "--max-steps", "1", "--lr", "1e-9", "--out", &full, "--model"];
    result(&[&train, [model.as_str()].as_slice()].concat());
    assert_eq!((&config(&full)["tie_word_embeddings"], &config(&full)["torch_dtype"]), (&json!(false), &json!("float32")));
    assert_close(&logits(&place, &[&full]), &found, 1e-4);

    let (file, again) = (place.path("change.cpft"), place.path("again"));
    result(&["compress", &full, "--base", &model, "--density", "1", "--out", &file]);
    result(&["decompress", &file, "--base", &model, "--out", &again]);
    assert_eq!(config(&again)["tie_word_embeddings"], false);
    assert_close(&logits(&place, &[&again]), &found, 1e-3);
}

/// HF PEFT leaves the head as it was where an adapter changes an embedding that the head shares.
#[test]
fn an_adapter_of_a_tied_embedding_is_merged_with_a_head_of_its_own() {
    let place = Place::new();
    let out = place.path("merged");
    for extra in [["--target-modules", "embed_tokens,q_proj"], ["--modules-to-save", "embed_tokens"]] {
        let adapter = adapter(&place, extra[0].trim_start_matches('-'), &extra);
        let adapted = logits(&place, &[TINY, "--adapter", &adapter]);
        result(&["merge-adapter", "--model", TINY, "--adapter", &adapter, "--out", &out, "--overwrite"]);
        assert_eq!(config(&out)["tie_word_embeddings"], false);
        let (merged, base) = (Checkpoint::open(Path::new(&out)).unwrap(), Checkpoint::open(Path::new(TINY)).unwrap());
        assert_eq!(merged.bytes("lm_head.weight").unwrap(), base.bytes("model.embed_tokens.weight").unwrap());
        assert_ne!(merged.bytes("model.embed_tokens.weight").unwrap(), base.bytes("model.embed_tokens.weight").unwrap());
        assert_close(&logits(&place, &[&out]), &adapted, 5e-3);
    }
}

/// The ids are those that `peft generate --adapter` ends at: the tokenizer's own, and the base's.
#[test]
fn a_tokenizer_that_comes_with_an_adapter_ends_texts_of_the_merged_model() {
    let place = Place::new();
    let (adapter, out) = (adapter(&place, "adapter", &[]), place.path("merged"));
    let merge = ["merge-adapter", "--model", TINY, "--adapter", &adapter, "--out", &out, "--overwrite"];
    result(&merge);
    assert_eq!(config(&out)["eos_token_id"], 2);
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(Path::new(TINY).join(name), Path::new(&adapter).join(name)).unwrap();
    }
    result(&merge);
    assert_eq!(config(&out)["eos_token_id"], 2);
    edit(Path::new(&adapter), "tokenizer_config.json", "eos_token", json!("<unk>"));
    result(&merge);
    let generation: Value = serde_json::from_slice(&std::fs::read(Path::new(&out).join("generation_config.json")).unwrap()).unwrap();
    assert_eq!((&config(&out)["eos_token_id"], &generation["eos_token_id"]), (&json!([3, 2]), &json!([3, 2])));
}

/// transformers generates with the ids of `generation_config.json`, and takes the tokenizer's names for texts: both must be the same tokens.
#[test]
fn a_tokenizer_that_comes_with_an_adapter_begins_and_pads_texts_of_the_merged_model() {
    let place = Place::new();
    let (adapter, out) = (adapter(&place, "adapter", &[]), place.path("merged"));
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(Path::new(TINY).join(name), Path::new(&adapter).join(name)).unwrap();
    }
    edit(Path::new(&adapter), "tokenizer_config.json", "bos_token", json!("<unk>"));
    edit(Path::new(&adapter), "tokenizer_config.json", "pad_token", json!("<unk>"));
    result(&["merge-adapter", "--model", TINY, "--adapter", &adapter, "--out", &out]);
    let generation: Value = serde_json::from_slice(&std::fs::read(Path::new(&out).join("generation_config.json")).unwrap()).unwrap();
    for config in [config(&out), generation] {
        assert_eq!((&config["bos_token_id"], &config["pad_token_id"], &config["eos_token_id"]), (&json!(3), &json!(3), &json!(2)));
    }
}
