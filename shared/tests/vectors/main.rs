//! Crate `shared` against files made by real Nix, `tests/fixtures/nix`; its README says what each
//! must give. Then the same files damaged, and trees and narinfos made up.
//!
//! `SHOAL_LONG=1` runs the same tests with more damage and more made-up values.

#[cfg(test)]
mod content_address;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod mutated;
#[cfg(test)]
mod nar;
#[cfg(test)]
mod narinfo;
#[cfg(test)]
mod round_trip;
#[cfg(test)]
mod support;
#[cfg(test)]
mod tree;
