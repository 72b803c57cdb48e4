//! The encoders against transformers: hidden states, pooled outputs, logits and sentence embeddings of padded batches and pairs.

use burn::tensor::{Device, Int, Tensor, TensorData};
use peft_core::files::Checkpoint;
use peft_core::{TextClassifier, Texts, device};
use peft_models::encoder::{Encoder, EncoderConfig, Pooling, Problem, SentenceConfig, SequenceClassifier, TokenClassifier};
use peft_train::data::TextTokenizer;
use serde::Deserialize;
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/encoders").join(name)
}

/// What transformers computed for a fixture.
struct Expected(Checkpoint);

impl Expected {
    fn of(name: &str) -> Self {
        Self(Checkpoint::open_file(&fixture(name).join("expected.safetensors")).unwrap())
    }

    fn integers(&self, key: &str) -> (Vec<i64>, Vec<usize>) {
        let values = self.0.bytes(key).unwrap().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect();
        (values, self.0.info(key).unwrap().shape.clone())
    }

    fn texts(&self, device: &Device) -> Texts {
        let tensor = |key: &str| {
            let (values, shape) = self.integers(key);
            Tensor::<2, Int>::from_data(TensorData::new(values, [shape[0], shape[1]]), device)
        };
        let lengths = self.integers("lengths").0.into_iter().map(|length| length as usize).collect();
        Texts { ids: tensor("input_ids"), type_ids: Some(tensor("token_type_ids")), lengths }
    }

    fn floats(&self, key: &str) -> Vec<f32> {
        self.0.f32s(key).unwrap()
    }
}

fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.try_into_vec_as().unwrap()
}

/// The largest difference over the largest expected value.
fn distance(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0f32, |largest, value| largest.max(value.abs()));
    let error = largest(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    let distance = error / largest(&mut expected.iter().copied());
    if found.iter().all(|value| value.is_finite()) { distance } else { f32::INFINITY }
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f32], tolerance: f32) {
    let distance = distance(found, expected);
    assert!(distance <= tolerance, "differs by {distance:e}");
}

const TOLERANCE: f32 = 1e-5;

/// Plain devices take the fused kernels; a device with autodiff takes the same with a graph around them.
fn devices() -> [Device; 2] {
    [device::host(), device::host().autodiff()]
}

/// Rows up to their lengths: what stands at padding has no meaning.
fn without_padding(values: &[f32], texts: &Texts) -> Vec<f32> {
    let [rows, width] = texts.ids.dims();
    let size = values.len() / (rows * width);
    let row = |(row, length): (usize, &usize)| values[row * width * size..(row * width + length) * size].to_vec();
    texts.lengths.iter().enumerate().flat_map(row).collect()
}

#[test]
fn hidden_states_pooled_outputs_and_embeddings_are_those_of_transformers() {
    for (name, device) in ["bert", "roberta"].into_iter().flat_map(|name| devices().map(|device| (name, device))) {
        let expected = Expected::of(name);
        let config = EncoderConfig::read(fixture(name)).unwrap().without_dropout();
        let encoder = Encoder::from_checkpoint(config, &Checkpoint::open(&fixture(name)).unwrap(), &device, None).unwrap();
        let texts = expected.texts(&device);
        assert!(texts.lengths.iter().any(|length| *length < texts.ids.dims()[1]), "the batch is padded");
        let hidden = encoder.forward(&texts);
        let rows = |values: &[f32]| without_padding(values, &texts);
        assert_close(&rows(&floats(hidden.clone())), &rows(&expected.floats("hidden")), TOLERANCE);
        assert_close(&floats(encoder.pooled(hidden).unwrap()), &expected.floats("pooled"), TOLERANCE);
        for (key, normalize) in [("mean", false), ("mean_normalised", true)] {
            let config = SentenceConfig { pooling: Pooling::Mean, normalize, max_tokens: None };
            assert_close(&floats(encoder.embed(&texts, &config)), &expected.floats(key), TOLERANCE);
        }
    }
}

#[test]
fn logits_of_texts_are_those_of_transformers() {
    for name in ["bert-classifier", "roberta-classifier"] {
        let expected = Expected::of(name);
        let model = SequenceClassifier::load(fixture(name), &device::host(), None).unwrap();
        assert_eq!(model.problem(), Problem::SingleLabel);
        assert_close(&floats(model.logits(&expected.texts(&device::host()))), &expected.floats("logits"), TOLERANCE);
    }
    let model = SequenceClassifier::load(fixture("bert-classifier"), &device::host(), None).unwrap();
    assert_eq!(model.labels(), ["contradiction", "entailment", "neutral"]);
}

