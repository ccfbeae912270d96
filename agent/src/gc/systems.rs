//! What the machine itself needs: the system that it booted, the one that is activated, and the one
//! that it boots next. NixOS roots the first two; the third is what a boot loader's menu says, which
//! roots nothing.

use shared::nix::StorePath;

use super::policy::Why;
use crate::systems::Systems;

/// Returns why the machine needs a path, if it does.
pub(super) fn need(systems: &Systems, path: &StorePath) -> Option<Why> {
    if systems.booted.as_ref() == Some(path) {
        return Some(Why::Booted);
    }
    if systems.activated.as_ref() == Some(path) {
        return Some(Why::Activated);
    }
    systems.boot_defaults.contains(path).then_some(Why::BootDefault)
}
