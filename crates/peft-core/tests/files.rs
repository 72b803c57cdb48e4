//! Reading and writing files: what is written comes back, and what is damaged is refused with a reason.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Tensor, TensorData, bf16, f16};
use peft_core::device::host;
use peft_core::files::{
    Checkpoint, Dtype, Inputs, Metadata, OutputDir, TensorSource, pytorch_metadata, read_json, read_text, tensor_bytes, write_atomic,
    write_checkpoint, write_safetensors,
};
use peft_core::{Error, Result};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::TensorView;
use tempfile::TempDir;

#[path = "files/outputs.rs"]
mod outputs;

/// A safetensors file with this header, right or wrong, and this data.
fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    file
}

fn put(dir: &TempDir, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn dir() -> TempDir {
    TempDir::new().unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn source<'a>(name: &str, dtype: Dtype, shape: &[usize], bytes: &'a [u8]) -> TensorSource<'a> {
    TensorSource::new(name, dtype, shape, move || Ok(Cow::Borrowed(bytes)))
}

fn f32_bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// The message of the error, which must start with the path.
#[track_caller]
fn message<T>(result: Result<T>, path: &Path) -> String {
    let Err(error) = result else { panic!("{} was accepted", path.display()) };
    let message = error.to_string();
    let reason = message.strip_prefix(&format!("{}: ", path.display()));
    reason.unwrap_or_else(|| panic!("`{message}` does not begin with {}", path.display())).into()
}

#[track_caller]
fn refused(file: &[u8], reason: &str) {
    let dir = dir();
    let path = put(&dir, "x.safetensors", file);
    let message = message(Checkpoint::open_file(&path), &path);
    assert!(message.contains(reason), "`{message}` does not say `{reason}`");
}

#[track_caller]
fn refused_header(header: &str, data: &[u8], reason: &str) {
    refused(&raw(header, data), reason);
}

mod damaged_files {
    use super::*;

    #[test]
    fn a_file_that_is_missing_empty_or_a_directory() {
        let dir = dir();
        let path = dir.path().join("absent.safetensors");
        assert!(matches!(Checkpoint::open_file(&path), Err(Error::Io { .. })));
        assert!(matches!(Checkpoint::open(&dir.path().join("absent")), Err(Error::Io { .. })));
        assert_eq!(message(Checkpoint::open_file(dir.path()), dir.path()), "not a regular file");
        refused(b"", "the file is empty");
    }

    #[test]
    fn a_truncated_header() {
        refused(&[1, 0, 0], "truncated: 3 bytes are no safetensors header");
        let file = raw(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, &[0; 4]);
        refused(&file[..20], "truncated: it announces a header of 54 bytes, but has only 20 in all");
    }

    #[test]
    fn truncated_data() {
        let file = raw(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, &[0; 4]);
        refused(&file[..file.len() - 1], "truncated: tensor `a` ends at byte 66, the file has 65");
    }

    #[test]
    fn a_header_that_is_not_json() {
        refused_header("{nonsense}", &[], "the header is not JSON: key must be a string at line 1 column 2");
        refused_header("[]", &[], "the header is not JSON");
        refused(&raw("{\"\u{e9}\":0}", &[])[..11], "truncated");
        refused(&[2, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe], "the header is not JSON");
    }

    #[test]
    fn an_absurd_header_length_is_refused_without_allocating_it() {
        for length in [100_000_001, u64::MAX / 2, u64::MAX] {
            let mut file = length.to_le_bytes().to_vec();
            file.extend(b"{}");
            refused(&file, &format!("not a safetensors file: it announces a header of {length} bytes"));
        }
        refused(b"PK\x03\x04 a zip archive, as torch.save writes", "not a safetensors file");
    }

    #[test]
    fn a_git_lfs_pointer() {
        refused(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "fetch them with `git lfs pull`");
    }

