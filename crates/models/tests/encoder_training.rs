//! Encoders as something to adapt: new heads, checkpoints of all kinds, dropout, adapters and saving.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Device, Int, Tensor};
use peft_adapters::low_rank::LoraConfig;
use peft_core::files::{Checkpoint, TensorSource, pytorch_metadata, write_safetensors};
use peft_core::{Context, Names, TextClassifier, Texts, adapt, device, merge, unmerge};
use peft_models::encoder::{Encoder, EncoderConfig, Problem, SequenceClassifier, TokenClassifier};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/encoders").join(name)
}

fn texts(config: &EncoderConfig, device: &Device) -> Texts {
    let rows: [(&[u32], &[u32]); 3] = [(&[3, 30, 31, 4], &[0; 4]), (&[3, 40, 41, 42, 43, 4], &[0, 0, 0, 1, 1, 1]), (&[3, 77, 4], &[0; 3])];
    Texts::new(rows, config.pad_token_id, device)
}

fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.try_into_vec_as().unwrap()
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0f32, |largest, (a, b)| largest.max((a - b).abs()))
}

/// All float parameters by path.
fn parameters<M: Module>(model: &M) -> BTreeMap<String, Vec<f32>> {
    #[derive(Default)]
    struct Collect(Vec<String>, BTreeMap<String, Vec<f32>>);
    impl ModuleVisitor for Collect {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.push(name.into());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.1.insert(self.0.join("."), floats(param.base()));
        }
    }
    let mut collect = Collect::default();
    model.visit(&mut collect);
    collect.1
}

fn file_keys(name: &str) -> Vec<String> {
    Checkpoint::open(&fixture(name)).unwrap().keys().map(String::from).collect()
}

#[test]
fn paths_are_checkpoint_keys() {
    let device = device::host();
    let paths = |model: &dyn Fn() -> BTreeMap<String, Vec<f32>>| model().into_keys().collect::<Vec<_>>();
    for name in ["bert", "roberta"] {
        assert_eq!(paths(&|| parameters(&Encoder::load(fixture(name), &device, None).unwrap())), file_keys(name));
    }
    for name in ["bert-classifier", "roberta-classifier"] {
        assert_eq!(paths(&|| parameters(&SequenceClassifier::load(fixture(name), &device, None).unwrap())), file_keys(name));
    }
    assert_eq!(paths(&|| parameters(&TokenClassifier::load(fixture("bert-tokens"), &device, None).unwrap())), file_keys("bert-tokens"));
}

/// The fixture with its tensors under other names, some left out and others added.
fn rewritten(name: &str, rename: impl Fn(&str) -> Option<String>, extra: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(fixture(name).join("config.json"), dir.path().join("config.json")).unwrap();
    let checkpoint = Checkpoint::open(&fixture(name)).unwrap();
    let mut sources = Vec::new();
    for key in checkpoint.keys() {
        if let Some(name) = rename(key) {
            sources.push(TensorSource { name, ..TensorSource::from_checkpoint(&checkpoint, key).unwrap() });
        }
    }
    for name in extra {
        let source = Tensor::<1>::ones([3], &device::host());
        sources.push(TensorSource::from_tensor(*name, source, DType::F32).unwrap());
    }
    write_safetensors(&dir.path().join("model.safetensors"), sources, &pytorch_metadata()).unwrap();
    dir
}

fn hidden(dir: &Path) -> Vec<f32> {
    let device = device::host();
    let encoder = Encoder::load(dir, &device, None).unwrap();
    floats(encoder.forward(&texts(encoder.config(), &device)))
}

