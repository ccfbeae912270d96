//! Profiles that both sides switch.

use std::{fs, path::PathBuf};

use store::{
    local::LocalStore,
    profile::{Profile, ProfileError},
};

use super::{Both, parse};

struct Story {
    both: Both,
    paths: Vec<String>,
    link: PathBuf,
    profile: Profile,
}

impl Story {
    fn new() -> Self {
        let both = Both::new();
        let add = |name: &&str| both.add(&both.file(name, name), &[]);
        let paths = ["a", "b", "c"].iter().map(add).collect();
        let link = both.root.join("nix/var/nix/profiles/shoal/web");
        let profile = Profile::open(&link).unwrap();
        Self { both, paths, link, profile }
    }

    fn set(&self, index: usize) -> u64 {
        self.profile.set(&parse(&self.paths[index])).unwrap().number
    }

    fn nix_env(&self, arguments: &[&str]) -> tests::Ran {
        self.both.nix.nix_env(&self.link, arguments)
    }

    /// Returns the numbers that Nix lists, and which of them is current.
    fn listed(&self) -> (Vec<u64>, Option<u64>) {
        let listed = self.nix_env(&["--list-generations"]).ok();
        let number = |line: &str| line.split_whitespace().next().unwrap().parse().unwrap();
        let current = listed.lines().find(|line| line.contains("(current)")).map(number);
        (listed.lines().map(number).collect(), current)
    }

    /// Checks that both sides see the same.
    #[track_caller]
    fn agree(&self, numbers: &[u64], current: u64) {
        assert_eq!(self.listed(), (numbers.to_vec(), Some(current)));
        let ours = self.profile.generations().unwrap();
        assert_eq!(ours.iter().map(|each| each.number).collect::<Vec<_>>(), numbers);
        let now = self.profile.current().unwrap().unwrap();
        assert_eq!(now.number, current);
        let link = fs::read_link(&self.link).unwrap();
        assert_eq!(link.to_str().unwrap(), format!("web-{current}-link"));
    }
}

#[test]
fn nix_lists_switches_and_rolls_back_what_we_made() {
    let story = Story::new();
    assert_eq!([story.set(0), story.set(1), story.set(2)], [1, 2, 3]);
    story.agree(&[1, 2, 3], 3);
    story.nix_env(&["--rollback"]).fails(0);
    story.agree(&[1, 2, 3], 2);
    story.nix_env(&["--switch-generation", "1"]).fails(0);
    story.agree(&[1, 2, 3], 1);
    story.nix_env(&["--delete-generations", "2"]).fails(0);
    story.agree(&[1, 3], 1);
    assert_eq!(story.set(2), 3, "the highest is what is wanted");
    assert_eq!(story.profile.rollback().unwrap().number, 1);
    story.agree(&[1, 3], 1);
}

#[test]
fn we_list_switch_and_roll_back_what_nix_made() {
    let story = Story::new();
    fs::create_dir_all(story.link.parent().unwrap()).unwrap();
    for path in &story.paths {
        story.nix_env(&["--set", path]).fails(0);
    }
    story.agree(&[1, 2, 3], 3);
    for (generation, path) in story.profile.generations().unwrap().iter().zip(&story.paths) {
        assert_eq!(generation.path.to_string(), *path);
        assert!(generation.created.as_second() > 1_000_000_000);
    }
    assert_eq!(story.profile.rollback().unwrap().number, 2);
    story.agree(&[1, 2, 3], 2);
    assert_eq!(story.profile.switch_to(1).unwrap().number, 1);
    let none = story.profile.rollback().unwrap_err();
    assert!(matches!(none, ProfileError::NoOlderGeneration(_)), "{none}");
    story.nix_env(&["--rollback"]).fails(1);
    story.profile.delete(&[2, 3]).unwrap();
    story.agree(&[1], 1);
    story.nix_env(&["--set", &story.paths[1]]).fails(0);
    story.agree(&[1, 2], 2);
}

#[test]
fn both_count_alike_after_any_history() {
    let ours = Story::new();
    let theirs = Story::new();
    fs::create_dir_all(theirs.link.parent().unwrap()).unwrap();
    // Set to path 0 to 2; 10 rolls back, 11 deletes the highest generation.
    let history = [0, 0, 1, 10, 1, 2, 10, 10, 0, 0, 10, 11, 1, 2];
    for step in history {
        match step {
            10 => {
                ours.profile.rollback().unwrap();
                theirs.nix_env(&["--rollback"]).fails(0);
            }
            11 => {
                let highest = ours.profile.generations().unwrap().pop().unwrap().number;
                ours.profile.delete(&[highest]).unwrap();
                theirs.nix_env(&["--delete-generations", &highest.to_string()]).fails(0);
            }
            index => {
                ours.set(index);
                theirs.nix_env(&["--set", &theirs.paths[index]]).fails(0);
            }
        }
        assert_eq!(ours.listed(), theirs.listed(), "at {step} of {history:?}");
    }
}

#[test]
fn the_collector_keeps_every_generation_until_it_is_deleted() {
    let story = Story::new();
    let unused = story.both.add(&story.both.file("unused", "x"), &[]);
    story.set(0);
    story.set(1);
    story.both.nix.collect_garbage();
    let mut kept = story.paths[..2].to_vec();
    kept.sort();
    assert_eq!(story.both.nix.valid_paths(), kept, "not {unused}");
    story.profile.delete(&[1]).unwrap();
    story.both.nix.collect_garbage();
    assert_eq!(story.both.nix.valid_paths(), story.paths[1..2]);
    let store = LocalStore::open(&story.both.root).unwrap();
    assert!(store.path_info(&parse(&story.paths[0])).unwrap().is_none());
}
