//! Machines whose operating system the agent switches: systems of ours in the shape of NixOS's, with a
//! `switch-to-configuration` that ends as the real one does.
//!
//! On containers, what a boot loader does is done by a unit of the machine; on emulated machines with
//! disks of their own, by real boot loaders.

mod boots;
mod lab;
mod reboots;
mod switches;
