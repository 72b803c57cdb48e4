//! Several adapters in one model: activating, combining, merging, serving rows, taking out.

use crate::net::*;
use burn::module::Module;
use burn::tensor::Tensor;
use peft_adapters::low_rank::{Init, LoraConfig};
use peft_core::{
    Context, Method, Scope, Slot, activate, adapt, adapter_names, adapters_named, load_tensors, merge, save_adapter, unload, unmerge,
};
use serde_json::json;

fn add(net: Net, name: &str, method: &dyn Method, seed: u64) -> Net {
    adapt(net, method, &Context { name: name.into(), seed, ..Context::default() }).unwrap().0
}

/// Two random LoRAs.
fn two() -> Net {
    let random = LoraConfig { init_lora_weights: Init::Flag(false), ..lora() };
    add(add(Net::new(), "a", &random, 1), "b", &random, 2)
}

fn active(net: &Net, weighted: &[(&str, f64)]) -> Net {
    activate(net.clone(), weighted).unwrap()
}

fn change(net: &Net) -> Tensor<2> {
    net.up.weight.val() - net.up.weight.base()
}

#[test]
fn the_adapter_added_last_is_active() {
    let net = two();
    assert_eq!(adapter_names(&net), ["a", "b"]);
    assert_eq!(output(&net), output(&active(&net, &[("b", 1.0)])));
}

#[test]
fn changes_add_up_with_their_weights() {
    let net = two();
    let [a, b] = ["a", "b"].map(|name| change(&active(&net, &[(name, 1.0)])));
    let both = active(&net, &[("a", 1.0), ("b", 1.0)]);
    assert_close("sum", &floats(change(&both)), &floats(a.clone() + b.clone()), 1e-5);
    let mixed = active(&net, &[("a", 0.3), ("b", -1.5)]);
    assert_close("weighted", &floats(change(&mixed)), &floats(a * 0.3 - b * 1.5), 1e-5);
    for net in [both, mixed] {
        let plain = floats(net.plain(ids(&net.devices()[0])));
        assert_close("fast path", &output(&net), &plain, 1e-5);
        assert_close("merged", &output(&merge(net).unwrap()), &plain, 1e-5);
    }
}

#[test]
fn methods_stack_on_each_other() {
    let scaling = ia3(&["down"], &["up"]);
    let methods: [(&str, &dyn Method); 4] = [("lora", &lora()), ("dora", &dora()), ("ia3", &scaling), ("vera", &vera())];
    for (first, below) in &methods {
        for (second, above) in &methods {
            let net = shaken(add(Net::new(), "below", *below, 1), 1);
            let net = shaken(add(net, "above", *above, 2), 2);
            for weight in [1.0, 0.5] {
                let what = format!("{weight} of {second} on {first}");
                let both = active(&net, &[("below", 1.0), ("above", weight)]);
                let plain = floats(both.plain(ids(&both.devices()[0])));
                assert_close(&what, &output(&both), &plain, 1e-5);
                let merged = merge(both.clone()).unwrap();
                assert_close(&what, &output(&merged), &plain, 1e-5);
                assert_close(&what, &floats(unmerge(merged).up.weight.base()), &floats(net.up.weight.base()), 1e-6);
            }
        }
    }
}

#[test]
fn a_new_adapter_begins_from_the_base_and_not_from_the_active_one() {
    let base = output(&Net::new());
    for (name, method) in [("DoRA", dora()), ("PiSSA", pissa())] {
        let net = add(shaken(add(Net::new(), "first", &lora(), 1), 1), "second", &method, 2);
        assert_close(name, &output(&net), &base, 1e-6);
    }
}

#[test]
fn switching_back_and_forth_restores_the_outputs_exactly() {
    let net = add(shaken(add(two(), "p", &pissa(), 3), 3), "d", &dora(), 4);
    let names: [&[(&str, f64)]; 5] = [&[("a", 1.0)], &[("b", 1.0)], &[("p", 1.0)], &[("d", 1.0)], &[]];
    let first: Vec<_> = names.iter().map(|name| output(&active(&net, name))).collect();
    let mut net = net;
    for round in [[4, 0, 3, 1, 2], [2, 1, 0, 4, 3]] {
        for index in round {
            net = activate(net, names[index]).unwrap();
            assert_eq!(output(&net), first[index], "{:?}", names[index]);
        }
    }
    assert_eq!(first[4], output(&Net::new()), "no adapter is the base");
}

#[test]
fn an_unloaded_adapter_is_gone_and_leaves_the_base() {
    let base = output(&Net::new());
    let net = unload(two(), "a").unwrap();
    assert_eq!(adapter_names(&net), ["b"]);
    assert_differs(&output(&net), &base);
    assert_eq!(output(&unload(net, "b").unwrap()), base);
    assert_eq!(output(&unload(shaken(add(Net::new(), "p", &pissa(), 0), 1), "p").unwrap()), base);
}

#[test]
fn unloading_a_merged_adapter_leaves_its_change_in_the_weights() {
    let net = two();
    let before = output(&net);
    let net = unload(merge(net).unwrap(), "b").unwrap();
    assert_close("merged for good", &output(&net), &before, 1e-5);
    assert_close("nothing to unmerge", &output(&unmerge(net.clone())), &before, 1e-5);
    assert_eq!(adapter_names(&net), ["a"]);
    assert!(!net.up.weight.reparameterization::<Slot>().unwrap().is_merged());
}

