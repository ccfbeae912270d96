//! Real Nix and our agent at work in one store at the same time, over and over.
//!
//! A round starts several lanes of commands at once: substitution by our agent, by real Nix with
//! and without its daemon, and both collectors. Whatever happens, no command fails, none waits for
//! ever, and what was rooted before is valid and whole afterwards.

mod deleted;
mod held_up;
mod lanes;
mod nix_alone;
mod world;

use tests::Random;

use self::{
    lanes::{Lane, run_all},
    world::World,
};

/// Rounds; the long ones are enough to meet most of what can meet.
fn rounds() -> u32 {
    if tests::long() { 200 } else { 20 }
}

#[test]
fn our_agent_and_real_nix_substitute_and_collect_in_one_store() {
    let mut random = Random::new("beside");
    let mut world = World::new(&mut random);
    for round in 0..rounds() {
        world.drop_some_roots(&mut random);
        let mut lanes = vec![
            Lane::new("copy", world.copies(&mut random)),
            Lane::new("copy again", world.copies(&mut random)),
            Lane::new("realise", world.realisations(&mut random)),
            Lane::new("agent gc", world.collections(&mut random)),
            Lane::new("nix-store --gc", world.collections_of_nix(&mut random)),
        ];
        if random.once_in(2) {
            lanes.push(Lane::new("add", world.additions(&mut random)));
        }
        random.shuffle(&mut lanes);
        let told = run_all(round, lanes);
        world.check(round, &told);
    }
    world.empty();
}
