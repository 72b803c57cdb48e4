//! Outputs: nothing that is read or belongs to others is harmed, one process writes at a time, and what a killed one leaves is cleaned up.

use super::{dir, message, names, put, source};
use peft_core::Error;
use peft_core::files::{
    Checkpoint, Dtype, Inputs, OutputDir, OutputFile, RunDir, copy_checkpoint_files, pytorch_metadata, read_text, state_of, write_atomic,
    write_safetensors,
};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// A directory with a base model, an adapter and a recipe.
fn place() -> TempDir {
    let dir = dir();
    for model in ["base", "adapter"] {
        fs::create_dir(dir.path().join(model)).unwrap();
        fs::write(dir.path().join(model).join("model.safetensors"), model).unwrap();
    }
    put(&dir, "recipe.yaml", "");
    dir
}

fn inputs(place: &Path) -> Inputs {
    let inputs = Inputs::none().and("the model", place.join("base")).and_maybe("the adapter", Some(place.join("adapter")));
    inputs.and("the recipe", place.join("recipe.yaml")).and_maybe("the data", None::<&Path>)
}

/// An output directory with one file in it.
fn written(path: &Path, file: &str) {
    let out = OutputDir::create(path, true, &Inputs::none()).unwrap();
    fs::write(out.path().join(file), file).unwrap();
    out.commit().unwrap();
}

mod inputs_are_safe {
    use super::*;

    /// All three kinds of outputs have the same guard.
    #[track_caller]
    fn refused(place: &Path, out: &Path, why: &str) {
        let inputs = inputs(place);
        for overwrite in [false, true] {
            let errors = [
                OutputDir::create(out, overwrite, &inputs).map(drop),
                RunDir::open(out, overwrite, &[], &inputs).map(drop),
                inputs.check_dir(out),
            ];
            for error in errors {
                let said = message(error, out);
                assert!(said.contains(why) && said.contains("; write to a"), "{said}");
            }
        }
        assert_eq!(names(place), ["adapter", "base", "recipe.yaml"]);
    }

    #[test]
    fn an_output_that_is_holds_or_is_in_an_input() {
        let place = place();
        let root = place.path();
        refused(root, &root.join("base"), "is the model, ");
        refused(root, &root.join("adapter/"), "is the adapter, ");
        refused(root, &root.join("adapter/../base/."), "is the model, ");
        refused(root, &root.join("nothing/../base"), "is the model, ");
        refused(root, root, "holds the model, ");
        refused(root, &root.join("base/.."), "holds the model, ");
        refused(root, &root.join("base/merged/deep"), "lies in the model, ");
        refused(root, &root.join("recipe.yaml"), "is the recipe, ");
    }

