//! Frames of any content. `tests/it` runs the same inputs on a build without HTTP/2.

use std::fs;
use std::path::Path;

use crate::targets;

#[test]
fn frames_of_any_content_are_answered_by_frames() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/http2");
    let inputs: Vec<Vec<u8>> =
        fs::read_dir(corpus).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect();
    assert!(inputs.len() >= 5);
    let mut random = fastrand::Rng::with_seed(1);
    for input in inputs {
        targets::run("http2", &input);
        for _ in 0..100 {
            let mut changed = input.clone();
            for _ in 0..random.usize(1..5) {
                let at = random.usize(..changed.len());
                changed[at] = random.u8(..);
            }
            targets::run("http2", &changed);
        }
    }
}