#[test]
fn logits_of_tokens_are_those_of_transformers() {
    let expected = Expected::of("bert-tokens");
    let model = TokenClassifier::load(fixture("bert-tokens"), &device::host(), None).unwrap();
    let texts = expected.texts(&device::host());
    assert_eq!(model.labels().len(), 5);
    let rows = |values: &[f32]| without_padding(values, &texts);
    assert_close(&rows(&floats(model.logits(&texts))), &rows(&expected.floats("logits")), TOLERANCE);
}

#[test]
fn half_precision_weights_give_nearly_the_same() {
    let expected = Expected::of("roberta-classifier");
    let half = device::host_half();
    let model = SequenceClassifier::load(fixture("roberta-classifier"), &device::host(), Some(half)).unwrap();
    assert_eq!(model.encoder.encoder.layer[0].attention.heads.query.weight.val().dtype(), half);
    assert_close(&floats(model.logits(&expected.texts(&device::host()))), &expected.floats("logits"), 5e-2);
}

#[test]
fn a_row_does_not_depend_on_what_it_is_padded_with() {
    for name in ["bert-classifier", "roberta-classifier"] {
        let device = device::host();
        let model = SequenceClassifier::load(fixture(name), &device, None).unwrap();
        let pad = model.config().pad_token_id;
        let (row, other) = ([3u32, 30, 31, 32, 4], [3u32, 40, 41, 42, 43, 44, 45, 46, 4]);
        let types = [0; 9];
        let alone = Texts::new([(&row[..], &types[..5])], pad, &device);
        let padded = Texts::new([(&row[..], &types[..5]), (&other[..], &types[..])], pad, &device);
        let logits = floats(model.logits(&padded));
        assert_close(&logits[..logits.len() / 2], &floats(model.logits(&alone)), TOLERANCE);
    }
}

#[test]
fn a_sentence_transformer_says_how_it_pools() {
    let config = SentenceConfig::read(fixture("bert")).unwrap();
    assert_eq!(config, SentenceConfig { pooling: Pooling::Mean, normalize: true, max_tokens: Some(24) });
    let config = SentenceConfig::read(fixture("roberta")).unwrap();
    assert_eq!(config, SentenceConfig { pooling: Pooling::Mean, normalize: false, max_tokens: None });
}

/// What `xtask/parity/embed.py` wrote beside a real checkpoint.
#[derive(Deserialize)]
struct Sentences {
    texts: Vec<String>,
    embeddings: Vec<Vec<f32>>,
}

/// A published sentence encoder: `PEFT_SENTENCE_MODEL` names its directory, in which `xtask/parity/embed.py` has left `embeddings.json`.
#[test]
fn a_published_sentence_encoder_embeds_as_transformers_does() {
    let Some(dir) = std::env::var_os("PEFT_SENTENCE_MODEL").map(PathBuf::from) else {
        eprintln!("skipped: set PEFT_SENTENCE_MODEL to a checkpoint with embeddings.json");
        return;
    };
    let expected: Sentences = serde_json::from_slice(&std::fs::read(dir.join("embeddings.json")).unwrap()).unwrap();
    let device = device::host();
    let (encoder, config) = (Encoder::load(&dir, &device, None).unwrap(), SentenceConfig::read(&dir).unwrap());
    let tokenizer = TextTokenizer::load(&dir).unwrap();
    let limit = config.max_tokens.unwrap_or(encoder.config().max_tokens());
    let tokens: Vec<_> = expected.texts.iter().map(|text| tokenizer.encode_texts(text, None, limit).unwrap()).collect();
    let rows = tokens.iter().map(|tokens| (tokens.ids.as_slice(), tokens.type_ids.as_slice()));
    let texts = Texts::new(rows, encoder.config().pad_token_id, &device);
    let found = floats(encoder.embed(&texts, &config));
    let expected = expected.embeddings.concat();
    eprintln!("{} numbers, largest difference {:e} of the largest", found.len(), distance(&found, &expected));
    assert_close(&found, &expected, 1e-4);
}