#[test]
fn an_encoder_loads_from_any_checkpoint_that_holds_one() {
    let plain = hidden(&fixture("bert"));
    let extra = ["bert.embeddings.position_ids", "cls.predictions.bias"];
    let under_a_head = rewritten("bert", |key| Some(format!("bert.{key}")), &extra);
    assert_eq!(hidden(under_a_head.path()), plain);
    let old = |key: &str| Some(key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"));
    assert_eq!(hidden(rewritten("bert", old, &[]).path()), plain);
    let without_pooler = rewritten("bert", |key| (!key.starts_with("pooler")).then(|| key.into()), &[]);
    let encoder = Encoder::load(without_pooler.path(), &device::host(), None).unwrap();
    assert!(encoder.pooler.is_none());
    assert_eq!(hidden(without_pooler.path()), plain);
    let missing = rewritten("bert", |key| (!key.ends_with("1.output.dense.weight")).then(|| key.into()), &[]);
    let error = Encoder::load(missing.path(), &device::host(), None).unwrap_err().to_string();
    assert!(error.contains("tensor `encoder.layer.1.output.dense.weight`: expected shape [32, 48], found nothing"), "{error}");
}

#[test]
fn a_new_head_is_random_by_its_seed_and_leaves_the_encoder_as_it_is() {
    let device = device::host();
    for (name, head) in [("bert", 2), ("roberta", 4), ("bert-classifier", 2)] {
        let load =
            |seed| SequenceClassifier::load_with_labels(fixture(name), ["no", "yes", "maybe", "never"], seed, &device, None).unwrap();
        let (model, again, other) = (load(1), load(1), load(2));
        assert_eq!(model.labels(), ["no", "yes", "maybe", "never"]);
        let encoder = Encoder::load(fixture(name), &device, None).unwrap();
        let found = floats(model.encoder.forward(&texts(model.config(), &device)));
        assert_eq!(found, floats(encoder.forward(&texts(model.config(), &device))));
        let [model, again, other] = [model, again, other].map(|model| parameters(&model));
        assert_eq!(model, again);
        let differ: Vec<_> = model.keys().filter(|key| model[*key] != other[*key]).collect();
        assert_eq!(differ.len(), head / 2, "{differ:?}");
        assert!(differ.iter().all(|key| key.starts_with("classifier.") && key.ends_with("weight")), "{differ:?}");
        let values: Vec<f32> = differ.iter().flat_map(|key| model[*key].clone()).collect();
        let deviation = (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt();
        assert!((0.015..0.025).contains(&deviation), "{deviation}");
        assert!(
            model
                .iter()
                .filter(|(key, _)| key.starts_with("classifier.") && key.ends_with("bias"))
                .all(|(_, v)| v.iter().all(|v| *v == 0.0))
        );
    }
}

#[test]
fn only_what_is_new_is_trainable() {
    let device = device::host().autodiff();
    let without_pooler = rewritten("bert", |key| (!key.starts_with("pooler")).then(|| key.into()), &[]);
    let model = SequenceClassifier::load_with_labels(without_pooler.path(), ["a", "b"], 0, &device, None).unwrap();
    assert!(model.encoder.pooler.as_ref().unwrap().dense.weight.is_require_grad());
    assert!(model.classifier.out_proj.weight.is_require_grad());
    assert!(!model.encoder.encoder.layer[0].intermediate.dense.weight.is_require_grad());
    let error = SequenceClassifier::load(without_pooler.path(), &device, None).unwrap_err().to_string();
    assert!(error.contains("holds no classifier"), "{error}");
}

#[test]
fn a_checkpoint_says_whether_it_has_a_classifier_of_texts() {
    let is_in = |name| SequenceClassifier::is_in(&Checkpoint::open(&fixture(name)).unwrap());
    assert_eq!(["bert", "roberta", "bert-tokens"].map(is_in), [false; 3]);
    assert_eq!(["bert-classifier", "roberta-classifier"].map(is_in), [true; 2]);
}

#[test]
fn regression_has_one_output() {
    let device = device::host();
    let config = EncoderConfig::read(fixture("bert")).unwrap().for_regression();
    let checkpoint = Checkpoint::open(&fixture("bert")).unwrap();
    let model = SequenceClassifier::from_checkpoint(config, &checkpoint, Some(0), &device, None).unwrap();
    assert_eq!(model.problem(), Problem::Regression);
    assert_eq!(model.logits(&texts(model.config(), &device)).dims(), [3, 1]);
}

#[test]
fn dropout_acts_in_training_alone_and_can_be_switched_off() {
    let device = device::host().autodiff();
    let checkpoint = Checkpoint::open(&fixture("bert-classifier")).unwrap();
    let load = |config| SequenceClassifier::from_checkpoint(config, &checkpoint, None, &device, None).unwrap();
    let config = EncoderConfig::read(fixture("bert-classifier")).unwrap();
    let logits = |model: &SequenceClassifier, device: &Device| floats(model.logits(&texts(model.config(), device)));
    let quiet = logits(&load(config.clone().without_dropout()), &device);
    let model = load(config.clone());
    assert_ne!(logits(&model, &device), quiet);
    assert!(distance(&logits(&model.valid(), &device::host()), &quiet) < 1e-5);
    // Each of the three alone.
    type Probability = fn(&mut EncoderConfig) -> &mut f64;
    let each: [Probability; 3] = [|c| &mut c.hidden_dropout_prob, |c| &mut c.attention_probs_dropout_prob, |c| &mut c.classifier_dropout];
    for probability in each {
        let mut config = config.clone().without_dropout();
        *probability(&mut config) = 0.5;
        assert!(distance(&logits(&load(config), &device), &quiet) > 1e-3);
    }
}

fn lora(names: Names) -> LoraConfig {
    LoraConfig { r: 4, ..LoraConfig::for_modules(names) }
}

#[test]
fn adapters_find_their_modules() {
    let device = device::host();
    let adapted = |name, names| {
        let model = SequenceClassifier::load_with_labels(fixture(name), ["a", "b"], 0, &device, None).unwrap();
        let (model, _) = adapt(model, &lora(names), &Context::default()).unwrap();
        let paths = parameters(&model).into_keys().filter(|path| path.ends_with("lora_a")).collect::<Vec<_>>();
        let module = |path: &String| path.split(".weight").next().unwrap_or_default().to_string();
        paths.iter().map(module).collect::<Vec<_>>()
    };
    let expected = |prefix: &str| {
        let at = |layer, name| format!("{prefix}.encoder.layer.{layer}.attention.self.{name}");
        vec![at(0, "query"), at(0, "value"), at(1, "query"), at(1, "value")]
    };
    assert_eq!(adapted("bert", Names::list(["query", "value"])), expected("bert"));
    assert_eq!(adapted("roberta", Names::list(["attention.self.query", "value"])), expected("roberta"));
    for (name, pooler) in [("bert", 1), ("roberta", 0)] {
        let all = adapted(name, Names::Pattern("all-linear".into()));
        assert_eq!(all.len(), 2 * 6 + pooler, "{all:?}");
        assert!(!all.iter().any(|path| path.starts_with("classifier")), "{all:?}");
    }
}

/// Which of two words a text holds.
fn loss(model: &SequenceClassifier, texts: &Texts, device: &Device) -> Tensor<1> {
    let labels = Tensor::<2, Int>::from_ints([[0], [1], [1]], device);
    -log_softmax(model.logits(texts), 1).gather(1, labels).mean()
}

#[test]
fn lora_trains_and_its_merged_form_is_the_same() {
    for name in ["bert", "roberta"] {
        let device = device::host().autodiff();
        let checkpoint = Checkpoint::open(&fixture(name)).unwrap();
        let config = EncoderConfig::read(fixture(name)).unwrap().with_labels(["a", "b"]).without_dropout();
        let model = SequenceClassifier::from_checkpoint(config, &checkpoint, Some(0), &device, None).unwrap();
        let lora = LoraConfig { modules_to_save: Some(vec!["classifier".into()]), ..lora(Names::list(["query", "value"])) };
        let (mut model, _) = adapt(model, &lora, &Context::default()).unwrap();
        let texts = texts(model.config(), &device);
        let first = loss(&model, &texts, &device).into_scalar::<f32>();
        let mut optimizer = AdamWConfig::new().init();
        for _ in 0..30 {
            let gradients = GradientsParams::from_grads(loss(&model, &texts, &device).backward(), &model);
            model = optimizer.step(1e-2, model, gradients);
        }
        let trained = loss(&model, &texts, &device).into_scalar::<f32>();
        assert!(trained < 0.1 * first, "{first} to {trained}");
        for (path, values) in parameters(&model).iter().filter(|(path, _)| path.ends_with("lora_b")) {
            assert!(values.iter().any(|value| *value != 0.0), "{path}");
        }
        let logits = |model: &SequenceClassifier| floats(model.logits(&texts));
        let unmerged = logits(&model);
        let merged = merge(model).unwrap();
        assert!(distance(&logits(&merged), &unmerged) < 1e-4);
        let dir = tempfile::tempdir().unwrap();
        merged.save(dir.path(), DType::F32).unwrap();
        let loaded = SequenceClassifier::load(dir.path(), &device::host(), None).unwrap();
        assert_eq!(loaded.labels(), ["a", "b"]);
        assert!(distance(&floats(loaded.logits(&self::texts(loaded.config(), &device::host()))), &unmerged) < 1e-4);
        assert!(distance(&logits(&unmerge(merged)), &unmerged) < 1e-4);
    }
}

/// The backward pass through fused attention, norm and activation against finite differences.
#[test]
fn gradients_are_right() {
    let device = device::host().autodiff();
    let config = json!({"model_type": "bert", "vocab_size": 90, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 8, "initializer_range": 0.4});
    let config = EncoderConfig::parse(&config.to_string()).unwrap().without_dropout();
    let model = Encoder::init(config, &device, 5);
    let texts = texts(model.config(), &device);
    let loss = |model: &Encoder| {
        let hidden = model.forward(&texts) * texts.mask().unsqueeze_dim::<3>(2);
        (hidden.clone() * hidden.sin()).mean()
    };
    let gradients = loss(&model).backward();
    let weight = |model: &Encoder| model.encoder.layer[0].attention.heads.key.weight.val();
    let gradient = floats(weight(&model).grad(&gradients).unwrap());
    let moved = |index: usize, by: f32| {
        let mut values = floats(weight(&model));
        values[index] += by;
        let mut model = model.clone();
        let changed = Tensor::<1>::from_floats(values.as_slice(), &device).reshape([8, 8]);
        model.encoder.layer[0].attention.heads.key.weight = Param::from_tensor(changed);
        loss(&model).into_scalar::<f32>()
    };
    let scale = gradient.iter().fold(0f32, |scale, g| scale.max(g.abs()));
    for index in [0, 17, 40, 63] {
        let difference = (moved(index, 1e-2) - moved(index, -1e-2)) / 2e-2;
        assert!((difference - gradient[index]).abs() < 0.02 * scale, "{difference} {} of {scale}", gradient[index]);
    }
}

#[test]
fn what_is_saved_says_what_it_is() {
    let device = device::host();
    let dir = tempfile::tempdir().unwrap();
    let model = SequenceClassifier::load_with_labels(fixture("roberta"), ["no", "yes"], 3, &device, None).unwrap();
    model.save(dir.path(), DType::BF16).unwrap();
    let json: Value = serde_json::from_slice(&std::fs::read(dir.path().join("config.json")).unwrap()).unwrap();
    assert_eq!(json["architectures"], json!(["RobertaForSequenceClassification"]));
    assert_eq!((&json["id2label"], &json["label2id"]), (&json!({"0": "no", "1": "yes"}), &json!({"no": 0, "yes": 1})));
    assert_eq!((&json["num_labels"], &json["problem_type"]), (&json!(2), &json!("single_label_classification")));
    assert_eq!((&json["dtype"], &json["vocab_size"]), (&json!("bfloat16"), &json!(320)));
    let encoder = Encoder::load(fixture("roberta"), &device, None).unwrap();
    let dir = tempfile::tempdir().unwrap();
    encoder.save(dir.path(), DType::F32).unwrap();
    assert_eq!(hidden(dir.path()), hidden(&fixture("roberta")));
}

/// What is said about a small configuration with some keys changed.
fn message(changes: Value) -> String {
    let mut config = json!({"model_type": "bert", "vocab_size": 10, "hidden_size": 8, "num_attention_heads": 2});
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    let error = EncoderConfig::parse(&config.to_string()).and_then(|config| config.problem()).unwrap_err().to_string();
    error.strip_prefix("invalid configuration: ").unwrap().to_string()
}

#[test]
fn configurations_that_cannot_be_used_are_told_why() {
    assert_eq!(
        message(json!({"model_type": "gpt2"})),
        "model_type `gpt2` is not a supported encoder; supported model types: `bert`, `roberta`, `xlm-roberta`, `camembert`"
    );
    assert_eq!(message(json!({"hidden_size": 9})), "hidden_size 9 must be a multiple of num_attention_heads 2");
    assert_eq!(message(json!({"hidden_dropout_prob": 1.0})), "hidden_dropout_prob must be at least 0 and below 1, found 1");
    assert_eq!(
        message(json!({"position_embedding_type": "relative_key"})),
        "position_embedding_type `relative_key` is not supported; supported: `absolute`"
    );
    assert_eq!(
        message(json!({"model_type": "roberta", "max_position_embeddings": 2})),
        "max_position_embeddings 2 leaves no position behind pad_token_id 1"
    );
    assert_eq!(message(json!({"id2label": {"0": "a", "2": "b"}})), "id2label has 2 entries, one of them for `2`; ids count from 0");
    assert_eq!(
        message(json!({"problem_type": "multi_label_classification"})),
        "problem_type `multi_label_classification` is not supported; supported: `single_label_classification`, `regression`"
    );
    assert!(message(json!({"is_decoder": true})).starts_with("is_decoder and add_cross_attention"));
    assert!(message(json!({"quantization_config": {"quant_method": "gptq"}})).contains("quantised (gptq)"));
}

#[test]
fn absent_keys_mean_what_they_mean_in_transformers() {
    let parse = |json: Value| EncoderConfig::parse(&json.to_string()).unwrap();
    let bert = parse(json!({"model_type": "bert"}));
    assert_eq!((bert.vocab_size, bert.hidden_size, bert.intermediate_size, bert.num_hidden_layers), (30_522, 768, 3072, 12));
    assert_eq!((bert.type_vocab_size, bert.pad_token_id, bert.max_tokens()), (2, 0, 512));
    assert_eq!((bert.hidden_dropout_prob, bert.classifier_dropout, bert.layer_norm_eps), (0.1, 0.1, 1e-12));
    let roberta = parse(json!({"model_type": "roberta", "max_position_embeddings": 514}));
    assert_eq!((roberta.vocab_size, roberta.pad_token_id, roberta.max_tokens()), (50_265, 1, 512));
    let old = parse(json!({"architectures": ["XLMRobertaForMaskedLM"]}));
    assert_eq!(old.family.model_type(), "xlm-roberta");
}

#[test]
fn the_model_type_tells_encoders_from_decoders() {
    assert!(EncoderConfig::describes(fixture("roberta")).unwrap());
    assert!(!EncoderConfig::describes(fixture("../models/llama")).unwrap());
}
