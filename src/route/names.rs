//! A map from the names of functions and families.

use std::sync::Arc;

use super::RegistryError;
use super::name::{MAX_NAME, RESERVED};

/// Values by name, in order. That of the family `math.*` is under its prefix, `math.`.
#[derive(Clone)]
pub(super) struct Names<T> {
    exact: List<T>,
    families: List<T>,
}

type List<T> = Vec<(Arc<str>, T)>;

/// The number of names up to which comparing each takes less time than a binary search.
const FEW: usize = 16;

impl<T> Names<T> {
    /// Inserts the value of a function, or of a family.
    ///
    /// # Errors
    /// [`RegistryError`] if the name is taken, reserved or invalid.
    pub(super) fn insert(&mut self, name: &str, value: T) -> Result<(), RegistryError> {
        let key = key(name)?;
        let list = if key.ends_with('.') { &mut self.families } else { &mut self.exact };
        match position(list, key) {
            Ok(_) => Err(RegistryError::Duplicate(name.to_owned())),
            Err(at) => {
                list.insert(at, (key.into(), value));
                Ok(())
            }
        }
    }

    /// Removes the value of a function, or of a family, if it is the right one.
    pub(super) fn remove(&mut self, name: &str, is_right: impl Fn(&T) -> bool) {
        let key = name.strip_suffix('*').unwrap_or(name);
        for list in [&mut self.exact, &mut self.families] {
            if let Ok(at) = position(list, key)
                && is_right(&list[at].1)
            {
                list.remove(at);
            }
        }
    }

    /// Returns the value of that name, or else of the family with the longest matching prefix.
    pub(super) fn find(&self, name: &str) -> Option<&T> {
        get(&self.exact, name).or_else(|| {
            if self.families.is_empty() {
                return None;
            }
            // No family has a longer prefix.
            let longest = &name.as_bytes()[..name.len().min(MAX_NAME)];
            let dots = longest.iter().enumerate().rev().filter(|(_, byte)| **byte == b'.');
            dots.map(|(at, _)| &name[..=at]).find_map(|prefix| get(&self.families, prefix))
        })
    }

    /// Returns the value of exactly that name.
    pub(super) fn find_exact_mut(&mut self, name: &str) -> Option<&mut T> {
        let (list, key) = match name.strip_suffix('*') {
            Some(prefix) => (&mut self.families, prefix),
            None => (&mut self.exact, name),
        };
        position(list, key).ok().map(|at| &mut list[at].1)
    }

    /// Returns all values, those of families last.
    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.exact.iter().chain(&self.families).map(|(_, value)| value)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.exact.iter_mut().chain(&mut self.families).map(|(_, value)| value)
    }
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self { exact: Vec::new(), families: Vec::new() }
    }
}

fn position<T>(list: &List<T>, key: &str) -> Result<usize, usize> {
    list.binary_search_by(|(name, _)| (**name).cmp(key))
}

fn get<'a, T>(list: &'a List<T>, key: &str) -> Option<&'a T> {
    let at = match list.len() {
        // Most names differ in length, so this compares few bytes.
        0..=FEW => list.iter().position(|(name, _)| **name == *key),
        _ => position(list, key).ok(),
    };
    at.map(|at| &list[at].1)
}

/// Returns `true` if a function, or a family, may have that name.
pub(crate) fn is_valid(name: &str) -> bool {
    key(name).is_ok()
}

/// Returns what a function or family is under: its name, without the `*` of a family.
///
/// # Errors
/// [`RegistryError`] if the name is reserved or invalid.
pub(super) fn key(name: &str) -> Result<&str, RegistryError> {
    if RESERVED.iter().any(|prefix| name.starts_with(prefix)) {
        return Err(RegistryError::Reserved(name.to_owned()));
    }
    let key = match name.strip_suffix('*') {
        Some(prefix) if prefix.len() > 1 && prefix.ends_with('.') => prefix,
        None if !name.ends_with('.') => name,
        _ => return Err(RegistryError::InvalidName(name.to_owned())),
    };
    let is_valid = |byte: u8| byte.is_ascii_graphic() && !b"\"\\*".contains(&byte);
    if key.is_empty() || key.len() > MAX_NAME || !key.bytes().all(is_valid) {
        return Err(RegistryError::InvalidName(name.to_owned()));
    }
    Ok(key)
}
