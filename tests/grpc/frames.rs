//! Frames of any content. `tests/it` runs the same inputs on a build without HTTP/2.

use std::fs;
use std::path::Path;

use crate::targets;

#[test]
fn frames_of_any_content_are_answered_by_frames() {
    mutate("http2", 100);
}

#[test]
fn messages_of_any_content_are_converted_or_refused() {
    mutate("transcode", 2000);
}

fn mutate(target: &str, times: usize) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let inputs: Vec<Vec<u8>> =
        fs::read_dir(corpus).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect();
    assert!(inputs.len() >= 5);
    let mut random = fastrand::Rng::with_seed(1);
    for input in inputs {
        targets::run(target, &input);
        for _ in 0..times {
            let mut changed = input.clone();
            for _ in 0..random.usize(1..5) {
                let at = random.usize(..changed.len());
                changed[at] = random.u8(..);
            }
            targets::run(target, &changed);
        }
    }
}
