//! Descriptors that the node inherited.

use std::fs;

use filedescriptor::{FileDescriptor, IntoRawFileDescriptor, RawFileDescriptor};

/// `O_CLOEXEC` as shown in Linux's `/proc/self/fdinfo`.
const CLOSE_ON_EXEC: u32 = 0o2_000_000;

/// Makes the descriptors that this process inherited, such as a supervisor's pipe or a lock file, close-on-exec, so that
/// the programs that it starts do not inherit them in turn. They stay open in this process, since another process may be
/// waiting for them to close.
///
/// Call this first in `main`, before anything is opened, as the binary does; descriptors that are opened later are
/// close-on-exec anyway. It does nothing where `/proc` is missing, nor on Windows, where programs inherit only three
/// handles.
pub(crate) fn set_inherited_cloexec() {
    let Ok(listed) = fs::read_dir("/proc/self/fdinfo") else { return };
    let numbers = listed.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<isize>().ok());
    for number in numbers.filter(|number| *number > 2).collect::<Vec<_>>() {
        if is_inheritable(number) {
            Descriptor(number as RawFileDescriptor).set_cloexec();
        }
    }
}

fn is_inheritable(number: isize) -> bool {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
    let flags =
        info.lines().find_map(|line| u32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
    flags.is_some_and(|flags| flags & CLOSE_ON_EXEC == 0)
}

/// A raw descriptor. On systems where it is a number, `T` implements `IntoRawFileDescriptor`; method resolution then
/// prefers the first implementation below, which takes `self` by value, over the second.
struct Descriptor<T>(T);

trait SetCloexec {
    fn set_cloexec(self);
}

impl<T: IntoRawFileDescriptor> SetCloexec for Descriptor<T> {
    /// Replaces the descriptor with a close-on-exec duplicate, for the lifetime of the process.
    fn set_cloexec(self) {
        let open = FileDescriptor::new(self.0);
        match open.try_clone() {
            Ok(copy) => std::mem::forget(copy),
            // No descriptor is free for the duplicate, so that the original stays inheritable.
            Err(_) => std::mem::forget(open),
        }
    }
}

impl<T> SetCloexec for &Descriptor<T> {
    /// Does nothing: chosen on systems where descriptors are not numbers.
    fn set_cloexec(self) {}
}
