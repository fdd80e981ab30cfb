//! Which dialect first bytes are.

use chanrpc::codec::{self, Detected, Dialect};

/// More than this a dialect is never waited for.
const LONGEST: usize = "Content-Length:".len();

/// What is told by some bytes is told by them and any more, and few are enough.
pub(super) fn detect(input: &[u8]) {
    let mut told = None;
    for end in 0..=input.len().min(4 * LONGEST) {
        let now = codec::detect(&input[..end]);
        match told {
            None => assert!(now.is_some() || end < LONGEST, "{end} bytes do not tell"),
            Some(_) => assert_eq!(now, told, "after {end} bytes"),
        }
        told = now;
    }
    if let [b'{' | b'[' | b'\n' | b' ', ..] = input {
        assert_eq!(told, Some(Detected::Dialect(Dialect::Lines)));
    }
}