    #[test]
    fn a_directory_beside_the_inputs_or_with_a_name_like_theirs_is_free() {
        let place = place();
        for name in ["base2", "bas", "out", "base-merged/deep"] {
            OutputDir::create(&place.path().join(name), false, &inputs(place.path())).unwrap();
        }
        assert_eq!(names(place.path()), ["adapter", "base", "recipe.yaml"], "nothing stays of outputs that were never written");
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_on_both_sides() {
        use std::os::unix::fs::symlink;
        let place = place();
        let root = place.path();
        let elsewhere = dir();
        let links = elsewhere.path();
        symlink(root.join("base"), links.join("to-base")).unwrap();
        symlink(root, links.join("to-root")).unwrap();
        symlink(links.join("to-base"), links.join("twice")).unwrap();
        for (link, why) in [("to-base", "is the model, "), ("twice", "is the model, "), ("to-root", "holds the model, ")] {
            refused(root, &links.join(link), why);
        }
        refused(root, &links.join("to-base/inside"), "lies in the model, ");

        // An input that is a link, or a model whose files are links, as in the hub's cache.
        let model = Inputs::none().and("the model", links.join("to-base"));
        assert!(message(model.check_dir(&root.join("base")), &root.join("base")).contains("is the model, "));
        fs::create_dir(links.join("model")).unwrap();
        symlink(root.join("base/model.safetensors"), links.join("model/model.safetensors")).unwrap();
        let model = Inputs::none().and("the model", links.join("model"));
        assert!(message(model.check_dir(&root.join("base")), &root.join("base")).contains("holds the model, "));
        let file = root.join("base/model.safetensors");
        assert!(message(model.check_file(&file), &file).contains("is the model, "));
        assert!(matches!(model.check_dir(&links.join("circle")), Ok(())));
        symlink(links.join("circle"), links.join("circle")).unwrap();
        assert!(message(model.check_dir(&links.join("circle")), &links.join("circle")).contains("circle"));
    }

    #[test]
    fn a_file_of_an_input_is_no_output_and_another_beside_it_is() {
        let place = place();
        let root = place.path();
        fs::write(root.join("base/model.safetensors.index.json"), r#"{"weight_map": {"a": "odd-name.bin"}}"#).unwrap();
        let parts = [
            "model.safetensors",
            "model-00001-of-00002.safetensors",
            "config.json",
            "tokenizer.json",
            "chat_template.jinja",
            "odd-name.bin",
        ];
        for name in parts {
            let file = root.join("base").join(name);
            let said = message(OutputFile::create(&file, true, &inputs(root)), &file);
            assert!(said.contains("lies in the model, "), "{said}");
        }
        let recipe = root.join("recipe.yaml");
        assert!(message(OutputFile::create(&recipe, true, &inputs(root)), &recipe).contains("is the recipe, "));
        for name in ["fisher.safetensors", "logits.safetensors", "answers.jsonl"] {
            OutputFile::create(&root.join("base").join(name), true, &inputs(root)).unwrap();
        }
        assert_eq!(fs::read_to_string(root.join("base/model.safetensors")).unwrap(), "base");
    }
}

mod files_of_others {
    use super::*;

    #[test]
    fn are_never_removed_with_a_directory() {
        let dir = dir();
        let out = dir.path().join("out");
        fs::create_dir(&out).unwrap();
        put(&dir, "out/thesis.txt", "x");
        let refused = |named: &str| {
            let said = message(OutputDir::create(&out, true, &Inputs::none()), &out);
            assert!(said.contains(&format!("holds files that peft has not written there ({named})")), "{said}");
        };
        refused("thesis.txt");
        fs::remove_file(out.join("thesis.txt")).unwrap();
        written(&out, "a");
        written(&out, "b");
        assert_eq!(names(&out), [".peft-files", "b"], "what this program has written is replaced as a whole");

        fs::create_dir_all(out.join("notes/deep")).unwrap();
        put(&dir, "out/notes/deep/thesis.txt", "x");
        refused("notes/deep/thesis.txt");
        put(&dir, "out/0\u{1b}[31m", "x");
        refused("0\\u{1b}[31m, notes/deep/thesis.txt");
        put(&dir, "out/1", "");
        put(&dir, "out/2", "");
        refused("0\\u{1b}[31m, 1, 2 and 1 more");
        assert!(out.join("notes/deep/thesis.txt").exists() && out.join("b").exists());
    }

    #[test]
    fn that_appear_while_a_result_is_made_are_not_removed_either() {
        let dir = dir();
        let path = dir.path().join("out");
        written(&path, "a");
        let out = OutputDir::create(&path, true, &Inputs::none()).unwrap();
        put(&dir, "out/thesis.txt", "x");
        assert!(message(out.commit(), &path).contains("somebody has put files there meanwhile"));
        assert_eq!(names(&path), [".peft-files", "a", "thesis.txt"]);
    }

    #[test]
    fn an_output_in_an_output_stands_for_itself() {
        let dir = dir();
        let out = dir.path().join("out");
        written(&out, "a");
        written(&out.join("inner"), "b");
        written(&out, "c");
        assert_eq!(names(&out), [".peft-files", "c"]);
        written(&out.join("inner"), "b");
        put(&dir, "out/inner/thesis.txt", "x");
        let said = message(OutputDir::create(&out, true, &Inputs::none()), &out);
        assert!(said.contains("(inner/thesis.txt)"), "{said}");
    }

    #[test]
    fn stay_in_the_directory_of_a_run() {
        let dir = dir();
        let path = dir.path().join("out");
        fs::create_dir(&path).unwrap();
        put(&dir, "out/thesis.txt", "x");
        let open = |overwrite| RunDir::open(&path, overwrite, &["settings"], &Inputs::none());
        assert!(matches!(open(false), Err(Error::OutputExists(_))));
        let run = open(true).unwrap();
        run.begin(&["settings", "checkpoints/"]).unwrap();
        put(&dir, "out/settings", "y");
        put(&dir, "out/weights", "y");
        run.finish().unwrap();
        let said = message(OutputDir::create(&path, true, &Inputs::none()), &path);
        assert!(said.contains("(thesis.txt)"), "the run's own files are known: {said}");
        assert!(matches!(open(false), Err(Error::OutputExists(_))));
    }
}

mod runs {
    use super::*;

    const PREPARATION: [&str; 1] = ["settings"];

    fn open(path: &Path) -> peft_core::Result<RunDir> {
        RunDir::open(path, false, &PREPARATION, &Inputs::none())
    }

    #[test]
    fn that_fail_before_they_have_results_leave_nothing() {
        let dir = dir();
        let path = dir.path().join("parent/out");
        drop(open(&path).unwrap());
        assert!(names(dir.path()).is_empty());
        let run = open(&path).unwrap();
        run.begin(&PREPARATION).unwrap();
        fs::write(path.join("settings"), "y").unwrap();
        fs::write(path.join("metrics.jsonl"), "").unwrap();
        drop(run);
        assert!(names(dir.path()).is_empty());

        // A directory that was there before is empty again.
        fs::create_dir_all(&path).unwrap();
        let run = open(&path).unwrap();
        run.begin(&PREPARATION).unwrap();
        fs::write(path.join("settings"), "y").unwrap();
        drop(run);
        assert!(names(&path).is_empty());
    }

    #[test]
    fn that_are_killed_before_they_have_results_are_in_nobodys_way() {
        let dir = dir();
        let path = dir.path().join("out");
        let run = open(&path).unwrap();
        run.begin(&PREPARATION).unwrap();
        fs::write(path.join("settings"), "y").unwrap();
        std::mem::forget(run);
        // A process that has ended holds no lock.
        fs::remove_file(dir.path().join(".out.peft-lock")).unwrap();
        drop(open(&path).unwrap());
        assert!(!path.exists());
    }

    #[test]
    fn that_have_results_keep_them() {
        let dir = dir();
        let path = dir.path().join("out");
        let run = open(&path).unwrap();
        run.begin(&PREPARATION).unwrap();
        fs::write(path.join("metrics.jsonl"), "{}\n").unwrap();
        drop(run);
        assert_eq!(names(&path), [".peft-files", "metrics.jsonl"]);
        assert!(matches!(open(&path), Err(Error::OutputExists(_))));
        // And are not taken for the start of a run when another one fails.
        drop(RunDir::open(&path, true, &PREPARATION, &Inputs::none()).unwrap());
        assert_eq!(names(&path), [".peft-files", "metrics.jsonl"]);
    }

    #[test]
    fn another_commands_result_is_no_failed_start() {
        let dir = dir();
        let path = dir.path().join("out");
        written(&path, "model.safetensors");
        assert!(matches!(open(&path), Err(Error::OutputExists(_))));
        drop(RunDir::open(&path, true, &PREPARATION, &Inputs::none()).unwrap());
        assert_eq!(names(&path), [".peft-files", "model.safetensors"]);
    }
}

mod locks {
    use super::*;

    #[test]
    fn one_writes_at_a_time() {
        let dir = dir();
        let path = dir.path().join("out");
        let out = OutputDir::create(&path, false, &Inputs::none()).unwrap();
        // Who of two processes it is, is told to the other: the program's tests look at that.
        let own = "is another output of this command too; give each a place of its own";
        for error in [OutputDir::create(&path, true, &Inputs::none()).map(drop), RunDir::open(&path, true, &[], &Inputs::none()).map(drop)]
        {
            assert_eq!(message(error, &path), own);
        }
        fs::write(out.path().join("weights"), "x").unwrap();
        out.commit().unwrap();
        let run = RunDir::open(&path, true, &[], &Inputs::none()).unwrap();
        assert_eq!(message(OutputDir::create(&path, true, &Inputs::none()), &path), own);
        drop(run);

        let file = dir.path().join("logits");
        let first = OutputFile::create(&file, false, &Inputs::none()).unwrap();
        assert_eq!(message(OutputFile::create(&file, true, &Inputs::none()), &file), own);
        drop(first);
        OutputFile::create(&file, false, &Inputs::none()).unwrap();
        assert_eq!(names(dir.path()), ["out"], "no lock stays");
    }

    #[test]
    fn a_lock_can_be_kept_after_the_result_is_there() {
        let dir = dir();
        let path = dir.path().join("out");
        let out = OutputDir::create(&path, false, &Inputs::none()).unwrap();
        let lock = out.lock();
        out.commit().unwrap();
        assert!(OutputDir::create(&path, true, &Inputs::none()).is_err());
        drop(lock);
        OutputDir::create(&path, true, &Inputs::none()).unwrap();
    }

    #[test]
    fn what_is_written_inside_an_output_keeps_it_from_being_replaced() {
        let dir = dir();
        let path = dir.path().join("out");
        written(&path, "a");
        let inner = OutputDir::create(&path.join("inner"), false, &Inputs::none()).unwrap();
        let said = message(OutputDir::create(&path, true, &Inputs::none()), &path);
        assert!(said.contains("is another output of this command too"), "{said}");
        drop(inner);
        OutputDir::create(&path, true, &Inputs::none()).unwrap();
    }

    #[test]
    fn what_a_lock_says_is_only_text() {
        let dir = dir();
        let path = dir.path().join("out");
        let _out = OutputDir::create(&path, false, &Inputs::none()).unwrap();
        let lock = dir.path().join(".out.peft-lock");
        fs::write(&lock, r#"{"pid":7,"command":"a\u001b[31mb","since":0}"#).unwrap();
        let said = message(OutputDir::create(&path, false, &Inputs::none()), &path);
        assert!(said.contains("process 7 (`a[31mb`) since 1970-01-01 00:00:00 UTC"), "{said}");
        fs::write(&lock, "nonsense").unwrap();
        assert!(message(OutputDir::create(&path, false, &Inputs::none()), &path).contains("by another process;"));
    }
}

mod left_by_killed_processes {
    use super::*;

    #[test]
    fn what_was_being_written_goes_away() {
        let dir = dir();
        fs::create_dir_all(dir.path().join(".out.partial-4711-AbCdEf/deep")).unwrap();
        put(&dir, ".out.partial-4711-AbCdEf/deep/half", "x");
        put(&dir, ".out.partial-4711-abcdef", "x");
        put(&dir, ".out.peft-lock", "");
        for other in [".out.partial-mine", ".out2.partial-4711-AbCdEf", ".out.complete-4711-AbCdEf", "out.partial-4711-AbCdEf"] {
            put(&dir, other, "x");
        }
        written(&dir.path().join("out"), "a");
        let left = [".out.complete-4711-AbCdEf", ".out.partial-mine", ".out2.partial-4711-AbCdEf", "out", "out.partial-4711-AbCdEf"];
        assert_eq!(names(dir.path()), left);
    }

    #[test]
    fn a_result_that_was_being_replaced_comes_back() {
        let dir = dir();
        let path = dir.path().join("out");
        written(&path, "a");
        // Where a system cannot swap two names, there is a moment between two renames.
        let aside = dir.path().join(".out.replaced-4711-AbCdEf");
        fs::create_dir(&aside).unwrap();
        fs::rename(&path, aside.join("old")).unwrap();
        assert!(matches!(OutputDir::create(&path, false, &Inputs::none()), Err(Error::OutputExists(_))));
        assert_eq!(names(&path), [".peft-files", "a"]);
        assert_eq!(names(dir.path()), ["out"]);
    }

    #[test]
    fn files_that_were_being_written_go_away_too() {
        let dir = dir();
        put(&dir, ".logits.partial-4711-AbCdEf", "half");
        drop(OutputFile::create(&dir.path().join("logits"), false, &Inputs::none()).unwrap());
        assert!(names(dir.path()).is_empty());
        fs::create_dir(dir.path().join("out")).unwrap();
        put(&dir, "out/.metrics.jsonl.partial-4711-AbCdEf", "half");
        let run = RunDir::open(&dir.path().join("out"), false, &[], &Inputs::none()).unwrap();
        assert!(names(&dir.path().join("out")).is_empty());
        run.finish().unwrap();
    }
}

#[cfg(unix)]
mod special_files {
    use super::*;
    use std::ffi::CString;
    use std::io::Read;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{FileTypeExt, symlink};

    fn pipe(dir: &TempDir) -> std::path::PathBuf {
        let path = dir.path().join("pipe");
        let name = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: the name ends with a zero byte.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        path
    }

    #[test]
    fn a_device_is_written_to_and_stays() {
        let null = Path::new("/dev/null");
        assert!(OutputFile::create(null, false, &Inputs::none()).unwrap().is_stream());
        write_atomic(null, b"text").unwrap();
        let bytes = write_safetensors(null, [source("a", Dtype::U8, &[3], b"abc")], &pytorch_metadata()).unwrap();
        assert!(bytes > 3, "the size is that of the file");
        assert!(fs::metadata(null).unwrap().file_type().is_char_device());
        assert_eq!(OutputFile::create(null, false, &Inputs::none()).unwrap().beside(".partial"), None);
    }

    #[test]
    fn a_pipe_is_written_to_and_stays() {
        let dir = dir();
        let path = pipe(&dir);
        let reader = std::thread::spawn({
            let path = path.clone();
            move || {
                let mut bytes = Vec::new();
                fs::File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
                bytes
            }
        });
        let size = write_safetensors(&path, [source("a", Dtype::U8, &[3], b"abc")], &pytorch_metadata()).unwrap();
        let received = put(&dir, "received.safetensors", reader.join().unwrap());
        assert_eq!(fs::metadata(&received).unwrap().len(), size);
        assert_eq!(Checkpoint::open_file(&received).unwrap().bytes("a").unwrap(), b"abc");
        assert!(fs::metadata(&path).unwrap().file_type().is_fifo());
        assert_eq!(names(dir.path()), ["pipe", "received.safetensors"]);
    }

    #[test]
    fn a_link_to_a_file_stays_and_the_file_is_replaced() {
        let (dir, other) = (dir(), super::dir());
        let real = put(&other, "real", "old");
        let link = dir.path().join("link");
        symlink(&real, &link).unwrap();
        write_atomic(&link, b"new").unwrap();
        assert!(link.is_symlink());
        assert_eq!(read_text(&real).unwrap(), "new");
        assert_eq!((names(dir.path()), names(other.path())), (vec!["link".to_owned()], vec!["real".to_owned()]));

        fs::remove_file(&real).unwrap();
        write_atomic(&link, b"again").unwrap();
        assert_eq!(read_text(&real).unwrap(), "again", "a link that leads nowhere says where the file is to be");
        assert!(link.is_symlink());
    }

    #[test]
    fn a_link_that_leads_nowhere_says_where_a_directory_is_to_be() {
        let dir = dir();
        let link = dir.path().join("link");
        symlink("real", &link).unwrap();
        written(&link, "a");
        assert!(link.is_symlink());
        assert_eq!(names(&dir.path().join("real")), [".peft-files", "a"]);
    }

    #[test]
    fn what_cannot_be_written_to_is_refused() {
        let dir = dir();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        symlink("circle", dir.path().join("circle")).unwrap();
        fs::create_dir(dir.path().join("directory")).unwrap();
        for (name, why) in [("socket", "neither a file nor"), ("circle", "circle"), ("directory", "a directory, where a file")] {
            let path = dir.path().join(name);
            assert!(message(write_atomic(&path, b""), &path).contains(why));
            assert!(message(OutputFile::create(&path, true, &Inputs::none()), &path).contains(why));
        }
        let path = pipe(&dir);
        for error in [OutputDir::create(&path, true, &Inputs::none()).map(drop), RunDir::open(&path, true, &[], &Inputs::none()).map(drop)]
        {
            assert_eq!(message(error, &path), "a file, where a directory is to be written");
        }
    }
}

mod checkpoint_files {
    use super::*;

    /// The names are those that transformers 5 and sentence-transformers 5 load.
    #[test]
    fn what_transformers_loads_is_copied_and_nothing_else() {
        let (from, to) = (dir(), dir());
        let belongs = [
            "chat_template.jinja",
            "config.json",
            "config_sentence_transformers.json",
            "generation_config.json",
            "merges.txt",
            "modules.json",
            "preprocessor_config.json",
            "qwen.tiktoken",
            "sentencepiece.bpe.model",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer.model",
            "tokenizer_config.json",
            "vocab.txt",
        ];
        let strangers = [
            "README.md",
            "adapter_config.json",
            "all_results.json",
            "labels.json",
            "model.safetensors",
            "model.safetensors.index.json",
            "notes.txt",
            "pytorch_model.bin.index.json",
            "run.yaml",
            "secret.json",
            "trainer_state.json",
            "code.py",
        ];
        for name in belongs.iter().chain(&strangers) {
            put(&from, name, "{}");
        }
        let modules = r#"[{"path": ""}, {"path": "1_Pooling"}, {"path": "../outside"}, {"path": "/etc"}]"#;
        put(&from, "modules.json", modules);
        for inner in ["1_Pooling", "additional_chat_templates", "secrets"] {
            fs::create_dir(from.path().join(inner)).unwrap();
            put(&from, &format!("{inner}/config.json"), "{}");
        }
        copy_checkpoint_files(from.path(), to.path()).unwrap();
        let mut expected: Vec<_> = belongs.iter().chain(&["1_Pooling", "additional_chat_templates"]).map(ToString::to_string).collect();
        expected.sort();
        assert_eq!(names(to.path()), expected);
        assert_eq!(names(&to.path().join("1_Pooling")), ["config.json"]);

        // Code goes along where the configuration names it.
        put(&from, "config.json", r#"{"auto_map": {"AutoConfig": "code.Config"}}"#);
        copy_checkpoint_files(from.path(), to.path()).unwrap();
        assert!(to.path().join("code.py").exists());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_out_of_a_model_is_not_followed() {
        use std::os::unix::fs::symlink;
        let place = dir();
        let secret = put(&place, "secret", "key");
        let (model, out) = (place.path().join("model"), place.path().join("out"));
        fs::create_dir(&model).unwrap();
        fs::create_dir(&out).unwrap();
        fs::write(model.join("real.json"), "{}").unwrap();
        symlink("real.json", model.join("config.json")).unwrap();
        for (link, name) in [("../secret", "vocab.txt"), (secret.to_str().unwrap(), "tokenizer.model")] {
            symlink(link, model.join(name)).unwrap();
            let said = message(copy_checkpoint_files(&model, &out), &model.join(name));
            assert!(said.contains("outside the model's directory, and is not copied"), "{said}");
            assert_eq!(names(&out), ["config.json"], "a link inside is one of its files");
            fs::remove_file(model.join(name)).unwrap();
        }
        let link = place.path().join("link");
        symlink(&model, &link).unwrap();
        copy_checkpoint_files(&link, &out).unwrap();

        // A directory that is a link is one too.
        fs::create_dir(place.path().join("secrets")).unwrap();
        fs::write(place.path().join("secrets/key.jinja"), "key").unwrap();
        symlink("../secrets", model.join("additional_chat_templates")).unwrap();
        assert!(copy_checkpoint_files(&model, &out).unwrap_err().to_string().contains("outside the model's directory"));
    }

    /// As `huggingface_hub` lays it out.
    #[cfg(unix)]
    #[test]
    fn the_hubs_cache_links_to_its_store() {
        use std::os::unix::fs::symlink;
        let place = dir();
        let repository = place.path().join("models--org--name");
        let snapshot = repository.join("snapshots/0123");
        fs::create_dir_all(snapshot.join("1_Pooling")).unwrap();
        fs::create_dir(repository.join("blobs")).unwrap();
        let out = place.path().join("out");
        fs::create_dir(&out).unwrap();
        fs::write(repository.join("blobs/abc"), r#"[{"path": "1_Pooling"}]"#).unwrap();
        symlink("../../blobs/abc", snapshot.join("modules.json")).unwrap();
        symlink("../../../blobs/abc", snapshot.join("1_Pooling/config.json")).unwrap();
        copy_checkpoint_files(&snapshot, &out).unwrap();
        assert_eq!(names(&out), ["1_Pooling", "modules.json"]);
        assert!(!out.join("modules.json").is_symlink());

        // Another repository of a shared cache is none of its store.
        let other = place.path().join("models--org--other/blobs");
        fs::create_dir_all(&other).unwrap();
        fs::write(other.join("abc"), "key").unwrap();
        symlink(other.join("abc"), snapshot.join("vocab.txt")).unwrap();
        assert!(message(copy_checkpoint_files(&snapshot, &out), &snapshot.join("vocab.txt")).contains("outside"));
    }
}

#[test]
fn a_file_that_is_rewritten_differs_also_with_its_old_date() {
    let dir = dir();
    let file = put(&dir, "x", "old");
    let state = || state_of(dir.path()).unwrap();
    let before = state();
    assert_eq!(before, state());
    let date = fs::metadata(&file).unwrap().modified().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    fs::write(&file, "new").unwrap();
    fs::File::options().append(true).open(&file).unwrap().set_modified(date).unwrap();
    assert_ne!(before, state());
    put(&dir, ".lock", "");
    let after = state();
    put(&dir, ".lock", "more");
    assert_eq!(after, state(), "hidden files are not read");
}
