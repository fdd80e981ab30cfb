//! Descriptors that the node was started with.

use std::fs;

use filedescriptor::{FileDescriptor, IntoRawFileDescriptor, RawFileDescriptor};

/// The flag, among those in Linux's `/proc/self/fdinfo`, of a descriptor that no program gets.
const CLOSE_ON_EXEC: u32 = 0o2_000_000;

/// Keeps descriptors that this process was started with, such as a supervisor's pipe or a lock file, from the programs
/// that it starts. The process itself keeps them open, since somebody may wait for them to be closed.
///
/// Call it first in `main`, before anything is opened, as the binary does: descriptors that are opened later are closed
/// when a program starts. It does nothing where `/proc` is missing, and on Windows, where programs get three handles and
/// no more.
pub fn keep_from_programs() {
    let Ok(listed) = fs::read_dir("/proc/self/fdinfo") else { return };
    let numbers = listed.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<isize>().ok());
    for number in numbers.filter(|number| *number > 2).collect::<Vec<_>>() {
        if reaches_programs(number) {
            Descriptor(number as RawFileDescriptor).keep();
        }
    }
}

fn reaches_programs(number: isize) -> bool {
    let about = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
    let flags =
        about.lines().find_map(|line| u32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
    flags.is_some_and(|flags| flags & CLOSE_ON_EXEC == 0)
}

/// A descriptor by its number, where descriptors are numbers, which is where a number is something to own.
struct Descriptor<T>(T);

trait Keep {
    fn keep(self);
}

impl<T: IntoRawFileDescriptor> Keep for Descriptor<T> {
    /// Puts a copy that no program gets in its place, for as long as the node lives.
    fn keep(self) {
        let open = FileDescriptor::new(self.0);
        match open.try_clone() {
            Ok(copy) => std::mem::forget(copy),
            // There is no room for both, so it stays as it is.
            Err(_) => std::mem::forget(open),
        }
    }
}

impl<T> Keep for &Descriptor<T> {
    /// Does nothing: what is called where descriptors are no numbers.
    fn keep(self) {}
}