#[test]
fn merging_twice_changes_nothing_more() {
    let once = merge(two()).unwrap();
    let twice = merge(once.clone()).unwrap();
    assert_eq!(output(&twice), output(&once));
    assert_close("unmerged", &output(&unmerge(twice)), &output(&two()), 1e-5);
}

#[test]
fn changing_the_active_adapters_takes_merged_ones_out_first() {
    let net = two();
    let merged = merge(net.clone()).unwrap();
    let switched = activate(merged.clone(), &[("a", 1.0)]).unwrap();
    assert_close("switched", &output(&switched), &output(&active(&net, &[("a", 1.0)])), 1e-5);
    let added = add(merged, "c", &lora(), 3);
    assert_close("a new adapter", &output(&added), &output(&Net::new()), 1e-5);
}

#[test]
fn merging_survives_the_change_to_evaluation_and_back() {
    let net = shaken(add(Net::new(), "d", &dora(), 0), 1);
    let before = output(&net);
    let merged = merge(net).unwrap();
    assert_close("evaluated", &output(&unmerge(merged.valid())), &before, 1e-5);
    assert_close("trained on", &output(&unmerge(merged.valid().train())), &before, 1e-5);
}

#[test]
fn each_row_is_served_by_its_own_adapter() {
    let random = LoraConfig { init_lora_weights: Init::Flag(false), ..lora_on(["embed", "up", "down"]) };
    let net = add(add(add(Net::new(), "a", &random, 1), "b", &random, 2), "d", &dora(), 3);
    let net = shaken(net, 1);
    let alone = |name: Option<&str>| {
        let weighted: Vec<_> = name.into_iter().map(|name| (name, 1.0)).collect();
        output(&active(&net, &weighted))
    };
    let of_row = |values: &[f32], row: usize| values[row * 3 * CLASSES..(row + 1) * 3 * CLASSES].to_vec();
    for names in [[Some("b"), None, Some("a"), Some("b")], [Some("d"), Some("a"), Some("d"), None], [Some("a"); 4], [None; 4]] {
        let scope = Scope { adapter_of_row: names.map(|name| name.map(String::from)).to_vec(), ..Scope::default() };
        let together = scope.run(|| output(&net)).0;
        for (row, name) in names.into_iter().enumerate() {
            assert_close(&format!("row {row}"), &of_row(&together, row), &of_row(&alone(name), row), 1e-5);
        }
    }
    assert_eq!(output(&net), alone(Some("d")), "the scope is over");
}

#[test]
fn whole_modules_are_trained_as_copies() {
    let config = LoraConfig { modules_to_save: Some(vec!["own".into(), "conv".into()]), ..lora() };
    let net = add(Net::new(), "default", &config, 0);
    let paths: Vec<_> = adapters_named(&net, "default").into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, ["conv.weight", "conv.bias", "up.weight", "down.weight"]);
    let kind = |net: &Net| adapters_named(net, "default")[3].1.export()[0].name.clone();
    assert_eq!(kind(&net), "weight", "a module trained as a whole gets no other adapter, though it is a target");

    let base = Net::new();
    assert_close("at first", &output(&net), &output(&base), 1e-6);
    let net = trained(net, 3);
    assert_eq!(floats(net.conv.weight.base()), floats(base.conv.weight.val()));
    assert_differs(&floats(net.conv.weight.val()), &floats(base.conv.weight.val()));
    assert_differs(&floats(net.down.weight.val()), &floats(base.down.weight.val()));
    assert_close("merged", &output(&merge(net.clone()).unwrap()), &output(&net), 1e-5);
    assert_eq!(output(&active(&net, &[])), output(&base));

    let dir = std::env::temp_dir().join(format!("peft-invariants-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    save_adapter(&net, "default", &json!({}), &dir).unwrap();
    let loaded = load_tensors(add(Net::new(), "default", &config, 7), "default", &dir);
    std::fs::remove_dir_all(&dir).unwrap();
    assert_close("loaded", &output(&loaded.unwrap()), &output(&net), 1e-6);
}

#[test]
fn biases_are_trained_as_the_mode_says() {
    let trained_biases = |bias: &str| {
        let config: LoraConfig = serde_json::from_value(json!({ "r": 2, "target_modules": ["up"], "bias": bias })).unwrap();
        let net = add(Net::new(), "default", &config, 0);
        let after = trained(net.clone(), 2);
        assert_close("merged", &output(&unload(merge(after.clone()).unwrap(), "default").unwrap()), &output(&after), 1e-5);
        assert_close("unmerged", &output(&unmerge(merge(after.clone()).unwrap())), &output(&after), 1e-5);
        let moved = |base: &burn::module::Param<Tensor<1>>, after: &burn::module::Param<Tensor<1>>| {
            assert_eq!(floats(base.base()), floats(after.base()));
            floats(base.val()) != floats(after.val())
        };
        let up = moved(net.up.bias.as_ref().unwrap(), after.up.bias.as_ref().unwrap());
        let conv = moved(net.conv.bias.as_ref().unwrap(), after.conv.bias.as_ref().unwrap());
        (up, conv)
    };
    assert_eq!(trained_biases("none"), (false, false));
    assert_eq!(trained_biases("lora_only"), (true, false));
    assert_eq!(trained_biases("all"), (true, true));
}
