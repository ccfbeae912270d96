//! Hosts with systemd, from a published manifest to units that run: real machines, the agent as
//! their unit, installed from `deploy/` as an operator does it.

mod boot;
mod confined;
mod cut_off;
mod dead_man;
pub(crate) mod lab;
mod moves;
mod programs;
mod services;
mod upgrade;