    #[test]
    fn offsets_that_overlap_leave_gaps_or_leave_the_file() {
        let two = |a: &str, b: &str| {
            format!(r#"{{"a":{{"dtype":"U8","shape":[4],"data_offsets":{a}}},"b":{{"dtype":"U8","shape":[4],"data_offsets":{b}}}}}"#)
        };
        refused_header(&two("[0,4]", "[2,6]"), &[0; 8], "tensor `b` overlaps tensor `a`");
        refused_header(&two("[0,4]", "[0,4]"), &[0; 8], "overlaps");
        refused_header(&two("[0,4]", "[5,9]"), &[0; 9], "1 bytes between tensor `a` and tensor `b` belong to no tensor");
        refused_header(&two("[4,8]", "[8,12]"), &[0; 12], "4 bytes between the header and tensor `a`");
        refused_header(&two("[0,4]", "[4,8]"), &[0; 9], "1 bytes after the last tensor");
        refused_header(&two("[0,4]", "[8,4]"), &[0; 8], "tensor `b`: its data ends at 4, before it begins at 8");
        let end = usize::MAX;
        let start = end - 4;
        refused_header(&format!(r#"{{"a":{{"dtype":"U8","shape":[4],"data_offsets":[{start},{end}]}}}}"#), &[0; 4], "belong to no tensor");
        refused_header(r#"{"a":{"dtype":"U8","shape":[99],"data_offsets":[0,99]}}"#, &[0; 4], "truncated: tensor `a`");
        refused_header(r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[-4,0]}}"#, &[0; 4], "header: tensor `a`: invalid value");
    }

    #[test]
    fn a_shape_that_does_not_fit_its_bytes() {
        let reason = "tensor `a`: F32 of shape [2, 3] takes 24 bytes, its data offsets span 20";
        refused_header(r#"{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,20]}}"#, &[0; 20], reason);
        refused_header(r#"{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}"#, &[0], "has no size in whole bytes");
    }

    #[test]
    fn a_shape_whose_product_overflows() {
        let half = 1u64 << 32;
        let header = format!(r#"{{"a":{{"dtype":"F32","shape":[{half},{half}],"data_offsets":[0,0]}}}}"#);
        refused_header(&header, &[], "has no size in whole bytes that fits the address space");
    }

    #[test]
    fn entries_that_are_not_tensors() {
        refused_header(r#"{"a":7}"#, &[], "header: tensor `a`: ");
        refused_header(r#"{"a":{"dtype":"F7","shape":[],"data_offsets":[0,0]}}"#, &[], "tensor `a`: unknown variant `F7`");
        refused_header(r#"{"a":{"dtype":"F32","data_offsets":[0,0]}}"#, &[], "tensor `a`: missing field `shape`");
        refused_header(r#"{"__metadata__":{"epoch":3}}"#, &[], "`__metadata__` must map strings to strings");
    }

    #[test]
    fn random_damage_is_an_error_or_harmless_but_never_a_panic() {
        let dir = dir();
        let path = dir.path().join("x.safetensors");
        let data = f32_bytes(&[1.0; 12]);
        let tensors = [source("a", Dtype::F32, &[3, 2], &data[..24]), source("b", Dtype::BF16, &[4], &data[..8])];
        write_safetensors(&path, tensors, &pytorch_metadata()).unwrap();
        let valid = fs::read(&path).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut accepted = 0;
        for _ in 0..2000 {
            fs::write(&path, damage(&valid, &mut rng)).unwrap();
            let Ok(checkpoint) = Checkpoint::open_file(&path) else { continue };
            accepted += 1;
            let keys: Vec<_> = checkpoint.keys().map(String::from).collect();
            for key in keys {
                let bytes = checkpoint.bytes(&key).unwrap();
                assert_eq!(checkpoint.info(&key).unwrap().num_bytes(), Some(bytes.len()));
                let _ = checkpoint.f32s(&key);
                if let Ok(tensor) = checkpoint.float(&key, [3, 2], None, &host()) {
                    // A device may read the mapped file only now, and the next round writes over it.
                    tensor.into_data();
                }
            }
        }
        assert!((100..1900).contains(&accepted), "{accepted} of 2000 accepted: the damage is too mild or too severe to test");
    }

    fn damage(valid: &[u8], rng: &mut impl Rng) -> Vec<u8> {
        let mut file = valid.to_vec();
        match rng.random_range(0..8) {
            0 => file.truncate(rng.random_range(0..valid.len())),
            1 => file.extend(vec![0; rng.random_range(1..20)]),
            2 => {
                // A digit of a shape, an offset or the header's length.
                let digits: Vec<_> = (0..file.len()).filter(|&i| file[i].is_ascii_digit()).collect();
                file[digits[rng.random_range(0..digits.len())]] = b'0' + rng.random_range(0..10u8);
            }
            _ => {
                for _ in 0..rng.random_range(1..4) {
                    let i = rng.random_range(0..file.len());
                    file[i] ^= 1 << rng.random_range(0..8);
                }
            }
        }
        file
    }
}

mod directories {
    use super::*;

    fn shard(key: &str) -> Vec<u8> {
        raw(&format!(r#"{{"{key}":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}}}"#), key.as_bytes())
    }

    const INDEX: &str = "model.safetensors.index.json";

    #[track_caller]
    fn refused_index(index: &str, reason: &str) {
        let dir = dir();
        put(&dir, "s.safetensors", shard("a"));
        let path = put(&dir, INDEX, index);
        let message = message(Checkpoint::open(dir.path()), &path);
        assert!(message.contains(reason), "`{message}` does not say `{reason}`");
    }

    #[test]
    fn tensors_come_from_the_files_that_the_index_names() {
        let dir = dir();
        put(&dir, "1.safetensors", shard("a"));
        put(&dir, "2.safetensors", shard("b"));
        put(&dir, "unlisted.safetensors", shard("c"));
        put(&dir, INDEX, r#"{"metadata": {"total_size": 2}, "weight_map": {"b": "2.safetensors", "a": "1.safetensors"}}"#);
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        assert_eq!(checkpoint.path(), dir.path());
        assert_eq!(checkpoint.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(checkpoint.bytes("b").unwrap(), b"b");
        assert!(checkpoint.contains("a") && !checkpoint.contains("c"));
    }

    #[test]
    fn a_single_file_is_preferred_to_an_index_as_in_transformers() {
        let dir = dir();
        put(&dir, "model.safetensors", shard("a"));
        put(&dir, INDEX, "{}");
        assert_eq!(Checkpoint::open(dir.path()).unwrap().keys().collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn a_path_to_a_file_is_opened_as_that_file() {
        let dir = dir();
        let path = put(&dir, "other.safetensors", shard("a"));
        assert_eq!(Checkpoint::open(&path).unwrap().path(), path);
    }

    #[test]
    fn a_malformed_index_is_refused_with_its_position() {
        refused_index("{\n  \"weight_map\": [}", "line 2 column ");
        refused_index(r#"{"metadata": {}}"#, "missing field `weight_map`");
        refused_index(r#"{"weight_map": {"a": 1}}"#, "expected a string");
    }

    #[test]
    fn an_index_cannot_name_files_that_are_missing_or_outside_the_directory() {
        let reason = "names the file `t.safetensors`, which does not exist; is the download complete?";
        refused_index(r#"{"weight_map": {"a": "t.safetensors"}}"#, reason);
        for outside in ["../s.safetensors", "/etc/passwd", "x/../../s.safetensors", "./s.safetensors", ""] {
            let index = format!(r#"{{"weight_map": {{"a": "{outside}"}}}}"#);
            refused_index(&index, &format!("names the file `{outside}`, which is not inside the directory"));
        }
    }

    #[test]
    fn an_index_cannot_list_tensors_that_its_files_lack() {
        let reason = "lists tensor `b` in `s.safetensors`, which does not hold it";
        refused_index(r#"{"weight_map": {"a": "s.safetensors", "b": "s.safetensors"}}"#, reason);
    }

    #[test]
    fn a_damaged_shard_is_refused_by_its_own_name() {
        let dir = dir();
        let path = put(&dir, "s.safetensors", "");
        put(&dir, INDEX, r#"{"weight_map": {"a": "s.safetensors"}}"#);
        assert_eq!(message(Checkpoint::open(dir.path()), &path), "the file is empty");
    }

    #[test]
    fn a_directory_without_a_checkpoint_says_what_was_looked_for() {
        let dir = dir();
        let nothing = "no checkpoint here: looked for model.safetensors and model.safetensors.index.json";
        assert_eq!(message(Checkpoint::open(dir.path()), dir.path()), nothing);
        put(&dir, "pytorch_model.bin", "");
        let message = message(Checkpoint::open(dir.path()), dir.path());
        assert!(message.contains("converted to safetensors") && message.contains("python -c"), "{message}");
    }
}

mod reading {
    use super::*;

    /// `w` (2×2) in each floating-point type, an integer and an 8-bit tensor, a scalar and an empty one.
    fn checkpoint() -> (TempDir, Checkpoint) {
        let dir = dir();
        let path = dir.path().join("x.safetensors");
        let numbers = [1.0f32, -2.0, 0.5, 96.0];
        let f64s: Vec<u8> = numbers.iter().flat_map(|&x| f64::from(x).to_le_bytes()).collect();
        let f16s: Vec<u8> = numbers.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
        let bf16s: Vec<u8> = numbers.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
        let f32s = f32_bytes(&numbers);
        let tensors = [
            source("w.f64", Dtype::F64, &[2, 2], &f64s),
            source("w.f32", Dtype::F32, &[2, 2], &f32s),
            source("w.f16", Dtype::F16, &[2, 2], &f16s),
            source("w.bf16", Dtype::BF16, &[2, 2], &bf16s),
            source("ids", Dtype::I64, &[1], &f64s[..8]),
            source("fp8", Dtype::F8_E4M3, &[2, 2], &f32s[..4]),
            source("scale", Dtype::F32, &[], &f32s[..4]),
            source("empty", Dtype::F32, &[0, 3], &[]),
        ];
        write_safetensors(&path, tensors, &pytorch_metadata()).unwrap();
        let checkpoint = Checkpoint::open_file(&path).unwrap();
        (dir, checkpoint)
    }

    const STORED: [(&str, DType); 4] = [("w.f64", DType::F64), ("w.f32", DType::F32), ("w.f16", DType::F16), ("w.bf16", DType::BF16)];

    #[test]
    fn a_tensor_keeps_its_stored_type_or_takes_the_one_asked_for() {
        let (_dir, checkpoint) = checkpoint();
        let device = host();
        let expected = TensorData::from([[1.0f32, -2.0], [0.5, 96.0]]);
        let types = STORED.into_iter().filter(|(_, dtype)| device.supports_dtype(*dtype));
        for (key, stored) in types.clone() {
            let tensor = checkpoint.float::<2>(key, [2, 2], None, &device).unwrap();
            assert_eq!(tensor.dtype(), stored);
            assert_eq!(tensor.into_data_dtype(DType::F32), expected);
            for (_, wanted) in types.clone() {
                let tensor = checkpoint.float::<2>(key, [2, 2], Some(wanted), &device).unwrap();
                assert_eq!(tensor.dtype(), wanted);
                assert_eq!(tensor.into_data_dtype(DType::F32), expected, "{key} as {wanted:?}");
            }
            assert_eq!(checkpoint.f32s(key).unwrap(), [1.0, -2.0, 0.5, 96.0]);
        }
    }

    #[test]
    fn scalars_are_read_as_one_number_and_empty_tensors_as_none() {
        let (_dir, checkpoint) = checkpoint();
        let device = host();
        assert_eq!(checkpoint.float("scale", [1], None, &device).unwrap().into_data(), TensorData::from([1.0f32]));
        assert_eq!(checkpoint.float("empty", [0, 3], None, &device).unwrap().dims(), [0, 3]);
        assert!(checkpoint.float("scale", [1, 1], None, &device).is_err());
    }

    #[test]
    fn a_tensor_of_another_shape_is_refused_with_both_shapes() {
        let (_dir, checkpoint) = checkpoint();
        let message = message(checkpoint.float("w.f32", [4, 1], None, &host()), checkpoint.path());
        assert_eq!(message, "tensor `w.f32`: expected shape [4, 1], found shape [2, 2]");
    }

    #[test]
    fn integers_and_8_bit_floats_are_refused_as_floats() {
        let (_dir, checkpoint) = checkpoint();
        let device = host();
        let ids = message(checkpoint.float("ids", [1], Some(DType::F32), &device), checkpoint.path());
        assert_eq!(ids, "tensor `ids`: expected f32, f16 or bf16, found I64");
        assert_eq!(message(checkpoint.f32s("fp8"), checkpoint.path()), "tensor `fp8`: expected f32, f16 or bf16, found F8_E4M3");
        let wanted = checkpoint.float("w.f32", [2, 2], Some(DType::I32), &device);
        assert!(matches!(wanted, Err(Error::InvalidConfig(reason)) if reason.contains("i32")));
    }

    #[test]
    fn what_is_no_number_is_named_by_every_reader_and_writer() {
        let dir = dir();
        let path = dir.path().join("bad.safetensors");
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let numbers = f32_bytes(&[1.0, bad, 2.0]);
            let halves: Vec<u8> = [1.0, bad, 2.0].iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
            let header =
                r#"{"w":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},"h":{"dtype":"F16","shape":[3],"data_offsets":[12,18]}}"#;
            fs::write(&path, raw(header, &[numbers.clone(), halves].concat())).unwrap();
            let checkpoint = Checkpoint::open_file(&path).unwrap();
            for key in ["w", "h"] {
                let wanted = format!("tensor `{key}`: not a finite number");
                assert_eq!(message(checkpoint.f32s(key), &path), wanted);
                assert_eq!(message(checkpoint.read_f32s(key, 0, &mut [0.0; 3]), &path), wanted);
                assert_eq!(message(checkpoint.float(key, [3], Some(DType::F32), &host()), &path), wanted);
                let copy = TensorSource::from_checkpoint(&checkpoint, key).unwrap();
                assert_eq!(message(write_safetensors(&dir.path().join("copy"), [copy], &Metadata::new()), &path), wanted);
            }
            // What is not asked for is not looked at.
            checkpoint.read_f32s("w", 2, &mut [0.0]).unwrap();
            let error =
                write_safetensors(&dir.path().join("new"), [source("w", Dtype::F32, &[3], &numbers)], &Metadata::new()).unwrap_err();
            assert_eq!(error.to_string(), "tensor `w` for new, rounded to F32: not a finite number");
        }
        assert_eq!(names(dir.path()), ["bad.safetensors"], "nothing is written");
    }

    #[test]
    fn what_rounding_makes_infinite_is_no_number_either() {
        let dir = dir();
        let path = dir.path().join("large.safetensors");
        let (fits, large) = (f32_bytes(&[65519.0, -1.0]), f32_bytes(&[65520.0, -1.0]));
        let tensors = [source("fits", Dtype::F32, &[2], &fits), source("large", Dtype::F32, &[2], &large)];
        write_safetensors(&path, tensors, &Metadata::new()).unwrap();
        let checkpoint = Checkpoint::open_file(&path).unwrap();
        let read = |key: &str| checkpoint.float::<1>(key, [2], Some(DType::F16), &host());
        if host().supports_dtype(DType::F16) {
            assert_eq!(read("fits").unwrap().into_data_dtype(DType::F32), TensorData::from([65504.0f32, -1.0]));
            let said = "tensor `large`, rounded to F16, whose largest number is 65504: not a finite number";
            assert_eq!(message(read("large"), &path), said);
        }
        let tensor = checkpoint.float::<1>("large", [2], None, &host()).unwrap();
        for (dtype, fails) in [(DType::F32, false), (DType::BF16, false), (DType::F16, true)] {
            let sources = [TensorSource::from_tensor("large", tensor.clone(), dtype).unwrap()];
            let written = write_checkpoint(dir.path(), sources, u64::MAX, &Metadata::new());
            assert_eq!(written.is_err(), fails, "{dtype:?}");
            if let Err(error) = written {
                assert!(error.to_string().starts_with("tensor `large` for model.safetensors, rounded to F16"), "{error}");
            }
        }
        assert_eq!(Checkpoint::open(dir.path()).unwrap().info("large").unwrap().dtype, Dtype::BF16, "the last that could be written");
    }

    #[test]
    fn tensors_are_equal_by_their_numbers() {
        let dir = dir();
        let (a, b) = (f32_bytes(&[0.5, 0.0]), f32_bytes(&[0.5, -0.0]));
        let half: Vec<u8> = [0.5f32, 0.0].iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
        let other = f32_bytes(&[0.5, 1e-9]);
        let tensors = [
            source("a", Dtype::F32, &[2], &a),
            source("zero", Dtype::F32, &[2], &b),
            source("half", Dtype::BF16, &[2], &half),
            source("other", Dtype::F32, &[2], &other),
            source("column", Dtype::F32, &[2, 1], &a),
            source("ids", Dtype::I64, &[1], &a),
        ];
        write_checkpoint(dir.path(), tensors, u64::MAX, &Metadata::new()).unwrap();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        for (key, equal) in [("a", true), ("zero", true), ("half", true), ("other", false), ("column", false)] {
            assert_eq!(checkpoint.are_equal("a", key).unwrap(), equal, "{key}");
        }
        assert!(checkpoint.are_equal("a", "ids").is_err() && checkpoint.are_equal("absent", "a").is_err());
    }

    #[test]
    fn a_missing_tensor_names_the_three_nearest() {
        let (_dir, checkpoint) = checkpoint();
        let message = message(checkpoint.float("model.w.f32", [2, 2], None, &host()), checkpoint.path());
        let expected = "tensor `model.w.f32`: expected shape [2, 2], found nothing; the nearest keys are `w.f32`, ";
        assert!(message.starts_with(expected), "{message}");
        assert_eq!(message.matches('`').count(), 8);
        assert!(matches!(checkpoint.bytes("absent"), Err(Error::Tensor { .. })));
    }

    #[test]
    fn types_shapes_and_metadata_are_those_of_the_file() {
        let (_dir, checkpoint) = checkpoint();
        let info = checkpoint.info("fp8").unwrap();
        assert_eq!((info.dtype, info.shape.as_slice()), (Dtype::F8_E4M3, [2, 2].as_slice()));
        assert_eq!(checkpoint.info("absent"), None);
        assert_eq!(checkpoint.metadata(), &pytorch_metadata());
    }

    #[test]
    fn data_without_alignment_is_read_correctly() {
        let dir = dir();
        let numbers = f32_bytes(&[3.0, 4.0]);
        let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        assert_ne!(header.len() % 4, 0);
        let path = put(&dir, "x.safetensors", raw(header, &numbers));
        let tensor = Checkpoint::open_file(&path).unwrap().float("a", [2], None, &host()).unwrap();
        assert_eq!(tensor.into_data(), TensorData::from([3.0f32, 4.0]));
    }

    #[test]
    fn a_checkpoint_can_be_shared_between_threads() {
        fn shareable<T: Send + Sync>(_: &T) {}
        shareable(&checkpoint().1);
    }

    #[test]
    fn text_and_json_errors_say_where() {
        let dir = dir();
        let path = put(&dir, "x.json", "{\n \"a\": 1,\n}");
        assert_eq!(message(read_json::<serde_json::Value>(&path), &path), "trailing comma at line 3 column 1");
        let path = put(&dir, "x.txt", b"ab\nc\xff");
        assert_eq!(message(read_text(&path), &path), "not UTF-8 text at line 2 column 2");
        assert!(matches!(read_text(&dir.path().join("absent")), Err(Error::Io { .. })));
        let path = put(&dir, "y.json", r#"{"a": 1}"#);
        assert_eq!(read_json::<HashMap<String, u8>>(&path).unwrap()["a"], 1);
    }
}

mod writing {
    use super::*;

    #[test]
    fn files_are_those_of_the_reference_implementation() {
        let dir = dir();
        let data = f32_bytes(&[1.0, 2.0, 3.0, 4.0]);
        let list = [
            ("b", Dtype::F32, vec![2], &data[..8]),
            ("a", Dtype::F32, vec![1, 2], &data[8..]),
            ("é", Dtype::U8, vec![3], &data[..3]),
            ("z", Dtype::I64, vec![1], &data[..8]),
            ("scalar", Dtype::BF16, vec![], &data[..2]),
            ("none", Dtype::F16, vec![0], &[]),
        ];
        let views = list.iter().map(|(name, dtype, shape, data)| (*name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
        for metadata in [Metadata::new(), pytorch_metadata()] {
            let theirs = (!metadata.is_empty()).then(|| metadata.clone().into_iter().collect());
            let theirs = safetensors::serialize(views.clone(), theirs).unwrap();
            let path = dir.path().join("x.safetensors");
            let ours = list.iter().map(|(name, dtype, shape, data)| source(name, *dtype, shape, data));
            assert_eq!(write_safetensors(&path, ours, &metadata).unwrap(), theirs.len() as u64);
            assert_eq!(fs::read(&path).unwrap(), theirs);
        }
        assert_eq!(names(dir.path()), ["x.safetensors"]);
    }

    #[test]
    fn a_file_that_is_read_and_written_again_is_the_same_file() {
        let dir = dir();
        let data: Vec<u8> = (0..=255).collect();
        let metadata: Metadata = (0..9).map(|i| (format!("key{i}"), format!("value \"{i}\""))).collect();
        let tensors = [Dtype::F8_E5M2, Dtype::F64, Dtype::BOOL, Dtype::BF16, Dtype::C64]
            .map(|dtype| source(&format!("{dtype}"), dtype, &[2, 4], &data[..dtype.bitsize()]));
        let (first, second) = (dir.path().join("1"), dir.path().join("2"));
        write_safetensors(&first, tensors, &metadata).unwrap();
        let checkpoint = Checkpoint::open_file(&first).unwrap();
        let copies = checkpoint.keys().map(|key| TensorSource::from_checkpoint(&checkpoint, key).unwrap());
        write_safetensors(&second, copies, checkpoint.metadata()).unwrap();
        assert_eq!(fs::read(&first).unwrap(), fs::read(&second).unwrap());
        assert!(TensorSource::from_checkpoint(&checkpoint, "absent").is_err());
    }

    #[test]
    fn a_checkpoint_can_be_replaced_while_it_is_read() {
        let dir = dir();
        let path = dir.path().join("x");
        write_safetensors(&path, [source("a", Dtype::U8, &[3], b"old")], &Metadata::new()).unwrap();
        let old = Checkpoint::open_file(&path).unwrap();
        let reversed = TensorSource::new("a", Dtype::U8, &[3], || {
            let mut bytes = old.bytes("a")?.to_vec();
            bytes.reverse();
            Ok(Cow::Owned(bytes))
        });
        write_safetensors(&path, [reversed], &Metadata::new()).unwrap();
        assert_eq!(old.bytes("a").unwrap(), b"old");
        assert_eq!(Checkpoint::open_file(&path).unwrap().bytes("a").unwrap(), b"dlo");
    }

    #[test]
    fn a_tensor_is_on_disk_before_the_next_is_computed() {
        const SIZE: usize = 2 << 20;
        let dir = dir();
        let sizes = RefCell::new(Vec::new());
        let tensors = (0..4).map(|i| {
            TensorSource::new(format!("{i}"), Dtype::U8, &[SIZE], || {
                let temporary = dir.path().join(&names(dir.path())[0]);
                sizes.borrow_mut().push(fs::metadata(temporary).unwrap().len() as usize / SIZE);
                Ok(Cow::Owned(vec![0; SIZE]))
            })
        });
        write_safetensors(&dir.path().join("x"), tensors, &Metadata::new()).unwrap();
        assert_eq!(*sizes.borrow(), [0, 1, 2, 3]);
    }

    #[test]
    fn an_error_leaves_nothing_new_and_the_old_file_as_it_was() {
        let dir = dir();
        let path = put(&dir, "x", "old");
        let fails = || TensorSource::new("b", Dtype::U8, &[1], || Err(Error::NonFinite { what: "b".into() }));
        let tensors = [source("a", Dtype::U8, &[1], b"a"), fails()];
        assert!(matches!(write_safetensors(&path, tensors, &Metadata::new()), Err(Error::NonFinite { .. })));
        let tensors = [source("a", Dtype::U8, &[1], b"a"), fails(), source("c", Dtype::U8, &[1], b"c")];
        assert!(matches!(write_checkpoint(dir.path(), tensors, 1, &Metadata::new()), Err(Error::NonFinite { .. })));
        assert_eq!(names(dir.path()), ["x"]);
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }

    #[test]
    fn tensors_that_make_no_file_are_refused() {
        let dir = dir();
        let path = dir.path().join("x");
        let write = |tensors: Vec<TensorSource>| message(write_safetensors(&path, tensors, &Metadata::new()), &path);
        assert_eq!(write(vec![source("a", Dtype::U8, &[2], b"a")]), "tensor `a`: 1 bytes were computed for U8 of shape [2]");
        let twice = vec![source("a", Dtype::U8, &[1], b"a"), source("a", Dtype::F32, &[1], b"aaaa")];
        assert_eq!(write(twice), "two tensors are called `a`");
        assert!(write(vec![source("__metadata__", Dtype::U8, &[1], b"a")]).contains("cannot be called"));
        assert!(write(vec![source("a", Dtype::F64, &[usize::MAX, 2], b"a")]).contains("has no size"));
        assert!(names(dir.path()).is_empty());
        let absent = dir.path().join("absent");
        message(write_safetensors(&absent.join("x"), [], &Metadata::new()), &absent);
    }

    #[test]
    fn small_checkpoints_are_one_file_and_large_ones_several_with_an_index() {
        let data = [7u8; 16];
        let tensors = || [8usize, 16, 4, 4, 1].into_iter().enumerate().map(|(i, n)| source(&format!("t{i}"), Dtype::U8, &[n], &data[..n]));
        let single = dir();
        let size = write_checkpoint(single.path(), tensors(), 33, &pytorch_metadata()).unwrap();
        assert_eq!(names(single.path()), ["model.safetensors"]);
        assert_eq!(size, fs::metadata(single.path().join("model.safetensors")).unwrap().len());

        // The tensor of 16 bytes is above the limit; the others fill files in order: 8 + 4, 4 + 1.
        let split = dir();
        let size = write_checkpoint(split.path(), tensors(), 12, &pytorch_metadata()).unwrap();
        let shards = (1..4).map(|i| format!("model-0000{i}-of-00003.safetensors")).collect::<Vec<_>>();
        assert_eq!(names(split.path()), [shards.as_slice(), &["model.safetensors.index.json".into()]].concat());
        assert_eq!(size, shards.iter().map(|s| fs::metadata(split.path().join(s)).unwrap().len()).sum::<u64>());
        let index = fs::read_to_string(split.path().join("model.safetensors.index.json")).unwrap();
        let expected = r#"{
  "metadata": {
    "total_size": 33
  },
  "weight_map": {
    "t0": "model-00002-of-00003.safetensors",
    "t1": "model-00001-of-00003.safetensors",
    "t2": "model-00002-of-00003.safetensors",
    "t3": "model-00003-of-00003.safetensors",
    "t4": "model-00003-of-00003.safetensors"
  }
}
"#;
        assert_eq!(index, expected);

        for dir in [&single, &split] {
            let checkpoint = Checkpoint::open(dir.path()).unwrap();
            assert_eq!(checkpoint.metadata(), &pytorch_metadata());
            assert_eq!(checkpoint.keys().collect::<Vec<_>>(), ["t0", "t1", "t2", "t3", "t4"]);
            assert_eq!(checkpoint.bytes("t1").unwrap(), data);
        }
    }

    #[test]
    fn a_checkpoint_is_not_written_beside_one_of_the_other_kind() {
        let tensors = || [source("a", Dtype::U8, &[1], b"a"), source("b", Dtype::U8, &[1], b"b")];
        for (first, second) in [(1, 2), (2, 1)] {
            let dir = dir();
            write_checkpoint(dir.path(), tensors(), first, &Metadata::new()).unwrap();
            let before = names(dir.path());
            assert!(matches!(write_checkpoint(dir.path(), tensors(), second, &Metadata::new()), Err(Error::File { .. })));
            assert_eq!(names(dir.path()), before);
            write_checkpoint(dir.path(), tensors(), first, &Metadata::new()).unwrap();
        }
        assert!(matches!(write_checkpoint(dir().path(), tensors(), 0, &Metadata::new()), Err(Error::InvalidConfig(_))));
    }

    #[test]
    fn names_that_two_shards_share_are_refused() {
        let dir = dir();
        let tensors = [source("a", Dtype::U8, &[1], b"a"), source("a", Dtype::U8, &[1], b"b")];
        assert_eq!(message(write_checkpoint(dir.path(), tensors, 1, &Metadata::new()), dir.path()), "two tensors are called `a`");
    }

    #[test]
    fn burn_tensors_are_stored_in_row_major_order_in_the_type_asked_for() {
        let dir = dir();
        let path = dir.path().join("x");
        let device = host();
        let transposed = Tensor::<2>::from_data([[1.0f32, 2.0, 3.0], [4.0, 5.0, 6.0]], &device).transpose();
        let floats = [DType::F64, DType::F32, DType::F16, DType::BF16];
        let tensors = floats.map(|dtype| TensorSource::from_tensor(dtype.name(), transposed.clone(), dtype).unwrap());
        write_safetensors(&path, tensors, &Metadata::new()).unwrap();
        let checkpoint = Checkpoint::open_file(&path).unwrap();
        for dtype in floats.into_iter().filter(|dtype| device.supports_dtype(*dtype)) {
            assert_eq!(checkpoint.f32s(dtype.name()).unwrap(), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
            let tensor = checkpoint.float::<2>(dtype.name(), [3, 2], None, &device).unwrap();
            assert_eq!(tensor.dtype(), dtype);
        }
        assert!(matches!(tensor_bytes(transposed.clone(), DType::I64), Err(Error::InvalidConfig(_))));
        assert!(TensorSource::from_tensor("a", transposed, DType::U8).is_err());
    }

    #[test]
    fn whole_files_replace_what_was_there() {
        let dir = dir();
        let path = put(&dir, "x.json", "a longer old text");
        write_atomic(&path, b"new").unwrap();
        assert_eq!(read_text(&path).unwrap(), "new");
        assert_eq!(names(dir.path()), ["x.json"]);
    }

    #[cfg(unix)]
    #[test]
    fn new_files_and_directories_have_the_usual_permissions() {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        let dir = dir();
        let (plain, plain_dir) = (put(&dir, "plain", ""), dir.path().join("plain_dir"));
        fs::create_dir(&plain_dir).unwrap();
        let ours = dir.path().join("ours");
        write_atomic(&ours, b"").unwrap();
        assert_eq!(mode(&ours), mode(&plain));
        let ours = OutputDir::create(&dir.path().join("out"), false, &Inputs::none()).unwrap().commit().unwrap();
        assert_eq!(mode(&ours), mode(&plain_dir));
    }
}

mod output_directories {
    use super::*;

    #[track_caller]
    fn write_into(out: &OutputDir, text: &str) {
        fs::write(out.path().join("x"), text).unwrap();
    }

    #[test]
    fn a_directory_appears_with_commit_and_not_before() {
        let dir = dir();
        let path = dir.path().join("parent/out");
        let out = OutputDir::create(&path, false, &Inputs::none()).unwrap();
        write_into(&out, "new");
        fs::create_dir(out.path().join("sub")).unwrap();
        fs::write(out.path().join("sub/y"), "").unwrap();
        assert!(!path.exists());
        assert_eq!(out.path().parent(), path.parent());
        let name = out.path().file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with(&format!(".out.partial-{}", std::process::id())), "{name}");
        assert_eq!(out.target(), path);
        assert_eq!(out.commit().unwrap(), path);
        assert_eq!(names(&path), [".peft-files", "sub", "x"]);
        assert!(read_text(&path.join(".peft-files")).unwrap().ends_with("\nsub/y\nx\n"));
        assert_eq!(names(path.parent().unwrap()), ["out"]);
    }

    #[test]
    fn without_commit_nothing_stays() {
        let dir = dir();
        let out = OutputDir::create(&dir.path().join("out"), false, &Inputs::none()).unwrap();
        write_into(&out, "new");
        drop(out);
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn content_is_only_replaced_when_asked_and_only_by_commit() {
        let dir = dir();
        let path = dir.path().join("out");
        let old = OutputDir::create(&path, false, &Inputs::none()).unwrap();
        fs::write(old.path().join("old"), "old").unwrap();
        old.commit().unwrap();
        assert!(matches!(OutputDir::create(&path, false, &Inputs::none()), Err(Error::OutputExists(p)) if p == path));

        let out = OutputDir::create(&path, true, &Inputs::none()).unwrap();
        write_into(&out, "new");
        assert_eq!(names(&path), [".peft-files", "old"]);
        drop(out);
        assert_eq!(names(&path), [".peft-files", "old"]);

        let out = OutputDir::create(&path, true, &Inputs::none()).unwrap();
        write_into(&out, "new");
        out.commit().unwrap();
        assert_eq!(names(&path), [".peft-files", "x"]);
        assert_eq!(names(dir.path()), ["out"]);
    }

    #[test]
    fn an_empty_directory_may_be_filled() {
        let dir = dir();
        let path = dir.path().join("out");
        fs::create_dir(&path).unwrap();
        let out = OutputDir::create(&path, false, &Inputs::none()).unwrap();
        write_into(&out, "new");
        out.commit().unwrap();
        assert_eq!(names(&path), [".peft-files", "x"]);
    }

    #[test]
    fn results_are_kept_if_their_place_is_taken_meanwhile() {
        let dir = dir();
        let path = dir.path().join("out");
        let out = OutputDir::create(&path, false, &Inputs::none()).unwrap();
        write_into(&out, "days of work");
        let partial = out.path().to_owned();
        fs::create_dir(&path).unwrap();
        fs::write(path.join("other"), "").unwrap();
        let message = message(out.commit(), &path);
        let (_, complete) = message.split_once("the complete files are in ").unwrap();
        assert!(!partial.exists() && complete.contains("/.out.complete-"), "{message}");
        assert_eq!(names(Path::new(complete)), [".peft-files", "x"]);
        assert_eq!(names(&path), ["other"]);

        // A later run leaves them alone.
        fs::remove_file(path.join("other")).unwrap();
        OutputDir::create(&path, false, &Inputs::none()).unwrap().commit().unwrap();
        assert!(Path::new(complete).exists());
    }

    #[test]
    fn places_that_cannot_be_replaced_are_refused() {
        let dir = dir();
        let file = put(&dir, "file", "");
        assert_eq!(message(OutputDir::create(&file, true, &Inputs::none()), &file), "a file, where a directory is to be written");
        assert!(matches!(OutputDir::create(&file.join("below"), true, &Inputs::none()), Err(Error::Io { .. })));
        let here = Path::new(".");
        assert!(message(OutputDir::create(here, true, &Inputs::none()), here).contains("working directory"));
        let root = Path::new("/");
        assert!(message(OutputDir::create(root, true, &Inputs::none()), root).contains("a name of its own"));
        let up = dir.path().join("absent/..");
        assert!(OutputDir::create(&up, true, &Inputs::none()).is_err());
        assert_eq!(names(dir.path()), ["file"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_mount_point_is_refused_before_any_work() {
        let proc = Path::new("/proc");
        assert!(message(OutputDir::create(proc, true, &Inputs::none()), proc).contains("a mount point"));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_a_directory_stays_a_link() {
        let dir = dir();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let out = OutputDir::create(&link, false, &Inputs::none()).unwrap();
        write_into(&out, "new");
        out.commit().unwrap();
        assert!(link.is_symlink());
        assert_eq!(names(&real), [".peft-files", "x"]);
    }
}

#[test]
fn a_file_of_pytorch_in_the_place_of_safetensors_is_told() {
    let dir = dir();
    put(&dir, "adapter_model.bin", b"PK");
    let file = dir.path().join("adapter_model.safetensors");
    let said = Checkpoint::open_file(&file).unwrap_err().to_string();
    assert!(said.contains("one that ends in .bin") && said.contains("writes safetensors"), "{said}");
    assert!(matches!(Checkpoint::open_file(&dir.path().join("other.safetensors")), Err(Error::Io { .. })));
}
