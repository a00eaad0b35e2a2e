//! Every seed and every former finding, as plain tests on a stable compiler.

use std::fs;
use std::path::Path;

#[test]
fn every_target_survives_its_corpus() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, target) in fuzz::TARGETS {
        let folder = corpora.join(name);
        let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut seeds = 0;
        for file in files {
            let bytes = fs::read(file.unwrap().path()).unwrap();
            target(&bytes);
            // Every beginning of a seed, too: input ends where it ends.
            for end in 0..bytes.len().min(512) {
                target(&bytes[..end]);
            }
            seeds += 1;
        }
        assert!(seeds > 0, "{name} has no seed");
    }
}

#[test]
fn every_target_is_a_program_of_libfuzzers() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(here.join("Cargo.toml")).unwrap();
    for (name, _) in fuzz::TARGETS {
        let path = format!("fuzz_targets/{name}.rs");
        assert!(manifest.contains(&format!("path = \"{path}\"")), "{name} is not in Cargo.toml");
        let program = fs::read_to_string(here.join(&path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(program.contains(&format!("fuzz::{name}(data)")), "{path} runs another target");
    }
}

#[test]
fn every_folder_of_seeds_has_its_target() {
    for folder in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")).unwrap() {
        let name = folder.unwrap().file_name().into_string().unwrap();
        assert!(fuzz::TARGETS.iter().any(|(target, _)| *target == name), "no target {name}");
    }
}
